"""Files that would take more memory than the process may have: one line early, whatever the format."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from fusebench.errors import InputError, OutOfMemory
from fusebench.images.nifti_file import load, load_header
from fusebench.images.read_write import read_raw

# Reads each file under a limit of address space, and prints what was said and the peak of memory.
READ = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 30,) * 2)
from fusebench.images.read_write import read_image
said = {}
for path in sys.argv[2:]:
    try:
        read_image(path)
        said[path] = "read"
    except Exception as error:
        said[path] = f"{type(error).__name__} {error}"
open("/proc/self/clear_refs", "w").write("1")
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(json.dumps([said, int(peak.split()[1]) >> 10]))
"""


def header(shape: tuple[int, ...], dtype: str = "u1") -> bytes:
    found = nib.Nifti1Header()
    found.set_data_dtype(dtype)
    found.set_data_shape(shape)
    found.set_sform(np.eye(4), 1)
    found["vox_offset"], found["magic"] = 352, b"n+1"
    return bytes(found.binaryblock) + bytes(4)


def honest(path: Path) -> Path:
    """A `.nii.gz` of a few megabytes that truly holds the 4 GiB its header declares."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 24)
    head = packer.compress(header((1625, 1625, 1625))) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(head + piece * 256)  # refused before its end, which is left out
    return path


def hole(path: Path, head: bytes, size: int) -> Path:
    """A file that is zeros behind its head, and takes no room on disk."""
    path.write_bytes(head)
    os.truncate(path, size)
    return path


def png(path: Path, side: int) -> Path:
    """A colour picture of many pixels; what is behind its header is never looked at."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        code = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + code

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", os.urandom(2 << 20))
    path.write_bytes(data)
    return path


def deflated(path: Path, private: int) -> Path:
    """A DICOM slice of 8 x 8 with `private` bytes of zeros behind it, deflated as a whole."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    ds.SeriesInstanceUID, ds.Modality, ds.Rows, ds.Columns = "1.2", "MR", 8, 8
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation, ds.SliceThickness, ds.PixelSpacing = "MONOCHROME2", 1, [1, 1]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelData = np.arange(64, dtype="u2").tobytes()
    ds.save_as(path, enforce_file_format=True)
    start = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    content = path.read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = [packer.compress(zlib.decompress(content[start:], -15))]
    if private:
        packed.append(packer.compress(struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, private)))
        packed += [packer.compress(bytes(1 << 24)) for _ in range(private >> 24)]
    path.write_bytes(content[:start] + b"".join(packed) + packer.flush())
    return path


def pages(path: Path) -> Path:
    """A TIFF of 60 pages that all are one and the same strip of zeros."""
    plane = np.zeros((3000, 3000), "u1")
    with tifffile.TiffWriter(path) as file:
        for _ in range(60):
            file.write(plane, compression="zlib", compressionargs={"level": 9}, contiguous=False)
    return path


def mhd(folder: Path) -> Path:
    text = "ObjectType = Image\nNDims = 3\nDimSize = 1625 1625 1625\nElementSpacing = 1 1 1\n"
    (folder / "a.mhd").write_text(f"{text}ElementType = MET_UCHAR\nElementDataFile = a.raw\n")
    hole(folder / "a.raw", b"", 1625**3)
    return folder / "a.mhd"


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("bombs")
    found = [
        honest(folder / "honest.nii.gz"),
        hole(folder / "honest.nii", header((1625, 1625, 1625)), 352 + 1625**3),
        hole(folder / "tail.nii", header((16, 16, 16)), 7 << 30),
        hole(folder / "tail.nii.gz", header((16, 16, 16)), 7 << 30),
        png(folder / "colour.png", 20_000),
        deflated(folder / "slice.dcm", 320 << 20),
        hole(folder / "long.dcm", bytes(128) + b"DICM", 7 << 30),
        pages(folder / "pages.tif"),
        mhd(folder),
    ]
    yield found
    for path in found:
        path.unlink()


@pytest.mark.parametrize("gigabytes", [3, 6])
def test_a_bomb_is_one_line_early(bombs: list[Path], gigabytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(gigabytes), *map(str, bombs)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, peak = json.loads(done.stdout)
    for path, line in said.items():
        kind, _, message = line.partition(" ")
        assert kind in ("InputError", "OutOfMemory") and message.startswith(path), line
        assert "\n" not in message and "; " in message, line
    assert peak < 900, f"{peak} MiB for {said}"


def test_a_small_file_cannot_hold_what_its_header_declares(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packer.compress(header((1625, 1625, 1625))) + packer.flush())
    with pytest.raises(InputError, match=r"a\.nii\.gz: truncated: the header declares 4291015977 bytes"):
        read_raw(path)
    plain = hole(tmp_path / "a.nii", header((100, 100, 100)), 1000)
    with pytest.raises(InputError, match="declares 1000352 bytes, there are 1000; copy"):
        read_raw(plain)


def test_memory_that_ends_while_a_file_is_read_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), "f4"), np.eye(4)), path)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("fusebench.images.nifti.canonical", full)
    with pytest.raises(OutOfMemory, match=r"a\.nii: there is too little memory to read it; crop"):
        read_raw(path)


def test_a_deflated_slice_is_read(tmp_path: Path) -> None:
    assert read_raw(deflated(tmp_path / "a.dcm", 0)).data.max() == 63


def test_an_extension_is_read_with_the_header_and_the_voxels_are_not(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((90, 90, 90)).astype("f4"), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"noted"))
    for name in ("a.nii", "a.nii.gz"):
        nib.save(image, tmp_path / name)
        found = load_header(tmp_path / name)
        assert found.shape == (90, 90, 90) and found.header.extensions[0].get_content() == b"noted"
        assert np.array_equal(load(tmp_path / name).get_fdata(), image.get_fdata())
