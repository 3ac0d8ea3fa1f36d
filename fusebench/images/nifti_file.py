"""The bytes of a NIfTI file: no more than its header declares, and than there is memory for.

A small file may unpack to gigabytes, or have a hole of any length behind its voxels.
"""

from __future__ import annotations

import logging
import threading
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel import imageglobals

from ..errors import InputError
from ..files import open_plain
from ..limits import check_memory
from .packed import MAX_BYTES, TooMuch, beginning, unpack
from .raw import extension, first_line

# A file may hold this much beyond what its header declares, and as much again as that, with a note.
_SLACK = 16 << 20
# A byte of deflate stands for 1032 at most.
_MOST_PACKED = 1032
# Of a header and its extensions, where only they are asked for.
_HEAD = 1 << 20


class Content(NamedTuple):
    """Bytes of a file, as far as its header declares some; how many there are; notes on how it is packed."""

    raw: bytearray
    size: int
    notes: list[str]


def read_content(path: Path) -> Content:
    """The bytes of a `.nii` or `.nii.gz`, unpacked and read to the end, where the checksum is.

    Raises
    ------
    InputError
        No plain file, truncated or damaged, or more than it declares or than there is memory for.
    """
    try:
        file = open_plain(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy or download it again") from None
    with file:
        size = path.stat().st_size
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        head = beginning(file, 540) if packed else file.read(540)
        file.seek(0)
        end, needed = _declared(head)
        if end > MAX_BYTES:
            raise InputError(
                f"{path}: its header declares more than {MAX_BYTES >> 30} GiB, or voxels far behind it; "
                "this is no image of a head"
            )
        if end > (_MOST_PACKED if packed else 1) * size:
            raise InputError(
                f"{path}: truncated: the header declares {end} bytes, there are {size}"
                f"{', compressed' if packed else ''}; copy or download it again"
            )
        check_memory(path, needed)
        if end and not packed and size > _most(end):
            raise _too_much(path, "is longer", end)
        if packed:
            return _unpacked(path, file, end)
        named = extension(path) == ".nii.gz"
        notes = ["is named .nii.gz but is not compressed"] if named else []
        return Content(bytearray(file.read(end or _HEAD)), size, notes)


def load(path: Path) -> Any:
    """The nibabel image of a file as it stands, read to its end; see `read_content`."""
    raw = read_content(path).raw
    return parse(raw)[0]


def load_header(path: Path) -> Any:
    """The nibabel image of a file of which only the header and its extensions are read, not the voxels.

    Raises
    ------
    OSError, or whatever else nibabel raises on a damaged header
    """
    with open_plain(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        raw = bytearray(beginning(file, _HEAD) if packed else file.read(_HEAD))
    return parse(raw)[0]


def parse(raw: bytes | bytearray) -> tuple[Any, list[str]]:
    """The nibabel image of a file's bytes, and what nibabel says of its header, which names no file.

    Raises
    ------
    Exception
        Almost any, of a damaged header.
    """
    heard = _Heard()
    imageglobals.logger.addFilter(heard)
    try:
        return kind_of(raw).from_bytes(raw), heard.said
    finally:
        imageglobals.logger.removeFilter(heard)


class _Heard(logging.Filter):
    """Keeps what this thread logs, and lets pass what others do."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self.thread:
            return True
        self.said.append(f"header: {record.getMessage()}")
        return False


def kind_of(raw: bytes | bytearray) -> Any:
    """Class of nibabel for a file: NIfTI-2 says so in its first four bytes, in either byte order."""
    return nib.Nifti2Image if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image


def _unpacked(path: Path, file: IO[bytes], declared: int) -> Content:
    """Content of the gzip members, with a note on bytes that follow them and are none."""
    try:
        raw, rest = unpack(file, _most(declared))
    except TooMuch:
        raise _too_much(path, "unpacks to more", declared) from None
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: compressed file truncated or damaged ({first_line(error)}); download it again"
        ) from None
    size = len(raw)
    if declared:
        del raw[declared:]
    behind = f"{rest} bytes behind the end of the compressed data are passed over"
    return Content(raw, size, [behind] if rest else [])


def _most(declared: int) -> int:
    return min(MAX_BYTES, _SLACK + 2 * declared)


def _too_much(path: Path, what: str, declared: int) -> InputError:
    return InputError(
        f"{path}: {what} than {_most(declared) >> 20} MiB, while its header declares {declared} bytes; "
        "this is no image: download it again"
    )


def _declared(head: bytes) -> tuple[int, int]:
    """Bytes of the file that a header declares, and that the image takes until it is a `Volume`.

    0 of a header that only reading the image explains.
    """
    kind = kind_of(head).header_class
    try:
        with np.errstate(all="ignore"):
            header: Any = kind(head[: kind.template_dtype.itemsize], check=False)
            voxels = max(0, int(np.prod(header.get_data_shape(), dtype=object)))
            dtype = header.get_data_dtype()
            start = max(int(header["vox_offset"]), kind.single_vox_offset)  # 0: behind the header
            end = start + voxels * int(dtype.itemsize)
    except Exception:
        return 0, 0
    if start > _SLACK:
        return MAX_BYTES + 1, 0  # no extension of a header is that long
    if dtype.names:  # colours, their luminance, and what is seen of them
        return end, 20 * voxels
    # The content twice, and up to three copies as float32.
    return end, max(2 * end + 4 * voxels, end + 8 * voxels, 12 * voxels)
