"""Every command that the docs show is run, at a small size, or says why it is not.

A ``bash`` block stands under one of

    <!-- test: OPTIONS -->       run; OPTIONS join its commands (those that make them small)
    <!-- not run: REASON -->

Doctests in the pages and in public docstrings run as well.
"""

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from fusebench.datasets.openneuro.openneuro import OpenNeuro

from fusebench import create_dataset
from fusebench.cli import main
from fusebench.testing.images import head

from .layouts import adni, bids, brats, pairs, synthrad
from .open_trees import ds004513
from .saving import save_volume
from .serving import serve

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"(?P<above>[^\n]*)\n```bash\n(?P<body>.*?)```", re.DOTALL)
MARK = re.compile(r"<!-- (?P<kind>test|not run):(?P<text>.*?)-->")
# Options that may stand several times and then join; others replace what the page shows.
JOIN = {"--data-option", "--exclude"}
PLAIN = {"list", "new", "check"}
DOCTESTED = ["fusebench.testing.methods"]


def blocks(page):
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield MARK.search(found["above"]), found["body"].strip()


def with_options(command, options):
    """The command with the small-size options put in."""
    command = list(command)
    for name, value in options:
        if name in command and name not in JOIN:
            command[command.index(name) + 1] = value
        else:
            command += [name, value] if value is not None else [name]
    return command


def paired(text):
    words = shlex.split(text)
    out = []
    for i, word in enumerate(words):
        if word.startswith("--"):
            follows = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else None
            out.append((word, follows))
    return out


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """The files of a reader: two images, folders of data, results of another program."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("FUSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("FUSEBENCH_PLUGINS", raising=False)
        patch.chdir(folder)
        for name, make in (
            ("my-data", pairs),
            ("my-bids", bids),
            ("adni-download", adni),
            ("Task1", synthrad),
            ("BraTS", brats),
        ):
            (folder / name).mkdir()
            make(folder / name)
        (folder / "my-hospital-data").mkdir()
        for number in range(8):
            for data, name in zip(head((8, 20, 16), seed=number)[:2], ("mri", "pet"), strict=True):
                affine = np.diag([1.0, 1.0, 3.0, 1.0])
                save_volume(folder / "my-hospital-data" / f"s{number}_{name}.nii.gz", data, affine)
                if number == 0:
                    save_volume(folder / f"{name}.nii.gz", data, affine)
        own = (
            (ROOT / "methods" / "average.py").read_text(encoding="utf-8").replace('"average"', '"my-method"')
        )
        (folder / "my_method.py").write_text(own.replace("control=True,", ""), encoding="utf-8")
        served = stack.enter_context(serve(folder / "openneuro"))
        for name, value in (("server", served.address), ("listing", ds004513(folder / "openneuro", 3))):
            patch.setitem(OpenNeuro.__init__.__kwdefaults__, name, value)
        case = create_dataset("phantom", size=24).cases("test")[0]
        mean = (case.a.data + case.b.data) / 2
        save_volume(folder / "theirs" / "net-a" / f"{case.id}.nii.gz", mean, case.a.affine)
        yield folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_block_is_run_or_says_why_not(page):
    for mark, body in blocks(page):
        assert mark is not None, f"{page.name}: put <!-- test: --> or <!-- not run: reason --> above:\n{body}"
        assert mark["kind"] == "test" or mark["text"].strip(), f"{page.name}: give the reason for\n{body}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(m and m["kind"] == "test" for m, _ in blocks(p))],
                         ids=lambda p: p.stem)  # fmt: skip
def test_commands(page, user, capfd):
    ran = 0
    for mark, body in blocks(page):
        if mark["kind"] == "not run":
            continue
        options = paired(mark["text"])
        for line in body.splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            assert words[0] == "python", line
            ran += 1
            if words[1] == "run_bench.py":
                plain = words[2:3] and words[2] in PLAIN
                code = main(words[2:] if plain else with_options(words[2:], options))
            else:
                environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
                code = subprocess.run([sys.executable, *words[1:]], env=environment, cwd=user).returncode
            assert code == 0, f"{line}\n{''.join(capfd.readouterr())[-2000:]}"
    assert ran


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_examples_in_pages(page):
    failures, _ = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failures == 0


@pytest.mark.parametrize("module", DOCTESTED)
def test_examples_in_docstrings(module):
    failures, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert failures == 0


def test_pictures_of_readme_and_docs_are_there_and_small():
    shown = set()
    for page in [ROOT / "README.md", *PAGES]:
        for target in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}"
            shown.add((page.parent / target).resolve())
    made = set((ROOT / "docs" / "pictures").iterdir())
    assert made <= shown, "a picture that no page shows"
    sizes = [p.stat().st_size for p in made]
    assert max(sizes) <= 250_000 and sum(sizes) <= 2_000_000  # git keeps them for ever
