"""Against independent libraries on synthetic triples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusebench.metrics import evaluate

from .triples import Image, peer, triple


@pytest.fixture(params=[(64, 64, 0), (97, 80, 1), (192, 180, 2)], ids=lambda p: f"{p[0]}x{p[1]}")
def images(request: pytest.FixtureRequest) -> tuple[Image, Image, Image]:
    h, w, seed = request.param
    return triple((h, w), seed, background=seed != 1)


def _unit(x: Image) -> torch.Tensor:
    return torch.from_numpy(x).float()[None, None] / 255


def test_psnr(images: tuple[Image, Image, Image]) -> None:
    metrics = peer("skimage.metrics")
    a, b, f = images
    values = evaluate(a, b, f, ["psnr.a", "psnr.b", "psnr@paper", "rmse.a"])
    each = [metrics.peak_signal_noise_ratio(x, f, data_range=255) for x in (a, b)]
    assert [values["psnr.a"], values["psnr.b"]] == pytest.approx(each, abs=1e-9)
    assert values["psnr@paper"] == pytest.approx(np.mean(each), abs=1e-9)
    assert values["rmse.a"] ** 2 == pytest.approx(metrics.mean_squared_error(a, f), rel=1e-12)


def test_ssim(images: tuple[Image, Image, Image]) -> None:
    metrics = peer("skimage.metrics")
    a, b, f = images
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    each = []
    for x in (a, b):
        _, full = metrics.structural_similarity(x, f, full=True, **how)
        each.append(full[5:-5, 5:-5].mean())
    values = evaluate(a, b, f, ["ssim.a", "ssim.b", "ssim", "ssim.worst", "ssim@cddfuse-255"])
    assert [values["ssim.a"], values["ssim.b"]] == pytest.approx(each, abs=1e-10)
    assert values["ssim"] == pytest.approx(np.mean(each), abs=1e-10)
    assert values["ssim.worst"] == min(values["ssim.a"], values["ssim.b"])
    uniform = sum(
        metrics.structural_similarity(x.astype(float), f.astype(float), data_range=255) for x in (a, b)
    )
    assert values["ssim@cddfuse-255"] == pytest.approx(uniform, abs=1e-9)


def test_ssim_of_a_volume() -> None:
    metrics = peer("skimage.metrics")
    a, b, f = triple((20, 24, 28), 3)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    _, full = metrics.structural_similarity(a, f, full=True, **how)
    mask = f > 0
    inside = mask[5:-5, 5:-5, 5:-5]
    values = evaluate(a, b, f, ["ssim.a"], mask=mask)
    assert values["ssim.a"] == pytest.approx(full[5:-5, 5:-5, 5:-5][inside].mean(), abs=2e-6)


def test_ssim_torchmetrics(images: tuple[Image, Image, Image]) -> None:
    functional = peer("torchmetrics").functional.image
    a, b, f = images

    def theirs(dtype: torch.dtype) -> float:
        f_, *sources = (torch.from_numpy(x).to(dtype)[None, None] / 255 for x in (f, a, b))
        each = [functional.structural_similarity_index_measure(f_, x, data_range=1.0) for x in sources]
        return float(np.mean([float(x) for x in each]))

    ours = evaluate(a, b, f, ["ssim@torchmetrics"])["ssim@torchmetrics"]
    assert ours == pytest.approx(theirs(torch.float64), abs=1e-12)
    # As people call it, in single precision, which is all that differs.
    assert ours == pytest.approx(theirs(torch.float32), abs=2e-5)


def test_ms_ssim() -> None:
    msssim = peer("pytorch_msssim")
    a, b, f = triple((192, 208), 4)
    each = [
        float(
            msssim.ms_ssim(torch.from_numpy(f).double()[None, None], torch.from_numpy(x).double()[None, None])
        )
        for x in (a, b)
    ]
    # Its kernel is single precision.
    assert evaluate(a, b, f, ["ms_ssim"])["ms_ssim"] == pytest.approx(np.mean(each), abs=2e-5)


def test_information(images: tuple[Image, Image, Image]) -> None:
    clusters, metrics = peer("sklearn.metrics"), peer("skimage.metrics")
    a, b, f = images
    values = evaluate(a, b, f, ["mi@cddfuse", "mi", "nmi", "nmi@dc2fusion", "q_mi", "en"])
    nats = sum(clusters.mutual_info_score(x.ravel(), f.ravel()) for x in (a, b))
    assert values["mi@cddfuse"] == pytest.approx(nats, abs=1e-9)
    assert values["mi"] == pytest.approx(nats / np.log(2), abs=1e-9)
    for key, bins in (("nmi", 256), ("nmi@dc2fusion", 100)):
        pair = [metrics.normalized_mutual_information(x, f, bins=bins) for x in (a, b)]
        assert values[key] == pytest.approx(np.mean(pair), abs=1e-9)
    arithmetic = [clusters.normalized_mutual_info_score(x.ravel(), f.ravel()) for x in (a, b)]
    # Stretching to 0..255 renames grey levels, or merges a few.
    assert values["q_mi"] == pytest.approx(2 * np.mean(arithmetic), abs=1e-3)
    assert values["en"] == pytest.approx(peer("skimage.measure").shannon_entropy(f), abs=1e-9)


def test_vifp(images: tuple[Image, Image, Image]) -> None:
    sewar = peer("sewar")
    a, b, f = images
    if min(a.shape) < 90:
        pytest.skip("sewar's coarsest window does not fit")
    values = evaluate(a, b, f, ["vifp.a", "vifp.b", "vifp"])
    each = [sewar.vifp(x, f) for x in (a, b)]
    assert [values["vifp.a"], values["vifp.b"]] == pytest.approx(each, abs=1e-8)
    assert values["vifp"] == pytest.approx(sum(each), abs=1e-8)


def test_fsim(images: tuple[Image, Image, Image]) -> None:
    piq = peer("piq")
    a, b, f = images
    each = [float(piq.fsim(_unit(f), _unit(x), data_range=1.0, chromatic=False)) for x in (a, b)]
    assert evaluate(a, b, f, ["fsim"])["fsim"] == pytest.approx(np.mean(each), abs=2e-5)


def test_correlation(images: tuple[Image, Image, Image]) -> None:
    stats = peer("scipy.stats")
    a, b, f = (x.astype(float) for x in images)
    values = evaluate(*images, ["cc", "scd"])
    r = [stats.pearsonr(x.ravel(), f.ravel()).statistic for x in (a, b)]
    assert values["cc"] == pytest.approx(np.mean(r), abs=1e-12)
    d = [stats.pearsonr((f - y).ravel(), x.ravel()).statistic for x, y in ((a, b), (b, a))]
    assert values["scd"] == pytest.approx(sum(d), abs=1e-12)
