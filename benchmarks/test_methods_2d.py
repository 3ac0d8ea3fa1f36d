"""Learned 2D methods, one 256x256 pair on one thread, and their shortcuts against the long way.

OMP_NUM_THREADS=1 pytest benchmarks/test_methods_2d.py --benchmark-only
"""

from __future__ import annotations

import importlib
import time

import pytest
import torch

import fusebench

SIDE = 256


def pair():
    """A disc with texture and a smooth blob: like a head, half of the picture is air."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    head = ((x / 0.75) ** 2 + (y / 0.9) ** 2 < 1).float()
    a = head * (0.4 + 0.3 * torch.rand(SIDE, SIDE, generator=generator))
    b = head * torch.exp(-2 * (x**2 + y**2))
    return a[None, None], b[None, None]


def module(name):
    return importlib.import_module(f"fusebench.methods.{name}")


def run(benchmark, function, *args, rounds=5):
    """Measure CPU seconds: other processes then matter less."""
    torch.set_num_threads(1)
    benchmark._timer = time.process_time
    with torch.inference_mode():
        return benchmark.pedantic(function, args, rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize(
    "name",
    [
        "densefuse",
        "u2fusion",
        "matr",
        "dilran",
        "swinfuse",
        "ifcnn",
        "gesenet",
        "cddfuse",
        "emma",
        "gifnet",
        "swinfusion",
    ],
)
def test_pair(benchmark, name):
    method = fusebench.create_method(name)
    if method.info.weights is None:
        pytest.skip(f"{name} ships no weights")
    method.setup("cpu")
    run(benchmark, method.fuse_slices, *pair(), rounds=5 if name in ("densefuse", "matr") else 2)


@pytest.mark.parametrize("way", ["direct", "channels last"])
def test_densefuse_addition(benchmark, way):
    net = module("densefuse").DenseFuseNet().eval()
    quick = module("_fast").FastDense((net.first, *net.dense), net.decoder, slope=0.0)
    a, b = pair()
    ways = {
        "direct": lambda: net.decode((net.encode(a) + net.encode(b)) / 2),
        "channels last": lambda: quick.of_mean(a, b),
    }
    run(benchmark, ways[way])


@pytest.mark.parametrize("way", ["direct", "channels last"])
def test_u2fusion_network(benchmark, way):
    net = module("u2fusion").U2FusionNet().eval()
    quick = module("_fast").FastDense((net.first, *net.dense), net.decoder, slope=0.2)
    ways = {"direct": net.forward, "channels last": lambda *images: quick.of_both(torch.cat(images))}
    run(benchmark, ways[way], *pair())


@pytest.mark.parametrize("way", ["direct", "three images"])
def test_dilran_network(benchmark, way):
    net = module("dilran").DILRANNet().eval()
    parts = (net.shallow, list(net.dilated), net.reduce, net.norm, net.attention, net.decoder)
    quick = module("_fast").FastDILRAN(*parts)
    ways = {
        "direct": lambda x: net.decode(net.encode(x)),
        "three images": lambda x: quick.decode(quick.encode(x)),
    }
    run(benchmark, ways[way], pair()[0])


@pytest.mark.parametrize("way", ["64 SVDs", "batched", "bounded"])
def test_dilran_largest_nuclear_norm(benchmark, way):
    norms = module("_nuclear_norm")
    torch.manual_seed(0)
    net = module("dilran").DILRANNet().eval()
    with torch.no_grad():
        features = net.encode(pair()[0])[0].softmax(0)
    ways = {
        "64 SVDs": lambda x: max(float(torch.linalg.svdvals(m).sum()) for m in x),
        "batched": lambda x: float(norms.nuclear_norms(x).max()),
        "bounded": lambda x: float(norms.largest_nuclear_norms(x[None])),
    }
    run(benchmark, ways[way], features, rounds=3)


@pytest.mark.parametrize("way", ["whole", "rows of windows"])
def test_swin_block(benchmark, way):
    block = module("swinfuse").SwinBlock(2, 3)
    block.train(way == "whole")
    run(benchmark, block, torch.rand(1, 128, 128, 96))
