"""Numbers in sentences."""

from __future__ import annotations


def plural(n: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
