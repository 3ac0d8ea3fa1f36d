"""Time and peak memory of `dcfb` and of its `compat` mode; beside the authors' program where it is at hand.

    pytest benchmarks/test_dcfb.py --benchmark-only
    DC2FUSION_CHECKOUT=/path/to/DC2Fusion pytest benchmarks/test_dcfb.py --benchmark-only -s -k peer

The second form needs a checkout of the authors' repository and what it imports (timm, einops); the two
programs run in turn, each in its own process, on the same random weights and inputs.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusebench

CHECKOUT = os.environ.get("DC2FUSION_CHECKOUT", "")
THREADS = int(os.environ.get("FUSEBENCH_THREADS", "2"))
EMBED = 96

# One process per program and size: seconds of each run, CPU seconds, and the peak of its memory in MB.
RUNNER = """
import json, resource, sys, time, torch
which, weights, checkout = sys.argv[1:4]
size, embed, runs, threads = map(int, sys.argv[4:])
torch.set_num_threads(threads)
torch.manual_seed(0)
with torch.inference_mode():
    if which == "theirs":
        sys.path.insert(0, checkout)
        from models.DC2Fusion import DC2Fusion
        net = DC2Fusion(embed_dim=embed).eval()
        net(torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8))  # its batch norms are lazy
        net.load_state_dict(torch.load(weights, weights_only=True))
    else:
        import importlib
        import fusebench
        if which == "ours":
            compat = importlib.import_module("fusebench.methods.dcfb.compat")
            net = compat.CompatNetwork.from_state_dict(torch.load(weights, weights_only=True))
        else:
            method = fusebench.create_method("dcfb")
            method.setup("cpu")
            net = method.network
    a, b = torch.rand(2, 1, 1, size, size, size)
    net(*torch.rand(2, 1, 1, 16, 16, 16))
    seconds, cpu = [], []
    for _ in range(runs):
        t, c = time.perf_counter(), time.process_time()
        net(a, b)
        seconds.append(time.perf_counter() - t)
        cpu.append(time.process_time() - c)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": min(seconds), "cpu": min(cpu), "peak_mb": peak}))
"""


def measured(which: str, size: int, weights: str = "", runs: int = 2) -> dict[str, float]:
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            RUNNER,
            which,
            str(size),
            str(EMBED),
            str(runs),
            weights,
            str(THREADS),
            CHECKOUT,
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    return json.loads(out.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    compat = importlib.import_module("fusebench.methods.dcfb.compat")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dcfb") / "random.pt"
    torch.save(compat.CompatNetwork(EMBED).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_default(benchmark, size):
    method = fusebench.create_method("dcfb")
    method.setup("cpu")
    torch.set_num_threads(THREADS)
    a, b = torch.rand(2, size, size, size)
    benchmark.pedantic(method.fuse, (a, b), rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_mb"] = round(measured("default", size, runs=1)["peak_mb"])


@pytest.mark.parametrize("size", [64, 96, 128])
def test_compat(benchmark, size, weights):
    compat = importlib.import_module("fusebench.methods.dcfb.compat")
    network = compat.CompatNetwork.from_state_dict(torch.load(weights, weights_only=True))
    torch.set_num_threads(THREADS)
    a, b = torch.rand(2, 1, 1, size, size, size)
    with torch.inference_mode():
        benchmark.pedantic(network, (a, b), rounds=2, warmup_rounds=1)
    benchmark.extra_info["peak_mb"] = round(measured("ours", size, weights, runs=1)["peak_mb"])


@pytest.mark.skipif(not CHECKOUT, reason="DC2FUSION_CHECKOUT names no checkout of the authors' program")
@pytest.mark.parametrize("size", [64, 128])
def test_beside_the_peer(benchmark, size, weights):
    rounds = []
    for _ in range(3 if size == 64 else 2):
        rounds.append({which: measured(which, size, weights) for which in ("theirs", "ours")})
    best = {
        which: {k: min(r[which][k] for r in rounds) for k in ("seconds", "cpu", "peak_mb")}
        for which in ("theirs", "ours")
    }
    benchmark.extra_info.update(best)
    print(f"\n{size}^3 {json.dumps(best)}")
    for key in ("seconds", "cpu"):
        print(f"{size}^3 {key}: {best['theirs'][key] / best['ours'][key]:.2f} times faster")
    benchmark.pedantic(lambda: None, rounds=1)
