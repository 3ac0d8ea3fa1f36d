"""Compressed bytes, unpacked in pieces and no further than they may go."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

# An image that takes more is damaged, or too big to fuse anyway.
MAX_BYTES = 8 << 30
_PIECE = 1 << 22
_PADDING = 1 << 24
_FIRST = 1 << 12  # of a member, which may be short, and what is behind it is read in vain
_MAGIC = b"\x1f\x8b"
# Of zlib's `wbits`; the last takes both forms with a checksum.
GZIP, DEFLATE, CHECKED = 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS, 32 + zlib.MAX_WBITS


class TooMuch(ValueError):
    """The content is longer than it may be."""


def unpack(packed: IO[bytes], most: int) -> tuple[bytearray, int]:
    """The content of gzip members, each read to its end, where its checksum is, and the bytes behind them.

    Raises
    ------
    TooMuch
        It is longer than `most` bytes.
    EOFError, zlib.error
        It is truncated or damaged.
    """
    found = bytearray()
    first = True
    while True:
        start = packed.tell()
        magic = packed.read(2)
        packed.seek(start)
        if magic != _MAGIC:
            break
        held = len(found)
        try:
            unpack_stream(packed, GZIP, most, found)
        except zlib.error:
            if first:
                raise
            del found[held:]  # two bytes that look like another member
            packed.seek(start)
            break
        first = False
    return found, _behind(packed)


def unpack_stream(packed: IO[bytes], kind: int, most: int, found: bytearray) -> None:
    """Add the content of one stream to `found`, and leave `packed` behind it; see `unpack`.

    Parameters
    ----------
    packed : file
    kind : int
        `GZIP`, `DEFLATE` or `CHECKED`.
    most : int
        How long `found` may get.
    found : bytearray
    """
    for piece in _pieces(packed, kind, most - len(found)):
        found += piece


def length(packed: IO[bytes], kind: int, most: int) -> int:
    """How long the content of one stream is, read to its end and not kept; see `unpack_stream`."""
    return sum(map(len, _pieces(packed, kind, most)))


def _pieces(packed: IO[bytes], kind: int, most: int) -> Iterator[bytes]:
    """Content of one stream, up to `most` bytes; `TooMuch` is raised before the piece that passes them."""
    unpacker = zlib.decompressobj(kind)
    step = _FIRST
    while not unpacker.eof:
        left = unpacker.unconsumed_tail
        if not left:
            left = packed.read(step)
            step = min(4 * step, _PIECE)
        if not left:
            raise EOFError("no end")
        piece = unpacker.decompress(left, _PIECE)
        most -= len(piece)
        if most < 0:
            raise TooMuch
        yield piece
    packed.seek(-len(unpacker.unused_data), 1)


def _behind(packed: IO[bytes]) -> int:
    """Bytes from here to the end, without the zeros that tapes and disks pad files with."""
    rest = len(packed.read(_PADDING).lstrip(b"\0"))
    here = packed.tell()
    return rest + packed.seek(0, 2) - here  # nobody pads with more, and a hole may have any length


def beginning(packed: IO[bytes], length: int) -> bytes:
    """The first `length` bytes of what a gzip member holds, or as many as there are; `packed` stays put."""
    start = packed.tell()
    try:
        return zlib.decompressobj(GZIP).decompress(packed.read(1 << 16), length)
    except zlib.error:
        return b""
    finally:
        packed.seek(start)
