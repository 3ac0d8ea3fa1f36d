"""Headers as programs write them: display hints, units of length, quaternions, offsets, axes."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from nibabel import imageglobals

from fusebench.engine.from_files import read_result
from fusebench.errors import InputError
from fusebench.images.read_write import read_image, read_raw, write_image

DATA = (np.add.outer(np.add.outer(np.arange(10), 2 * np.arange(9)), 3 * np.arange(8)) % 200).astype(np.int16)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.5, 0, -40], [0, 0, 3.0, -20], [0, 0, 0, 1]])
SPACING = (3.0, 2.5, 2.0)


def saved(
    path, data=DATA, affine=AFFINE, unit="mm", sform=1, qform=1, kind=nib.Nifti1Image, edit=None, **fields
):
    image = kind(data, affine, dtype=data.dtype)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    image.header.set_xyzt_units(unit)
    for name, value in fields.items():
        image.header[name] = value
    blob = bytearray(image.to_bytes())
    if edit:
        edit(blob)
    path.write_bytes(gzip.compress(bytes(blob)) if path.name.endswith(".gz") else bytes(blob))
    return path


def refused(path, *words):
    with pytest.raises(InputError) as error:
        read_raw(path, frames=True)
    text = str(error.value)
    assert "\n" not in text and str(path) in text and all(w in text for w in words), text


# -- a display hint is no range ------------------------------------------------------------------


@pytest.mark.parametrize("hint", [(0.1, 0.4), (0.0, 0.6), (-1.0, 2.0)])
def test_cal_min_and_max_of_other_programs_are_ignored(tmp_path, hint):
    fused = (DATA / 400).astype(np.float32)
    plain = saved(tmp_path / "plain.nii", fused)
    hinted = saved(tmp_path / "hinted.nii", fused, cal_min=hint[0], cal_max=hint[1], descrip=b"FSL6.0")
    like = read_image(plain)
    assert read_raw(hinted).stored_range is None
    assert np.array_equal(read_result(hinted, like, "mri").data, read_result(plain, like, "mri").data)
    assert np.array_equal(read_image(hinted, intensity="stored").data, like.data)


def test_the_range_that_fusebench_wrote_is_taken(tmp_path):
    source = saved(tmp_path / "mri.nii", DATA)
    like = read_image(source)
    fused = (0.2 + 0.5 * like.data).astype(np.float32)
    write_image(tmp_path / "f.nii", fused, like=source)
    again = read_result(tmp_path / "f.nii", like, source).data
    assert np.abs(again - fused).max() < 1 / DATA.max()


def test_an_image_of_fusebench_that_another_program_rescaled(tmp_path):
    source = saved(tmp_path / "mri.nii", DATA.astype(np.float32))
    write_image(tmp_path / "f.nii", read_image(source).data, like=source)
    image = nib.load(tmp_path / "f.nii")
    nib.save(
        nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 7, image.affine, image.header), tmp_path / "g.nii"
    )
    with pytest.raises(InputError, match="--fused-range"):
        read_result(tmp_path / "g.nii", read_image(source), source)


# -- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "per_mm"), [("micron", 1000.0), ("meter", 0.001), ("mm", 1.0), ("unknown", 1.0)]
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_units(tmp_path, unit, per_mm, kind):
    path = saved(tmp_path / "x.nii", affine=np.diag([per_mm] * 3 + [1]) @ AFFINE, unit=unit, kind=kind)
    raw, wanted = read_raw(path), read_raw(saved(tmp_path / "y.nii"))
    assert read_image(path).spacing == pytest.approx(SPACING, rel=1e-5) and not raw.notes
    assert np.allclose(raw.affine, wanted.affine, atol=1e-3) and np.array_equal(raw.data, wanted.data)
    # Written back in the space and unit of the source, so that it lies where that does.
    write_image(tmp_path / "back.nii", read_image(path).data, like=path)
    back = nib.load(tmp_path / "back.nii")
    assert back.header.get_xyzt_units()[0] == unit and np.allclose(back.affine, nib.load(path).affine)
    assert np.allclose(read_raw(tmp_path / "back.nii").affine, wanted.affine, atol=1e-3)


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1000), ("mm", 0.001), ("unknown", 0.001), ("meter", 1), ("micron", 1)]
)
def test_units_that_contradict_the_voxels_are_refused(tmp_path, unit, factor):
    refused(
        saved(tmp_path / "x.nii", affine=np.diag([factor] * 3 + [1]) @ AFFINE, unit=unit), "unit of length"
    )


def test_unknown_code_of_a_unit(tmp_path):
    refused(saved(tmp_path / "x.nii", xyzt_units=5), "xyzt_units")


# -- headers that other readers take -------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("turn", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.8, 0)])
def test_quaternion_too_long_by_rounding(tmp_path, kind, turn):
    from nibabel.quaternions import quat2mat

    affine = np.eye(4)
    affine[:3, :3] = quat2mat([0, *turn]) * 2
    place, form = (256, "<3f") if kind is nib.Nifti1Image else (352, "<3d")

    def longer(blob):
        struct.pack_into(form, blob, place, *(v * 1.000002 for v in turn))

    found = read_raw(saved(tmp_path / "x.nii", affine=affine, sform=0, kind=kind, edit=longer))
    wanted = read_raw(saved(tmp_path / "y.nii", affine=affine, sform=0, kind=kind))
    assert np.allclose(found.affine, wanted.affine, atol=0.05) and np.array_equal(found.data, wanted.data)


def test_quaternion_far_too_long_is_refused(tmp_path):
    def longer(blob):
        struct.pack_into("<3f", blob, 256, 0.9, 0.9, 0.9)

    refused(saved(tmp_path / "x.nii", sform=0, edit=longer))


def test_offset_qfac_and_sizes(tmp_path):
    wanted = read_raw(saved(tmp_path / "y.nii", sform=0))

    def zero_offset(blob):
        struct.pack_into("<f", blob, 108, 0.0)

    found = read_raw(saved(tmp_path / "x.nii", sform=0, edit=zero_offset))
    assert np.array_equal(found.data, wanted.data) and "offset" in found.notes[0]
    straight = np.diag([2.0, 2.5, 3.0, 1])

    def no_qfac(blob):
        struct.pack_into("<f", blob, 76, 0.0)

    found = read_raw(saved(tmp_path / "x.nii", affine=straight, sform=0, edit=no_qfac))
    assert np.allclose(found.affine, straight)

    def negative(blob):
        struct.pack_into("<f", blob, 84, -2.5)

    found = read_raw(saved(tmp_path / "x.nii", affine=straight, sform=0, edit=negative))
    assert np.allclose(found.affine, straight) and "negative" in found.notes[0]


@pytest.mark.parametrize(("at", "form", "value"), [(70, "<h", 9999), (108, "<f", 100.0)])
def test_a_damaged_header_is_one_line(tmp_path, at, form, value, capfd):
    path = saved(tmp_path / "a.nii", edit=lambda blob: struct.pack_into(form, blob, at, value))
    filters = list(imageglobals.logger.filters)
    refused(path, "not a readable NIfTI file")
    assert capfd.readouterr() == ("", "") and imageglobals.logger.filters == filters


def test_what_nibabel_mends_is_a_note(tmp_path, capfd):
    path = saved(tmp_path / "a.nii", edit=lambda blob: struct.pack_into("<f", blob, 80, 0.0))
    assert any("header: pixdim[1,2,3] should be non-zero" in note for note in read_raw(path).notes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("more", [b"appended by a tool", b"\0" * 512, b"\x1f\x8b no member"])
def test_bytes_behind_gzip(tmp_path, more):
    path = saved(tmp_path / "x.nii.gz")
    path.write_bytes(path.read_bytes() + more)
    raw = read_raw(path)
    assert np.array_equal(raw.data, read_raw(saved(tmp_path / "y.nii")).data)
    assert bool(raw.notes) == (more[:1] != b"\0")


def test_gzip_of_several_members(tmp_path):
    blob = saved(tmp_path / "y.nii").read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(blob[:500]) + gzip.compress(blob[500:]))
    assert np.array_equal(read_raw(tmp_path / "x.nii.gz").data, read_raw(tmp_path / "y.nii").data)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(blob[:500]) + gzip.compress(blob[500:])[:-20])
    refused(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_on_the_axis_of_time(tmp_path, axis):
    refused(saved(tmp_path / "x.nii", np.expand_dims(DATA, axis)), "which is time", "third axis")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_slices_on_the_axis_of_time_in_other_formats(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.JoinSeries([sitk.GetImageFromArray(s[None]) for s in DATA])
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"))
    refused(tmp_path / f"x{suffix}", "which is time")


def test_colour_of_nifti_under_alpha(tmp_path):
    values = np.random.default_rng(0).integers(1, 256, (6, 7, 8, 4), dtype=np.uint8)
    values[..., 3] = 255
    values[:3, ..., 3] = 0
    raw = read_raw(saved(tmp_path / "x.nii", values.view([(c, "u1") for c in "RGBA"])[..., 0], np.eye(4)))
    assert not raw.data[..., :3].any() and raw.data[..., 3:].all() and "transparent" in raw.notes[0]
