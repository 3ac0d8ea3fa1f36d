"""Values of the peers on stored triples: makes tests/metrics/peer_triples.npz and peer_values.csv.

    PYTHONPATH=. python benchmarks/peer_values.py

The triples are two phantom slices, two made-up images and a small volume.  The table holds what other
libraries return on them, so that the metrics are checked in a plain clone, without those libraries.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import _library as library
from benchmarks.peers import make_triple

Image = NDArray[np.uint8]
FOLDER = Path(__file__).resolve().parents[1] / "tests" / "metrics"
TRIPLES, VALUES = FOLDER / "peer_triples.npz", FOLDER / "peer_values.csv"

# Largest difference allowed: double precision, and what a library's single precision leaves.
DOUBLE, SINGLE = 1e-9, 2e-5


class Value(NamedTuple):
    """One library's value: our metric id, what was called, the value, the largest difference allowed."""

    id: str
    package: str
    call: str
    value: float
    tolerance: float = DOUBLE


def make_triples() -> dict[str, NDArray[Any]]:
    """Triples ``(3, H, W)`` and ``(3, D, H, W)``, uint8, by name."""
    import fusebench

    out: dict[str, NDArray[Any]] = {}
    pair = fusebench.create_dataset("phantom").cases("val")[0].pair
    for name, z, method in (("phantom average", 60, "average"), ("phantom laplacian", 75, "laplacian")):
        a, b = (torch.from_numpy(v.data[z : z + 1].copy()) for v in (pair.a, pair.b))
        fusion = fusebench.create_method(method)
        fusion.setup("cpu")
        images = [(x[0].numpy() * 255).round().clip(0, 255) for x in (a, b, fusion.fuse(a, b))]
        # Sides that halve four times: libraries differ in what MS-SSIM does with an odd border.
        room = [((192 - n) // 2, 192 - n - (192 - n) // 2) for n in images[0].shape]
        out[name] = np.stack([np.pad(x, room) for x in images]).astype(np.uint8)
    out["made up"] = np.stack(make_triple((192, 176)))
    a, b, _ = make_triple((320, 300), 1)
    window = (slice(60, 252), slice(60, 236))  # no background
    out["full"] = np.stack([a[window], b[window], np.maximum(a, b)[window]])
    out["volume"] = np.stack(make_triple((20, 24, 28), 2))
    return out


def _tensor(x: Image, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.from_numpy(x).to(dtype) / scale)[None, None]


def _skimage(a: Image, b: Image, f: Image) -> Iterator[Value]:
    metrics, measure = library("skimage.metrics"), library("skimage.measure")
    assert metrics is not None and measure is not None
    name = "scikit-image"
    gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    inner = (slice(5, -5),) * a.ndim
    for part, x in (("a", a), ("b", b)):
        psnr = metrics.peak_signal_noise_ratio(x, f, data_range=255)
        yield Value(f"psnr.{part}", name, "peak_signal_noise_ratio", psnr)
        yield Value(f"rmse.{part}", name, "sqrt mean_squared_error", metrics.mean_squared_error(x, f) ** 0.5)
        doubles = (x.astype(float), f.astype(float))
        full = metrics.structural_similarity(*doubles, full=True, **gauss)[1]
        # Volumes are single precision here between the double sums.
        wide = DOUBLE if a.ndim == 2 else 1e-7
        yield Value(f"ssim.{part}", name, "structural_similarity gaussian", full[inner].mean(), wide)
    uniform = sum(
        metrics.structural_similarity(x.astype(float), f.astype(float), data_range=255) for x in (a, b)
    )
    yield Value("ssim@cddfuse-255", name, "structural_similarity", uniform)
    for key, bins in (("nmi", 256), ("nmi@dc2fusion", 100)):
        both = [metrics.normalized_mutual_information(x, f, bins=bins) for x in (a, b)]
        yield Value(key, name, f"normalized_mutual_information bins={bins}", np.mean(both))
    yield Value("en", name, "shannon_entropy", measure.shannon_entropy(f))


def _sklearn(a: Image, b: Image, f: Image) -> Iterator[Value]:
    clusters = library("sklearn.metrics")
    assert clusters is not None
    nats = sum(clusters.mutual_info_score(x.ravel(), f.ravel()) for x in (a, b))
    yield Value("mi@cddfuse", "scikit-learn", "mutual_info_score", nats)
    yield Value("mi", "scikit-learn", "mutual_info_score / ln 2", nats / np.log(2))


def _scipy(a: Image, b: Image, f: Image) -> Iterator[Value]:
    stats = library("scipy.stats")
    assert stats is not None
    x, y, z = (v.astype(float).ravel() for v in (a, b, f))
    yield Value("cc.a", "scipy", "pearsonr", stats.pearsonr(x, z).statistic)
    yield Value("cc.b", "scipy", "pearsonr", stats.pearsonr(y, z).statistic)
    differences = stats.pearsonr(z - y, x).statistic + stats.pearsonr(z - x, y).statistic
    yield Value("scd", "scipy", "pearsonr of differences", differences)
    yield Value("sd", "numpy", "std", float(np.std(f)))


def _torchmetrics(a: Image, b: Image, f: Image) -> Iterator[Value]:
    module = library("torchmetrics")
    assert module is not None
    functional: Any = module.functional.image
    ssim = [
        functional.structural_similarity_index_measure(_tensor(f, 255), _tensor(x, 255), data_range=1.0)
        for x in (a, b)
    ]
    call = "structural_similarity_index_measure float64"
    yield Value("ssim@torchmetrics", "torchmetrics", call, float(np.mean([float(x) for x in ssim])))
    if a.ndim == 2:
        for part, x in (("a", a), ("b", b)):
            vif = functional.visual_information_fidelity(_tensor(f), _tensor(x))
            yield Value(f"vifp.{part}", "torchmetrics", "visual_information_fidelity float64", float(vif))


def _piq(a: Image, b: Image, f: Image) -> Iterator[Value]:
    piq: Any = library("piq")
    if a.ndim != 2:
        return
    for part, x in (("a", a), ("b", b)):
        pair = _tensor(f, 255, torch.float32), _tensor(x, 255, torch.float32)
        ssim = piq.ssim(*pair, data_range=1.0, downsample=False)
        yield Value(f"ssim.{part}", "piq", "ssim downsample=False", float(ssim), SINGLE)
        yield Value(f"ms_ssim.{part}", "piq", "multi_scale_ssim", float(piq.multi_scale_ssim(*pair)), SINGLE)
        fsim = float(piq.fsim(*pair, data_range=1.0, chromatic=False))
        yield Value(f"fsim.{part}", "piq", "fsim", fsim, SINGLE)


def _msssim(a: Image, b: Image, f: Image) -> Iterator[Value]:
    module: Any = library("pytorch_msssim")
    if a.ndim != 2:
        return
    for part, x in (("a", a), ("b", b)):
        pair = _tensor(f), _tensor(x)
        # Its kernel is single precision.
        yield Value(f"ssim.{part}", "pytorch-msssim", "ssim", float(module.ssim(*pair)), SINGLE)
        yield Value(f"ms_ssim.{part}", "pytorch-msssim", "ms_ssim", float(module.ms_ssim(*pair)), SINGLE)


def _sewar(a: Image, b: Image, f: Image) -> Iterator[Value]:
    sewar: Any = library("sewar")
    if a.ndim != 2:
        return
    for part, x in (("a", a), ("b", b)):
        yield Value(f"vifp.{part}", "sewar", "vifp", float(sewar.vifp(x, f)))


PEERS: dict[str, Callable[[Image, Image, Image], Iterator[Value]]] = {
    "skimage": _skimage,
    "sklearn": _sklearn,
    "scipy": _scipy,
    "torchmetrics": _torchmetrics,
    "piq": _piq,
    "pytorch_msssim": _msssim,
    "sewar": _sewar,
}


def main() -> int:
    triples = make_triples()
    np.savez_compressed(TRIPLES, **triples)  # type: ignore[arg-type]
    count = 0
    with VALUES.open("w", newline="", encoding="utf-8") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow(["triple", "id", "package", "version", "call", "value", "tolerance"])
        for name, images in triples.items():
            for peer in PEERS.values():
                for v in peer(*images):
                    out.writerow(
                        [name, v.id, v.package, version(v.package), v.call, repr(float(v.value)), v.tolerance]
                    )
                    count += 1
    print(f"{count} values of {len(PEERS)} libraries on {len(triples)} triples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
