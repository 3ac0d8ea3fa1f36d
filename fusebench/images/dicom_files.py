"""The headers of DICOM files, each bounded before it is read: a small one may unpack to gigabytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import open_plain
from ..limits import check_memory
from .dicom_itk import need
from .packed import DEFLATE, TooMuch, unpack_stream

_MOST_PIXELS = 1 << 25  # of a slice; a header may declare any number
_MOST_BYTES = 256 << 20  # of a file with one slice, unpacked
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax of a dataset that is compressed as a whole
_ASKED = 64 << 20  # bytes of files, after which it is asked how much memory is left


def read_headers(files: Sequence[Path]) -> tuple[list[Any], list[str]]:
    """Datasets with pixels, and what is wrong with the other files."""
    slices, broken, ahead = [], [], 0
    for file in files:
        try:
            size = _length(file)
            ahead += size
            if ahead > _ASKED:
                check_memory(file, 2 * ahead)
                ahead = 0
            found = _header(file)
        except MemoryError:
            raise
        except InputError as error:
            broken.append(f"{file.name}: {error}")
        except Exception:  # pydicom raises almost anything on damaged files
            broken.append(f"{file.name}: is truncated or damaged")
        else:
            slices += [] if found is None else [found]
    return slices, broken


def _length(file: Path) -> int:
    """Bytes of a DICOM file, of a deflated one unpacked.

    Raises
    ------
    InputError
        No DICOM, or more than one slice has.
    """
    with open_plain(file) as handle:
        head = handle.read(2048)
        # Without the preamble, only what begins as a dataset does: group 2 or 8.
        if head[128:132] != b"DICM" and head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
            raise InputError("is not DICOM")
        size = file.stat().st_size
        if _DEFLATED in head:
            meta = need("pydicom.filereader").read_file_meta_info(file)
            handle.seek(144 + int(meta.FileMetaInformationGroupLength))
            content = bytearray()
            try:
                unpack_stream(handle, DEFLATE, _MOST_BYTES, content)
            except TooMuch:
                size = _MOST_BYTES + 1
            else:
                size += len(content)
    if size > _MOST_BYTES:
        raise InputError(f"holds more than {_MOST_BYTES >> 20} MiB, no slice does; convert it to NIfTI first")
    return size


def _header(file: Path) -> Any | None:
    """The dataset of a file with pixels; None of an index of files.

    Raises
    ------
    InputError
    """
    with open_plain(file) as handle:
        bare = handle.read(132)[128:] != b"DICM"
    dataset = need("pydicom").dcmread(file, force=bare)
    if dataset.get("Rows", 0) * dataset.get("Columns", 0) > _MOST_PIXELS:
        raise InputError(f"declares {dataset.Rows} x {dataset.Columns} pixels, no slice has")
    if "Rows" not in dataset or "PixelData" not in dataset:
        if file.name.upper() == "DICOMDIR":
            return None
        raise InputError("holds no pixels")
    if bare:
        _say_syntax(dataset)
    # A truncated file reads without complaint and fails here, or at the pixels.
    dataset.filename_for_messages = file
    return dataset


def _say_syntax(dataset: Any) -> None:
    """Name the encoding of a dataset that came without a meta header, which would name it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    dataset.file_meta = meta
