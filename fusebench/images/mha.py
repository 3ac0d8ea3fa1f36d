"""MHA and MHD, checked before ITK reads them.

It prints lines of its own on what it refuses, and takes damaged voxels as they are.
"""

from __future__ import annotations

import mmap
import re
import zlib
from pathlib import Path

from ..errors import InputError
from ..files import open_plain
from ..text import printable
from .packed import CHECKED, TooMuch, length
from .raw import HEADER_BYTES, detached, first_line, image_files

# Where the header ends and the voxels begin.
_LOCAL = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*LOCAL[^\S\n]*\n", re.IGNORECASE | re.MULTILINE)
# ITK also takes a colon, numbers that a field lacks from the next line, and any format of C in a name, so
# that it may read another file than was checked: only the usual form, once, is let through.
_PLACE = re.compile(
    rb"^ElementDataFile[ \t]*=[ \t]*([^\s=:%][^%\r\n]*|[^\s=:%]*%\d{0,2}d[^%\s]*([ \t]+\d+){3}[ \t]*)\r?$",
    re.MULTILINE,
)
_FIELD = re.compile(rb"^[ \t]*(\w+)[ \t]*[=:][ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
_NEEDED = ("NDims", "DimSize", "ElementType", "ElementDataFile")


class Header:
    """Fields of a header, with the form of its voxels.

    Attributes
    ----------
    path : Path
    fields : dict
        By name, as bytes.
    local : bool
        The voxels are in the file, behind the header.
    start : int
        Where they begin, in each file that holds some.
    packed : bool
    files : list of Path
        Those that hold voxels, as far as they are there.
    """

    def __init__(self, path: Path) -> None:
        with open_plain(path) as handle:
            head = handle.read(HEADER_BYTES)
        end = _LOCAL.search(head)
        self.path, self.local = path, end is not None
        self.fields = {k.decode(): v for k, v in _FIELD.findall(head[: end.end()] if end else head)}
        self.start = end.end() if end else _number(self.fields.get("HeaderSize", b""))
        self.packed = self.fields.get("CompressedData", b"")[:1] in (b"T", b"t", b"1")
        self.files = [path] if end else image_files(path)[1:]

    def _count_places(self) -> int:
        """How often the file names a place of its voxels; 0 where not in the usual form."""
        with open_plain(self.path) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            first, key = _PLACE.search(whole[:HEADER_BYTES]), b"ElementDataFile"
            if first is None or whole.find(key) != first.start():
                return 0
            return 1 if whole.find(key, first.end()) < 0 else 2

    def check(self) -> None:
        """Raise `InputError` where a field is missing, or the file that holds the voxels."""
        missing = [name for name in _NEEDED if not self.fields.get(name)]
        axes, sizes = self.fields.get("NDims", b""), self.fields.get("DimSize", b"").split()
        said = printable(axes.decode(errors="replace"))[:20]
        there = detached(self.path)[:1]
        if self._count_places() != 1:
            wrong = "its ElementDataFile is not in the usual form, once"
        elif missing:
            wrong = f"its header has no {', '.join(missing)}"
        elif _number(axes) != len(sizes):
            wrong = f"its header has {len(sizes)} sizes, and {said} for NDims"
        elif there and not (self.path.parent / there[0]).exists():
            wrong = f"its voxels are in {printable(there[0])[:120]}, which is not there"
        else:
            return
        raise InputError(f"{self.path}: not readable ({wrong}); convert or download it again")

    def check_voxels(self, declared: int) -> None:
        """Raise `InputError` where there are fewer bytes than `declared`, or compressed ones are damaged."""
        if self.packed:
            self._check_packed(declared)
            return
        there = sum(max(0, file.stat().st_size - self.start) for file in self.files)
        text = self.fields.get("BinaryData", b"")[:1] in (b"F", b"f", b"0")
        if there < declared and not text:
            raise InputError(
                f"{self.path}: truncated: the header declares {declared} bytes of voxels, there are {there}; "
                "copy or download it again"
            )

    def _check_packed(self, declared: int) -> None:
        there = unpacked = 0
        try:
            for file in self.files:
                with open_plain(file) as packed:
                    packed.seek(self.start)
                    unpacked += length(packed, CHECKED, declared)
                    there += packed.tell() - self.start
        except TooMuch:
            unpacked = declared + 1
        except (EOFError, zlib.error) as error:
            raise InputError(
                f"{self.path}: compressed voxels truncated or damaged ({first_line(error)}); "
                "download it again"
            ) from None
        # Behind a header ITK finds voxels only by the length that it states.
        stated = self.fields.get("CompressedDataSize")
        shorter = self.local if stated is None else _number(stated) < there
        if unpacked != declared or shorter:
            raise InputError(
                f"{self.path}: its compressed voxels are not as the header declares ({declared} bytes "
                "unpacked, and their length packed); download or save it again"
            )

    def spare(self, declared: int) -> int:
        """Bytes more than `declared` behind the header, of voxels that are not compressed."""
        plain = self.local and not self.packed
        return self.path.stat().st_size - self.start - declared if plain else 0


def _number(text: bytes) -> int:
    """A whole number as files have them; 0 of anything else."""
    return int(text) if text.isdigit() and len(text) < 19 else 0
