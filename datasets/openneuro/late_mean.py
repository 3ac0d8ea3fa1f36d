"""Mean of the last frames of a dynamic NIfTI, read as a stream: such a file does not fit into memory."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from fusebench.errors import InputError
from fusebench.files import atomic_path


def late_mean(source: Path, target: Path, durations: Sequence[float], last: float) -> int:
    """Write the mean of the frames of the last `last` seconds, weighted by their lengths.

    Parameters
    ----------
    source, target : Path
        ``.nii`` or ``.nii.gz``, 4D; the mean is written as float32, whole or not at all.
    durations : sequence of float
        Length of every frame in seconds.
    last : float
        Frames of which at least half lies within so many seconds of the end count.

    Returns
    -------
    int
        How many frames that is.

    Raises
    ------
    InputError
        Not 4D, damaged, or as many lengths as it does not have frames.
    """
    try:
        image: Any = nib.load(source)  # reads the header only
        shape = image.shape
        if len(shape) != 4 or len(durations) != shape[3] or not all(d > 0 for d in durations):
            raise InputError(
                f"{source}: {len(durations)} lengths of frames for an image of shape {tuple(shape)}; "
                "get the sidecar of that version"
            )
        first = _first_frame(durations, last)
        mean = np.zeros(shape[:3], np.float64)
        dtype, voxels = image.dataobj.dtype, int(np.prod(shape[:3]))
        with _opened(source) as stream:
            _skip(stream, int(image.dataobj.offset) + first * voxels * dtype.itemsize)
            for length in durations[first:]:
                content = stream.read(voxels * dtype.itemsize)
                frame = np.frombuffer(content, dtype).reshape(shape[:3], order="F")
                mean += length * np.asarray(frame, np.float64)
            while stream.read(1 << 20):  # to the end, where the checksum is
                pass
    except InputError:
        raise
    except Exception as error:  # a damaged file makes nibabel and zlib raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{source}: cannot be read to its end ({reason}); get the file again") from None
    mean = mean / sum(durations[first:]) * image.dataobj.slope + image.dataobj.inter
    new = nib.Nifti1Image(mean.astype(np.float32), image.affine)
    with atomic_path(target) as temporary:
        temporary.write_bytes(gzip.compress(new.to_bytes(), 4, mtime=0))
    return len(durations) - first


def _first_frame(durations: Sequence[float], last: float) -> int:
    ends = np.cumsum(durations)
    middles = ends - np.asarray(durations) / 2
    return int(np.argmax(middles >= ends[-1] - last)) if last > 0 else 0


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        block = stream.read(min(count, 1 << 22))
        if not block:
            raise EOFError("it ends too early")
        count -= len(block)
