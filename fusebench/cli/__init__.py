"""The command line: one file per subcommand, each with ``add(subparsers)``.

Exit codes: 0 done, 1 some cases failed (the leaderboard is still complete), 2 usage or input error,
130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import faulthandler
import gc
import os
import pkgutil
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..errors import FuseBenchError, InputError
from ..parameters import user_path
from ..text import describe, printable
from ._console import tolerant_streams
from ._signals import CTRL_C, ending_like_ctrl_c

PROGRAM = "run_bench.py"


class Parser(argparse.ArgumentParser):
    """A parser, as its subparsers are, whose options of type `Path` know ``~``, also behind ``=``.

    It says what is wrong in one line; argparse puts the whole usage before it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", Path, user_path)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """Make the parser with every subcommand of this folder, or with `command` alone, which is faster."""
    parser = Parser(
        prog=PROGRAM,
        description="FuseBench: run fusion methods on the same cases, score them, print the leaderboard.",
        epilog="Without a subcommand, `run` is meant: run_bench.py --methods all",
    )
    parser.set_defaults(again="the same command resumes")
    parser.add_argument("--version", action="version", version=f"fusebench {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    names = _commands()
    for name in [command] if command in names else names:
        import_module(f"{__name__}.{name}").add(subparsers)
    for subparser in subparsers.choices.values():
        subparser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return parser


def _parse(parser: argparse.ArgumentParser, given: list[str]) -> argparse.Namespace:
    """Parse `given`; names that stand behind an option join those before it, which argparse refuses."""
    args, rest = parser.parse_known_args(given)
    several: argparse.Action | None = getattr(args, "several", None)
    if rest and (several is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and several is not None:
        before = getattr(args, several.dest)
        after = [user_path(word) if several.type is Path else word for word in rest]
        setattr(args, several.dest, after if before is several.default else [*before, *after])
    return args


def _commands() -> list[str]:
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return sorted(names, key=lambda n: (n != "run", n))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    with tolerant_streams() as out, _safe_path(), ending_like_ctrl_c() as signals:
        code = _main(list(sys.argv[1:] if arguments is None else arguments))
        if code == CTRL_C and signals:
            code = 128 + signals[0]
        out.flush()
        if out.problem:
            print(f"{PROGRAM}: error: standard output cannot be written ({out.problem})", file=sys.stderr)
            code = code or 2
    if arguments is None and _thread_lingers():
        sys.stderr.flush()
        os._exit(code)  # Python would wait for them
    return code


def _thread_lingers() -> bool:
    """A thread would keep this process alive, and is no worker of a pool, which ends with it."""
    pools: set[threading.Thread] = set()
    for module, table in (("thread", "_threads_queues"), ("process", "_threads_wakeups")):
        pools.update(getattr(sys.modules.get(f"concurrent.futures.{module}"), table, ()))
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return any(not thread.daemon and thread not in pools for thread in others)


def _main(given: list[str]) -> int:
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "run")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # tables make small products, that threads slow down
    try:
        args = _parse(build_parser(given[0]), given)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return CTRL_C
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError):  # where stderr is no file
            faulthandler.enable()  # names the plugin whose compiled code ends this process
    atexit.register(gc.freeze)  # spares a search through all that was imported, a quarter of a second
    try:
        _check_folder()
        code: int = args.run(args)
    except FuseBenchError as error:
        return _failed(args, str(error))
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; {args.again}", file=sys.stderr)
        return CTRL_C
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(args, f"{where}{error.strerror or error} ({args.again})")
    except MemoryError as error:
        return _failed(args, f"out of memory ({str(error) or 'no more is to be had'}); {args.again}")
    except Exception as error:  # a fault of ours, or of a file or plugin that nobody thought of
        return _failed(args, f"{describe(error)}; {args.again}, and --debug shows where it went wrong")
    return code


def _failed(args: argparse.Namespace, message: str) -> int:
    """Say in one line what ended the command; with ``--debug`` also where."""
    if args.debug:
        traceback.print_exc()
    print(f"{PROGRAM}: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Keep children from importing a ``random.py`` that lies in the folder this was started in."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise InputError("the folder this was started in no longer exists; change to one that does") from None
