"""A request to end is taken as Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fusebench.cli import main
from fusebench.cli._signals import _ECHO, ASKED, ending_like_ctrl_c


@pytest.mark.parametrize("number", ASKED)
def test_a_request_to_end_interrupts_once(number: int) -> None:
    outside = signal.signal(number, signal.SIG_DFL)  # `nohup pytest` ignores one
    try:
        with ending_like_ctrl_c() as came:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # `timeout` sends a second one at once
        assert came == [number, number] and signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_asked_again_later_it_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with ending_like_ctrl_c():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            now[0] += 2 * _ECHO


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` has it
    try:
        with ending_like_ctrl_c() as came:
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == [] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_taken() -> None:
    seen = []

    def body() -> None:
        with ending_like_ctrl_c() as came:
            seen.append(came)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [[]]


def test_the_exit_code_names_the_signal() -> None:
    code = (
        "import os, signal, sys, fusebench.cli as cli\n"
        "cli._check_folder = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(cli.main(['list', 'methods']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (143, "") and "interrupted" in run.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_one_line_and_its_exit_code(
    number: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*_: object) -> None:
        os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr("fusebench.engine.run.split_cases", listed)
    options = ["--methods", "average", "--cases", "1", "--jobs", "0", "--metrics", "psnr"]
    taken = getattr(signal, number)
    # Where the tests run in the background of a shell, Ctrl-C is ignored.
    usual = signal.default_int_handler if number == "SIGINT" else signal.SIG_DFL
    before = signal.signal(taken, usual)
    try:
        assert main(options) == code
        assert capsys.readouterr().err.strip() == "run_bench.py: interrupted; the same command resumes"
        assert signal.getsignal(taken) == usual
    finally:
        signal.signal(taken, before)
