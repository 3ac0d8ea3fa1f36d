"""The images and masks that each protocol hands to the metrics."""

from __future__ import annotations

import numpy as np
import pytest

from fusebench.case import Case, Pair, Volume
from fusebench.errors import InputError
from fusebench.metrics import evaluate
from fusebench.plugins import find_plugins
from fusebench.scoring.protocol import PROTOCOLS, ScoredImages, require_scored

RNG = np.random.default_rng(1)
A, B, F = RNG.random((3, 6, 24, 28), dtype=np.float32)
MASK = np.zeros(A.shape, bool)
MASK[1:5, 4:20, 4:20] = True
CASE = Case("c", "d", "g", "k", loader=lambda: Pair(Volume(A), Volume(B), MASK))


def scored(protocol: str, *metrics: str) -> dict[str, float]:
    return PROTOCOLS[protocol].score(ScoredImages.of(CASE, F), metrics, None, find_plugins())


def test_volume_is_native_3d_inside_the_mask() -> None:
    direct = evaluate(A, B, F, ["psnr", "ssim"], mask=MASK, spacing=(1, 1, 1))
    assert scored("volume", "psnr", "ssim") == direct
    a, b, f = (x[MASK] * 255.0 for x in (A.astype(float), B.astype(float), F.astype(float)))
    pooled = (np.mean((a - f) ** 2) + np.mean((b - f) ** 2)) / 2
    assert direct["psnr"] == pytest.approx(10 * np.log10(255**2 / pooled), abs=1e-6)


def test_slices_is_the_mean_of_2d_over_slices_with_foreground() -> None:
    each = [evaluate(A[d], B[d], F[d], ["ssim"])["ssim"] for d in range(1, 5)]
    assert scored("slices", "ssim")["ssim"] == pytest.approx(np.mean(each), abs=1e-9)


def test_paper_is_the_central_slice() -> None:
    ids = PROTOCOLS["paper"].fixed
    assert scored("paper", *ids) == evaluate(A[3], B[3], F[3], ids)


def test_a_failing_metric_costs_only_itself() -> None:
    values = scored("volume", "psnr", "no_such_metric")
    assert isinstance(values["psnr"], float)
    assert "no_such_metric" in str(values["no_such_metric"])


@pytest.mark.parametrize(
    ("protocols", "metrics", "add"),
    [
        (["volume", "slices"], ["psnr", "uptake_r2"], "add protocol readers"),
        (["readers"], ["psnr"], "add protocol volume"),
        (["paper"], ["psnr"], "add protocol volume"),
    ],
)
def test_a_named_metric_that_no_protocol_scores_is_refused(protocols, metrics, add) -> None:
    with pytest.raises(InputError, match=f"metric {metrics[-1]} is not scored in protocol .*{add}"):
        require_scored(protocols, metrics)


def test_metrics_that_some_protocol_scores_and_wildcards_pass() -> None:
    require_scored(["volume", "readers"], ["psnr", "cho_auc", "all"])
    require_scored(["paper"], ["psnr@paper", "ssim*"])


def test_metrics_may_be_one_string() -> None:
    a, b = np.zeros((16, 16)), np.ones((16, 16))
    assert list(evaluate(a, b, (a + b) / 2, "psnr, rmse")) == ["psnr", "rmse"]
