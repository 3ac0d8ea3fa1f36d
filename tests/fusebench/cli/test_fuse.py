"""`fuse` on the command line: what it refuses to write, and what it says."""

import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fusebench.cli import main
from fusebench.cli._options import weights_path
from fusebench.images.read_write import read_image, write_image

from ...saving import save_picture


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """m.png and p.png in the working folder; arguments that fuse them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("m.png", "p.png"):
        save_picture(name, rng.integers(0, 256, (40, 44), dtype=np.uint8))
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


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_picture_fused_to_any_format_reads_as_its_sources_lie(suffix, pictures):
    if suffix in (".mha", ".nrrd"):
        pytest.importorskip("SimpleITK")
    pictures[2] = "source-mri"
    assert main([*pictures, "-o", f"f{suffix}"]) == 0
    source, fused = (read_image(f, intensity="stored").data for f in ("m.png", f"f{suffix}"))
    assert np.abs(fused - source).max() < 1e-2


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 1, 1]), np.diag([1, -1, 1, 1])])
def test_one_slice_of_nifti_keeps_its_rows_and_is_written_back_so(affine, pictures, tmp_path):
    pixels = np.asarray(Image.open("m.png"))
    for name, shape in (("two", (44, 40)), ("three", (44, 40, 1))):
        nib.save(nib.Nifti1Image(pixels.T.reshape(shape), affine), f"{name}.nii")
        image = read_image(f"{name}.nii")
        assert np.array_equal(np.rint(image.data[0] * 255), pixels)
        assert np.array_equal(image.affine, affine)
        write_image("back.nii", image.data, like=f"{name}.nii")
        assert np.array_equal(np.asarray(nib.load("back.nii").dataobj), pixels.T.reshape(shape))


def test_home_is_known_behind_an_equals_sign(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    os.rename("m.png", "home/m.png")
    pictures[3:5] = ["--mri=~/m.png"]
    assert main([*pictures, "-o", "~/f.png"]) == 0
    assert (tmp_path / "home" / "f.png").is_file() and not (tmp_path / "~").exists()
    assert main(["score", *pictures[3:], "--fused=~/f.png", "--mask=~/m.png", "--metrics", "psnr"]) == 0
    assert weights_path("average=~/w.pt", "average") == tmp_path / "home" / "w.pt"


@pytest.mark.parametrize("command", ["fuse", "score"])
def test_an_interrupted_command_does_not_say_that_it_resumes(command, pictures, monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fusebench.images.read_write.read_raw", interrupted)
    arguments = {"fuse": [*pictures, "-o", "f.png"], "score": ["score", *pictures[3:], "--fused", "m.png"]}
    assert main(arguments[command]) == 130
    assert "starts anew" in capsys.readouterr().err
