"""The peers of the metrics benchmark: metric -> program -> a call on one triple, inputs prepared.

Libraries are taken from the environment.  Three published programs are no packages: where
``FUSEBENCH_PEERS`` names a folder that holds checkouts of ``IVIF_ZOO``, ``MMIF-CDDFuse`` and ``dilran``, they
take part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Call = Callable[[], Any]
Image = NDArray[np.uint8]


def make_triple(shape: tuple[int, ...], seed: int = 0) -> tuple[Image, Image, Image]:
    """Two textured heads on black, and their average with noise."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    inside = sum(g**2 for g in grids) < 0.7
    images = []
    for smooth in (1.5, 3.0):
        x = gaussian_filter(rng.random(shape, dtype=np.float32), smooth)
        x = (x - x.min()) / (x.max() - x.min())
        images.append(np.where(inside, np.rint(20 + 235 * x), 0).astype(np.uint8))
    f = (images[0].astype(np.float32) + images[1]) / 2 + inside * rng.normal(0, 4, shape)
    return images[0], images[1], np.clip(np.rint(f), 0, 255).astype(np.uint8)


def _library(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None
    except RuntimeError:
        # A torchvision built for another torch: two peers import it, neither needs its operators.
        with suppress(RuntimeError):
            for operator in ("nms", "qnms"):
                _TORCHVISION.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for module in [m for m in sys.modules if m.split(".")[0] in ("torchvision", name)]:
            del sys.modules[module]
        return import_module(name)


_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")


def _checkout(folder: str, module: str) -> ModuleType | None:
    root = os.environ.get("FUSEBENCH_PEERS")
    found = sorted(p for p in Path(root).glob(f"*{folder.split('/')[0]}") if p.is_dir()) if root else []
    if not found:
        return None
    # Imports of the programs for other purposes: OpenCV to read files, phase congruency for FSIM.
    for unused in ("cv2", "phasepack", "phasepack.phasecong"):
        if _library(unused) is None:
            sys.modules[unused] = ModuleType(unused)
    sys.modules["phasepack"].phasecong = sys.modules["phasepack.phasecong"]  # type: ignore[attr-defined]
    place = str(found[0].joinpath(*folder.split("/")[1:]))
    sys.path.insert(0, place)
    try:
        return import_module(module)
    finally:
        sys.path.remove(place)


def programs(a: Image, b: Image, f: Image) -> Iterator[tuple[str, str, Call]]:
    """Yield (metric, program, call) for 2D images; every call scores both sources."""
    t8 = [torch.from_numpy(x)[None, None].float() for x in (a, b, f)]
    ta, tb, tf = t8
    ua, ub, uf = (x / 255 for x in t8)
    both = (a, b)

    def pair(function: Callable[..., Any], sources: tuple[Any, Any], fused: Any, **options: Any) -> Call:
        return lambda: [function(fused, s, **options) for s in sources]

    skimage = _library("skimage.metrics")
    if skimage:
        gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        yield "psnr", "scikit-image", pair(skimage.peak_signal_noise_ratio, both, f, data_range=255)
        yield "ssim", "scikit-image", pair(skimage.structural_similarity, both, f, **gaussian)
        yield "nmi", "scikit-image", pair(skimage.normalized_mutual_information, both, f, bins=256)
    sklearn = _library("sklearn.metrics")
    if sklearn:
        flat = [x.ravel() for x in (a, b, f)]
        yield "mi", "scikit-learn", pair(sklearn.mutual_info_score, (flat[0], flat[1]), flat[2])
    image = _library("torchmetrics.functional.image")
    if image:
        yield "psnr", "torchmetrics", pair(image.peak_signal_noise_ratio, (ua, ub), uf, data_range=1.0)
        yield (
            "ssim",
            "torchmetrics",
            pair(image.structural_similarity_index_measure, (ua, ub), uf, data_range=1.0),
        )
        yield "vifp", "torchmetrics", pair(image.visual_information_fidelity, (ta, tb), tf)
        yield (
            "ms_ssim",
            "torchmetrics",
            pair(image.multiscale_structural_similarity_index_measure, (ua, ub), uf, data_range=1.0),
        )
    piq = _library("piq")
    if piq:
        yield "psnr", "piq", pair(piq.psnr, (ua, ub), uf)
        yield "ssim", "piq", pair(piq.ssim, (ua, ub), uf, downsample=False)
        yield "vifp", "piq", pair(piq.vif_p, (ua, ub), uf)
        yield "ms_ssim", "piq", pair(piq.multi_scale_ssim, (ua, ub), uf)
        yield "fsim", "piq", pair(piq.fsim, (ua, ub), uf, chromatic=False)
    msssim = _library("pytorch_msssim")
    if msssim:
        yield "ssim", "pytorch-msssim", pair(msssim.ssim, (ta, tb), tf)
        yield "ms_ssim", "pytorch-msssim", pair(msssim.ms_ssim, (ta, tb), tf)
    sewar = _library("sewar")
    if sewar and max(a.shape) <= 512:
        yield "vifp", "sewar", lambda: [sewar.vifp(s, f) for s in both]
    yield from _cddfuse(a, b, f)
    yield from _zoo(a, b, f)
    yield from _dilran(a, b, f)


def _cddfuse(a: Image, b: Image, f: Image) -> Iterator[tuple[str, str, Call]]:
    module = _checkout("MMIF-CDDFuse/utils", "Evaluator")
    if module is None:
        return
    given = [x.astype(np.float32) for x in (f, a, b)]
    for metric, name in (("psnr", "PSNR"), ("mi", "MI"), ("scd", "SCD"), ("qabf", "Qabf"), ("vifp", "VIFF")):
        function = getattr(module.Evaluator, name)
        yield metric, "CDDFuse", lambda function=function: function(*given)
    # The program leaves out the data range, which scikit-image refuses by now.
    ssim = import_module("skimage.metrics").structural_similarity
    yield "ssim", "CDDFuse", lambda: [ssim(given[0], s, data_range=255) for s in given[1:]]


def _zoo(a: Image, b: Image, f: Image) -> Iterator[tuple[str, str, Call]]:
    module = _checkout("IVIF_ZOO/Metric", "Metric_torch")
    if module is None:
        return
    tensors = [torch.from_numpy(x).float() for x in (a, b, f)]
    floats = [x.astype(np.float32) for x in (a, b, f)]
    whole = [x.astype(np.int32) for x in (a, b, f)]
    table = [("psnr", "PSNR", tensors), ("ssim", "SSIM", floats), ("ms_ssim", "MS_SSIM", floats)]
    table += [("mi", "MI", whole), ("nmi", "NMI", whole), ("qabf", "Qabf", floats), ("vifp", "VIF", tensors)]
    table += [("scd", "SCD", tensors), ("nabf", "Nabf", tensors)]
    if max(a.shape) <= 256:
        table.append(("q_cb", "Qcb", tensors))
    for metric, name, given in table:
        function = getattr(module, f"{name}_function")
        yield metric, "IVIF_ZOO", lambda function=function, given=given: function(*given)


def _dilran(a: Image, b: Image, f: Image) -> Iterator[tuple[str, str, Call]]:
    module = _checkout("dilran", "evaluation_metrics")
    if module is None:
        return
    given = [torch.from_numpy(x).float() / 255 for x in (a, b, f)]
    # 10 bins, and 100 for the normalised form: the defaults of the libraries it calls.
    for metric, function in (("mi@dc2fusion", module.mutual_information), ("nmi@dc2fusion", module.nmi)):
        yield metric, "dilran", lambda function=function: [function(given[2], x) for x in given[:2]]


def volume_programs(a: Image, b: Image, f: Image) -> Iterator[tuple[str, str, Call]]:
    """Yield (metric, program, call) for volumes."""
    skimage = _library("skimage.metrics")
    if skimage:
        how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        yield "ssim", "scikit-image", lambda: [skimage.structural_similarity(s, f, **how) for s in (a, b)]
        yield (
            "nmi",
            "scikit-image",
            lambda: [skimage.normalized_mutual_information(s, f, bins=256) for s in (a, b)],
        )
    msssim = _library("pytorch_msssim")
    if msssim:
        ta, tb, tf = (torch.from_numpy(x)[None, None].float() for x in (a, b, f))
        yield "ssim", "pytorch-msssim", lambda: [msssim.ssim(tf, s) for s in (ta, tb)]
