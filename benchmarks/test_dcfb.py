"""Time and peak memory of `dcfb` and of its `compat` mode; beside the authors' program where it is at hand.

    pytest benchmarks/test_dcfb.py --benchmark-only
    DC2FUSION_CHECKOUT=/path/to/DC2Fusion pytest benchmarks/test_dcfb.py --benchmark-only -s -k peer
    pytest benchmarks/test_dcfb.py --benchmark-only -s -k roofline

The last form counts the operations and the memory traffic of `dcfb` at 128^3 and says how near its time is to
what the device could do; on a GPU too where there is one.

The second form needs a checkout of the authors' repository and what it imports (timm, einops); the two
programs run in turn, each in its own process, on the same random weights and inputs.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

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
            net = lambda a, b: method.fuse(a[0, 0], b[0, 0])
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
    numbers = map(str, (size, EMBED, runs, THREADS))
    out = subprocess.run(
        [sys.executable, "-c", RUNNER, which, weights, CHECKOUT, *numbers],
        capture_output=True,
        text=True,
        cwd=root,
    )
    if out.returncode:
        raise RuntimeError(out.stderr)
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


class Traffic(TorchDispatchMode):
    """Bytes that every operation reads and writes, as if each went to memory."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        views = {"view", "permute", "transpose", "slice", "expand", "reshape", "split", "unsqueeze", "select"}
        if func.overloadpacket.__name__.removeprefix("_unsafe_") not in views:
            for x in torch.utils._pytree.tree_leaves((args, kwargs, out)):
                if isinstance(x, torch.Tensor):
                    self.total += x.numel() * x.element_size()
        return out


def best_seconds(call, device: str, rounds: int = 3) -> float:
    def once() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(rounds))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_roofline(benchmark, device, precision):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.set_num_threads(THREADS)
    dtype = getattr(torch, precision)
    method = fusebench.create_method("dcfb", bf16=precision == "bfloat16")
    method.setup(device)
    a, b = torch.rand(2, 128, 128, 128, device=device)
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        method.fuse(a, b)
    seconds = best_seconds(lambda: method.fuse(a, b), device)
    # The load of the device when it does nothing else.
    x = torch.rand(
        4096 if device == "cuda" else 1024, 4096 if device == "cuda" else 1024, device=device, dtype=dtype
    )
    peak = 2 * len(x) ** 3 / best_seconds(lambda: x @ x, device, 10)
    big = torch.rand(64_000_000, device=device)
    bandwidth = 2 * big.numel() * 4 / best_seconds(big.clone, device, 5)
    least = max(flops.get_total_flops() / peak, traffic.total / bandwidth)
    row = {
        "seconds": seconds,
        "GFLOP": flops.get_total_flops() / 1e9,
        "GB": traffic.total / 1e9,
        "device GFLOP/s": peak / 1e9,
        "device GB/s": bandwidth / 1e9,
        "share of the roofline": least / seconds,
    }
    if device == "cuda":
        row["peak MB"] = torch.cuda.max_memory_allocated() / 2**20
    print(f"\n128^3 {device} {precision} " + json.dumps({k: round(v, 3) for k, v in row.items()}))
    benchmark.extra_info.update(row)
    benchmark.pedantic(lambda: None, rounds=1)
