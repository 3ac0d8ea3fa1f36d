"""Compressed bytes, unpacked in pieces and no further than they may go."""

from __future__ import annotations

import zlib

# An image that takes more is damaged, or too big to fuse anyway.
MAX_BYTES = 8 << 30
_PIECE = 1 << 22
_FIRST = 1 << 12  # of a member, which may be short, and what is behind it is copied in vain
_GZIP = 16 + zlib.MAX_WBITS


class TooMuch(ValueError):
    """The content is longer than it may be."""


def unpack(packed: bytes, most: int) -> tuple[bytes, int]:
    """The content of gzip members, each read to its end, where its checksum is, and the bytes behind them.

    Raises
    ------
    TooMuch
        It is longer than `most` bytes.
    EOFError, zlib.error
        It is truncated or damaged.
    """
    found: list[bytes] = []
    at, left = 0, most
    while packed[at : at + 2] == b"\x1f\x8b":
        try:
            pieces, at_end = _member(packed, at, left)
        except zlib.error:
            if found:  # two bytes that look like another member
                break
            raise
        found += pieces
        left -= sum(map(len, pieces))
        at = at_end
    return b"".join(found), len(packed[at:].lstrip(b"\0"))


def _member(packed: bytes, at: int, most: int) -> tuple[list[bytes], int]:
    """Pieces of the member that begins at `at`, and where it ends."""
    unpacker = zlib.decompressobj(_GZIP)
    pieces: list[bytes] = []
    held, step = 0, _FIRST
    while not unpacker.eof:
        left = unpacker.unconsumed_tail
        if not left:
            left = packed[at : at + step]
            at, step = at + len(left), min(4 * step, _PIECE)
        if not left:
            raise EOFError("no end")
        pieces.append(unpacker.decompress(left, _PIECE))
        held += len(pieces[-1])
        if held > most:
            raise TooMuch
    return pieces, at - len(unpacker.unused_data)


def beginning(packed: bytes, length: int) -> bytes:
    """The first `length` bytes of what a gzip member holds, or as many as there are."""
    try:
        return zlib.decompressobj(_GZIP).decompress(packed[: 1 << 16], length)
    except zlib.error:
        return b""
