"""Task metrics on a small head whose truth is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fusebench.errors import InputError, Undefined
from fusebench.metrics import evaluate, metric_registry

IDS = ["lesion_contrast", "lesion_auc", "gm_wm_auc", "wm_edge", "psnr_clean", "psnr_clean.b"]
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def head() -> tuple[dict[str, Array], NDArray[np.bool_]]:
    """White matter in a shell of grey matter; the lesion is a bite out of the shell's uptake."""
    z, y, x = np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij")
    r = np.sqrt(z**2 + y**2 + x**2)
    wm, gm = (r < 8).astype(np.float32), ((r >= 8) & (r < 14)).astype(np.float32)
    lesion = (gm > 0) & (x > 8)
    depth = np.where(lesion, np.float32(0.4), np.float32(0))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, r.shape).astype(np.float32) * (r < 14)
    healthy = 0.9 * gm + 0.3 * wm
    uptake = healthy * (1 - depth)
    mri = np.clip(0.5 * gm + 0.9 * wm + noise[::-1], 0, 1)
    truth = {
        **{
            "gm": gm,
            "wm": wm,
            "csf": (r >= 14).astype(np.float32),
            "uptake": uptake,
            "lesion": lesion,
            "lesion_depth": depth,
            "pet_clean": uptake,
        },
        **{"mri": mri, "pet": np.clip(uptake + noise, 0, 1)},
        **{"mri_twin": mri, "pet_twin": np.clip(healthy + noise, 0, 1)},
    }
    return truth, r < 14


def _score(head: tuple[dict[str, Array], NDArray[np.bool_]], fuse: object) -> dict[str, float]:
    truth, mask = head
    fused = fuse(truth["mri"], truth["pet"])  # type: ignore[operator]
    twin = fuse(truth["mri_twin"], truth["pet_twin"])  # type: ignore[operator]
    return evaluate(truth["mri"], truth["pet"], fused, IDS, mask=mask, truth={**truth, "fused_twin": twin})


def test_the_functional_image_shows_the_lesion(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    values = _score(head, lambda mri, pet: pet)
    assert values["lesion_contrast"] == pytest.approx(1, abs=0.01)
    assert values["lesion_auc"] == pytest.approx(1, abs=1e-6)
    assert values["gm_wm_auc"] == pytest.approx(1, abs=1e-2)
    assert values["psnr_clean.b"] == pytest.approx(-20 * math.log10(0.02), abs=0.3)


def test_the_structural_image_does_not(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    values = _score(head, lambda mri, pet: mri)
    assert values["lesion_contrast"] == pytest.approx(0, abs=1e-6)
    assert values["lesion_auc"] == pytest.approx(0.5, abs=0.05)
    assert values["gm_wm_auc"] == 1
    assert values["wm_edge"] > 0.8


def test_the_rim_of_the_brain_is_no_border_of_white_matter(
    head: tuple[dict[str, Array], NDArray[np.bool_]],
) -> None:
    truth, mask = head
    edges = [
        evaluate(truth["mri"], truth["pet"], image, ["wm_edge"], mask=mask, truth=truth)["wm_edge"]
        for image in (
            truth["mri"],
            truth["mri"] * np.where(truth["csf"] > 0, 0, 0.3).astype(np.float32) + 0.6,
        )
    ]
    assert edges[1] == pytest.approx(edges[0], abs=0.02)
    flat = np.where(mask, np.float32(0.9), np.float32(0))  # nothing but a rim
    assert evaluate(truth["mri"], truth["pet"], flat, ["wm_edge"], mask=mask, truth=truth)["wm_edge"] == 0


def test_the_average_cancels_tissue_contrast(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    # Grey matter 0.5 + 0.9, white matter 0.9 + 0.3: closer together than in either source.
    average = _score(head, lambda mri, pet: (mri + pet) / 2)
    assert 0.3 < average["lesion_contrast"] < 0.8
    inverse = _score(head, lambda mri, pet: 1 - mri)
    assert inverse["gm_wm_auc"] == pytest.approx(_score(head, lambda mri, pet: mri)["gm_wm_auc"])


def test_twice_the_loss_is_twice_the_contrast(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    truth, mask = head
    twin = truth["pet_twin"]
    fused = np.where(truth["lesion"], twin * 0.2, twin).astype(np.float32)
    values = evaluate(
        truth["mri"], truth["pet"], fused, ["lesion_contrast"], mask=mask, truth={**truth, "fused_twin": twin}
    )
    assert values["lesion_contrast"] == pytest.approx(2, abs=1e-3)


def test_no_image_leaves_the_declared_range(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    rng = np.random.default_rng(1)
    fuse = {
        "inverted": lambda mri, pet: 1 - pet,
        "stretched": lambda mri, pet: np.clip(4 * pet - 1, 0, 1),
        "noise": lambda mri, pet: rng.random(pet.shape, np.float32),
        "black": lambda mri, pet: np.zeros_like(pet),
        "difference": lambda mri, pet: np.abs(mri - pet),
    }
    scores = {kind: _score(head, make) for kind, make in fuse.items()}
    for kind, values in scores.items():
        for key, value in values.items():
            info = metric_registry().load(key.split(".")[0]).info
            assert info.low - 1e-9 <= value <= info.high + 1e-9, (kind, key, value)
    # Brighter than healthy tissue: the wrong way round.
    assert scores["inverted"]["lesion_contrast"] < 0


def test_a_case_without_lesion_is_not_defined(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    truth, mask = head
    healthy = {**truth, "lesion": np.zeros_like(mask), "lesion_depth": np.zeros_like(truth["gm"])}
    values = evaluate(truth["mri"], truth["pet"], truth["pet"], IDS, mask=mask, truth=healthy)
    assert math.isnan(values["lesion_contrast"]) and math.isnan(values["lesion_auc"])
    assert math.isfinite(values["gm_wm_auc"]) and math.isfinite(values["wm_edge"])


def test_what_is_missing_is_named(head: tuple[dict[str, Array], NDArray[np.bool_]]) -> None:
    truth, mask = head
    images = (truth["mri"], truth["pet"], truth["pet"])
    with pytest.raises(InputError, match="needs the ground truth"):
        evaluate(*images, ["gm_wm_auc"], mask=mask)
    with pytest.raises(Undefined, match="no 'fused_twin'"):
        evaluate(*images, ["lesion_contrast"], mask=mask, truth=truth)
    with pytest.raises(InputError, match="truth 'gm' has shape"):
        evaluate(*images, ["gm_wm_auc"], mask=mask, truth={**truth, "gm": truth["gm"][:5]})


def test_auc_counts_ties_half() -> None:
    from importlib import import_module

    auc = import_module("fusebench.metrics.task").auc
    low, high = np.array([1, 2, 2, 3.0]), np.array([2, 3.0])
    pairs = [(float(h > v) + 0.5 * float(h == v)) for h in high for v in low]
    assert auc(low, high) == np.mean(pairs)
    assert math.isnan(auc(low, high[:0]))
