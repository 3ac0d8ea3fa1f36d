"""Numbers in sentences, and text that can be written."""

from __future__ import annotations


def plural(n: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def printable(text: str) -> str:
    """`text` that any file in UTF-8 can hold: the stray bytes of a file name as numbers."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\\udc", "\\x")
