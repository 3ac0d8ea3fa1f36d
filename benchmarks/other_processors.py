"""Which values another processor changes: every metric and method under other kernels, threads and batches.

    PYTHONPATH=. python benchmarks/other_processors.py [--methods all|classical|none]

The same images are scored and fused in processes that differ in one thing each: the vector instructions of
torch and NumPy, the BLAS kernel, the count of threads.  In each process a batch of three is also scored one
image at a time and in reversed order.  Of methods, voxels are compared, and all that a run scores of a
phantom, readings included: scored in one process, so that it is the image that moves.  MOVES marks what
differs by more than its facts say (`tolerance`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = dict[str, float]

# Environments by name.  What a library does not know, it ignores; what the processor does not, is left out.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "torch without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "torch AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "torch AVX-512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "OpenBLAS Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "OpenBLAS Prescott": {"OPENBLAS_CORETYPE": "Prescott"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "MKL AVX2": {"MKL_CBWR": "AVX2"},
    "NumPy without AVX": {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3 X86_V3 X86_V4"},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    # Threads that spin while they wait are slower than one where the cores are shared.
    "two threads": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"},
    "old machine": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX2 FMA3 X86_V3 X86_V4",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
CASE = ("case", "findings")
# Values nearer to 0 than this are compared absolutely, as if they had this size.
SMALL = 1e-6


def difference(x: float, y: float) -> float:
    """Relative difference; 0 where both are the same infinity or both undefined."""
    if x == y or (np.isnan(x) and np.isnan(y)):
        return 0.0
    if not (np.isfinite(x) and np.isfinite(y)):
        return float("inf")
    return abs(x - y) / max(abs(x), abs(y), SMALL)


# -- the images ----------------------------------------------------------------------------------


def _image(shape: tuple[int, ...], seed: int, smooth: float, background: bool) -> NDArray[np.float64]:
    """A textured head, 0..255."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.random(shape), smooth)
    texture = (texture - texture.min()) / np.ptp(texture)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grids) < 0.6 if background else np.ones(shape, bool)
    return np.where(inside, 20 + 235 * texture, 0)


def triples() -> dict[str, NDArray[Any]]:
    """Three images each ``(3, N, H, W)`` in 2D, ``(3, D, H, W)`` in 3D: what metrics meet."""

    def two(shape: tuple[int, ...], background: bool = True) -> list[NDArray[np.float64]]:
        return [np.rint(_image(shape, 7 * k, 1.2 + k, background)) for k in (0, 1)]

    def noisy(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        noise = np.random.default_rng(5).normal(0, 3, a.shape)
        return np.clip(np.rint((a + b) / 2 + noise * (a > 0)), 0, 255)

    def batch(make: Any) -> NDArray[Any]:
        return np.stack([np.stack(make(shift)) for shift in (0, 5, 11)], axis=1)

    def head(shift: int) -> list[NDArray[Any]]:
        a, b = (np.pad(np.roll(x, shift, 0), 24) for x in two((72, 64)))
        return [x.astype(np.uint8) for x in (a, b, noisy(a, b))]

    def full(shift: int) -> list[NDArray[Any]]:
        a, b = (np.roll(x, shift, 1) for x in two((70, 81), background=False))
        return [x.astype(np.uint8) for x in (a, b, noisy(a, b))]

    def fine(shift: int) -> list[NDArray[Any]]:
        a, b = (np.roll(x, shift, 0).astype(np.float32) / np.float32(255) for x in two((64, 60)))
        return [a, b, np.float32(0.6) * a + np.float32(0.4) * b]

    def steps(shift: int) -> list[NDArray[Any]]:
        """Flat tissues, as a phantom's, and one flat source."""
        a, b = (np.roll(x, shift, 0) // 64 * 64 for x in two((66, 68)))
        b = b if shift else np.zeros_like(b)
        return [x.astype(np.uint8) for x in (a, b, np.maximum(a, b))]

    def levels(shift: int) -> list[NDArray[Any]]:
        """Four grey levels in floats, whose windows have covariances of exactly 0 and equal edges."""
        a, b = (np.floor(np.roll(x, shift, 0) / 64).astype(np.float32) / 4 for x in two((56, 60), False))
        return [a, b, {0: np.maximum(a, b), 5: (a + b) / 2, 11: np.minimum(a, b)}[shift]]

    def faint(shift: int) -> list[NDArray[Any]]:
        """Texture of a hundredth of a thousandth on a bright ground."""
        a, b = (
            np.float32(0.9) + np.float32(4e-8) * np.roll(x, shift, 0).astype(np.float32)
            for x in two((57, 61))
        )
        return [a, b, np.maximum(a, b)]

    def copy(shift: int) -> list[NDArray[Any]]:
        """Constant F; F = A; a negative and F = B; with flat halves."""
        a, b, _ = full(shift)
        a[:, :30], b[:, :30] = 200, 77
        return [a, 255 - a if shift == 11 else b, {0: np.full_like(a, 128), 5: a, 11: b}[shift]]

    def deep(shape: tuple[int, ...], real: bool) -> NDArray[Any]:
        a, b = two(shape)
        if not real:
            return np.stack([a, b, noisy(a, b)]).astype(np.uint8)
        return (np.stack([a, b, 0.6 * a + 0.4 * b]) / 255).astype(np.float32)

    flat = np.broadcast_to(batch(steps)[:, 1][:, None, ::2, ::2], (3, 14, 33, 34))
    return {
        "head": batch(head),
        "full": batch(full),
        "float": batch(fine),
        "flat": batch(steps),
        "copy": batch(copy),
        "levels": batch(levels),
        "faint": batch(faint),
        "volume": deep((20, 34, 36), False),
        "float volume": deep((18, 37, 34), True),
        "flat volume": flat.copy(),
        "copied volume": flat[[0, 1, 0]],
    }


def volumes() -> NDArray[np.float32]:
    """Two sources ``(2, D, H, W)`` in [0, 1] for the methods."""
    return (np.stack([_image((16, 64, 64), k, 1.2 + k, True) for k in (0, 1)]) / 255).astype(np.float32)


def phantom() -> tuple[Any, Any]:
    """A small case, and the trial that readers make of it."""
    import fusebench
    from fusebench.metrics import metric_registry

    case = fusebench.create_dataset("phantom", size=64).cases("test")[0]
    return case, metric_registry().load("reading").trial(case)  # type: ignore[misc]


# -- in the process of one environment -------------------------------------------------------------


def scored(images: Mapping[str, NDArray[Any]], ids: list[str]) -> Iterator[tuple[str, float]]:
    """Every value, by what was scored: a whole batch, its images alone, and the batch reversed."""
    from fusebench.metrics import evaluate, evaluate_slices

    for name, stack in images.items():
        mask = stack[0] > 0
        if "volume" in name:
            for how, region in (("", None), (" masked", mask)):
                for key, value in evaluate(*stack, ids, mask=region).items():
                    yield f"{key} | {name}{how}", value
            continue
        for how, region in (("", None), (" masked", mask)):
            together = evaluate_slices(*stack, ids, mask=region)
            turned = evaluate_slices(
                *(x[::-1].copy() for x in stack), ids, mask=None if region is None else region[::-1].copy()
            )
            for n in range(stack.shape[1]):
                alone = evaluate(*stack[:, n], ids, mask=None if region is None else region[n])
                for key in ids:
                    where = f"{key} | {name}{how} {n}"
                    yield where, float(together[key][n])
                    yield f"{where} | reversed", float(turned[key][-1 - n])
                    yield f"{where} | alone", alone[key]


def fused(images: Mapping[str, NDArray[np.float32]], names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Results of the methods: of a volume, its slices alone and reversed; of a phantom, with findings too."""
    import torch

    import fusebench

    (a, b), *others = (torch.from_numpy(images[key].copy()) for key in ("pair", *CASE))
    out = {}
    for name in names:
        method = fusebench.create_method(name)
        method.setup("cpu")
        with torch.inference_mode():
            out[name] = method.fuse(a, b).numpy()
            for key, pair in zip(CASE, others, strict=True):
                torch.manual_seed(0)
                out[f"{name} | {key}"] = method.fuse(*pair).clamp(0, 1).numpy()
            if getattr(method, "by_axial_slice", False):
                alone = [method.fuse(a[k : k + 1], b[k : k + 1]) for k in range(len(a))]
                out[f"{name} | alone"] = torch.cat(alone).numpy()
                out[f"{name} | reversed"] = method.fuse(a.flip(0), b.flip(0)).flip(0).numpy()
    return out


def child(folder: Path, out: Path, ids: list[str], methods: list[str]) -> None:
    """Compute everything in this process."""
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with np.load(folder / "triples.npz") as images:
        values = dict(scored(dict(images), ids))
    found = {"capability": torch.backends.cpu.get_cpu_capability(), "values": values}
    out.with_suffix(".json").write_text(json.dumps(found))
    if methods:
        with np.load(folder / "sources.npz") as sources:
            np.savez(out.with_suffix(".npz"), **fused(sources, methods))  # type: ignore[arg-type]


# -- comparing -------------------------------------------------------------------------------------


def all_ids() -> list[str]:
    """Every metric id without ground truth."""
    from fusebench.metrics import metric_registry

    ids = []
    for name in metric_registry().names():
        info = metric_registry().load(name).info
        if info.of_images and 2 in info.dims:
            ids += [name, *(f"{name}.{p}" for p in info.parts), *(f"{name}@{v}" for v in info.variants)]
    return ids


def measure(
    folder: Path,
    ids: list[str],
    methods: list[str],
    environments: Mapping[str, Mapping[str, str]],
    images: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Path]:
    """Run one process for each environment; the files that they wrote, without their endings, by its name."""
    np.savez(folder / "triples.npz", **(triples() if images is None else images))  # type: ignore[arg-type]
    case, trial = phantom()
    sources = {
        "pair": volumes(),
        "case": (case.a.data, case.b.data),
        "findings": (trial.a_with, trial.b_with),
    }
    np.savez(folder / "sources.npz", **{key: np.stack(pair) for key, pair in sources.items()})
    command = [sys.executable, __file__, "--child", str(folder), "--ids", ",".join(ids)]
    command += ["--methods", ",".join(methods) or "none"]
    # A kernel that the machine needs for OpenBLAS stays; the rest is as the processor has it.
    ours = {name for settings in ENVIRONMENTS.values() for name in settings} - {"OPENBLAS_CORETYPE"}
    fresh = {name: value for name, value in os.environ.items() if name not in ours}
    fresh["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    found = {}
    for number, (name, settings) in enumerate(environments.items()):
        out = folder / f"{number}"
        done = subprocess.run(
            [*command, "--out", str(out)],
            env={"OMP_NUM_THREADS": "1", **fresh, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == -signal.SIGILL:
            print(f"{name}: not on this processor")
            continue
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        found[name] = out
    return found


def read(path: Path) -> dict[str, Any]:
    """The record of a process: ``capability`` of torch, and ``values`` by id and case."""
    content: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return content


def _first(files: Mapping[str, Path]) -> Path:
    """Of the environment that the others are compared with."""
    return next(iter(files.values()))


def moved(files: Mapping[str, Path]) -> dict[str, tuple[float, str, str]]:
    """Largest relative difference of each metric id, where, and in which environment."""
    base = read(_first(files))["values"]
    worst: dict[str, tuple[float, str, str]] = {}
    for name, path in files.items():
        for where, value in read(path)["values"].items():
            key, case, *how = where.split(" | ")
            gap = difference(value, base[f"{key} | {case}"])
            if gap > worst.get(key, (-1.0, "", ""))[0]:
                worst[key] = gap, " ".join([case, *how]), name
    return worst


def moved_images(files: Mapping[str, Path]) -> dict[str, tuple[float, str, str]]:
    """Largest absolute difference of a voxel of each method, how it ran, and in which environment."""
    worst: dict[str, tuple[float, str, str]] = {}
    with np.load(_first(files).with_suffix(".npz")) as base:
        for name, path in files.items():
            with np.load(path.with_suffix(".npz")) as images:
                for where in images.files:
                    key, _, how = where.partition(" | ")
                    if how in CASE:
                        continue
                    gap = float(np.abs(images[where] - base[key]).max())
                    if gap > worst.get(key, (-1.0, "", ""))[0]:
                        worst[key] = gap, how or "whole", name
    return worst


def moved_scores(files: Mapping[str, Path]) -> dict[str, tuple[float, str, str]]:
    """Largest difference of a score of each method's images, by which metric, and in which environment.

    Relative to scores above 1, as `MethodInfo.tolerance` and ``compare`` have it.
    """
    case, trial = phantom()
    worst: dict[str, tuple[float, str, str]] = {}
    with np.load(_first(files).with_suffix(".npz")) as base:
        for method in (key for key in base.files if " | " not in key):
            known = _scores(case, trial, method, base)
            worst[method] = (0.0, "", "")
            for name, path in list(files.items())[1:]:
                with np.load(path.with_suffix(".npz")) as images:
                    now = _scores(case, trial, method, images)
                gaps = {m: abs(now[m] - known[m]) / max(1.0, abs(known[m])) for m in known}
                metric = max(gaps, key=lambda m: gaps[m])
                worst[method] = max(worst[method], (gaps[metric], metric, name))
    return worst


def _scores(case: Any, trial: Any, method: str, images: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """All that a run scores of a method's image without asking it again, and the readings."""
    from fusebench.metrics import metric_registry
    from fusebench.scoring.protocol import PROTOCOLS, READINGS, ScoredImages
    from fusebench.scoring.select import default_metrics

    scene = ScoredImages.of(case, images[f"{method} | case"])
    registry = metric_registry()
    ids = [
        m
        for m in default_metrics(registry, with_truth=True)
        if not registry.load(m.partition(".")[0]).info.needs_twin
    ]
    values = dict(PROTOCOLS["volume"].score(scene, ids, case.truth, None))
    seen = {"trial": trial, "fused_with": images[f"{method} | findings"]}
    values |= PROTOCOLS["readers"].score(scene, READINGS, seen, None)
    return {m: float(v) for m, v in values.items() if not isinstance(v, Exception) and np.isfinite(v)}


def allowed(key: str) -> float:
    """Tolerance of a metric id or of a method's scores by its facts; voxels of a method have no such fact."""
    import fusebench
    from fusebench.metrics import metric_registry

    method, scored, _ = key.partition(", scored")
    if scored:
        return fusebench.create_method(method).info.tolerance
    if key in fusebench.list_methods():
        return float("inf")
    name, _, variant = key.partition("@")
    info = metric_registry().load(name.partition(".")[0]).info
    return info.tolerances.get(variant, info.tolerance)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", default="classical", help="all, classical, none, or names")
    parser.add_argument("--ids", default="", help="metric ids; default: all")
    parser.add_argument("--environments", default="", help="names, with commas; default: all")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    ids = options.ids.split(",") if options.ids else all_ids()
    if options.child:
        names = [] if options.methods == "none" else options.methods.split(",")
        child(options.child, options.out, ids, names)
        return 0
    import fusebench

    if options.methods in ("all", "classical"):
        methods = [
            name
            for name in fusebench.list_methods()
            if options.methods == "all" or not fusebench.create_method(name).info.trained_on
        ]
    else:
        methods = [] if options.methods == "none" else options.methods.split(",")
    with tempfile.TemporaryDirectory() as folder:
        chosen = options.environments.split(",") if options.environments else list(ENVIRONMENTS)
        chosen = list(dict.fromkeys([next(iter(ENVIRONMENTS)), *chosen]))
        files = measure(Path(folder), ids, methods, {name: ENVIRONMENTS[name] for name in chosen})
        tables = [moved(files)]
        if methods:
            tables.append(moved_images(files))
            scores = moved_scores(files)
            tables.append({f"{method}, scored": found for method, found in scores.items()})
    count = 0
    for table in tables:
        for key, (gap, where, name) in sorted(table.items(), key=lambda item: -item[1][0]):
            mark = "MOVES" if gap > allowed(key) else ""
            count += bool(mark)
            print(f"{key:24s} {gap:8.1e}  {name:22s} {where:28s} {mark}")
    print(f"{count} beyond their tolerance")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
