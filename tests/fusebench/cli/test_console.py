"""The terminal and the machine: streams that cannot print, be written or be found."""

import io
import os
import subprocess
import sys

import pytest

from fusebench.cli._console import Tolerant, replace_unprintable, tolerant_streams
from fusebench.files import ROOT
from fusebench.store.cache import cache_dir, cached_arrays

SMALL = (
    "--methods",
    "average",
    "--metrics",
    "psnr",
    "--data-option",
    "size=16",
    "--cases",
    "1",
    "--jobs",
    "0",
)


def bench(arguments, folder, shell="", **environment):
    """Run the command line in `folder`; `shell` is what a shell would put behind it."""
    command = " ".join(f"'{a}'" for a in (sys.executable, ROOT / "run_bench.py", *arguments))
    return subprocess.run(
        ["bash", "-c", f"{command} {shell}"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def written(encoding, text):
    buffer = io.BytesIO()
    stream = Tolerant(io.TextIOWrapper(buffer, encoding=encoding))
    stream.write(text)
    stream.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_every_text_can_be_written(encoding):
    text = "psnr [dB] ↑ 0.5 ± 0.1 ⚠ – p\udce41_mri.nii.gz \ud800"
    out = written(encoding, text)
    assert "psnr [dB]" in out and "\\xE41_mri" in out
    assert ("↑" in out) == encoding.startswith("utf")


def test_signs_of_the_board_keep_their_width():
    line = "0.512 ± 0.013  ssim ↑ → –"
    assert replace_unprintable(line, "ascii") == "0.512 +-0.013  ssim ^ > -"
    assert len(replace_unprintable(line, "ascii")) == len(line)


def test_a_stream_that_fails_drops_the_rest_and_says_why():
    with open("/dev/full", "w") as full:
        stream = Tolerant(full)
        stream.write("x" * 100_000)
        stream.flush()
        assert stream.problem == "No space left on device"
        assert stream.write("more") == 4 and not stream.isatty()
    closed = io.StringIO()
    closed.close()
    stream = Tolerant(closed)
    stream.write("x")
    assert "closed" in stream.problem


def test_streams_are_put_back(monkeypatch):
    before = sys.stdout, sys.stderr
    with tolerant_streams():
        assert isinstance(sys.stdout, Tolerant)
    assert (sys.stdout, sys.stderr) == before
    monkeypatch.setattr(sys, "stdout", None)
    with tolerant_streams() as out:
        print("nobody reads this")
    assert not out.problem


@pytest.mark.parametrize(("shell", "code"), [("2>&-", 0), ("<&-", 0), ("2>/dev/full", 0), ("| head -1", 0)])
def test_a_listing_ends_well_too(tmp_path, shell, code):
    done = bench(("list", "datasets"), tmp_path, shell)
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("shell", "code"),
    [(">&-", 0), (">/dev/full", 2)],
)
def test_a_run_ends_well_on_streams_that_do_not(tmp_path, shell, code):
    done = bench((*SMALL, "--out", "r"), tmp_path, shell)
    assert (tmp_path / "r/leaderboard.csv").is_file()
    assert done.returncode == code and "Traceback" not in done.stderr
    if code:
        assert done.stderr.count("\n") == 1 and "No space left" in done.stderr


@pytest.mark.parametrize("arguments", [("list", "metrics"), (*SMALL, "--out", "r"), ("run", "--help")])
def test_ascii_output(tmp_path, arguments):
    done = bench(arguments, tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and not done.stderr and done.stdout.isascii()


def test_a_disk_that_is_full_at_the_tables_is_one_line(tmp_path):
    bench((*SMALL, "--out", "warm"), tmp_path)
    command = f"'{sys.executable}' '{ROOT}/run_bench.py' {' '.join(SMALL)} --out r"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 8; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "too large" in done.stderr and "r/" in done.stderr


def test_modules_of_the_working_folder_are_not_imported(tmp_path):
    for name in ("random", "queue", "statistics", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the script of the user ran')\n")
    done = bench((*SMALL[:-1], "1", "--out", "r"), tmp_path)
    assert done.returncode == 0, done.stderr
    done = bench(("prepare", "--dataset", "phantom", "--cases", "2", "--jobs", "2", "--no-images"), tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_deleted_working_folder_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["bash", "-c", f"rmdir '{gone}'; '{sys.executable}' '{ROOT}/run_bench.py' list methods"],
        cwd=gone, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and "no longer exists" in done.stderr and done.stderr.count("\n") == 1


def test_without_home_nothing_is_cached_and_a_warning_says_what_to_set(monkeypatch):
    for name in ("FUSEBENCH_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # how it answers for a user without account
    path = cache_dir("phantom") / "x.npz"
    with pytest.warns(UserWarning, match="FUSEBENCH_CACHE"):
        assert cached_arrays(path, dict) == {}
    assert not os.path.exists("~")


def test_a_file_system_without_locks_still_caches(tmp_path, monkeypatch):
    import numpy as np

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    cached_arrays(tmp_path / "x.npz", lambda: {"a": np.arange(3)})
    assert (tmp_path / "x.npz").is_file()


def test_a_plugin_that_closes_standard_output_takes_no_result_away(capfd):
    with tolerant_streams():
        sys.stdout.close()
        sys.stderr.close()
        print("the board")
        print("an error", file=sys.stderr)
    assert capfd.readouterr() == ("the board\n", "an error\n")
