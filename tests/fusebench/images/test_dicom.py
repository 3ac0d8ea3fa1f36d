"""DICOM series, NRRD and MHA as scanners, archives and programs write them."""

import shutil
import struct

import numpy as np
import pytest

from fusebench.errors import InputError
from fusebench.images.read_write import read_image, read_raw

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

VOXELS = (np.random.default_rng(3).random((6, 8, 10)) * 900 + 10).astype(np.int16)


def series(folder, edit=lambda ds, k: None, place=lambda k: (-10, -20, 2.5 * k), bare=False, times=1):
    """One file a slice; `edit` changes each dataset, `bare` leaves preamble and meta header out."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    uid = generate_uid()
    for t in range(times):
        for k, plane in enumerate(VOXELS):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
            ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = uid, "MR", 100 * t + k + 1
            ds.Rows, ds.Columns = plane.shape
            ds.PixelSpacing, ds.SliceThickness = [2, 1.5], 9
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            ds.ImagePositionPatient = [f"{v:.6f}" for v in place(k)]
            ds.PixelData = (plane + t).tobytes()
            if times > 1:
                ds.FrameReferenceTime = 1000 * t
            edit(ds, k)
            path = folder / f"{t}{k:03d}"
            if bare:
                pydicom.dcmwrite(path, ds, implicit_vr=True, little_endian=True)
                continue
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.save_as(path, enforce_file_format=True)
    return folder


def refused(path, *words):
    with pytest.raises(InputError) as error:
        read_raw(path, frames=True)
    text = str(error.value)
    assert "\n" not in text and str(path) in text and all(w in text for w in words), text


@pytest.fixture
def plain(tmp_path):
    return read_raw(series(tmp_path / "plain"))


def same(raw, other):
    return np.array_equal(raw.data, other.data) and np.allclose(raw.affine, other.affine, atol=0.02)


@pytest.mark.parametrize("bare", [True, False])
def test_with_and_without_preamble(tmp_path, plain, bare):
    raw = read_raw(series(tmp_path / "x", bare=bare))
    assert same(raw, plain) and not raw.notes
    assert read_image(tmp_path / "x").spacing == (2.5, 2, 1.5)


def test_other_files_in_the_folder_are_named_in_our_words(tmp_path):
    folder = series(tmp_path / "x")
    (folder / "notes.txt").write_text("a scan")
    (folder / "half").write_bytes((folder / "0001").read_bytes()[:300])
    [note] = read_raw(folder).notes
    assert "2 of 8 files" in note and "force" not in note
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "t1.nii.gz").write_bytes(b"x")
    refused(empty, "t1.nii.gz", "give that file")


def test_the_lowest_value_is_white(tmp_path, plain):
    raw = read_raw(
        series(tmp_path / "x", lambda ds, k: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"))
    )
    assert (
        np.allclose(raw.data, plain.data.max() + plain.data.min() - plain.data) and "inverted" in raw.notes[0]
    )


def test_quantities_stay_however_they_are_shown(tmp_path, plain):
    def edit(ds, k):
        ds.PhotometricInterpretation, ds.Modality = "MONOCHROME1", "PT"

    raw = read_raw(series(tmp_path / "x", edit))
    assert same(raw, plain) and "kept" in raw.notes[0]


def test_slices_that_do_not_agree_are_refused(tmp_path):
    def mixed(name, value):
        return lambda ds, k: setattr(ds, name, value) if k == 3 else None

    for number, (name, value, word) in enumerate(
        [
            ("PhotometricInterpretation", "MONOCHROME1", "white"),
            ("PixelSpacing", [1, 1], "spacing"),
            ("PhotometricInterpretation", "PALETTE COLOR", "colour"),
            ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], "direction"),
            ("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "mosaic"),
        ]
    ):
        refused(series(tmp_path / f"x{number}", mixed(name, value)), word)


@pytest.mark.parametrize(("value", "tag"), [(-2000, -2000), (-2000, 63536), (0, 0), (3000, 3000)])
def test_padding_sets_no_range(tmp_path, plain, value, tag):
    def pad(ds, k):
        plane = VOXELS[k].copy()
        plane[:2] = value
        ds.PixelData = plane.tobytes()
        ds.add_new(0x00280120, "SS" if tag < 32768 else "US", tag)
        ds.RescaleSlope, ds.RescaleIntercept = 2, -100

    raw = read_raw(series(tmp_path / "x", pad))
    inside = 2 * plain.data[:, :-2] - 100  # rows run from the front, RAS+ from the back
    assert np.array_equal(raw.data[:, :-2], inside) and (raw.data[:, -2:] == inside.min()).all()
    assert "padding" in raw.notes[0]


def test_range_of_padding(tmp_path):
    def pad(ds, k):
        plane = VOXELS[k].copy()
        plane[0], plane[1] = -2000, -1990
        ds.PixelData, ds.PixelPaddingValue = plane.tobytes(), -2000
        ds.add_new(0x00280121, "SS", -1985)

    assert read_raw(series(tmp_path / "x", pad)).data.min() >= VOXELS.min()


def test_copies_of_slices_are_read_once(tmp_path, plain):
    folder = series(tmp_path / "x")
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"{path.name} (1)")
    raw = read_raw(folder)
    assert same(raw, plain) and "copies" in raw.notes[0]
    for path in sorted(folder.glob("* (1)")):  # exported again under new identities
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = pydicom.uid.generate_uid()
        ds.save_as(path)
    assert same(read_raw(folder), plain)


def test_two_images_of_one_identity_are_refused(tmp_path):
    refused(series(tmp_path / "x", lambda ds, k: setattr(ds, "SOPInstanceUID", "1.2.3")), "SOPInstanceUID")


def test_frames_of_a_dynamic_series(tmp_path, plain):
    raw = read_raw(series(tmp_path / "x", times=3), frames=True)
    assert raw.data.shape == (3, *plain.data.shape)
    assert all(np.array_equal(raw.data[t], plain.data + t) for t in range(3))


def test_positions_at_a_rounding_edge(tmp_path, plain):
    """The same place, written with another last digit in each frame."""
    steps = iter(range(1000))

    def place(k):
        return -10, -20, 2.5 * k + (0.00499 if next(steps) % 2 else 0.00501)

    raw = read_raw(series(tmp_path / "x", place=place, times=3), frames=True)
    assert raw.data.shape == (3, *plain.data.shape) and np.allclose(raw.affine, plain.affine, atol=0.02)


def test_uneven_and_crooked_slices_are_refused(tmp_path):
    refused(series(tmp_path / "gap", place=lambda k: (0, 0, 2.5 * k + (k > 2))), "apart")
    refused(series(tmp_path / "beside", place=lambda k: (4 * (k % 2), 0, 2.5 * k)), "beside one line")


def test_a_tilted_gantry_is_read_with_its_shear(tmp_path):
    raw = read_raw(series(tmp_path / "x", place=lambda k: (0, 0.5 * k, 2.5 * k)))
    assert raw.affine[1, 2] == pytest.approx(-0.5) and raw.affine[2, 2] == pytest.approx(2.5)


def test_drawings_in_the_upper_bits_are_cut_off(tmp_path, plain):
    def draw(ds, k):
        plane = VOXELS[k].copy()
        plane[3] |= 1 << 14
        ds.PixelData, ds.PixelRepresentation = plane.astype(np.uint16).tobytes(), 0
        ds.BitsStored, ds.HighBit = 12, 11
        ds.add_new(0x60000102, "US", 14)

    assert same(read_raw(series(tmp_path / "x", draw)), plain)


# -- NRRD and MHA --------------------------------------------------------------------------------


def nrrd(path, units="", per_mm=1.0, space="space: left-posterior-superior\n"):
    directions = " ".join(f"({','.join(str(v) for v in row)})" for row in np.diag([2, 2, 3.0]) * per_mm)
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: 10 8 6\nencoding: raw\nendian: little\n{space}"
        f"space directions: {directions}\nspace origin: ({10 * per_mm},0,0)\n{units}\n"
    )
    path.write_bytes(header.encode() + VOXELS.tobytes())
    return path


def mha(path, unit, per_mm):
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 10 8 6\n"
        f"Offset = {10 * per_mm} 0 0\nElementSpacing = {2 * per_mm} {2 * per_mm} {3 * per_mm}\n{unit}"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + VOXELS.tobytes())
    return path


@pytest.mark.parametrize(
    ("word", "per_mm"), [("um", 1000), ("µm", 1000), ("mm", 1), ("cm", 0.1), ("m", 0.001)]
)
def test_units_of_nrrd_and_mha(tmp_path, word, per_mm):
    plain = read_raw(nrrd(tmp_path / "plain.nrrd"))
    units = f'space units: "{word}" "{word}" "{word}"\n'
    for raw in (
        read_raw(nrrd(tmp_path / "x.nrrd", units, per_mm)),
        read_raw(mha(tmp_path / "x.mha", f"DistanceUnits = {word}\n", per_mm)),
    ):
        assert np.allclose(raw.affine, plain.affine) and np.array_equal(raw.data, plain.data)
        assert not raw.notes


def test_units_that_nobody_knows(tmp_path):
    refused(nrrd(tmp_path / "x.nrrd", 'space units: "furlong" "furlong" "furlong"\n'), "furlong")
    refused(nrrd(tmp_path / "y.nrrd", 'space units: "mm" "mm" "cm"\n'), "units")
    refused(nrrd(tmp_path / "z.nrrd", "", 1000), "unit of length")
    refused(mha(tmp_path / "x.mha", "", 0.001), "unit of length")


def test_nrrd_without_a_space_says_so(tmp_path):
    path = tmp_path / "x.nrrd"
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 10 8 6\nspacings: 2 2 3\nencoding: raw\n"
        "endian: little\n\n"
    )
    path.write_bytes(header.encode() + VOXELS.tobytes())
    raw = read_raw(path)
    assert "left and right" in raw.notes[0] and read_image(path).spacing == (3, 2, 2)


def test_a_damaged_value_in_a_header_is_one_line(tmp_path):
    folder = series(tmp_path / "x")
    for path in folder.iterdir():
        blob = bytearray(path.read_bytes())
        at = blob.find(struct.pack("<HH", 0x28, 0x30))
        blob[at + 8 : at + 10] = b"zz"
        path.write_bytes(bytes(blob))
    refused(folder)
