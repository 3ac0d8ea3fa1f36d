"""Protocol `paper` of 2D methods without fusing whole volumes: it scores central axial slices alone.

    python benchmarks/paper_slices.py [--methods swinfuse,matr] [--split test]

The same values as ``run_bench.py run --protocol paper``, for methods that fuse slice by slice.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch

import fusebench
from fusebench.scoring.evaluate import evaluate

METRICS = ("psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion")


def main() -> None:
    """Print the mean over subjects of every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", default="swinfuse,matr,dilran")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    rows = []
    for name in options.methods.split(","):
        method = fusebench.create_method(name)
        if method.info.dims != 2:
            raise SystemExit(f"{name} fuses volumes; python run_bench.py run --protocol paper scores it")
        method.setup("cpu")
        for case in fusebench.create_dataset("phantom").cases(options.split):
            centre = case.a.shape[0] // 2
            a, b = (np.ascontiguousarray(x.data[centre : centre + 1]) for x in (case.a, case.b))
            with torch.inference_mode():
                fused = method.fuse(torch.from_numpy(a), torch.from_numpy(b)).numpy().clip(0, 1)
            rows.append({"method": name, **evaluate(a[0], b[0], fused[0], METRICS)})
    print(pd.DataFrame(rows).groupby("method", sort=False).mean().round(4).to_string())


if __name__ == "__main__":
    main()
