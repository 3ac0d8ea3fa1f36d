"""`fuse` on the command line: what it refuses to write, and what it says."""

import os

import numpy as np
import pytest
from PIL import Image

from fusebench.cli import main


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """m.png and p.png in the working folder; arguments that fuse them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("m.png", "p.png"):
        Image.fromarray(rng.integers(0, 256, (40, 44), dtype=np.uint8)).save(name)
    return ["fuse", "--method", "average", "--mri", "m.png", "--pet", "p.png"]


@pytest.mark.parametrize(
    ("output", "source"),
    [("m.png", "--mri"), ("./p.png", "--pet"), ("link.png", "--mri"), ("d/../m.png", "--mri")],
)
def test_a_source_is_never_overwritten(output, source, pictures, tmp_path, capsys):
    os.mkdir("d")
    os.symlink("m.png", "link.png")
    before = {name: (tmp_path / name).read_bytes() for name in ("m.png", "p.png")}
    assert main([*pictures, "-o", output]) == 2
    assert f"is the {source} file" in capsys.readouterr().err
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
