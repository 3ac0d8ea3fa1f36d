"""The phantom: same bits everywhere, independent streams, consistent truth, plausible numbers."""

import hashlib
import importlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

import fusebench
from fusebench.errors import InputError

subject = importlib.import_module("fusebench.datasets.phantom.subject")
phantom = importlib.import_module("fusebench.datasets.phantom.phantom")
anatomy = importlib.import_module("fusebench.datasets.phantom.anatomy")
fields = importlib.import_module("fusebench.datasets.phantom.fields")

SMALL = 40


@pytest.fixture(scope="module")
def lesioned():
    return subject.make_subject(7, size=SMALL, lesion=True)


def digest(s):
    out = hashlib.sha256()
    for x in (s.a, s.b, s.mask, *(s.truth[k] for k in sorted(s.truth))):
        out.update(np.ascontiguousarray(x).tobytes())
    return out.hexdigest()


def test_same_bits_in_every_process_and_thread_count(lesioned):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import test_phantom as t\n"
        "print(t.digest(t.subject.make_subject(7, size=t.SMALL, lesion=True)))"
    )
    root = os.path.dirname(os.path.dirname(fusebench.__file__))
    command = [sys.executable, "-c", code, root, os.path.dirname(__file__)]
    found = {
        subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for threads in ("1", "2")
    }
    assert found == {digest(lesioned)}


def test_contract(lesioned):
    for x in (lesioned.a, lesioned.b):
        assert x.shape == (SMALL,) * 3
        assert x.dtype == np.float32
        assert x.min() == 0
        assert x.max() == 1
    assert (lesioned.a[~lesioned.mask] == 0).all()
    assert lesioned.mask.dtype == bool


def test_streams_are_independent(lesioned):
    """Nothing of the PET moves the MRI; nothing of the lesion moves the PET elsewhere."""
    twin = subject.make_subject(7, size=SMALL, lesion=False)
    noisy = subject.make_subject(7, size=SMALL, lesion=True, counts=60)
    moved = subject.make_subject(7, size=SMALL, lesion=True, misalign=5)
    for other in (twin, noisy, moved):
        np.testing.assert_array_equal(other.a, lesioned.a)
        np.testing.assert_array_equal(other.mask, lesioned.mask)
        np.testing.assert_array_equal(other.truth["gm"], lesioned.truth["gm"])
    np.testing.assert_array_equal(noisy.truth["lesion"], lesioned.truth["lesion"])
    assert not np.array_equal(noisy.b, lesioned.b)
    # The counterfactual is the subject without lesion, up to the one number that scales the PET.
    at = lesioned.mask & (lesioned.truth["pet_twin"] < 0.9) & (twin.b < 0.9)
    ratio = twin.b[at] / lesioned.truth["pet_twin"][at]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=3e-3)


def test_seeds_differ(lesioned):
    other = subject.make_subject(8, size=SMALL, lesion=True)
    assert np.corrcoef(other.a.ravel(), lesioned.a.ravel())[0, 1] < 0.95
    assert not np.array_equal(other.truth["lesion"], lesioned.truth["lesion"])


def test_truth_is_consistent(lesioned):
    t = lesioned.truth
    total = t["gm"] + t["wm"] + t["csf"]
    assert total.max() <= 1 + 1e-4
    np.testing.assert_allclose(total[ndimage.binary_erosion(lesioned.mask, iterations=3)], 1, atol=1e-3)
    where = t["lesion"]
    assert where.sum() > 100
    assert (t["gm"][where] > 0.5).all()
    assert (t["lesion_depth"][where] > 0.05).all()
    np.testing.assert_array_equal(t["mri_twin"], lesioned.a)
    np.testing.assert_array_equal(t["pet_aligned"], lesioned.b)
    # White matter takes up a third of what grey matter does.
    pure = {k: np.median(t["uptake"][t[k] > 0.97]) for k in ("gm", "wm")}
    assert 2.2 < pure["gm"] / pure["wm"] < 4.2
    # The PET loses uptake where the truth says so, less what the point spread brings back, and nowhere else.
    loss = 1 - lesioned.b[where].mean() / t["pet_twin"][where].mean()
    true = (t["uptake"] * t["lesion_depth"] / (1 - t["lesion_depth"]))[where].sum()
    true /= (t["uptake"] / (1 - t["lesion_depth"]))[where].sum()
    assert 0.6 * true < loss < 1.05 * true
    far = ndimage.distance_transform_edt(t["lesion_depth"] == 0) > 7
    np.testing.assert_array_equal(lesioned.b[far], t["pet_twin"][far])


def test_clean_pet_is_the_expectation_of_the_noisy_one():
    clean = subject.make_subject(3, size=SMALL, lesion=False)
    m = clean.mask & (clean.b < 0.95)
    error = clean.b[m] - clean.truth["pet_clean"][m]
    assert abs(error.mean()) < 0.002
    many = subject.make_subject(3, size=SMALL, lesion=False, counts=240 * 64)
    less = (many.b - many.truth["pet_clean"])[m].std()
    # Poisson noise falls with the square root of the counts.
    assert error.std() / less == pytest.approx(8, rel=0.15)


def test_resolution_is_the_one_asked_for():
    """A point through scanner, post-filter and both interpolations."""
    pet = importlib.import_module("fusebench.datasets.phantom.pet")
    for fwhm in (6.0, 8.0):
        scanner = pet.Scanner(5, 128, fwhm, 240.0)
        point = np.zeros((128,) * 3, np.float32)
        point[60, 64, 67] = 1
        image = scanner.reconstruct(scanner.expect(point)).astype(float)
        assert image.sum() == pytest.approx(1, rel=0.02)
        for axis in range(3):
            line = image.sum(tuple(a for a in range(3) if a != axis))
            x = np.arange(128) * 1.75
            variance = (line * x**2).sum() / line.sum() - ((line * x).sum() / line.sum()) ** 2
            assert np.sqrt(8 * np.log(2) * variance) == pytest.approx(fwhm, rel=0.08)


@pytest.mark.parametrize("misalign", [2.0, 8.0])
def test_misalignment_is_known(misalign):
    aligned = subject.make_subject(11, size=64, lesion=False, counts=1e5)
    moved = subject.make_subject(11, size=64, lesion=False, counts=1e5, misalign=misalign)
    np.testing.assert_array_equal(moved.truth["pet_aligned"], aligned.b)
    np.testing.assert_array_equal(moved.truth["pet_clean"], aligned.truth["pet_clean"])
    field = subject.subject_misalignment(11, 64, misalign)
    length = np.sqrt((field**2).sum(0))[aligned.mask].mean()
    assert length == pytest.approx(misalign, rel=0.15)
    # b(x) = aligned(x + field(x)).
    at = np.indices(aligned.b.shape) + field / (anatomy.FOV / 64)
    want = ndimage.map_coordinates(aligned.b, at, order=3)
    m = aligned.mask
    before = np.abs(moved.b - aligned.b)[m].mean()
    after = np.abs(moved.b - want)[m].mean()
    assert after < 0.25 * before
    assert subject.subject_misalignment(11, 16, 0).shape == (3, 16, 16, 16)


def test_displacement_points_to_the_template():
    """Undoing the displacement gives every subject's tissue the same place."""
    found = []
    for seed in (21, 22):
        tissue = anatomy.make_anatomy(seed, SMALL)
        grid = fields.grid_positions(SMALL, anatomy.FOV, anatomy.CENTRE)
        position = np.stack(np.meshgrid(*grid, indexing="ij"))
        np.testing.assert_allclose(
            (position + tissue.displacement)[:, tissue.inside], tissue.points, atol=1e-4
        )
        deep = tissue.wm[tissue.inside] > 0.95
        found.append(tissue.points[:, deep].mean(1))
    np.testing.assert_allclose(found[0], found[1], atol=4)


def test_anatomy_never_folds():
    for seed in range(3_000_001, 3_000_005):
        field = anatomy.make_displacement(seed, 96)
        assert fields.jacobian(field, anatomy.FOV / 96).min() > 0.05


def test_numbers_are_those_of_a_brain():
    """Ranges from real FDG-PET and from the method's own aims, at the default size."""
    s = subject.make_subject(3_000_002, lesion=True)
    low, high = np.percentile(s.b[s.mask], [5, 95])
    assert 1.8 < high / low < 3.0
    white = ndimage.binary_erosion((s.truth["wm"] > 0.9) & s.mask)
    assert 0.06 < s.b[white].std() / s.b[white].mean() < 0.18
    grey, fluid = s.truth["gm"] > 0.9, s.truth["csf"] > 0.9
    # T1: fluid < grey < white; FDG: fluid < white < grey.
    assert s.a[fluid].mean() < 0.6 * s.a[grey].mean() < 0.6 * s.a[white].mean()
    assert s.b[white].mean() < 0.75 * s.b[grey].mean()
    assert 0.12 < s.truth["lesion_depth"][s.truth["lesion"]].mean() < 0.3
    assert 0.12 < s.mask.mean() < 0.22
    assert ndimage.label(s.mask)[1] == 1
    volume = s.mask.sum() * 1.75**3 / 1e6
    assert 1.3 < volume < 2.4


def test_sizes_show_the_same_head():
    fine, coarse = (subject.make_subject(5, size=n, lesion=False) for n in (96, 48))
    pooled = fine.b.reshape(48, 2, 48, 2, 48, 2).mean((1, 3, 5))
    assert np.corrcoef(pooled[coarse.mask], coarse.b[coarse.mask])[0, 1] > 0.95
    assert fine.mask.mean() == pytest.approx(coarse.mask.mean(), rel=0.03)
    middle = [subject.affine(n) @ [(n - 1) / 2, (n - 1) / 2, (n - 1) / 2, 1] for n in (48, 96)]
    np.testing.assert_allclose(*middle)


def test_splits_are_disjoint_and_balanced():
    rows = {s: phantom.read_split(s) for s in ("train", "val", "test")}
    everyone = [r for split in rows.values() for r in split]
    assert len({r[0] for r in everyone}) == len({r[1] for r in everyone}) == len(everyone)
    assert all(seed < 10_000_000 for _, seed, _ in everyone)
    data = fusebench.create_dataset("phantom")
    for split, count in (("train", 64), ("val", 8), ("test", 8)):
        cases = data.cases(split)
        assert len(cases) == count
        assert sum(c.meta["lesion"] for c in cases) == count // 2
    assert data.count_cases()["cases"] == {"train": 64, "val": 8, "test": 8}


def test_case_is_lazy_picklable_and_cached():
    data = fusebench.create_dataset("phantom", size=32, subjects=2, misalign=3.0)
    healthy, diseased = pickle.loads(pickle.dumps(list(data.cases())))
    store = phantom.cache_dir("phantom")
    assert not (store / f"{healthy.fingerprint}.npz").exists()
    assert healthy.a.shape == (32, 32, 32)
    assert healthy.a.spacing == (7.0, 7.0, 7.0)
    assert (store / f"{healthy.fingerprint}.npz").exists()
    for case, lesion in ((healthy, False), (diseased, True)):
        want = subject.make_subject(case.meta["seed"], size=32, lesion=lesion, misalign=3.0)
        np.testing.assert_array_equal(case.a.data, want.a)
        np.testing.assert_array_equal(case.b.data, want.b)
        for name, array in want.truth.items():
            np.testing.assert_array_equal(case.truth[name], array, err_msg=name)
            assert case.truth[name].dtype == array.dtype
        assert case.truth["displacement"].shape == case.truth["misalignment"].shape == (3, 32, 32, 32)
        assert set(case.truth) >= {*want.truth, "displacement"}
        with pytest.raises(KeyError):
            case.truth["nothing"]
    assert not healthy.truth["lesion"].any()
    np.testing.assert_array_equal(healthy.truth["pet_twin"], healthy.b.data)


def test_fingerprint_sees_every_parameter():
    keys = [
        fusebench.create_dataset("phantom", **kw).fingerprint()
        for kw in ({}, {"size": 64}, {"fwhm": 6.0}, {"counts": 60.0}, {"misalign": 1.0}, {"subjects": 3})
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == fusebench.create_dataset("phantom").fingerprint()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"size": 4}, "size"),
        ({"size": 48.5}, "size=48.5 is not a whole number"),
        ({"fwhm": "wide"}, "fwhm='wide' is not a number"),
        ({"fwhm": 0}, "fwhm"),
        ({"counts": float("nan")}, "counts"),
        ({"misalign": -1}, "misalign"),
        ({"subjects": 0}, "subjects"),
    ],
)
def test_bad_parameters_are_named(arguments, names):
    with pytest.raises(InputError, match=names):
        fusebench.create_dataset("phantom", **arguments)


def test_bad_splits_are_named():
    with pytest.raises(InputError, match="no split 'dev'"):
        fusebench.create_dataset("phantom").cases("dev")
    with pytest.raises(InputError, match="lists 100"):
        fusebench.create_dataset("phantom", subjects=101).cases()


def test_check_measures_the_lesion(tmp_path, lesioned):
    check = importlib.import_module("fusebench.datasets.phantom.check")
    row = check.measure(lesioned, 7)
    assert 0.5 * row["lesion_true"] < row["lesion_pet"] < row["lesion_true"] < 0.4
    assert row["min_jacobian"] > 0
    assert np.isfinite(list(row.values())).all()
    check.draw(lesioned, tmp_path / "phantom.png")
    assert (tmp_path / "phantom.png").stat().st_size > 10_000
