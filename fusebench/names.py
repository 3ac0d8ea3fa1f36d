"""Names that become files, cells and lines: one check for all of them, where they come in."""

from __future__ import annotations

from .errors import InputError
from .text import printable

_LONGEST = 200  # bytes; file systems have 255, and a suffix follows
# A shell, another system, or a list of names would take these for something else.
_RESERVED = set('/\\:*?"<>|,;[]')
_FIRST = set(".-=+@' ")  # a hidden file, an option, a formula
# What --methods takes besides names, and the sources that lie beside kept volumes.
_TAKEN = {"all", "fast", "standard", "mri", "pet"}


def check_name(name: object, what: str) -> str:
    """`name`, if it may be that of a plugin, a variant or an entry of the board.

    Raises
    ------
    InputError
        Not text, empty, too long, or with characters that a path, a shell, a spreadsheet or a terminal would
        take for more than a name.
    """
    text = check_file_name(name, what)
    if text[0] in _FIRST or text[-1] in ". " or set(text) & _RESERVED or text in _TAKEN:
        raise InputError(
            f"{what} {shown(text)}: cannot be a name; begin with a letter or digit and leave out spaces "
            f'at the end and any of / \\ : * ? " < > | , ; [ ]; taken are {", ".join(sorted(_TAKEN))}'
        )
    return text


def check_file_name(name: object, what: str) -> str:
    """`name`, if it can name a file in any folder and nothing outside it, on every system.

    Raises
    ------
    InputError
        It cannot, or it holds control characters.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{what} {shown(name)}: a name is needed, of at least one letter or digit")
    if name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise InputError(f"{what} {shown(name)}: cannot name a file; leave out / and \\")
    check_text(name, what)
    if len(name.encode()) > _LONGEST:
        raise InputError(f"{what} {shown(name)[:60]}...: longer than {_LONGEST} bytes; shorten it")
    return name


def check_text(text: object, what: str) -> str:
    """`text`, if it is one line without control characters or marks that turn the direction of writing."""
    if not isinstance(text, str) or printable(text) != text:
        raise InputError(f"{what} {shown(text)}: holds characters that cannot be printed; leave them out")
    return text


def shown(name: object) -> str:
    """A name as a message may hold it."""
    return printable(f"'{name}'" if isinstance(name, str) else repr(name))
