"""Compressed bytes, unpacked in pieces and no further than they may go."""

from __future__ import annotations

import zlib

# An image that takes more is damaged, or too big to fuse anyway.
MAX_BYTES = 8 << 30
_PIECE = 1 << 22


class TooMuch(ValueError):
    """The content is longer than it may be."""


def unpack(packed: bytes, most: int) -> bytes:
    """Content of gzip `packed`, read to the end, where its checksum is.

    Raises
    ------
    TooMuch
        It is longer than `most` bytes.
    EOFError, zlib.error
        It is truncated or damaged.
    """
    pieces: list[bytes] = []
    held = at = 0
    while at < len(packed):
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            left = unpacker.unconsumed_tail or packed[at : at + _PIECE]
            if not left:
                raise EOFError("the end is missing")
            if not unpacker.unconsumed_tail:
                at += len(left)
            piece = unpacker.decompress(left, _PIECE)
            pieces.append(piece)
            held += len(piece)
            if held > most:
                raise TooMuch
        at -= len(unpacker.unused_data)
        while packed[at : at + 1] == b"\0":  # padding; else it is the next of several members
            at += 1
    return b"".join(pieces)


def beginning(packed: bytes, length: int) -> bytes:
    """The first `length` bytes of the content, or as many as there are."""
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(packed, length)
