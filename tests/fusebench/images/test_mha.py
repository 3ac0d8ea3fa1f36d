"""MHA and MHD: what is damaged is one line, and ITK prints nothing beside it."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from fusebench.errors import InputError
from fusebench.images.mha import Header
from fusebench.images.read_write import read_raw

sitk = pytest.importorskip("SimpleITK")


@pytest.mark.parametrize("kind", ["mha", "mhd"])
def test_damaged_voxels_of_an_mha_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    voxels = np.random.default_rng(0).random((8, 9, 10)).astype("f4")
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=True)
    assert np.array_equal(np.sort(read_raw(path).data, axis=None), np.sort(voxels, axis=None))
    file = path if kind == "mha" else tmp_path / "a.zraw"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 4
    header = path.read_bytes()
    (size,) = re.findall(rb"CompressedDataSize = (\d+)", header)
    longer = whole[: -int(size)] + zlib.compress(voxels.tobytes() + b"more")
    for damaged in (bytes(flipped), whole[:-1], whole[:-100], longer):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"a\.{kind}: (its )?compressed voxels"):
            read_raw(path)
    file.write_bytes(whole)
    path.write_bytes(header.replace(b"CompressedDataSize = " + size, b"CompressedDataSize = 99"))
    with pytest.raises(InputError, match="not as the header declares"):
        read_raw(path)


def test_an_mha_that_does_not_say_where_its_voxels_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"  # which ITK reads as noise
    sitk.WriteImage(sitk.GetImageFromArray(np.eye(9, dtype="f4")), str(path), useCompression=True)
    path.write_bytes(re.sub(rb"CompressedDataSize = \d+\n", b"", path.read_bytes()))
    with pytest.raises(InputError, match="not as the header declares"):
        read_raw(path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("NDims = 3", "NDims = x", "3 sizes, and x for NDims"),
        ("DimSize = 6 5 4", "DimSize = 6 5", "2 sizes, and 3 for NDims"),
        ("ElementType = MET_FLOAT\n", "", "has no ElementType"),
        ("DimSize = 6 5 4", "DimSize = 6 5 9", "declares 1080 bytes of voxels, there are 480"),
        ("ElementDataFile = LOCAL", "ElementDataFile = nowhere.raw", r"in nowhere\.raw, which is not there"),
    ],
)
def test_what_itk_would_print_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str, value: str, said: str
) -> None:
    path = tmp_path / "a.mha"
    voxels = np.random.default_rng(0).random((4, 5, 6)).astype("f4")
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    path.write_bytes(path.read_bytes().replace(field.encode(), value.encode()))
    with pytest.raises(InputError, match=rf"a\.mha: .*{said}"):
        read_raw(path)
    assert capfd.readouterr() == ("", "")


def test_a_number_without_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text(f"HeaderSize = {'9' * 5000}\nNDims = {'9' * 5000}\nElementDataFile = a\n")
    header = Header(tmp_path / "a.mhd")
    assert header.start == 0
    with pytest.raises(InputError, match="has no DimSize, ElementType"):
        header.check()


@pytest.mark.parametrize(
    "place",
    [
        "ElementDataFile : ../secret",
        " ElementDataFile = ../secret",
        "ElementDataFile = = ../secret",
        "ElementDataFile\0 = ../secret",
        "CenterOfRotation = 1 2\nElementDataFile = a.raw\nElementDataFile = ../secret",
        "ElementDataFile = %c./secret 46 46 1",
    ],
)
def test_a_place_that_itk_reads_otherwise_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    for name in ("a.raw", "%c./secret"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(bytes(64))
    path = tmp_path / "in" / "a.mhd"
    path.write_text(f"ObjectType = Image\nNDims = 3\nDimSize = 8 8 1\nElementType = MET_UCHAR\n{place}\n")
    with pytest.raises(InputError, match="usual form"):
        Header(path).check()


@pytest.mark.parametrize("place", ["a.raw", "a b.raw", "s%d.raw 1 1 1", "s%02d.raw 1 1 1", "LIST\ns1.raw"])
def test_usual_places_are_read(tmp_path: Path, place: str) -> None:
    voxels = bytes(range(64))
    for name in ("a.raw", "a b.raw", "s1.raw", "s01.raw"):
        (tmp_path / name).write_bytes(voxels)
    path = tmp_path / "a.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 8 8 1\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
        f"ElementDataFile = {place}\n"
    )
    assert sorted(read_raw(path).data.ravel()) == list(range(64))
