"""Arrays in memory that two processes share, several to a file."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Name, type and shape of each array, in order: what the other process is told of the file.
Layout = list[tuple[str, str, list[int]]]

_ALIGNED = 64  # bytes; an array begins at a multiple
_KINDS = "biufcSUmM"  # of types without objects and fields


def memory(size: int) -> int:
    """Descriptor of shared memory of a fixed size."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("fusebench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        # Nobody may make it smaller under the reader's feet.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return fd
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


def seal(fd: int) -> int:
    """The same descriptor, of memory that nobody can write to any more, where the system can do that."""
    if hasattr(fcntl, "F_SEAL_WRITE"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return fd


def can_be_shared(array: NDArray[Any]) -> bool:
    """True for an array of numbers, texts or times; not of objects or fields."""
    return array.dtype.kind in _KINDS


def put(arrays: Mapping[str, NDArray[Any]]) -> tuple[int, Layout]:
    """Copy arrays into shared memory that nobody can write to any more.

    Returns
    -------
    fd : int
        To be closed by the caller.
    layout : list
        For `views` or `taken`.

    Raises
    ------
    TypeError
        An array holds other things than numbers.
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if not can_be_shared(array):
            raise TypeError(f"{name} holds {array.dtype}, not numbers")
    layout = [layout_of(name, array) for name, array in arrays.items()]
    places = _places(layout)
    fd = memory(max(1, _end(places)))
    for array, (begin, _) in zip(plain.values(), places, strict=True):
        write_at(fd, array, begin)
    return seal(fd), layout


def layout_of(name: str, array: NDArray[Any]) -> tuple[str, str, list[int]]:
    """Entry of an array in a `Layout`."""
    return name, array.dtype.str, list(array.shape)


def views(fd: int, layout: Layout, access: int = mmap.ACCESS_COPY) -> dict[str, NDArray[Any]]:
    """The arrays of `put`, mapped; what this process writes to them is copied first, a page at a time.

    With `mmap.ACCESS_READ` it cannot write to them.
    """
    whole = mmap.mmap(fd, os.fstat(fd).st_size, access=access)
    return {
        name: np.ndarray(shape, dtype, whole, begin)
        for (name, dtype, shape), (begin, _) in zip(layout, _places(layout), strict=True)
    }


def taken(fd: int, layout: Any) -> dict[str, NDArray[Any]]:
    """Copies of the arrays that a process which is not trusted has put there.

    Raises
    ------
    ValueError
        The layout is none, or the memory does not hold what it says.
    """
    found = _checked(layout)
    places = _places(found)
    if _end(places) > os.fstat(fd).st_size:
        raise ValueError("the arrays are cut short")
    out = {}
    for (name, dtype, shape), (begin, _) in zip(found, places, strict=True):
        out[name] = array = np.empty(shape, dtype)
        read_at(fd, array, begin)
    return out


def write_at(fd: int, array: NDArray[Any], at: int = 0) -> None:
    """Write a contiguous array's bytes into a file."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = os.pwrite(fd, left, at)
        left, at = left[count:], at + count


def read_at(fd: int, array: NDArray[Any], at: int = 0) -> None:
    """Fill a contiguous array from a file.

    Raises
    ------
    ValueError
        The file is too short.
    """
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = os.preadv(fd, [left], at)
        if not count:
            raise ValueError("the memory was cut short")
        left, at = left[count:], at + count


def _checked(layout: Any) -> Layout:
    try:
        found = [(str(name), np.dtype(dtype), [int(n) for n in shape]) for name, dtype, shape in layout]
    except (TypeError, ValueError, OverflowError):
        raise ValueError("it is no layout of arrays") from None
    if any(dtype.kind not in _KINDS or min([0, *shape]) < 0 for _, dtype, shape in found):
        raise ValueError("it is no layout of arrays")
    return [(name, dtype.str, shape) for name, dtype, shape in found]


def _places(layout: Layout) -> list[tuple[int, int]]:
    """Where each array begins and ends."""
    found, end = list[tuple[int, int]](), 0
    for _, dtype, shape in layout:
        begin = -(-end // _ALIGNED) * _ALIGNED
        end = begin + np.dtype(dtype).itemsize * math.prod(shape)
        found.append((begin, end))
    return found


def _end(places: list[tuple[int, int]]) -> int:
    return places[-1][1] if places else 0
