"""The terminal: what cannot be printed is replaced, and a stream that cannot be written ends nothing.

Results are written before they are printed, so a closed, full or narrow-minded standard output costs the
print-out only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console

# Signs of the tables and their likenesses in ASCII; letters with accents and the rest become "?".
_LIKENESS = {
    **{"→": ">", "←": "<", "↑": "^", "↓": "v", "–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "³": "3"},
    **{"⚠": "!", "∞": "inf", "…": "...", "“": '"', "”": '"', "’": "'", "•": "*", "·": ".", "≤": "<="},
    **{"≥": ">=", "≈": "~", "█": "#", "━": "-", "╸": "-", "╺": "-", "μ": "u", "µ": "u"},
}


def replace_unprintable(text: str, encoding: str) -> str:
    """`text` as far as `encoding` has it: likenesses for the signs of tables, a stray byte as its number."""
    out = []
    for character in text.replace("± ", "±") if _lacks("±", encoding) else text:
        if _lacks(character, encoding):
            # A byte of a file name that is not UTF-8.
            byte = ord(character) - 0xDC00
            character = _LIKENESS.get(character, f"\\x{byte:02X}" if 0x80 <= byte <= 0xFF else "?")
        out.append(character)
    return "".join(out)


def _lacks(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return True
    return False


class Tolerant:
    """A text stream that replaces what its encoding lacks and, once it cannot be written, drops the rest.

    Parameters
    ----------
    stream : text stream
        ``sys.stdout`` or ``sys.stderr``.

    Attributes
    ----------
    problem : str
        Why nothing more is written; "" while all is well, or where the reader just left (``| head``).
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.problem = ""
        self._gone = False

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                self._write(text)
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._lose(error)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            self.stream.write(replace_unprintable(text, self.stream.encoding))

    def flush(self) -> None:
        if not self._gone:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def close(self) -> None:
        """Flush only: a plugin that closes it would take the command's results and errors away."""
        self.flush()

    def _lose(self, error: Exception) -> None:
        self._gone = True
        if not (isinstance(error, OSError) and error.errno == errno.EPIPE):
            self.problem = getattr(error, "strerror", None) or str(error)
        # The text that the stream still holds would fail again when Python ends.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def isatty(self) -> bool:
        return not self._gone and bool(self.stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def tolerant_streams() -> Iterator[Tolerant]:
    """Make ``sys.stdout`` and ``sys.stderr`` `Tolerant` for a while, and open where they are closed.

    Yields
    ------
    Tolerant
        Standard output; its `problem` says afterwards whether something was lost.
    """
    before = sys.stdout, sys.stderr
    # A file or pipe that is opened next must not become number 0, 1 or 2, which children inherit.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    out, err = (Tolerant(stream or _nowhere()) for stream in before)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def make_console(*, stderr: bool = False, columns: int | None = None) -> Console:
    """The console of a command.

    Parameters
    ----------
    stderr : bool
        Draw on standard error.
    columns : int, optional
        Width where it is no terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream is not None and stream.isatty()
    return Console(stderr=stderr, width=None if terminal else columns)
