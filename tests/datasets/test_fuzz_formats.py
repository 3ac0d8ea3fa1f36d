"""Damaged files of every other format: one clear line or a sound image, at once; never a crash or a hang.

``FUSEBENCH_FUZZ=10000`` tries 1,000 mutants of each.
"""

import csv
import importlib
import io
import json
import math
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusebench.errors import InputError
from fusebench.images.raw import MAX_VOXEL, MIN_VOXEL, usable
from fusebench.images.read_write import read_image, read_raw

from .adni_trees import AFFINE, dicom_series, head, stub
from .test_fuzz import MUTANTS

sitk = pytest.importorskip("SimpleITK")
sidecar = importlib.import_module("fusebench.datasets.preprocessing.sidecar")
steps = importlib.import_module("fusebench.datasets.preprocessing.steps")
grid = importlib.import_module("fusebench.datasets.preprocessing.grid")
pairs = importlib.import_module("fusebench.datasets.pairs")

EACH = MUTANTS // 10
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
VOLUME = np.random.default_rng(1).integers(0, 999, (6, 20, 24)).astype(np.int16)
WORDS = [
    b"0",
    b"-1",
    b"1e30",
    b"nan",
    b"inf",
    b"999999999999",
    b"",
    b"(",
    b"\xff",
    b"none",
    b"\n",
    b"3 3 3 3",
    b"um",
]


def mutate(blob, rng, reach=None):
    """Some bytes changed, set to an extreme, cut out, doubled, or the rest cut off."""
    out = bytearray(blob)
    reach = min(len(out), reach or len(out))
    kind = rng.integers(0, 6)
    at = int(rng.integers(0, reach))
    if kind == 0:
        for place in rng.integers(0, reach, rng.integers(1, 6)):
            out[place] = rng.integers(0, 256)
    elif kind == 1:
        out[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2, 255, 65535, 2**31, 2**32 - 1])))
    elif kind == 2:
        del out[at : at + int(rng.integers(1, 40))]
    elif kind == 3:
        out[at:at] = out[at : at + int(rng.integers(1, 40))]
    elif kind == 4:
        out[at : at + 1] = WORDS[rng.integers(len(WORDS))]
    else:
        del out[int(rng.integers(0, len(out))) :]
    return bytes(out)


def check(path, where=""):
    """ "error" or "valid"; anything that a user could not act on, or not trust, fails."""
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw = read_raw(path, frames=True)
            if raw.data.ndim == 3:
                read_image(path)
            result = "valid"
        except InputError as error:
            text = str(error)
            assert "\n" not in text and str(path) in text and len(text) < 600, (where, text)
            result = "error"
    assert time.process_time() - begin < 20, where
    if result == "valid":
        assert np.isfinite(raw.data).all() and usable(raw.affine), where
        size = np.linalg.norm(raw.affine[:3, :3], axis=0)
        long = np.array(raw.data.shape[-3:][::-1]) > 1
        assert ((size >= MIN_VOXEL) & (size <= MAX_VOXEL))[long].all(), (where, size)
    return result


def fuzz(path, blobs, seed, change=mutate):
    """Outcomes of `EACH` mutants of some files, written to `path` in turn."""
    rng = np.random.default_rng(seed)
    found = {"valid": 0, "error": 0}
    for number in range(EACH):
        blob = change(blobs[number % len(blobs)], rng)
        path.write_bytes(blob)
        found[check(path, f"mutant {number}")] += 1
    assert found["error"] > 0
    return found


def png_chunks(blob, rng):
    """Mutants whose checksums are right, so that a reader gets to what they hold."""
    out, at = [blob[:8]], 8
    victim = rng.integers(0, 3)
    number = 0
    while at < len(blob):
        length = struct.unpack(">I", blob[at : at + 4])[0]
        name, body = blob[at + 4 : at + 8], blob[at + 8 : at + 8 + length]
        if number == victim and body:
            body = mutate(body, rng)
        out.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
        at += length + 12
        number += 1
    return b"".join(out)


def saved(*images, **options):
    """Bytes of a picture as Pillow writes it."""
    buffer = io.BytesIO()
    images[0].save(buffer, save_all=len(images) > 1, append_images=images[1:], **options)
    return buffer.getvalue()


def test_png(tmp_path):
    grey, colour = Image.fromarray(PIXELS[..., 0]), Image.fromarray(PIXELS)
    alpha = Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]]))
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
    palette = colour.quantize(9)
    blobs = [saved(i, format="PNG") for i in (grey, colour, alpha, deep)]
    blobs.append(saved(palette, format="PNG", transparency=1))
    blobs.append(saved(grey, grey.rotate(9), format="PNG"))
    fuzz(tmp_path / "x.png", blobs, 1)
    fuzz(tmp_path / "y.png", blobs, 2, png_chunks)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP"])
def test_other_pictures(tmp_path, kind):
    blobs = [saved(Image.fromarray(PIXELS), format=kind), saved(Image.fromarray(PIXELS[..., 0]), format=kind)]
    rng = np.random.default_rng(3)
    for number in range(max(8, EACH // 4)):
        path = tmp_path / f"x.{kind.lower()}"
        path.write_bytes(mutate(blobs[number % 2], rng, 400))
        check(path, f"mutant {number}")


def test_tiff(tmp_path):
    def written(values, **tags):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **tags)
        return buffer.getvalue()

    table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    grey = PIXELS[..., 0]
    blobs = [
        written(grey, photometric="minisblack"),
        written(grey, photometric="miniswhite", compression="zlib"),
        written(PIXELS, photometric="rgb"),
        written(np.moveaxis(PIXELS, -1, 0), photometric="rgb", planarconfig="separate"),
        written(grey, photometric="palette", colormap=table),
        written(VOLUME.astype(np.float32), photometric="minisblack", byteorder=">"),
        written(VOLUME, imagej=True, metadata={"axes": "ZYX"}),
        saved(Image.fromarray(PIXELS), format="TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(grey > 99), format="TIFF", compression="group4"),
    ]
    # Tags lie at the front or at the end.
    fuzz(tmp_path / "x.tif", blobs, 4, lambda blob, rng: mutate(blob, rng, 600))
    fuzz(tmp_path / "y.tif", blobs, 5)


def test_dicom(tmp_path):
    pytest.importorskip("pydicom")
    dicom_series(tmp_path / "good", head(0)[0][::4, ::4, ::4], AFFINE, "MR")
    good = read_raw(tmp_path / "good")
    files = sorted((tmp_path / "good").iterdir())
    blobs = {f: f.read_bytes() for f in files}
    rng = np.random.default_rng(6)
    for number in range(EACH):
        victim = files[rng.integers(len(files))]
        victim.write_bytes(mutate(blobs[victim], rng, 1400))
        if check(tmp_path / "good", f"mutant {number}") == "valid":
            raw = read_raw(tmp_path / "good", frames=True)
            assert raw.notes or (
                raw.data.shape == good.data.shape and np.allclose(raw.affine, good.affine, atol=5)
            ), f"mutant {number}"
        victim.write_bytes(blobs[victim])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_nrrd_and_mha(tmp_path, suffix):
    image = sitk.GetImageFromArray(VOLUME)
    image.SetSpacing([2.0, 2.0, 3.0])
    blobs = []
    for packed in (False, True):
        sitk.WriteImage(image, str(tmp_path / f"good{suffix}"), packed)
        blobs.append((tmp_path / f"good{suffix}").read_bytes())
    fuzz(tmp_path / f"x{suffix}", blobs, 7, lambda blob, rng: mutate(blob, rng, 500))


@pytest.mark.parametrize("change", [b"24 20 6", b"24 19 6", b"23 20 6", b"12 20 6"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_sizes_that_are_not_those_of_the_voxels(tmp_path, suffix, change):
    """Fewer voxels than the file holds shift every row; that must be said."""
    image = sitk.GetImageFromArray(VOLUME)
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"), False)
    blob = (tmp_path / f"x{suffix}").read_bytes()
    assert b"24 20 6" in blob
    (tmp_path / f"x{suffix}").write_bytes(blob.replace(b"24 20 6", change, 1))
    raw = read_raw(tmp_path / f"x{suffix}")
    assert any("more" in note for note in raw.notes) == (change != b"24 20 6")


def test_sidecars(tmp_path):
    blob = json.dumps(
        {"FrameDuration": [300, 100], "FrameTimesStart": [0, 300], "TracerName": "FDG"}
    ).encode()
    image = grid.Image(np.ones((2, 4, 4, 4), np.float32), np.eye(4))
    rng = np.random.default_rng(8)
    values = [
        b"[]",
        b"{}",
        b"null",
        b"1e999",
        b"NaN",
        b'"x"',
        b"[[1]]",
        b"true",
        b"-5",
        b"9" * 400,
        b"[" * 5000,
    ]
    for number in range(EACH):
        text = mutate(blob, rng)
        if rng.random() < 0.5:
            text = blob.replace(b"[300, 100]", values[rng.integers(len(values))])
        stub(tmp_path / "p_pet.json", text)
        fields, notes = sidecar.read_sidecars(tmp_path / "p_pet.nii")
        lengths = sidecar.frame_durations(fields)
        assert all(isinstance(v, float) for v in lengths) and all("\n" not in n for n in notes), number
        done = steps.Static()(steps.State(image, image, ("m", "p"), durations=lengths))
        assert math.isclose(float(done.pet.data[0, 0, 0]), 1, rel_tol=1e-5) and done.notes, number


def test_tables(tmp_path):
    for name in ("m.png", "p.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    rows = [["id", "mri", "pet", "mask"], ["a", "m.png", "p.png", ""], ["b", "m.png", "p.png", ""]]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    rng = np.random.default_rng(9)
    path = tmp_path / "pairs.csv"
    for number in range(EACH):
        encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
        path.write_bytes(mutate(buffer.getvalue().encode(encoding), rng))
        refusal, found, left_out = str(path), [], []
        try:
            found, left_out = pairs.read_csv(path)
        except InputError as error:
            refusal = str(error)
        assert "\n" not in refusal and str(path) in refusal, number
        assert all(p.mri.exists() and p.pet.exists() for p in found), number
        assert len({p.id for p in found}) == len(found) and all(x.reason for x in left_out), number
