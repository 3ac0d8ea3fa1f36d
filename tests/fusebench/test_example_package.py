"""The example package: after `pip install` it is listed, runs and is in the site; then it is gone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment of its own that sees this one's packages, and the checkout."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    if not python.exists():
        pytest.skip("environments are laid out otherwise on this system")
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.check_output(command, text=True).strip())
    (site / "outer.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*command, cwd=ROOT):
        done = subprocess.run(
            [environment, *map(str, command)],
            cwd=cwd,
            env={**os.environ, "FUSEBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


def pip(environment, *command):
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", environment, *command],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_installed_plugins_come_and_go(environment, run, tmp_path):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("pip is not installed here")
    source = tmp_path / "package"
    shutil.copytree(ROOT / "examples" / "fusebench-example", source)
    listing = ("run_bench.py", "list", "methods", "--names")
    assert "example-gradient" not in run(*listing).split()

    pip(environment, "install", "--no-deps", "--no-build-isolation", "--no-index", str(source))
    assert "example-gradient" in run(*listing).split()
    assert "Mean absolute error" in run("run_bench.py", "list", "metrics", "example*")
    out = tmp_path / "run"
    small = ("--cases", "1", "--data-option", "size=24", "--jobs", "1", "--out", out)
    board = run(
        *("run_bench.py", "--methods", "example-gradient,average", "--metrics", "psnr,example_mae"), *small
    )
    assert "example-gradient" in board
    rows = pd.read_csv(out / "rows.csv")
    assert set(rows["status"]) == {"ok"}
    assert len(rows) == 4
    run("run_bench.py", "report", out, "--no-figures")
    assert (out / "report" / "methods" / "example-gradient.html").is_file()
    assert "example-gradient" in (out / "report" / "index.html").read_text()
    assert " passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=source)

    pip(environment, "uninstall", "-y", "fusebench-example")
    assert "example-gradient" not in run(*listing).split()
