"""Compressed files: read to the end, and no further than they may go."""

from __future__ import annotations

import gzip
import io
import os
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fusebench.errors import InputError
from fusebench.images.packed import CHECKED, TooMuch, beginning, length, unpack
from fusebench.images.raw import check_inside
from fusebench.images.read_write import read_raw


def unpacked(packed: bytes, most: int = 1 << 30) -> tuple[bytes, int]:
    content, rest = unpack(io.BytesIO(packed), most)
    return bytes(content), rest


CONTENT = np.random.default_rng(0).integers(0, 9, 9 << 20, dtype="u1").tobytes()


def test_members_and_what_follows_them() -> None:
    packed = gzip.compress(CONTENT, 1)
    assert unpacked(packed, len(CONTENT)) == (CONTENT, 0)
    assert unpacked(packed + gzip.compress(b"abc")) == (CONTENT + b"abc", 0)
    assert unpacked(packed + b"\0\0\0") == (CONTENT, 0)
    assert unpacked(packed + b"\x1f\x8btail") == (CONTENT, 6)
    assert beginning(io.BytesIO(packed), 7) == CONTENT[:7]
    assert beginning(io.BytesIO(b"no gzip"), 7) == b""


def test_many_short_members_take_no_longer_than_one() -> None:
    noise = np.random.default_rng(0).bytes(4 << 20)
    packed = gzip.compress(b"a") + gzip.compress(b"") * 20_000 + gzip.compress(noise, 1)
    begin = time.process_time()
    assert unpacked(packed) == (b"a" + noise, 0)
    assert time.process_time() - begin < 2  # copying all that follows each of them takes ten


@pytest.mark.parametrize("cut", [1, 8, 9, 1000])
def test_a_missing_end_is_damage(cut: int) -> None:
    with pytest.raises(EOFError):
        unpacked(gzip.compress(CONTENT, 1)[:-cut])


def test_a_flipped_bit_is_damage() -> None:
    packed = bytearray(gzip.compress(CONTENT, 1))
    packed[-8] ^= 1
    with pytest.raises(zlib.error):
        unpacked(bytes(packed))


def test_more_than_it_may_be_is_refused() -> None:
    with pytest.raises(TooMuch):
        unpacked(gzip.compress(CONTENT, 1), len(CONTENT) - 1)


@pytest.mark.parametrize("wrap", [gzip.compress, zlib.compress])
def test_the_length_of_a_stream_is_told_without_its_content(wrap: Callable[[bytes], bytes]) -> None:
    packed = wrap(CONTENT[: 1 << 20])
    stream = io.BytesIO(b"head" + packed + b"tail")
    stream.seek(4)
    assert length(stream, CHECKED, 1 << 20) == 1 << 20 and stream.read() == b"tail"
    stream.seek(4)
    with pytest.raises(TooMuch):
        length(stream, CHECKED, (1 << 20) - 1)


def test_a_small_file_that_unpacks_to_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 24)
    with open(tmp_path / "bomb.nii.gz", "wb") as handle:
        head = nib.Nifti1Image(np.ones((8, 8, 8), "f4"), np.eye(4)).to_bytes()
        handle.write(packer.compress(head))
        for _ in range(40):
            handle.write(packer.compress(zeros))
        handle.write(packer.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="unpacks to more than 16 MiB, while its header declares 2400 bytes"):
        read_raw(tmp_path / "bomb.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


MHD = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 1\nencoding: raw\n"


@pytest.mark.parametrize(
    "header",
    [
        f"{MHD}ElementDataFile = ../secret\n",
        f"{MHD}ElementDataFile = /etc/passwd\n",
        f"{MHD}ElementDataFile = LIST\nslice1.raw\n../secret\n",
        f"{MHD}ElementDataFile = ../s%d 1 4 1\n",
        f"{NRRD}data file: ../secret\n\n",
        f"{NRRD}data file: sub/../../secret\n\n",
        f"{NRRD}datafile: inside.raw\ndata file: C:\\secret\n\n",
        f"{NRRD}content: a line of its own\rdata file: ../secret\n\n",
    ],
)
def test_data_outside_the_folder_are_not_read(tmp_path: Path, header: str) -> None:
    path = tmp_path / ("a.nhdr" if header.startswith("NRRD") else "a.mhd")
    path.write_text(header)
    with pytest.raises(InputError, match="outside its folder"):
        check_inside(path)


def test_a_header_of_nrrd_that_is_read_in_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nhdr"
    path.write_text(f"{NRRD}{'#' * (1 << 20)}\ndata file: ../secret\n\n")
    with pytest.raises(InputError, match="header is longer than 1 MiB"):
        check_inside(path)


def test_data_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.raw")
    (tmp_path / "a.mhd").write_text(f"{MHD}ElementDataFile = a.raw\n")
    with pytest.raises(InputError, match=r"a\.mhd: its data are to be read from a\.raw, which is no file"):
        read_raw(tmp_path / "a.mhd")


def test_a_hole_behind_compressed_data_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), "f4"), np.eye(4)), path)
    os.truncate(path, 6 << 30)
    begin = time.process_time()
    assert "bytes behind the end of the compressed data" in read_raw(path).notes[0]
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("name", ["a.raw", "sub/a.raw", "..a.raw", "LOCAL"])
def test_data_inside_the_folder_are(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.mhd").write_text(f"{MHD}ElementDataFile = {name}\n")
    check_inside(tmp_path / "a.mhd")
