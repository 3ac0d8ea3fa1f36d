"""A job that is cancelled or over its time, and a closed terminal, end a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal

import pytest

from fusebench.cli import main


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_one_line_and_its_exit_code(
    number: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*_: object) -> None:
        os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr("fusebench.engine.run.split_cases", listed)
    options = ["--methods", "average", "--cases", "1", "--jobs", "0", "--metrics", "psnr"]
    before = signal.getsignal(getattr(signal, number))
    assert main(options) == code
    assert capsys.readouterr().err.strip() == "run_bench.py: interrupted; the same command resumes"
    assert signal.getsignal(getattr(signal, number)) == before


def test_who_is_to_outlive_the_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(["list", "datasets"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
