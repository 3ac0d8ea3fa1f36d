"""Damaged files: one clear line or a valid image; never a crash, a hang or a silently wrong geometry.

``FUSEBENCH_FUZZ=4000`` runs more mutants than the default.
"""

import gzip
import os
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusebench.errors import InputError
from fusebench.images.raw import corner_distance
from fusebench.images.read_write import read_image, read_raw

from .adni_trees import AFFINE, dicom_series, head, nifti

MUTANTS = int(os.environ.get("FUSEBENCH_FUZZ", "400"))
NUMBERS = np.array([0, -1, 1, 2, 3, 255, 32767, -32768, 1e30, -1e30, np.nan, np.inf, 1e-30])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Bytes of a small valid NIfTI, its image as read, and a place to write mutants."""
    folder = tmp_path_factory.mktemp("fuzz")
    data = head(0)[0][::2, ::2, ::2]
    path = nifti(folder / "good.nii", data, AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0]))
    return path.read_bytes(), read_raw(path), folder


def mutate(blob, rng):
    """Change header bytes, a whole field, or the length."""
    out = bytearray(blob)
    kind = rng.integers(0, 4)
    if kind == 0:
        for at in rng.integers(0, 352, rng.integers(1, 6)):
            out[at] = rng.integers(0, 256)
    elif kind == 1:
        header = nib.Nifti1Header(bytes(out[:348]), check=False)
        name = str(rng.choice(header.template_dtype.names))
        field = header._structarr[name]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if field.dtype.kind in "iuf":
                value = rng.choice(NUMBERS)
                if field.dtype.kind != "f":
                    value = np.nan_to_num(value, posinf=3e9, neginf=-3e9).astype(np.int64)
                if field.ndim:
                    position = rng.integers(0, field.size)
                    field[position] = np.asarray(value).astype(field.dtype)
                else:
                    header._structarr[name] = np.asarray(value).astype(field.dtype)
        out[:348] = header.binaryblock
    elif kind == 2:
        out = out[: rng.integers(0, len(out))]
    else:
        at = rng.integers(0, 348)
        out[at : at + 4] = rng.bytes(4)
    return bytes(out)


def outcome(path):
    """ "error" or the image; anything but InputError fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw = read_raw(path, frames=True)
            if raw.data.ndim == 3:
                read_image(path)
        except InputError as error:
            text = str(error)
            return "error" if "\n" not in text and str(path) in text and len(text) < 600 else text
    return raw


def sound(raw, reference):
    """A mutant that loads is finite, and where its geometry changed it says so."""
    if not (np.isfinite(raw.data).all() and np.isfinite(raw.affine).all()):
        return False
    same_place = raw.data.shape == reference.data.shape and (
        corner_distance(raw.affine, reference.affine, reference.data.shape) < 1.0
    )
    return same_place or bool(raw.notes) or raw.data.ndim == 4


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_mutated_headers_and_truncated_files(original, suffix):
    blob, reference, folder = original
    path = folder / f"mutant{suffix}"
    rng = np.random.default_rng(20240 + len(suffix))
    counts = {"error": 0, "valid": 0}
    bad = []
    for number in range(MUTANTS // 2):
        mutant = mutate(blob, rng)
        if suffix == ".nii.gz":
            mutant = gzip.compress(mutant, 1)
            if rng.random() < 0.3:
                mutant = mutant[: rng.integers(0, len(mutant))]
        path.write_bytes(mutant)
        result = outcome(path)
        if isinstance(result, str):
            counts["error"] += 1
            if result != "error":
                bad.append((number, result))
        else:
            counts["valid"] += 1
            if not sound(result, reference):
                bad.append((number, result.data.shape, result.affine.tolist(), result.notes))
    assert not bad, bad[:3]
    assert min(counts.values()) > 0.1 * MUTANTS / 2, counts


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_in_any_format(original, data):
    _, _, folder = original
    suffix = data.draw(st.sampled_from([".nii", ".nii.gz", ".png", ".tif", ".mha", ".nrrd", ".dcm", ".jpg"]))
    magic = {".png": b"\x89PNG\r\n\x1a\n", ".tif": b"II*\0", ".mha": b"ObjectType = Image\nNDims = 3\n",
             ".nrrd": b"NRRD0004\n", ".nii.gz": b"\x1f\x8b\x08\0"}  # fmt: skip
    body = data.draw(st.binary(max_size=600))
    path = folder / f"any{suffix}"
    path.write_bytes(magic.get(suffix, b"") * data.draw(st.integers(0, 1)) + body)
    assert outcome(path) == "error"


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".png", ".tif"])
def test_truncated_other_formats(original, suffix):
    """A cut file is refused (MHA, NRRD, PNG), or where a format tolerates it, never of another shape."""
    sitk = pytest.importorskip("SimpleITK")
    _, _, folder = original
    path = folder / f"whole{suffix}"
    volume = np.random.default_rng(0).integers(0, 255, (20, 24, 24)).astype(np.uint8)
    image = sitk.GetImageFromArray(volume if suffix in (".mha", ".nrrd") else volume[0])
    sitk.WriteImage(image, str(path), suffix == ".mha")
    blob = path.read_bytes()
    shape = read_raw(path).data.shape
    rng = np.random.default_rng(1)
    cut = folder / f"cut{suffix}"
    refused = 0
    for _ in range(40):
        cut.write_bytes(blob[: rng.integers(0, len(blob) - 20)])
        result = outcome(cut)
        refused += result == "error" if isinstance(result, str) else 0
        assert isinstance(result, str) or result.data.shape == shape
        assert not isinstance(result, str) or result == "error"
    assert refused == 40


def test_mutated_dicom(tmp_path):
    pytest.importorskip("pydicom")
    data = head(0)[0][::4, ::4, ::4]
    dicom_series(tmp_path / "good", data, AFFINE, "MR")
    good = read_raw(tmp_path / "good")
    files = sorted((tmp_path / "good").iterdir())
    blobs = {f: f.read_bytes() for f in files}
    rng = np.random.default_rng(2)
    for _ in range(60):
        victim = files[rng.integers(len(files))]
        blob = bytearray(blobs[victim])
        if rng.random() < 0.5:
            blob = blob[: rng.integers(0, len(blob))]
        else:
            for at in rng.integers(128, min(1200, len(blob)), 4):
                blob[at] = rng.integers(0, 256)
        victim.write_bytes(bytes(blob))
        result = outcome(tmp_path / "good")
        victim.write_bytes(blobs[victim])
        if isinstance(result, str):
            assert result == "error"
        else:
            assert result.data.shape == good.data.shape or result.notes
            assert np.allclose(result.affine, good.affine, atol=5) or result.notes
