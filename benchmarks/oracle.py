"""How much SSIM an image can gain over the plain average at a given loss of pooled PSNR; what `dcfb` does.

    python benchmarks/oracle.py [--split test] [--cases 2] [--steps 60]

The oracle climbs SSIM minus a multiple of the squared error voxel by voxel, from the average.  One row per
multiple and per strength of `dcfb`: differences from the average, in the mask, mean over subjects.  Beside
it the two plain blends that lose as much pooled PSNR as `dcfb` by default.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import fusebench
from fusebench.case import Case
from fusebench.scoring.evaluate import evaluate

losses = importlib.import_module("fusebench.methods.training.losses")
METRICS = ("psnr", "psnr.worst", "ssim", "ssim.worst", "qabf", "viff", "lesion_contrast", "gm_wm_auc")
MULTIPLES = (1000.0, 300.0, 100.0, 30.0)
STRENGTHS = (0.125, 0.5, 1.0)


def climb(a: Tensor, b: Tensor, mask: Tensor, multiple: float, steps: int) -> Tensor:
    """The image (D, H, W) that the ascent ends at."""
    a, b, mask = (x[None, None] for x in (a, b, mask))
    fused = ((a + b) / 2).clone().requires_grad_()
    optimizer = torch.optim.Adam([fused], lr=0.004)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.004 * (1 - step / steps)
        loss = -losses.ssim(fused, a, mask) - losses.ssim(fused, b, mask)
        loss = loss + multiple * (losses.mse(fused, a, mask) + losses.mse(fused, b, mask))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return fused.detach().clamp(0, 1)[0, 0]


def candidates(
    case: Case, steps: int
) -> Iterator[tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]]:
    """Name and (a, b) -> fused.  The oracle gets no counterfactual twin: it would climb there too."""
    yield "average", lambda a, b: (a + b) / 2
    for strength in STRENGTHS:
        method = fusebench.create_method("dcfb", target="likeness", strength=strength)
        method.setup("cpu")

        def fuse(a: np.ndarray, b: np.ndarray, method: fusebench.Method = method) -> np.ndarray:
            return method.fuse(torch.from_numpy(a), torch.from_numpy(b)).numpy()

        yield f"dcfb, strength {strength:g}", fuse
    mask = torch.from_numpy(np.ascontiguousarray(case.mask)).float()
    for multiple in MULTIPLES:
        yield (
            f"oracle, SSIM - {multiple:g} MSE",
            lambda a, b, m=multiple: climb(torch.from_numpy(a), torch.from_numpy(b), mask, m, steps).numpy(),
        )


def scores(case: Case, fuse: Callable[[np.ndarray, np.ndarray], np.ndarray], twin: bool) -> dict[str, float]:
    truth = dict(case.truth)
    a, b = (np.ascontiguousarray(x) for x in (case.a.data, case.b.data))
    names = [m for m in METRICS if twin or m != "lesion_contrast"]
    if twin:
        truth["fused_twin"] = fuse(*(np.ascontiguousarray(truth[k]) for k in ("mri_twin", "pet_twin")))
    out = evaluate(a, b, fuse(a, b), names, mask=case.mask, spacing=case.a.spacing, truth=truth)
    return {m: out.get(m, float("nan")) for m in METRICS}


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Per metric, over the subjects that have it."""
    defined = {m: [r[m] for r in rows if np.isfinite(r[m])] for m in METRICS}
    return {m: float(np.mean(v)) if v else float("nan") for m, v in defined.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="test")
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    cases = list(fusebench.create_dataset("phantom").cases(options.split))[: options.cases]
    table: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        for name, fuse in candidates(case, options.steps):
            table.setdefault(name, []).append(scores(case, fuse, "oracle" not in name))
        # A blend (1/2 + d) a + (1/2 - d) b has 1 + 4 d^2 times the squared error of the average.
        loss = table["average"][-1]["psnr"] - table[f"dcfb, strength {STRENGTHS[0]:g}"][-1]["psnr"]
        d = float(np.sqrt(max(10 ** (loss / 10) - 1, 0) / 4))
        for name, w in (("blend to the MRI", 0.5 + d), ("blend to the PET", 0.5 - d)):
            row = scores(case, lambda a, b, w=w: w * a + (1 - w) * b, True)
            table.setdefault(f"{name}, as far as dcfb by default", []).append(row)
    base = means(table["average"])
    print("| | " + " | ".join(METRICS) + " |")
    print("|---" * (len(METRICS) + 1) + "|")
    print("| average, itself | " + " | ".join(f"{base[m]:.4f}" for m in METRICS) + " |")
    for name, rows in table.items():
        if name != "average":
            print(f"| {name} | " + " | ".join(f"{v - base[m]:+.4f}" for m, v in means(rows).items()) + " |")


if __name__ == "__main__":
    main()
