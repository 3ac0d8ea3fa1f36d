"""Text for people: numbers in sentences, and characters that a terminal may be sent."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from .errors import FuseBenchError

# Control, format (right-to-left marks among them), lone surrogates, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LONG = 2000  # characters of a message that are looked at
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plural(n: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def printable(text: str, keep: str = "") -> str:
    r"""`text` with what would steer a terminal written out, as ``\x1b``, except what is in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in keep or unicodedata.category(c) not in _UNPRINTABLE else _written(c) for c in text
    )


def cell(text: str) -> str:
    """`text` for a table that a spreadsheet opens: what it would take for a formula begins with a quote."""
    if text[:1] in _FORMULA and not _is_number(text):
        return f"'{text}"
    return text


def csv_value(value: object) -> object:
    """`value` for a cell of a CSV file: a text as `cell` gives it, anything else as it is."""
    return cell(value) if isinstance(value, str) else value


def describe(error: BaseException) -> str:
    """One line for a row: our own errors as they are, others with their type and place."""
    text = printable(" ".join(message_of(error)[:_LONG].split()))[:300]
    if isinstance(error, FuseBenchError):
        return text
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" ({printable(Path(code.co_filename).name[:80])}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type_name(error)}: {text}{place}"


def reason_of(error: BaseException) -> str:
    """Why a file cannot be read, in few words: what the system says, else the kind of the error."""
    said = error.strerror if isinstance(error, OSError) else ""
    return said or type(error).__name__


def type_name(value: object) -> str:
    """Name of a value's type, which may be anything, as a line can hold it."""
    return printable(type(value).__name__[:80])


def message_of(error: BaseException) -> str:
    """What an error says of itself."""
    try:
        return str(error)
    except Exception:  # an error of a plugin's own may fail even at this
        return "its message cannot be read"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
