"""Readers: the observer against closed forms, and what must hold of every reading on the phantom."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from fusebench.case import Case
from fusebench.plugins import create_dataset, create_method
from fusebench.store.sources import source_files

channels = import_module("fusebench.metrics.readers.channels")
findings = import_module("fusebench.metrics.readers.findings")
observer = import_module("fusebench.metrics.readers.observer")
outline = import_module("fusebench.metrics.readers.outline")
reading = import_module("fusebench.metrics.readers.reading")
uptake = import_module("fusebench.metrics.readers.uptake")

Image = NDArray[np.float32]


# -- observer ------------------------------------------------------------------------------------


def _responses(blur: float) -> Image:
    """Response of each channel at the middle to a unit of white noise at each pixel, blurred by `blur`."""
    spot = np.zeros((121, 121), np.float32)
    spot[60, 60] = 1
    return channels.channel_maps(ndimage.gaussian_filter(spot, blur) if blur else spot, (1, 1))


@pytest.mark.parametrize("blur", [0.0, 3.0])
@pytest.mark.parametrize("internal", [0.0, 0.5])
def test_the_observer_hits_the_closed_form(blur: float, internal: float) -> None:
    """In Gaussian noise the AUC of the best linear observer of the channels is Phi(d'/sqrt 2)."""
    rng = np.random.default_rng(1)
    spacing, count, depth = 48, 20, 3.0 if not blur else 1.0
    noise = rng.normal(0, 10, (spacing * count,) * 2).astype(np.float32)
    image = ndimage.gaussian_filter(noise, blur, mode="wrap") if blur else noise
    grid = np.arange(spacing // 2, image.shape[0], spacing)
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    signal = np.zeros_like(image)
    signal[tuple(places.T)] = 2 * np.pi * 4.0**2 * depth
    signal = ndimage.gaussian_filter(signal, 4.0)

    absent, change = (channels.channel_maps(x, (1, 1))[(slice(None), *places.T)].T for x in (image, signal))
    folds = observer.folds_of(places, (1, 1), image.shape)
    answers = observer.observe(absent + change, absent, absent[:0], folds, folds[:0])

    response = _responses(blur).reshape(channels.CHANNELS, -1).astype(np.float64)
    covariance = 100 * response @ response.T
    mean = change.mean(axis=0, dtype=np.float64)
    detectability = np.sqrt(mean @ np.linalg.solve(covariance, mean) / (1 + internal))
    exact = ndtr(detectability / np.sqrt(2))
    assert 0.7 < exact < 0.97  # neither blind nor perfect
    draws = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), 200).astype(float)
    error = answers.bootstrap(draws).std() if internal else 0.012
    assert answers.auc(internal) == pytest.approx(exact, abs=2.5 * max(error, 0.008))
    # The ideal observer of all pixels in white noise bounds it from above.
    if not blur:
        ideal = ndtr(np.sqrt((depth**2 * np.pi * 4.0**2) / 100 / 2))
        assert ndtr(np.sqrt(mean @ np.linalg.solve(covariance, mean)) / np.sqrt(2)) < ideal
    else:  # and in blurred noise it is better than one that does not whiten
        plain = mean @ mean / np.sqrt(mean @ covariance @ mean)
        assert plain < np.sqrt(mean @ np.linalg.solve(covariance, mean))


def test_auc_of_a_hand_made_case() -> None:
    answers = observer.Answers(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 2.5]))
    # Pairs i != j: (1: 2, 2.5), (2: 0, 2.5), (3: 0, 2) won 0 + 0, 1 + 0, 1 + 1 of 6.
    assert answers.auc(0.0) == pytest.approx(3 / 6)
    assert answers.bootstrap(np.ones((1, 3)))[0] == pytest.approx(answers.auc())


def test_nothing_to_see_is_one_half() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5))
    folds = np.arange(30) % 5
    assert observer.observe(x, x, x, folds, folds).auc() == pytest.approx(0.5, abs=1e-12)


def test_shrinkage_goes_from_identity_to_sample() -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.3]])
    true = mixing @ mixing.T
    errors = []
    for count in (4, 40, 40000):
        x = rng.normal(size=(count, 3)) @ mixing.T
        shrunk = observer.shrunk_covariance(x)
        assert np.linalg.eigvalsh(shrunk).min() > 0
        errors.append(np.linalg.norm(shrunk - true))
    assert errors[2] < 0.05 < errors[0]
    assert np.allclose(observer.shrunk_covariance(np.ones((5, 3))), 0)


# -- channels and findings -----------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "spacing"), [((40, 44), (1.2, 0.9)), ((24, 40, 40), (3.0, 1.5, 1.5))])
def test_channels_at_a_place_are_those_of_the_map(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros(shape, np.float32)
    middle = tuple(slice(n // 2 - 3, n // 2 + 3) for n in shape)
    image[middle] = rng.normal(size=image[middle].shape)
    places = np.array([[n // 2 for n in shape], [n // 2 - 2 for n in shape]])
    # Room around it, as values at places see zeros beyond the border.
    wide = np.pad(image, 40)
    maps = channels.channel_maps(wide, spacing)[(slice(None), *(places + 40).T)].T
    np.testing.assert_allclose(channels.channel_values(image, places, spacing), maps, rtol=1e-3, atol=1e-5)


def test_channels_do_not_see_a_constant() -> None:
    assert np.abs(channels.channel_maps(np.full((30, 30), 100, np.float32), (1, 1))).max() < 1e-3


def test_what_is_displayed_has_8_bits() -> None:
    levels = channels.displayed(np.array([0, 0.4999 / 255, 0.5001 / 255, 1.2, -0.1]))
    assert levels.tolist() == [0, 0, 1, 255, 0]


@pytest.fixture(scope="module")
def ball() -> tuple[Image, Image, NDArray[np.bool_]]:
    axes = np.meshgrid(*[np.arange(56) - 27.5] * 3, indexing="ij")
    mask = sum(x**2 for x in axes) < 26**2
    return np.where(mask, np.float32(0.5), 0), np.where(mask, np.float32(0.6), 0), mask


def _put(ball: Any, **options: Any) -> Any:
    return findings.put_findings(*ball, (3.0, 3.0, 3.0), options.pop("seed", 0), **options)


def test_findings_keep_their_distances(ball: Any) -> None:
    found = _put(ball)
    inside = ndimage.distance_transform_edt(np.pad(ball[2], 1), sampling=3.0)[1:-1, 1:-1, 1:-1]
    for sites, apart, border in (
        (found.a, findings.APART_A, findings.BORDER_A),
        (found.b, findings.APART_B, findings.BORDER_B),
    ):
        assert len(sites) >= 24
        assert abs(sites.signs.sum()) <= 1 and set(sites.signs) == {1, -1}
        where = sites.places * 3.0
        gaps = np.linalg.norm(where[:, None] - where[None], axis=-1) + 1e9 * np.eye(len(where))
        assert gaps.min() >= apart
        assert inside[tuple(sites.places.T)].min() > border
    between = np.linalg.norm(3.0 * (found.a.places[:, None] - found.b.places[None]), axis=-1)
    assert between.min() >= findings.APART_AB


def test_a_finding_has_its_depth_and_width(ball: Any) -> None:
    found = _put(ball, depths=(0.1, 0.25))
    for image, with_, sites in ((ball[0], found.a_with, found.a), (ball[1], found.b_with, found.b)):
        change = (with_ / np.where(image, image, 1) - 1)[tuple(sites.places.T)]
        np.testing.assert_allclose(change, sites.signs * sites.depth, atol=3e-3)
        place, sign = sites.places[0], sites.signs[0]
        beside = tuple(place + np.array([0, 0, 1]))
        wanted = sign * sites.depth * np.exp(-0.5 * (3.0 / sites.sigma) ** 2)
        assert with_[beside] / image[beside] - 1 == pytest.approx(wanted, abs=3e-3)
    # Two findings of the same seed are the same, of another one they are not.
    assert np.array_equal(_put(ball).b_with, _put(ball).b_with)
    assert not np.array_equal(_put(ball, seed=1).b.places, found.b.places)


def test_a_finding_goes_where_the_functional_image_shows_its_place(ball: Any) -> None:
    shift = np.zeros((3, *ball[0].shape), np.float32)
    shift[2] = 6.0  # b shows at x what a has 6 mm further along the last axis
    found = _put(ball, displacement=shift)
    change = found.b_with / np.where(ball[1], ball[1], 1) - 1
    shown = found.b.places - np.array([0, 0, 2])
    np.testing.assert_allclose(change[tuple(shown.T)], found.b.signs * found.b.depth, atol=3e-3)


# -- tissue and uptake ---------------------------------------------------------------------------


def test_tissue_told_by_grey_value_alone() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(1, 4, (60, 60)).astype(np.uint8)
    classes = np.kron(classes, np.ones((4, 4), np.uint8))
    mask = np.ones(classes.shape, bool)
    places, labels = outline.draw_voxels(classes, mask, 0)
    clear = classes[tuple(places.T)].astype(float)[:, None] + rng.normal(0, 0.1, (len(places), 1))
    merged = np.where(clear > 2.5, clear - 1, clear)  # the third looks like the second
    for features, low, high in ((clear, 0.99, 1.0), (merged, 0.4, 0.6)):
        pairs = outline.tell_apart(features, labels, places, (1, 1), classes.shape)
        assert len(pairs) == 3
        assert low <= min(told.accuracy for told in pairs.values()) <= high
    told = pairs["csf", "gm"]
    assert told.accuracy > 0.99
    assert told.bootstrap(np.ones((1, told.blocks.max() + 1)))[0] == pytest.approx(told.accuracy)


def test_classes_of_an_image_without_truth() -> None:
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 3, (20, 20)), np.ones((4, 4), int))
    image = np.array([0.2, 0.5, 0.8])[classes] + rng.normal(0, 0.02, classes.shape)
    labels = outline.labels_from_image(image, np.ones(image.shape, bool))
    assert (labels[labels > 0] == classes[labels > 0] + 1).all()
    assert (labels > 0).mean() > 0.95
    assert not outline.labels_from_image(np.zeros((5, 5)), np.ones((5, 5), bool)).any()


def test_uptake_is_read_back() -> None:
    rng = np.random.default_rng(0)
    true = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 4)
    true = 0.7 + 0.1 * true / true.std()
    gm = np.ones(true.shape)
    mask = np.ones(true.shape, bool)
    spacing = (3.0, 3.0, 3.0)
    assert uptake.uptake_r2(true * 200 + 10, true, gm, mask, spacing) == pytest.approx(1, abs=1e-3)
    assert uptake.uptake_r2(rng.normal(size=true.shape), true, gm, mask, spacing) < 0.1
    assert np.isnan(uptake.uptake_r2(true, true, np.zeros_like(gm), mask, spacing))


# -- what must hold ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> Case:
    return create_dataset("phantom", size=64).cases("val")[0]


@pytest.fixture(scope="module")
def game(case: Case) -> Any:
    return reading.game_of(case)


def _read(game: Any, fuse: Any) -> Any:
    return game.read(fuse(game.a, game.b), fuse(game.a_with, game.b_with)).values


def _method(name: str, **parameters: Any) -> Any:
    import torch

    method = create_method(name, **parameters)
    method.setup("cpu")
    return lambda a, b: method.fuse(*(torch.from_numpy(np.array(x, np.float32)) for x in (a, b))).numpy()


def test_each_source_reads_its_own_findings_and_not_the_others(game: Any) -> None:
    mri, pet = _read(game, lambda a, b: a), _read(game, lambda a, b: b)
    assert mri["cho_auc.a"] > 0.8 and pet["cho_auc.b"] > 0.8
    assert mri["cho_auc.b"] == pytest.approx(0.5, abs=0.03)
    assert pet["cho_auc.a"] == pytest.approx(0.5, abs=0.03)
    assert mri["outline"] > 0.95 and pet["uptake_r2"] > 0.2 > mri["uptake_r2"]
    for values in (mri, pet):
        assert values["reading"] < 0.1
        assert max(values[f"share.{k}"] for k in ("cho_auc.a", "cho_auc.b")) == pytest.approx(1)


def test_noise_lowers_every_reading(game: Any) -> None:
    average, noise = _read(game, _method("average")), _read(game, _method("noise", sigma=0.2))
    for key in ("cho_auc.a", "cho_auc.b", "outline", "uptake_r2", "reading"):
        assert noise[key] < average[key], key


def test_a_stretch_changes_nothing(game: Any) -> None:
    average, stretched = _read(game, _method("average")), _read(game, lambda a, b: 0.8 * (a + b) / 2 + 0.15)
    for key in ("cho_auc.a", "cho_auc.b", "outline"):
        assert stretched[key] == pytest.approx(average[key], abs=0.02), key


def test_a_permuted_image_is_chance(game: Any) -> None:
    order = np.random.default_rng(0).permutation(game.a.size)

    def mixed(a: Image, b: Image) -> Image:
        return ((a + b) / 2).ravel()[order].reshape(a.shape)

    values = _read(game, mixed)
    for key in ("cho_auc.a", "cho_auc.b", "outline"):
        assert values[key] == pytest.approx(0.5, abs=0.05), key


def test_twice_the_depth_reads_higher(case: Case, game: Any) -> None:
    depths = game.findings.a.depth, game.findings.b.depth
    images = case.a.data, case.b.data, case.mask, case.a.spacing
    seed = findings.seed_of(case.fingerprint)
    deeper = reading.Game(*images, seed, truth=case.truth, depths=(2 * depths[0], 2 * depths[1]))
    assert np.array_equal(deeper.findings.b.places, game.findings.b.places)
    once, twice = _read(game, _method("average")), _read(deeper, _method("average"))
    assert twice["cho_auc.a"] > once["cho_auc.a"] + 0.03
    assert twice["cho_auc.b"] > once["cho_auc.b"] + 0.03


def test_places_come_from_the_origin_of_a_case(case: Case, game: Any) -> None:
    other = replace(case, fingerprint="read by newer code", origin=case.fingerprint)
    assert np.array_equal(reading.game_of(other).findings.b.places, game.findings.b.places)


def test_the_same_number_twice(case: Case, game: Any) -> None:
    average = _method("average")
    again = reading.game_of(case)
    assert _read(again, average) == _read(game, average) == _read(game, average)


def test_a_finding_left_elsewhere_is_lost() -> None:
    """Misaligned: read at the anatomical place, against the functional image where it belongs."""
    [moved] = create_dataset("phantom", size=64, misalign=8.0, subjects=1).cases("val")
    assert moved.truth is not None
    game = reading.game_of(moved)
    left = _read(game, lambda a, b: b)
    assert game.best["cho_auc.b"] > 0.85
    assert left["cho_auc.b"] < game.best["cho_auc.b"] - 0.1 and left["share.cho_auc.b"] < 0.75
    # A method that brings it home reads all of it.
    where = np.indices(game.b.shape) - moved.truth["misalignment"] / 3.5
    home = _read(game, lambda a, b: ndimage.map_coordinates(b, where, order=1).astype(np.float32))
    assert home["share.cho_auc.b"] > left["share.cho_auc.b"] + 0.15


def test_a_picture_is_read(case: Case) -> None:
    """2D: a slice of a finer phantom, without its truth: classes by grey value, depths of pictures."""
    rng = np.random.default_rng(0)
    fine = [ndimage.zoom(v.data[34], 4, order=1).clip(0, 1) for v in (case.a, case.b)]
    mask = ndimage.zoom(case.mask[34], 4, order=0)
    a, b = (np.clip(x + rng.normal(0, 0.01, x.shape), 0, 1).astype(np.float32)[None] for x in fine)
    game = reading.Game(a, b, mask[None], (1.0, 0.875, 0.875), 3, depths=findings.depths_of(2))
    assert game.a_with.shape == a.shape
    average = game.read((a + b) / 2, (game.a_with + game.b_with) / 2)
    assert {"cho_auc.a", "cho_auc.b", "outline", "reading"} <= average.values.keys()
    assert "ground truth" in average.reasons["uptake_r2"]
    errors = game.standard_errors(average)
    assert 0 < errors["cho_auc.b"] < 0.1 and 0 < errors["reading"] < 0.4


def test_too_small_says_so() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 30)).astype(np.float32)
    game = reading.Game(a, b, np.ones((30, 30), bool), (1.0, 1.0), 0)
    seen = game.read(a, game.a_with)
    assert "cho_auc.b" not in seen.values and "reading" not in seen.values
    assert "fewest" in seen.reasons["cho_auc.b"] and "cho_auc" in seen.reasons["reading"]
    alone = game.read(a, None)
    assert "with findings" in alone.reasons["reading"]


def test_the_key_of_a_reader_covers_findings_and_observer() -> None:
    folder = Path(reading.__file__).parent
    files = {p.name for p in source_files(folder / "readers.py")}
    wanted = {p.name for p in folder.glob("*.py")}
    assert files >= wanted


@pytest.mark.slow
def test_order_on_the_phantom() -> None:
    """Full size: copies, blends and controls stay below an honest method; copies read .2 at most."""
    [case] = create_dataset("phantom", subjects=1).cases("val")
    game = reading.game_of(case)
    controls = ("source-mri", "source-pet", "average", "noise", "interleave", "stretch")
    shares = {name: _read(game, _method(name))["reading"] for name in controls}
    for t in (0.2, 0.35, 0.65, 0.75, 0.8):
        shares[f"blend {t}"] = _read(game, lambda a, b, t=t: (1 - t) * a + t * b)["reading"]
    average, stretch = (_read(game, _method(name)) for name in ("average", "stretch"))
    for key in ("cho_auc.a", "cho_auc.b", "outline"):
        assert stretch[key] == pytest.approx(average[key], abs=0.02), key
    best = _read(game, _method("dcfb"))["reading"]
    assert max(shares["source-mri"], shares["source-pet"]) <= 0.2
    assert max(shares.values()) < best


@pytest.mark.slow
def test_voxel_size_does_not_matter() -> None:
    """1.75 and 1.0 mm of one head, same places: within .03."""
    [case] = create_dataset("phantom", subjects=1).cases("val")
    assert case.truth is not None
    fine: dict[str, Any] = {}
    tissues = {n: case.truth[n] for n in ("gm", "wm", "csf")}
    for name, image in {"a": case.a.data, "b": case.b.data, **tissues}.items():
        order = 0 if name in tissues else 3  # a straight line between voxels would smooth their noise
        fine[name] = ndimage.zoom(image, 1.75, order=order, grid_mode=True, mode="nearest").clip(0, 1)
    mask = ndimage.zoom(case.mask, 1.75, order=0, grid_mode=True, mode="nearest")
    coarse = reading.Game(case.a.data, case.b.data, case.mask, case.a.spacing, 1, truth=tissues)
    small = reading.Game(fine["a"], fine["b"], mask, (1.0,) * 3, 1, truth=fine)
    for fuse in (lambda a, b: a, lambda a, b: b, lambda a, b: (a + b) / 2):
        one, two = _read(coarse, fuse), _read(small, fuse)
        for key in ("cho_auc.a", "cho_auc.b", "outline"):
            assert two[key] == pytest.approx(one[key], abs=0.03), key


@pytest.mark.slow
def test_where_the_prototype_read_the_same_comes_out() -> None:
    """Its values for tissue in the PET (.94) and findings in max (.87), on what it read them from."""
    [case] = create_dataset("phantom", subjects=1).cases("val")
    assert case.truth is not None
    game = reading.game_of(case)
    assert game.sources["b"].pairs["gm", "wm"].accuracy == pytest.approx(0.94, abs=0.05)
    # An image in which structural findings change nothing says nothing about them, whatever the places.
    assert game.sources["b"].values["cho_auc.a"] == pytest.approx(0.5, abs=0.02)
    seen = game.look(np.maximum(game.a, game.b), np.maximum(game.a_with, game.b_with))
    found, told = game.findings.a, []
    for sign, answers in zip(reading.SIGNS, seen.answers["cho_auc.a"], strict=True):
        places = found.places[found.signs == sign]
        white = case.truth["wm"][tuple(places.T)] > 0.5
        told.append(answers.wins()[white].sum(axis=1).mean() / (len(places) - 1))
    assert np.mean(told) == pytest.approx(0.87, abs=0.05)
