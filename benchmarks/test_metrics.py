"""Every metric against its peers in one run.

    pytest benchmarks/test_metrics.py --benchmark-only              # every call, pytest-benchmark's tables
    python benchmarks/test_metrics.py [256|1024|128x128x128 ...]    # ratios to the fastest peer, interleaved
    python benchmarks/test_metrics.py shares                        # one call for all against single calls
    python benchmarks/test_metrics.py memory 256x256x256 [ids ...]  # peak memory of one call, default all ids

One thread unless ``FUSEBENCH_THREADS`` says otherwise.  CPU time, so that a busy machine disturbs less.
Published programs that are no packages take part where ``FUSEBENCH_PEERS`` holds their checkouts.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from peers import Call, Image, make_triple, programs, volume_programs

from fusebench.metrics import evaluate, metric_registry, ranking_set

THREADS = int(os.environ.get("FUSEBENCH_THREADS", "1"))
torch.set_num_threads(THREADS)
SIZES = ((256, 256), (1024, 1024), (128, 128, 128))
OURS = "FuseBench"
# One thread: CPU time is what a call costs.  More: only the clock on the wall shows the gain.
TIMER = time.process_time if THREADS == 1 else time.perf_counter


@lru_cache(maxsize=1)
def images(size: tuple[int, ...]) -> tuple[Image, Image, Image]:
    return make_triple(size)


def all_metrics() -> list[str]:
    """Every metric of plain images, of slices as well as of volumes."""
    infos = [metric_registry().load(name).info for name in metric_registry().names()]
    return [info.name for info in infos if info.of_images and 2 in info.dims and info.name != "vif_wavelet"]


def rivals(size: tuple[int, ...]) -> dict[str, dict[str, Call]]:
    """Metric -> program -> call, ours among them."""
    a, b, f = images(size)
    table: dict[str, dict[str, Call]] = {}
    for metric, program, call in (programs if len(size) == 2 else volume_programs)(a, b, f):
        table.setdefault(metric, {})[program] = call
    for metric in table:
        table[metric][OURS] = lambda metric=metric: evaluate(a, b, f, [metric])
    return table


def _name(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


PAIRS = [
    pytest.param(size, metric, program, id=f"{_name(size)}-{metric}-{program}")
    for size in SIZES
    for metric, calls in rivals((64, 64) if len(size) == 2 else (16, 16, 16)).items()
    for program in calls
    # The slow ones of the 2D programs take minutes there.
    if not (max(size) > 512 and program in ("sewar", "IVIF_ZOO", "CDDFuse"))
]


@pytest.mark.parametrize(("size", "metric", "program"), PAIRS)
def test_peers(benchmark: Any, size: tuple[int, ...], metric: str, program: str) -> None:
    call = rivals(size)[metric].get(program)
    if call is None:
        pytest.skip("too slow at this size")
    benchmark.group = f"{metric} {_name(size)}"
    benchmark._timer = TIMER
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("metric", all_metrics())
def test_alone(benchmark: Any, metric: str) -> None:
    benchmark.group = "each metric, 256x256"
    benchmark._timer = TIMER
    benchmark.pedantic(evaluate, (*images((256, 256)), [metric]), rounds=5, warmup_rounds=1)


def test_together(benchmark: Any) -> None:
    benchmark.group = "all metrics in one call, 256x256"
    benchmark._timer = TIMER
    benchmark.pedantic(evaluate, (*images((256, 256)), all_metrics()), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("size", [*SIZES, (256, 256, 256)], ids=_name)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_ranking_set(benchmark: Any, size: tuple[int, ...], masked: bool) -> None:
    a, b, f = images(size)
    benchmark.group = f"ranking set {_name(size)}"
    benchmark._timer = TIMER
    rounds = 5 if a.size < 1 << 22 else 1
    mask = a > 0 if masked else None
    benchmark.pedantic(lambda: evaluate(a, b, f, mask=mask), rounds=rounds, warmup_rounds=int(rounds > 1))
    benchmark.extra_info["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", SIZES, ids=_name)
def test_ranking_set_on_a_gpu(benchmark: Any, size: tuple[int, ...]) -> None:
    a, b, f = (torch.from_numpy(x).cuda() for x in images(size))
    benchmark.group = f"ranking set {_name(size)}"

    def call() -> None:
        evaluate(a, b, f)
        torch.cuda.synchronize()

    benchmark.pedantic(call, rounds=5, warmup_rounds=2)


# -- ratios --------------------------------------------------------------------------------------


def best_of(calls: dict[str, Call], seconds: float = 1.0, least: int = 5) -> dict[str, float]:
    """Least time of each call in ms, the calls taking turns; a short call is repeated within its turn."""
    best = dict.fromkeys(calls, math.inf)
    begin, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < 200 and time.perf_counter() - begin < seconds):
        for name, call in calls.items():
            turn = time.perf_counter()
            while True:
                start = TIMER()
                call()
                # The first round only warms up.
                best[name] = min(best[name], (TIMER() - start) * 1000 if rounds else math.inf)
                if time.perf_counter() - turn > 0.002:
                    break
        rounds += 1
    return best


def ratios(size: tuple[int, ...]) -> None:
    """Print ours against the fastest peer of every metric, and the geometric mean."""
    print(f"\n{_name(size)}, {THREADS} thread(s), ms per triple (least of interleaved calls)")
    found = []
    for metric, calls in sorted(rivals(size).items()):
        best = best_of(calls, least=3 if size[0] > 512 else 5)
        ours = best.pop(OURS)
        peer = min(best, key=lambda p: best[p])
        found.append(best[peer] / ours)
        others = ", ".join(f"{p} {v:.2f}" for p, v in sorted(best.items(), key=lambda i: i[1]))
        print(f"{metric:10s} ours {ours:9.2f}   {best[peer] / ours:6.2f}x the fastest   {others}")
    print(f"geometric mean {np.exp(np.mean(np.log(found))):.2f}x")


def all_ids() -> list[str]:
    """Every metric, and its value against each source and the worse one."""
    registry = metric_registry()
    infos = [registry.load(n).info for n in all_metrics()]
    return [i for info in infos for i in (info.name, *(f"{info.name}.{part}" for part in info.parts))]


def shares() -> None:
    """Print what single calls cost at 256x256, and all in one call: metrics alone, and with their parts."""
    a, b, f = images((256, 256))
    names, ids = all_metrics(), all_ids()
    single: dict[str, Callable[[], Any]] = {n: lambda n=n: evaluate(a, b, f, [n]) for n in ids}
    joint = {"metrics": names, "metrics and parts": ids, "ranking set": ranking_set()}
    single |= {label: lambda x=x: evaluate(a, b, f, x) for label, x in joint.items()}
    best = best_of(single, seconds=20, least=5)
    print(
        "\n256x256, ms alone:", ", ".join(f"{n} {best[n]:.2f}" for n in sorted(ids, key=lambda n: -best[n]))
    )
    for label, asked in joint.items():
        total = sum(best[n] for n in asked)
        ratio = total / best[label]
        print(f"{label}: {len(asked)} calls {total:.1f} ms, one call {best[label]:.1f} ms, {ratio:.2f}x")


def memory(size: tuple[int, ...], ids: list[str]) -> None:
    """Print CPU time and peak memory of the process for one call, inputs included, without and with mask."""
    a, b, f = images(size)
    for mask in (None, a > 0):
        start = time.process_time()
        evaluate(a, b, f, ids, mask=mask)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        spent = time.process_time() - start
        where = "whole" if mask is None else "masked"
        print(f"{_name(size)} {where}, {len(ids)} ids: {spent:.1f} s CPU, peak {peak:.2f} GiB", flush=True)


def _sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(n) for n in text.split("x"))
    return sides if len(sides) > 1 else sides * 2


if __name__ == "__main__":
    task, *rest = sys.argv[1:] or ["256"]
    if task == "shares":
        shares()
    elif task == "memory":
        memory(_sides(rest[0]), rest[1:] or all_ids())
    else:
        for text in (task, *rest):
            ratios(_sides(text))
