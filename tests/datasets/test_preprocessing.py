"""Preprocessing steps one by one, recipes, registration, write-back, cache."""

import importlib
import pickle

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import fusebench
from fusebench.errors import InputError
from fusebench.images.read_write import read_image, read_raw, write_image

from .adni_trees import AFFINE, head, nifti

grid = importlib.import_module("fusebench.datasets.preprocessing.grid")
rigid = importlib.import_module("fusebench.datasets.preprocessing.rigid")
steps = importlib.import_module("fusebench.datasets.preprocessing.steps")
pipeline = importlib.import_module("fusebench.datasets.preprocessing.pipeline")
content = importlib.import_module("fusebench.store.keys")
sources = importlib.import_module("fusebench.store.sources")
quality = importlib.import_module("fusebench.datasets.preprocessing.quality")
sitk = pytest.importorskip("SimpleITK")


def state(seed=1, **kwargs):
    mri, pet = head(seed)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-80, -92, -80)
    return steps.State(
        grid.Image(mri.transpose(2, 1, 0).astype(np.float32), affine),
        grid.Image(pet.transpose(2, 1, 0).astype(np.float32), affine),
        ("mri.nii", "pet.nii"),
        **kwargs,
    )


# -- grids ---------------------------------------------------------------------------------------


def test_resample_identity_and_known_shift():
    data = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    image = grid.Image(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert np.allclose(grid.resample(image, image.shape, image.affine), data)
    moved = grid.rigid_matrix((0, 0, 0), (2.0, 0, 0))  # one voxel along w
    out = grid.resample(image, image.shape, image.affine, to_image=moved)
    assert np.allclose(out[:, :, :-1], data[:, :, 1:], atol=1e-6)


def test_resample_blurs_before_it_thins():
    fine = np.indices((64, 64, 64)).sum(0) % 2  # a checkerboard aliases without a filter
    image = grid.Image(fine.astype(np.float32), np.eye(4))
    out = grid.resample(image, (16, 16, 16), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert np.ptp(out[2:-2, 2:-2, 2:-2]) < 0.05


def test_sheared_and_oblique_affines_agree_with_world_positions():
    shear = np.array([[2.0, 0.4, 0, -9], [0, 2.0, 0.3, -8], [0.2, 0, 2.0, -7], [0, 0, 0, 1]])
    z, y, x = np.mgrid[:12, :12, :12]
    world = np.stack([x, y, z, np.ones_like(x)], -1) @ shear.T
    image = grid.Image((world[..., :3] @ [1.0, 10.0, 100.0]).astype(np.float32), shear)
    target = np.diag([1.5, 1.5, 1.5, 1.0])
    out = grid.resample(image, (4, 4, 4), target)
    assert out[1, 2, 3] == pytest.approx(3 * 1.5 + 10 * 2 * 1.5 + 100 * 1.5, abs=0.1)


# -- steps ---------------------------------------------------------------------------------------


def test_static_weights_frames():
    s = state()
    frames = np.stack([s.pet.data, 3 * s.pet.data])
    dynamic = steps.replace(s, pet=grid.Image(frames, s.pet.affine), durations=(30.0, 10.0))
    out = steps.Static()(dynamic)
    assert np.allclose(out.pet.data, 1.5 * s.pet.data, rtol=1e-5)
    assert "weighted by their lengths" in out.notes[0]
    unknown = steps.Static()(steps.replace(dynamic, durations=()))
    assert np.allclose(unknown.pet.data, 2 * s.pet.data, rtol=1e-5)
    assert "unweighted" in unknown.notes[0]


@pytest.mark.parametrize(
    ("shape", "voxel", "word"),
    [((31, 40, 40), 2.0, "only 31 voxels"), ((40, 40, 40), 9.0, "voxels of 9.0 mm")],
)
def test_check_grid_refuses(shape, voxel, word):
    image = grid.Image(np.ones(shape, np.float32), np.diag([voxel] * 3 + [1.0]))
    with pytest.raises(InputError, match=word):
        steps.CheckHead()(steps.replace(state(), mri=image))


def test_inverted_image_is_noted():
    s = state()
    upside = grid.Image(s.pet.data.max() - s.pet.data, s.pet.affine)
    assert steps.CheckHead()(s).notes == ()
    assert "inverted" in steps.CheckHead()(steps.replace(s, pet=upside)).notes[0]


def test_bias_field_is_removed_and_only_where_wanted():
    s = state(bias_corrected=False)
    z = np.linspace(0.7, 1.3, s.mri.shape[0])[:, None, None].astype(np.float32)
    biased = steps.replace(s, mri=grid.Image(s.mri.data * z, s.mri.affine))
    out = steps.BiasField()(biased)
    inside = s.mri.data > 250

    def spread(image):
        ratio = image.data[inside] / s.mri.data[inside]
        return ratio.std() / ratio.mean()

    assert spread(out.mri) < 0.4 * spread(biased.mri)
    assert steps.BiasField()(steps.replace(biased, bias_corrected=True)).mri is biased.mri


def test_head_mask_and_a_mask_of_the_user(tmp_path):
    s = state()
    out = steps.Mask()(s)
    assert 0.2 < out.mask.mean() < 0.5
    given = np.zeros((40, 46, 42), np.uint8)
    given[10:20, 10:20, 10:20] = 1
    path = nifti(tmp_path / "m.nii.gz", given)
    out = steps.Mask()(steps.replace(s, mask_path=path))
    assert out.mask.sum() == pytest.approx(1000, abs=120)  # another handedness, half a voxel off
    far = AFFINE.copy()
    far[:3, 3] += 1000
    away = steps.replace(s, mask_path=nifti(tmp_path / "f.nii.gz", given, far))
    with pytest.raises(InputError, match="no foreground where the MRI is"):
        steps.Mask()(away)


def test_brain_mask_from_the_template():
    case = fusebench.create_dataset("phantom", size=64, subjects=1).cases("val")[0]
    mask, notes = importlib.import_module("fusebench.datasets.preprocessing.template").brain_mask(
        grid.Image(case.a.data, case.a.affine)
    )
    dice = 2 * (mask & case.mask).sum() / (mask.sum() + case.mask.sum())
    assert dice > 0.85
    assert "approximate" in notes[0]


def test_box_centres_the_head_and_keeps_the_vertex():
    s = steps.Mask()(state())
    out = steps.ToBox(56, 4.0)(s)
    assert out.mri.shape == out.pet.shape == out.mask.shape == (56, 56, 56)
    centre = grid.mask_points(out.mask, out.mri.affine).mean(0)
    assert np.allclose(centre, out.mri.centre(), atol=6)
    small = steps.ToBox(16, 4.0)(s)  # lower than the head
    assert not small.mask[-1].any() and small.mask[0].any()


def test_intensity():
    s = state()
    hot = s.pet.data.copy()
    hot[0, 0, 0] = 1e4
    s = steps.replace(s, pet=grid.Image(hot, s.pet.affine))
    robust, plain = steps.Intensity("robust")(s), steps.Intensity("minmax")(s)
    assert robust.pet.data.mean() > 50 * plain.pet.data.mean()
    for out in (robust, plain):
        assert (out.mri.data.min(), out.mri.data.max(), out.pet.data.min(), out.pet.data.max()) == (
            0,
            1,
            0,
            1,
        )
    with pytest.raises(InputError, match="nothing but"):
        steps.Intensity()(steps.replace(s, pet=grid.Image(hot * 0, s.pet.affine)))


# -- the paper's chain ---------------------------------------------------------------------------


def test_paper_tensor_equals_monai():
    monai = pytest.importorskip("monai.transforms")
    rng = np.random.default_rng(0)
    mri = np.zeros((50, 70, 60), np.float32)
    mri[5:41, 9:66, 12:55] = rng.random((36, 57, 43), np.float32) + 0.1
    pet = rng.random(mri.shape, np.float32)
    chain = monai.Compose(
        [
            monai.CropForegroundd(["m", "p"], source_key="m", allow_smaller=True),
            monai.SpatialPadd(["m", "p"], (64, 64, 64)),
            monai.Resized(["m", "p"], (32, 32, 32)),
            monai.ScaleIntensityd(["m", "p"]),
        ]
    )
    expected = chain({"m": mri[None], "p": pet[None]})
    s = steps.State(grid.Image(mri, np.eye(4)), grid.Image(pet, np.eye(4)), ("m", "p"), mask=mri > 0)
    out = steps.run_steps(s, (steps.PaperTensor(64, 32), steps.Intensity("minmax")))
    assert np.allclose(out.mri.data, np.asarray(expected["m"][0]), atol=1e-5)
    assert np.allclose(out.pet.data, np.asarray(expected["p"][0]), atol=1e-5)


def test_paper_tensor_says_its_two_silent_faults_and_keeps_positions():
    data = np.full((40, 72, 40), 1e-3, np.float32)
    data[20, 40, 20] = 1.0
    s = steps.State(grid.Image(data, np.eye(4)), grid.Image(data, np.eye(4)), ("m", "p"), mask=data > 0)
    out = steps.PaperTensor(64, 32)(s)
    assert any("removes nothing" in n for n in out.notes)
    assert any("exceed" in n for n in out.notes)
    d, h, w = np.unravel_index(out.mri.data.argmax(), out.mri.data.shape)
    place = out.mri.affine @ [w, h, d, 1]
    assert np.abs(place[:3] - [20, 40, 20]).max() < 2.3  # within one new voxel


# -- registration --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_registration_recovers_a_known_offset(seed):
    case = fusebench.create_dataset("phantom", size=64, subjects=1).cases("val")[0]
    points = grid.mask_points(case.mask, case.a.affine)
    rng = np.random.default_rng(seed)
    move = grid.rigid_matrix(rng.uniform(-15, 15, 3), rng.uniform(-11, 11, 3), points.mean(0))
    mri, pet = grid.Image(case.a.data, case.a.affine), grid.Image(case.b.data, move @ case.b.affine)
    found = rigid.register(mri, pet, voxel=3.0)
    assert grid.displacement(found.matrix, move, points).mean() < 1.0
    assert found.information_after > found.information_before
    assert found.overlap > 0.9 and not found.warnings
    assert np.array_equal(rigid.register(mri, pet, voxel=3.0).matrix, found.matrix) if seed == 1 else True


def test_registration_warns_where_nothing_fits():
    s = state()
    noise = np.random.default_rng(0).random(s.pet.shape).astype(np.float32)
    assert rigid.register(s.mri, grid.Image(noise, s.pet.affine), voxel=4.0).warnings


def test_absurd_extent_is_refused():
    s = state()
    huge = grid.Image(s.pet.data, np.diag([400.0, 400.0, 400.0, 1.0]))
    with pytest.raises(InputError, match="voxel size"):
        rigid.register(s.mri, huge)


# -- write-back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", ["LAS", "RPI", "PSR", "AIL"])
def test_landmarks_come_back_where_they_were(tmp_path, codes):
    """Bright spots of a PET that was moved and resampled return, fused, to the MRI's own space."""
    mri, _ = head(5)
    oblique = grid.rigid_matrix((7, -5, 4), (3, -2, 5)) @ AFFINE
    image = nib.Nifti1Image(mri, oblique)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(oblique), nib.orientations.axcodes2ornt(codes)
    )
    image = image.as_reoriented(turn)
    nib.save(image, tmp_path / "mri.nii.gz")
    move = grid.rigid_matrix((5, 4, -6), (6, -4, 3))
    marks = np.array([[-35.0, 10, 0], [35, -25, 20], [5, 40, -30]])  # world of the MRI
    x, y, z = np.mgrid[:60, :60, :60]
    pet_affine = np.diag([3.0, 3.0, 3.0, 1.0])
    pet_affine[:3, 3] = -90
    world = np.stack([x, y, z], -1) * 3.0 - 90
    spots = np.zeros(x.shape)
    for mark in marks:
        there = (move @ [*mark, 1])[:3]
        spots += np.exp(-((world - there) ** 2).sum(-1) / (2 * 5.0**2))
    nifti(tmp_path / "pet.nii.gz", spots.astype(np.float32), pet_affine)
    raw_mri, raw_pet = read_raw(tmp_path / "mri.nii.gz"), read_raw(tmp_path / "pet.nii.gz")
    s = steps.State(
        grid.Image(raw_mri.data, raw_mri.affine),
        grid.Image(raw_pet.data, raw_pet.affine),
        ("m", "p"),
        to_pet=move,
    )
    out = steps.run_steps(s, (steps.ToMri(), steps.Intensity("minmax")))
    write_image(tmp_path / "f.nii.gz", out.pet.data, like=tmp_path / "mri.nii.gz", dtype="float32")
    written = nib.load(tmp_path / "f.nii.gz")
    assert np.array_equal(written.affine, nib.load(tmp_path / "mri.nii.gz").affine)
    data = written.get_fdata() - written.get_fdata().min()
    for mark in marks:
        guess = np.linalg.inv(written.affine) @ [*mark, 1]
        box = tuple(slice(max(0, int(g) - 4), int(g) + 6) for g in guess[:3])
        centre = ndimage.center_of_mass(data[box] ** 2)
        found = written.affine @ [*(c + b.start for c, b in zip(centre, box, strict=True)), 1]
        assert np.linalg.norm(found[:3] - mark) < 1.0  # voxels are 4 mm


def test_fuse_and_score_with_register(tmp_path, capsys):
    from fusebench.cli import main

    case = fusebench.create_dataset("phantom", size=64, subjects=1).cases("val")[0]
    mri = write_image(tmp_path / "mri.nii.gz", case.a.data, like=case.a)
    move = grid.rigid_matrix((6, -5, 8), (8, -6, 5), (0, -18, 8))
    other = np.diag([3.0, 3.0, 3.0, 1.0])
    other[:3, 3] = (-105, -126, -90)
    back = np.linalg.inv(move)
    moved = grid.resample(grid.Image(case.b.data, case.b.affine), (66, 74, 70), other, to_image=back)
    pet = nifti(tmp_path / "pet.nii.gz", moved.transpose(2, 1, 0), other)
    out = tmp_path / "f.nii.gz"
    files = ["--mri", str(mri), "--pet", str(pet)]
    assert main(["fuse", "--method", "source-pet", *files, "-o", str(out)]) == 2
    assert "--register" in capsys.readouterr().err
    assert main(["fuse", "--method", "source-pet", *files, "--register", "-o", str(out)]) == 0
    assert "moved by" in capsys.readouterr().err
    fused = read_image(out, intensity="stored").data
    inside = case.mask
    assert np.corrcoef(fused[inside], case.b.data[inside])[0, 1] > 0.97
    unregistered = grid.resample(grid.Image(moved, other), case.a.shape, case.a.affine)
    assert np.corrcoef(unregistered[inside], case.b.data[inside])[0, 1] < 0.9
    assert main(["score", *files, "--fused", str(out), "--register", "--metrics", "psnr"]) == 0
    assert "psnr" in capsys.readouterr().out


# -- recipes and cache ---------------------------------------------------------------------------


def source(tmp_path, seed=1, **kwargs):
    mri, pet = head(seed)
    a, b = nifti(tmp_path / f"{seed}_mri.nii.gz", mri), nifti(tmp_path / f"{seed}_pet.nii.gz", pet)
    return pipeline.PairSource(f"s{seed}", f"g{seed}", a, b, **kwargs)


@pytest.mark.parametrize("recipe", ["default", "paper", "native", "none"])
def test_recipes_give_pairs_on_one_grid(tmp_path, recipe):
    s = source(tmp_path, aligned=True)
    case = pipeline.make_case("x", s, recipe, {"size": 48})
    pair = pickle.loads(pickle.dumps(case)).pair
    shape = {"default": (48,) * 3, "paper": (48,) * 3}.get(recipe, (42, 46, 40))
    assert pair.a.shape == pair.b.shape == pair.mask.shape == shape
    assert nib.aff2axcodes(pair.a.affine) == ("R", "A", "S")
    if recipe != "none":
        report = pipeline.stored_report(case)
        assert [p["step"] for p in report["provenance"]][:3] == ["Static", "CheckHead", "RegisterRigid"]
        assert report["numbers"]["registered"] is False


def test_same_voxels_from_the_cache_and_made_anew(tmp_path, monkeypatch):
    s = source(tmp_path, aligned=True)
    case = pipeline.make_case("x", s, "default", {"size": 32})
    assert not pipeline.is_prepared(case.fingerprint)
    first = case.loader()
    assert pipeline.is_prepared(case.fingerprint)
    monkeypatch.setattr(pipeline, "prepare", None)  # would fail if it ran
    assert np.array_equal(case.loader().a.data, first.a.data)


def test_key_follows_files_recipe_and_options(tmp_path):
    s = source(tmp_path)
    keys = {
        pipeline.make_case("x", s, recipe, options).fingerprint
        for recipe, options in (
            ("default", {}),
            ("paper", {}),
            ("none", {}),
            ("default", {"size": 64}),
            ("default", {"register": "never"}),
            ("default", {"mask": "brain"}),
        )
    }
    assert len(keys) == 6
    before = pipeline.make_case("x", s, "paper", {}).fingerprint
    copy = source(tmp_path / "elsewhere")
    assert pipeline.make_case("x", copy, "paper", {}).fingerprint == before  # content, not place
    s.pet.write_bytes(source(tmp_path, 7).pet.read_bytes())
    assert pipeline.make_case("x", s, "paper", {}).fingerprint != before


@pytest.mark.parametrize("changed", ["foreground.py", "nifti.py", "dicom_itk.py", "steps.py", "SimpleITK"])
def test_key_follows_the_code_that_makes_voxels(tmp_path, monkeypatch, changed):
    s = source(tmp_path)

    def keys():
        sources._sha256.cache_clear()
        content.minor_versions.cache_clear()
        pipeline._code_key.cache_clear()
        pipeline._reader_key.cache_clear()
        return [pipeline.make_case("x", s, recipe, {}).fingerprint for recipe in ("default", "none")]

    before, sha256, version = keys(), sources.file_sha256, content.version
    assert keys() == before
    monkeypatch.setattr(sources, "file_sha256", lambda p: "new" if p.name == changed else sha256(p))
    monkeypatch.setattr(content, "version", lambda n: "9.9.9" if n == changed else version(n))
    after = keys()
    monkeypatch.undo()
    assert not set(before) & set(after) and keys() == before


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_key_follows_voxels_beside_their_header(tmp_path, suffix):
    for name, image in zip(("mri", "pet"), head(1), strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(tmp_path / f"{name}{suffix}"))
    voxels = (tmp_path / "pet.raw").rename(tmp_path / "other name.bin")
    header = tmp_path / f"pet{suffix}"
    header.write_text(header.read_text().replace("pet.raw", voxels.name))
    s = pipeline.PairSource("s", "g", tmp_path / f"mri{suffix}", header)
    before = pipeline.make_case("x", s, "none", {})
    assert before.pair.b.data.max() == 1
    voxels.write_bytes(voxels.read_bytes()[::-1])
    assert pipeline.make_case("x", s, "none", {}).fingerprint != before.fingerprint


def test_quality_flags_and_picture(tmp_path, monkeypatch):
    good = {"numbers": {"overlap": 0.95, "information_after": 0.5, "moved_mm": 3.0}, "notes": []}
    bad = {"numbers": {"overlap": 0.2, "information_after": 0.05, "moved_mm": 80.0}, "notes": ["x"]}
    assert quality.flags(good) == []
    assert len(quality.flags(bad)) == 4
    pair = pipeline.make_case("x", source(tmp_path), "none", {}).pair
    written = []
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda _, x, y, text, **k: written.append(text))
    quality.quality_png(pair, tmp_path / "q" / "a.png", "title")
    assert written == ["L", "R"] * 4 * 2  # not in the sagittal plane
    quality.quality_png(pair, tmp_path / "q" / "r.png", "title", radiological=True)
    assert written[16:] == ["R", "L"] * 4 * 2
    usual, turned = (np.asarray(Image.open(tmp_path / "q" / f"{n}.png").convert("L")) for n in "ar")
    assert usual.shape == turned.shape and (usual[100:] != turned[100:]).any()
    assert read_image(tmp_path / "q" / "a.png").shape[1] > 300
    board = quality.checkerboard(np.zeros((16, 16)), np.ones((16, 16)))
    assert board.mean() == 0.5


def test_the_information_of_independent_images_is_not_below_zero():
    """Rounding left -1e-16 of it, which a report shows as -0.00."""
    across, along = np.zeros((2, 24, 24, 24), np.float32)
    values = []
    across[:, :1] = 1
    for j in range(23):
        along[:, :, j] = 1
        a, b = (grid.Image(x, np.diag([4.0, 4.0, 4.0, 1.0])) for x in (across, along))
        values.append(rigid.mutual_information(a, b, np.eye(4)))
    assert min(values) == 0 and max(values) < 1e-12
