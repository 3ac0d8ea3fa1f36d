"""Reading and writing of images: every wrong file is one clear line, every right one keeps its geometry."""

import gzip
import os
import re
import stat

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fusebench.case import Volume
from fusebench.errors import InputError
from fusebench.images import colour
from fusebench.images.foreground import foreground
from fusebench.images.raw import folder_images, image_files
from fusebench.images.read_write import read_image, read_pair, read_raw, write_image

AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0, 2.0, -20], [0, -1.0, 0, 15], [0, 0, 0, 1.0]])  # L I A order


def array(shape=(12, 14, 16), seed=0):
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def save(path, data=None, affine=AFFINE, **codes):
    image = nib.Nifti1Image(array() if data is None else data, affine)
    image.set_sform(affine, codes.get("sform", 2))
    image.set_qform(codes.get("qaffine", affine), codes.get("qform", 1))
    nib.save(image, path)
    return path


def one_line(path, *words, **kwargs):
    with pytest.raises(InputError) as caught:
        read_image(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert ";" in text or "use" in text  # a remedy follows
    for word in words:
        assert re.search(word, text), text
    return text


def test_axes_are_ras_and_dhw(tmp_path):
    data = np.zeros((12, 14, 16), np.int16)
    data[2, 3, 4] = 100
    volume = read_image(save(tmp_path / "a.nii.gz", data))
    assert volume.data.dtype == np.float32
    assert volume.shape == (14, 16, 12)
    d, h, w = np.argwhere(volume.data == 1)[0]
    assert volume.affine @ [w, h, d, 1] == pytest.approx(AFFINE @ [2, 3, 4, 1])
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.spacing == pytest.approx((1.0, 2.0, 1.5))


def test_scaling_in_the_header_is_honoured_and_kept(tmp_path):
    image = nib.Nifti1Image(array(), AFFINE)
    image.header.set_slope_inter(2.0, -10.0)
    nib.save(image, tmp_path / "s.nii")
    volume = read_image(tmp_path / "s.nii")
    raw = array() * 2.0 - 10
    assert volume.intensity == pytest.approx((raw.min(), raw.max()))
    assert (volume.data.min(), volume.data.max()) == (0, 1)


@pytest.mark.parametrize("intensity", ["minmax", "robust", (0.0, 500.0)])
def test_intensity_rules(tmp_path, intensity):
    data = array()
    data[0, 0, 0] = 30000
    volume = read_image(save(tmp_path / "a.nii", data), intensity=intensity)
    low, high = volume.intensity
    expected = {"minmax": 30000, "robust": 999}.get(intensity, 500.0)
    assert high == pytest.approx(expected, abs=1)
    assert volume.data.min() >= 0 and volume.data.max() <= 1
    assert low < high


def test_truncated_gz(tmp_path):
    path = save(tmp_path / "t.nii.gz")
    path.write_bytes(path.read_bytes()[:-200])
    one_line(path, "truncated or damaged", "download")


def test_flipped_bit_in_gz_is_noticed(tmp_path):
    path = save(tmp_path / "t.nii.gz")
    blob = bytearray(path.read_bytes())
    blob[-6] ^= 1  # checksum
    path.write_bytes(bytes(blob))
    one_line(path, "truncated or damaged")


def test_truncated_nii(tmp_path):
    path = save(tmp_path / "t.nii")
    path.write_bytes(path.read_bytes()[:-2])
    one_line(path, "truncated", "declares")


def test_truncated_inside_a_whole_gz(tmp_path):
    plain = save(tmp_path / "p.nii")
    path = tmp_path / "t.nii.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()[:-2]))
    one_line(path, "truncated", "declares")


def test_surplus_bytes_are_a_note(tmp_path):
    path = save(tmp_path / "t.nii")
    path.write_bytes(path.read_bytes() + b"12345")
    assert "5 bytes more" in read_raw(path).notes[0]


def test_4d(tmp_path):
    one_line(save(tmp_path / "t.nii.gz", array((8, 9, 10, 3))), "4D", "3 frames")
    assert read_image(save(tmp_path / "o.nii.gz", array((8, 9, 10, 1)))).shape == (9, 10, 8)
    assert read_raw(tmp_path / "t.nii.gz", frames=True).data.shape == (3, 9, 10, 8)
    one_line(save(tmp_path / "f.nii.gz", array((4, 4, 4, 2, 3))), "5 axes")


def test_nan(tmp_path):
    data = array().astype(np.float32)
    data[1, 2, 3] = np.nan
    path = save(tmp_path / "n.nii.gz", data)
    one_line(path, "1 of 2688 voxels", "NaN")
    volume = read_image(path, max_nan=0.01)
    assert np.isfinite(volume.data).all()
    assert "lowest" in read_raw(path, max_nan=0.01).notes[0]


def test_constant_and_negative(tmp_path):
    one_line(save(tmp_path / "c.nii", np.full((4, 4, 4), 7, np.int16)), "every voxel is 7")
    one_line(save(tmp_path / "z.nii", np.zeros((4, 4, 4), np.int16)), "every voxel is 0")
    one_line(save(tmp_path / "n.nii", -1 - array()), "above 0")


def test_empty_missing_and_unknown(tmp_path):
    empty = tmp_path / "e.nii"
    empty.write_bytes(b"")
    one_line(empty, "empty")
    one_line(tmp_path / "absent.nii", "no such file")
    (tmp_path / "x.doc").write_text("x")
    one_line(tmp_path / "x.doc", "format")
    (tmp_path / "text.nii").write_text("hello" * 200)
    one_line(tmp_path / "text.nii", "not a readable NIfTI")
    (tmp_path / "short.nii").write_text("hello")
    one_line(tmp_path / "short.nii", "not a readable NIfTI")


def test_zero_sized_axis(tmp_path):
    path = save(tmp_path / "t.nii")
    blob = bytearray(path.read_bytes())
    blob[42:44] = (0).to_bytes(2, "little")  # dim[1]
    path.write_bytes(bytes(blob))
    one_line(path, "empty|not a readable")


def test_no_orientation(tmp_path):
    path = save(tmp_path / "t.nii", sform=0, qform=0)
    one_line(path, "neither sform nor qform")


def test_sform_wins_over_a_different_qform(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 25
    path = save(tmp_path / "t.nii", qaffine=moved)
    raw = read_raw(path)
    assert "differ by 25.0 mm" in raw.notes[0]
    assert np.allclose(raw.affine[:3, 3], read_raw(save(tmp_path / "u.nii")).affine[:3, 3])
    assert np.allclose(read_raw(save(tmp_path / "q.nii", sform=0, qaffine=moved)).affine[0, 3], 38.5)


def test_singular_affine(tmp_path):
    flat = AFFINE.copy()
    flat[:, 0] = 0
    image = nib.Nifti1Image(array(), AFFINE)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = flat[:3]
    path = tmp_path / "t.nii"
    image.header["qform_code"] = 0
    path.write_bytes(image.header.binaryblock + b"\0" * 4 + array().tobytes(order="F"))
    blob = bytearray(path.read_bytes())
    blob[280:328] = flat[:3].astype("<f4").tobytes()
    blob[254:256] = (1).to_bytes(2, "little")
    blob[108:112] = np.float32(352).tobytes()
    path.write_bytes(bytes(blob))
    one_line(path, "singular")


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
def test_colour_voxels_are_read_as_luminance_and_written_as_grey(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 256, (12, 14, 16, len(channels)), dtype=np.uint8)
    values[..., 3:] = 255
    rgb = values.view([(c, "u1") for c in channels])[..., 0]
    grey = colour.luminance(values[..., :3])
    path = save(tmp_path / "rgb.nii", rgb)
    image = read_image(path)
    assert image.intensity == (0, 255)
    assert image.data * 255 == pytest.approx(read_raw(save(tmp_path / "grey.nii", grey)).data, abs=1e-3)
    back = nib.load(write_image(tmp_path / "back.nii", image.data, like=path, intensity=image.intensity))
    assert back.get_fdata() == pytest.approx(grey, abs=1e-3)


def test_voxels_that_are_not_grey_and_big_endian(tmp_path):
    save(tmp_path / "complex.nii", array().astype(np.complex64))
    one_line(tmp_path / "complex.nii", "complex64 are not grey values")
    big = nib.Nifti1Image(array(), AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    assert np.array_equal(read_raw(tmp_path / "big.nii").data, read_raw(save(tmp_path / "l.nii")).data)


def test_uncompressed_named_gz(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(save(tmp_path / "x.nii").read_bytes())
    assert "not compressed" in read_raw(path).notes[0]


def test_nifti2(tmp_path):
    nib.save(nib.Nifti2Image(array(), AFFINE), tmp_path / "two.nii.gz")
    assert read_image(tmp_path / "two.nii.gz").shape == (14, 16, 12)


# -- pictures ------------------------------------------------------------------------------------


def test_grey_png_is_over_255_and_upright(tmp_path):
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(pixels).save(tmp_path / "g.png")
    volume = read_image(tmp_path / "g.png")
    assert volume.shape == (1, 4, 5)
    assert np.allclose(volume.data[0] * 255, pixels)
    assert volume.affine[1, 1] < 0 and volume.chroma is None


def test_colour_png_luminance_and_round_trip(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "c.png")
    volume = read_image(tmp_path / "c.png")
    expected = np.rint(rgb @ np.array([0.299, 0.587, 0.114]))
    assert np.array_equal(np.rint(volume.data[0] * 255), expected)
    assert volume.chroma.shape == (2, 1, 9, 7)
    write_image(tmp_path / "out.png", volume.data, like=volume)
    again = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    assert np.abs(again - rgb).max() <= 2  # two roundings


def test_luminance_of_primaries():
    rgb = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    assert colour.luminance(rgb).tolist() == [76, 150, 29, 255]
    assert colour.chroma(rgb[3:]).ravel().tolist() == [128, 128]


def test_grey_saved_as_rgb_is_grey(tmp_path):
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "g.png")
    volume = read_image(tmp_path / "g.png")
    assert volume.chroma is None
    assert np.allclose(volume.data[0] * 255, grey)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_grey(tmp_path, name):
    pixels = (np.arange(20, dtype=np.uint16) * 100).reshape(4, 5)
    Image.fromarray(pixels).save(tmp_path / name)
    volume = read_image(tmp_path / name)
    assert volume.intensity == (0, 1900)
    assert np.allclose(volume.data[0], pixels / 1900)


def test_16_bit_colour_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    rgb = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "c.tif", rgb, photometric="rgb")
    volume = read_image(tmp_path / "c.tif", intensity=(0.0, 65535.0))
    assert np.allclose(volume.data[0] * 65535, np.rint(rgb @ np.array([0.299, 0.587, 0.114])), atol=0.01)


def test_palette_and_alpha(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    rgb.quantize(16).save(tmp_path / "p.png")
    rgb.convert("RGBA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "p.png").chroma is not None
    assert np.array_equal(
        read_image(tmp_path / "a.png").data[0] * 255, colour.luminance(np.asarray(rgb)).astype(np.float32)
    )


def test_truncated_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "g.png")
    blob = (tmp_path / "g.png").read_bytes()
    (tmp_path / "g.png").write_bytes(blob[: len(blob) // 2])
    one_line(tmp_path / "g.png", "not a readable picture")


# -- pairs and masks -----------------------------------------------------------------------------


def test_shape_mismatch_is_one_line(tmp_path):
    a, b = save(tmp_path / "a.nii"), save(tmp_path / "b.nii", array((5, 6, 7)))
    with pytest.raises(InputError, match="--register") as caught:
        read_pair(a, b)
    assert str(a) in str(caught.value) and str(b) in str(caught.value)


def test_images_without_overlap_are_refused_and_those_that_lie_apart_taken_with_a_warning(tmp_path, caplog):
    far, near = AFFINE.copy(), AFFINE.copy()
    far[0, 3] += 500
    near[0, 3] += 5
    a = save(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"lies up to 500 mm from .* do not overlap; .*--register"):
        read_pair(a, save(tmp_path / "far.nii", affine=far))
    assert read_pair(a, save(tmp_path / "near.nii", affine=near)).a.shape == (14, 16, 12)
    assert "near.nii: lies up to 5.0 mm" in caplog.text
    slices = []
    for z in (0, 3):
        affine = np.diag([1.0, 1, 1, 1])
        affine[2, 3] = z
        slices.append(save(tmp_path / f"{z}.nii", array((12, 14, 1)), affine))
    assert read_pair(*slices).a.shape == (1, 14, 12)


def test_pair_with_a_mask_file(tmp_path):
    a, b = save(tmp_path / "a.nii"), save(tmp_path / "b.nii", array(seed=1))
    mask = np.zeros((12, 14, 16), np.uint8)
    mask[3:6] = 1
    pair = read_pair(a, b, mask=save(tmp_path / "m.nii", mask))
    assert pair.mask.sum() == mask.sum()
    with pytest.raises(InputError, match="mask is empty"):
        read_pair(a, b, mask=save(tmp_path / "m0.nii", np.zeros_like(mask)))


def test_headers_that_disagree_are_said(tmp_path, caplog):
    moved = AFFINE.copy()
    moved[:3, 3] += 5
    read_pair(save(tmp_path / "a.nii"), save(tmp_path / "b.nii", array(seed=1), affine=moved))
    assert "--register" in caplog.text


def test_foreground_is_the_filled_head():
    z, y, x = np.mgrid[:40, :48, :44]
    radius = np.sqrt(((z - 20) / 15) ** 2 + ((y - 24) / 18) ** 2 + ((x - 22) / 16) ** 2)
    head = radius < 1
    image = np.where(head, 0.7, 0.0)
    image[radius < 0.4] = 0.0  # a hole (ventricle)
    image = image + np.abs(np.random.default_rng(0).normal(0, 0.02, image.shape))
    mask = foreground(image.astype(np.float32))
    dice = 2 * (mask & head).sum() / (mask.sum() + head.sum())
    assert dice > 0.93
    assert mask[20, 24, 22]
    assert foreground(np.zeros((3, 4, 5), np.float32)).all()


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_write_back_restores_orientation_header_and_values(tmp_path, dtype, suffix):
    data = np.random.default_rng(0).integers(0, 255, (12, 14, 16)).astype(dtype)
    source = save(tmp_path / "a.nii.gz", data, sform=4, qform=1)
    volume = read_image(source)
    out = write_image(tmp_path / f"f{suffix}", volume.data, like=source)
    image, original = nib.load(out), nib.load(source)
    assert np.array_equal(image.affine, original.affine)
    assert image.shape == original.shape
    assert int(image.header["sform_code"]) == 4 and int(image.header["qform_code"]) == 1
    if np.issubdtype(dtype, np.integer):
        assert image.get_data_dtype() == original.get_data_dtype()
    assert np.allclose(image.get_fdata(), data, atol=0.01)
    assert np.allclose(read_image(out, intensity="stored").data, volume.data, atol=1e-5)


def test_write_back_keeps_slope(tmp_path):
    image = nib.Nifti1Image(array(), AFFINE)
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, tmp_path / "a.nii")
    original = nib.load(tmp_path / "a.nii").get_fdata()
    out = write_image(tmp_path / "f.nii", read_image(tmp_path / "a.nii").data, like=tmp_path / "a.nii")
    assert np.allclose(nib.load(out).get_fdata(), original, atol=0.26)


def test_stored_range_survives_a_fused_image_that_fills_less(tmp_path):
    source = save(tmp_path / "a.nii.gz")
    fused = np.full((14, 16, 12), 0.25, np.float32)
    fused[0] = 0.5
    out = write_image(tmp_path / "f.nii.gz", fused, like=source)
    assert np.allclose(read_image(out, intensity="stored").data, fused, atol=1e-3)
    out = write_image(tmp_path / "v.nii.gz", fused, like=read_image(source))
    assert np.allclose(read_image(out, intensity="stored").data, fused, atol=1e-6)


def test_same_image_same_file(tmp_path):
    source = save(tmp_path / "a.nii.gz")
    volume = read_image(source)
    one = write_image(tmp_path / "1.nii.gz", volume.data, like=source).read_bytes()
    assert one == write_image(tmp_path / "2.nii.gz", volume.data, like=source).read_bytes()


def test_writing_refusals(tmp_path):
    source = save(tmp_path / "a.nii.gz")
    fused = np.zeros((14, 16, 12), np.float32)
    for path, data, word in [
        (tmp_path / "x.png", fused, "one slice"),
        (tmp_path / "x.doc", fused, "format"),
        (tmp_path / "x.nii", fused[:3], "shape"),
        (tmp_path / "a.nii.gz" / "x.nii", fused, "cannot be written"),
        (tmp_path / "x.nii", fused * np.nan, "finite"),
    ]:
        with pytest.raises(InputError, match=word):
            write_image(path, data, like=source)


def test_2d_nifti_and_volume_type():
    assert Volume(np.zeros((1, 2, 3), np.float32)).shape == (1, 2, 3)


# -- MHA, NRRD, DICOM ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_itk_formats_agree_with_nifti(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    source = save(tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(source)), str(tmp_path / f"a{suffix}"))
    one, two = read_image(source), read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(one.data, two.data)
    assert np.allclose(one.affine, two.affine, atol=1e-4)
    out = write_image(tmp_path / f"f{'.mha' if suffix == '.mhd' else suffix}", one.data, like=two)
    assert np.allclose(read_image(out).data, one.data)
    (tmp_path / f"bad{suffix}").write_bytes(b"garbage" * 10)
    one_line(tmp_path / f"bad{suffix}", "not readable")


# -- DICOM ---------------------------------------------------------------------------------------


def series(folder, volume, *, frames=1, skip=(), uid="1.2.3", step=2.0, slope=0.5):
    """Write (z, y, x) as axial DICOM slices of 1.5 mm pixels, one file each, in a scrambled order."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    folder.mkdir(parents=True, exist_ok=True)
    for t in range(frames):
        for k in range(len(volume)):
            if k in skip:
                continue
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
            meta.MediaStorageSOPInstanceUID = f"{uid}.{t}.{k + 1}"
            meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
            ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
            ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            ds.SeriesInstanceUID, ds.Modality = uid, "PT"
            ds.Rows, ds.Columns = volume.shape[1:]
            ds.PixelSpacing, ds.SliceThickness = [1.5, 1.5], step
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            ds.ImagePositionPatient = [-10.0, -20.0, step * k]
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated = ds.BitsStored = 16
            ds.HighBit, ds.PixelRepresentation = 15, 0
            ds.RescaleSlope, ds.RescaleIntercept = slope * (k + 1), 0
            if frames > 1:
                ds.FrameReferenceTime, ds.ActualFrameDuration = 1000.0 * t, 500 * (t + 1)
            ds.PixelData = ((t + 1) * volume[k]).astype(np.uint16).tobytes()
            pydicom.dcmwrite(folder / f"{(7 * k) % 101:03d}_{t}.dcm", ds, enforce_file_format=True)
    return folder


def test_dicom_is_sorted_and_scaled_slice_by_slice(tmp_path):
    volume = np.random.default_rng(0).integers(1, 500, (6, 8, 9))
    raw = read_raw(series(tmp_path / "s", volume))
    # LPS rows run to posterior and columns to the left; RAS+ turns both.
    expected = (volume * 0.5 * np.arange(1, 7)[:, None, None])[:, ::-1, ::-1]
    assert np.allclose(raw.data, expected)
    assert np.allclose(np.diag(raw.affine), (1.5, 1.5, 2.0, 1))
    assert np.allclose(raw.affine @ [8, 7, 0, 1], [10, 20, 0, 1])


def test_dynamic_dicom_has_frames_and_their_lengths(tmp_path):
    volume = np.random.default_rng(0).integers(1, 500, (5, 8, 9))
    folder = series(tmp_path / "s", volume, frames=3)
    raw = read_raw(folder, frames=True)
    assert raw.data.shape == (3, 5, 8, 9)
    assert np.allclose(raw.data[2], 3 * raw.data[0])
    assert raw.extra["frame_durations"] == [500, 1000, 1500]
    one_line(folder, "4D", "3 frames")


def test_dicom_refusals(tmp_path):
    volume = np.random.default_rng(0).integers(1, 500, (6, 8, 9))
    one_line(series(tmp_path / "gap", volume, skip=(2,)), "apart", "uneven")
    series(tmp_path / "two", volume)
    for file in (tmp_path / "two").iterdir():
        file.rename(file.with_name("a" + file.name))
    one_line(series(tmp_path / "two", volume, uid="9.8.7"), "2 DICOM series")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.dcm").write_bytes(b"hello")
    one_line(tmp_path / "none", "no readable DICOM image among 1 files")
    cut = sorted(series(tmp_path / "cut", volume).iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_image(tmp_path / "cut")


def test_picture_pair_is_fused_in_colour(tmp_path, capsys):
    from fusebench.cli import main

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 44), dtype=np.uint8)).save(tmp_path / "m.png")
    Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    files = ["--mri", str(tmp_path / "m.png"), "--pet", str(tmp_path / "p.png")]
    out = tmp_path / "f.png"
    assert main(["fuse", "--method", "source-pet", *files, "-o", str(out)]) == 0
    fused, pet = (
        np.asarray(Image.open(out)).astype(int),
        np.asarray(Image.open(tmp_path / "p.png")).astype(int),
    )
    assert np.abs(fused - pet).max() <= 2
    assert main(["fuse", "--method", "average", *files, "--register", "-o", str(out)]) == 2
    assert "pictures have no position" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".png", ".tif", ".mha", ".nrrd"])
def test_written_at_once_and_with_the_permissions_of_the_umask(tmp_path, monkeypatch, suffix):
    if suffix in (".mha", ".nrrd"):
        pytest.importorskip("SimpleITK")
    data = np.linspace(0, 1, 30, dtype=np.float32).reshape(1, 5, 6)
    path = tmp_path / f"f{suffix}"
    old = os.umask(0o027)
    try:
        write_image(path, data, like=Volume(data))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="cannot be written"):
        write_image(path, 1 - data, like=Volume(data))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".jpg"])
def test_formats_that_are_not_written(tmp_path, suffix):
    data = np.zeros((1, 5, 6), np.float32)
    with pytest.raises(InputError, match="cannot write this format"):
        write_image(tmp_path / f"f{suffix}", data, like=Volume(data))


@pytest.mark.parametrize(
    ("name", "header", "data"),
    [
        ("x.mhd", "NDims = 3\nElementDataFile = a b.raw\n", ["a b.raw"]),
        ("x.mhd", "NDims = 3\r\nElementDataFile = sub/a.raw\r\n", ["sub/a.raw"]),
        ("x.mhd", "ElementDataFile = LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("x.mhd", "ElementDataFile = s%03d.raw 1 3 2\n", ["s001.raw", "s003.raw"]),
        ("x.mhd", "ElementDataFile = LOCAL\n\1\2", []),
        ("x.mhd", "ElementDataFile = %s%999999999d.raw 1 3 2\n", []),
        ("x.nhdr", "NRRD0004\ntype: float\ndata file: ./a.raw.gz\n", ["a.raw.gz"]),
        ("x.nhdr", "NRRD0004\ndatafile: LIST 2\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("x.nrrd", "NRRD0004\ntype: float\n\ndata file: a.raw\n", []),
        ("x.nii", "ElementDataFile = a.raw\n", []),
    ],
)
def test_files_of_an_image(tmp_path, name, header, data):
    (tmp_path / "sub").mkdir()
    for other in ("a.raw", "a b.raw", "sub/a.raw", "a.raw.gz", "1.raw", "2.raw", "s001.raw", "s003.raw"):
        (tmp_path / other).touch()
    (tmp_path / name).write_bytes(header.encode())
    assert image_files(tmp_path / name) == [tmp_path / n for n in (name, *data)]


def test_hidden_images_are_passed_over_but_where_one_is_asked_for(tmp_path):
    for name in (".h.nii.gz", "._a.nii", "a.nii", "-x.png"):
        (tmp_path / name).touch()
    assert set(folder_images(tmp_path)) == {"a", "-x"}
    assert set(folder_images(tmp_path, {".h", "-x"})) == {".h", "-x"}
