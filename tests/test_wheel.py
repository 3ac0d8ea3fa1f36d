"""Wheel, sdist and editable install: contents, and imports beside another `datasets` or above the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build", reason="the `build` package is not installed")

ROOT = Path(__file__).resolve().parents[1]
# Checks where an import comes from: ours by its own name, and somebody else's `datasets` untouched.
PROBE = """
import datasets, fusebench, sys
from fusebench import create_dataset, list_methods
from fusebench.metrics import psnr
assert datasets.WHOSE == "somebody else's", datasets
assert "site" in fusebench.__file__, fusebench.__file__
assert {"average", "dwt", "dcfb"} <= set(list_methods()), list_methods()
case = create_dataset("phantom", size=16).cases("test")[0]
print(case.a.shape, round(psnr(case.a.data, case.b.data, case.a.data), 3))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in a folder named ``fusebench``."""
    source = tmp_path_factory.mktemp("above") / "fusebench"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return out


def test_wheel_holds_one_top_level_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"fusebench"}
    inside = {n.removeprefix("fusebench/") for n in names}
    assert {"methods/average.py", "methods/dcfb/network.py", "metrics/fidelity.py", "py.typed"} <= inside
    assert {"datasets/phantom/icbm152_175mm_t1.nii.gz", "datasets/phantom/NOTICE.md"} <= inside
    assert not [n for n in inside if n.endswith(".pyc") or n.startswith("tests/")]
    shipped = {p.name for p in (ROOT / "methods" / "weights").glob("*.safetensors")}
    assert shipped <= {Path(n).name for n in inside}


def test_sdist_holds_what_a_clone_holds(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert {
        "run_bench.py",
        "constraints.txt",
        "methods/average.py",
        "tests/test_wheel.py",
        "LICENSE",
    } <= names


def test_wheel_works_beside_another_datasets(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True)
    (site / "datasets").mkdir()
    (site / "datasets" / "__init__.py").write_text('WHOSE = "somebody else\'s"\n')
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(16, 16, 16)")


def test_editable_install_works_above_a_clone_named_fusebench(source: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    # As in a fresh environment: without this checkout's own installation, be it a path or an import hook.
    probe = (
        "import site, sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]; "
        f"sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]; site.addsitedir({str(site)!r}); "
        "import fusebench, fusebench.methods.average; print(fusebench.run.__name__, fusebench.__file__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", probe]
    result = subprocess.run(
        command, cwd=source.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["run", str(source / "fusebench" / "__init__.py")], result.stderr
