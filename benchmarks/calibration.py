"""Ours against each published program, metric by metric: makes docs/calibration.md and docs/calibration.csv.

    python benchmarks/calibration.py ../shared/data/metric_calibration

The folder holds ``triples.npz`` (``<triple>__A|B|F``, uint8) and ``golden.csv`` (``metric, source_repo,
function, triple, value``): what each program returns on these triples, bugs included.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fusebench.metrics import evaluate, metric_registry

DOCS = Path(__file__).resolve().parents[1] / "docs"

# Row name of the canonical definitions -> our id.
CANONICAL = {
    **{"EN": "en", "SD": "sd", "SF": "sf", "AG": "ag", "EI": "ei", "CC": "cc", "SCD": "scd"},
    **{"PSNR": "psnr", "PSNR_mean_of_two": "psnr@paper", "MSE": "rmse", "SSIM": "ssim", "MS_SSIM": "ms_ssim"},
    **{"MI": "mi", "Q_MI": "q_mi", "NMI_studholme": "nmi", "Q_NCIE": "q_ncie", "Q_SF": "q_sf", "Q_M": "q_m"},
    **{"VIFp": "vifp", "VIF_wavelet": "vif_wavelet", "VIFF": "viff", "Qabf": "qabf", "Nabf": "nabf"},
    **{
        "Q_CB": "q_cb@liu",
        "Q_CV": "q_cv",
        "Q_P": "q_p",
        "Q_S": "q_s",
        "Q_W": "q_w",
        "Q_E": "q_e",
        "Q_Y": "q_y",
    },
    **{"FMI_none": "fmi_none", "FMI_gradient": "fmi_gradient", "FMI_dct": "fmi_dct"},
    **{"FMI_wavelet": "fmi_wavelet", "FSIM": "fsim"},
}


@dataclass(frozen=True)
class Program:
    """A program's rows that one of our ids answers to.

    Attributes
    ----------
    id : str
        Our metric id.
    metric, repo, function : str
        Which rows: the metric's name there, the start of the repository, and a part of the function.
    tolerance : float
        Largest difference allowed.  Wider than 1e-6 where the program works in single precision.
    note : str
    """

    id: str
    metric: str
    repo: str
    function: str = ""
    tolerance: float = 1e-6
    note: str = ""


_SINGLE = "single precision"
_BORDER = "reflected border; single precision"
# The same program differs by 1.6e-3 between processors.  White noise of 1e-14 in the filtered images, about
# the rounding of the transform, moves it by up to 2.3e-3.
_ROUNDING = 4e-3
_BACKGROUND = "black background is rounding noise in both"
PROGRAMS = (
    # Named variants: the program's number, bug and all.
    Program("psnr@paper", "PSNR", "louelin", note="mean of two PSNRs"),
    Program("psnr@paper", "PSNR", "scikit-image", note="mean of two PSNRs"),
    Program("psnr@cddfuse", "PSNR", "Zhao", note="peak is max(F)"),
    Program("psnr@tang", "PSNR", "Linfeng", note="data in [0, 1], peak 255"),
    Program("psnr@tang", "PSNR", "Rolling", tolerance=5e-6, note=_SINGLE),
    Program("rmse@vifb", "RMSE", "xing", note="sqrt(SSE) / MN"),
    Program("ssim@torchmetrics", "SSIM", "torchmetrics", "data_range=1", 5e-6, _BORDER),
    Program("ssim@torchmetrics", "SSIM", "louelin", tolerance=5e-6, note=_BORDER),
    Program("ssim@cddfuse", "SSIM", "Zhao", "EMULATED", note="L = 2; sum of two"),
    Program("ssim@cddfuse-255", "SSIM", "Zhao", "data_range=255", note="L = 255; sum of two"),
    Program("mi@cddfuse", "MI", "Zhao", note="nats"),
    Program("mi@cddfuse", "MI", "xing", note="nats"),
    Program("mi@dc2fusion", "MI", "louelin", note="10 bins, nats, mean"),
    Program("mi@tang", "MI", "Linfeng", note="level 255 merged into 254"),
    Program("nmi@dc2fusion", "NMI", "louelin", note="100 bins"),
    Program("nmi@dc2fusion", "NMI", "scikit-image", "bins=100", note="100 bins"),
    Program("qabf@liu", "Qabf(Q_G)", "zheng", note="other constants, mean of ratios"),
    Program("nabf@tang", "Nabf", "Linfeng", "as called", note="arguments in the wrong order"),
    Program("mef_ssim@tang", "MS_SSIM(MEF)", "Linfeng", note="called MS_SSIM there"),
    Program("q_cb@liu", "Q_CB", "zheng", tolerance=_ROUNDING, note=_BACKGROUND),
    Program("q_cb@liu", "Q_CB", "xing", tolerance=_ROUNDING, note=_BACKGROUND),
    Program("q_te@cvejic", "Q_TE(Tsallis Cvejic)", "zheng", note="order 1.85"),
    Program("ag@tang", "AG", "Linfeng", note="divides by (M-1)(N-1)"),
    Program("ag@tang", "AG", "xing", note="divides by (M-1)(N-1)"),
    Program("sf@vifb", "SF", "xing", note="divides by MN"),
    # The default definitions against the programs that share them.
    Program("en", "EN", "Linfeng"),
    Program("en", "EN", "Zhao"),
    Program("sd", "SD", "Linfeng"),
    Program("sd", "SD", "Zhao", tolerance=2e-5, note=_SINGLE),
    Program("sf", "SF", "Linfeng"),
    Program("ag", "AG", "Zhao", tolerance=2e-6, note=_SINGLE),
    Program("ei", "EI", "xing"),
    Program("cc", "CC", "Linfeng"),
    Program("scd", "SCD", "Linfeng"),
    Program("scd", "SCD", "Zhao", "float64"),
    Program("ssim.a", "SSIM_A", "zheng"),
    Program("ssim", "SSIM", "scikit-image", "gaussian"),
    Program("ssim", "SSIM", "pytorch-msssim", tolerance=5e-6, note=_SINGLE),
    Program("ssim", "SSIM", "piq", "downsample=False", tolerance=5e-6, note=_SINGLE),
    Program("ms_ssim", "MS_SSIM", "MATR", "supplied"),
    Program("ms_ssim", "MS_SSIM", "pytorch-msssim", tolerance=5e-6, note=_SINGLE),
    Program("ms_ssim", "MS_SSIM", "piq", tolerance=5e-6, note=_SINGLE),
    Program("mef_ssim", "MEF_SSIM", "Linfeng"),
    Program("mi", "MI", "Rolling"),
    Program("nmi", "NMI", "scikit-image", "bins=256"),
    Program("q_mi", "Q_MI(NMI Hossny)", "zheng"),
    Program("q_ncie", "Q_NCIE", "zheng"),
    Program("q_te", "Q_TE(Tsallis Nava)", "zheng", note="marginals swapped there and here"),
    Program("qabf", "Qabf", "Linfeng"),
    Program("qabf", "Qabf", "Zhao", "float64"),
    Program("qabf", "Qabf", "xing"),
    Program("nabf", "Nabf", "Linfeng", "intended"),
    Program("vifp", "VIF", "Linfeng"),
    Program("vifp", "VIF(named VIFF)", "Zhao", "float64", note="called VIFF there"),
    Program("vifp.a", "VIF_A", "sewar"),
    Program("vifp.b", "VIF_B", "torchmetrics", "(0-255)", tolerance=5e-6, note=_SINGLE),
    Program("viff", "VIFF", "Han", tolerance=2e-5),
    Program("q_cv", "Q_CV", "zheng", tolerance=0.01),
    Program("q_s", "Q_S(Piella Q)", "zheng"),
    Program("q_w", "Q_W(Piella Qw)", "zheng"),
    Program("q_p", "Q_P", "zheng"),
    Program("q_sf", "Q_SF", "zheng"),
    Program("q_m", "Q_M", "zheng"),
    Program("fmi_none", "FMI_none", "Haghighat", "order A;B"),
    Program("fmi_gradient", "FMI_gradient", "Haghighat", "order A;B"),
    Program("fmi_dct", "FMI_dct", "Haghighat", "order A;B"),
    Program("fmi_wavelet", "FMI_wavelet", "Haghighat", "order A;B"),
    Program(
        "fmi_edge", "FMI_edge", "Haghighat", "order A;B", 2e-3, "ties of the edge thinning are rounding there"
    ),
    Program("fsim.a", "FSIM_A", "piq", tolerance=2e-5, note=_SINGLE),
    Program("fsim.b", "FSIM_B", "piq", tolerance=2e-5, note=_SINGLE),
)


@dataclass(frozen=True)
class Comparison:
    """Our value next to a program's, and our default where that is a variant's."""

    id: str
    program: str
    function: str
    triple: str
    ours: float
    theirs: float
    tolerance: float
    note: str
    default: float = math.nan

    @property
    def difference(self) -> float:
        """Absolute difference; 0 where both are the same infinity."""
        return 0.0 if self.ours == self.theirs else abs(self.ours - self.theirs)

    @property
    def within(self) -> bool:
        """Tell if the values agree; where the program is NaN (0/0) any finite value does."""
        return math.isfinite(self.ours) if math.isnan(self.theirs) else self.difference <= self.tolerance


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _answers(row: dict[str, str]) -> Iterator[tuple[str, str, str, float, str]]:
    """Our id, the program, what it computes, the tolerance and a note, for each answer to a row."""
    function = row["function"]
    if row["source_repo"] == "CANONICAL":
        key = CANONICAL[row["metric"]]
        if key.split("@")[0] in metric_registry():
            text, _, tolerance = function.partition(" | abs_tol=")
            noise = key == "q_cb@liu"
            wide = max(float(tolerance), _ROUNDING if noise else 0.0)
            yield key, "definition", text, wide, _BACKGROUND if noise else ""
        return
    repository = row["source_repo"].split(" analysis")[0]
    for p in PROGRAMS:
        same = row["metric"].split("(called")[0] == p.metric and p.function in function
        if same and p.repo.lower() in repository.lower():
            yield p.id, re.sub(r"^.*/", "", repository), function, p.tolerance, p.note


def comparisons(folder: Path) -> list[Comparison]:
    """Every row of the calibration set that has an answer here, with our value."""
    with (folder / "golden.csv").open(encoding="utf-8") as handle:
        rows = [(row, answer) for row in csv.DictReader(handle) for answer in _answers(row)]
    values: dict[str, dict[str, float]] = {}
    with np.load(folder / "triples.npz") as images:
        for triple in dict.fromkeys(row["triple"] for row, _ in rows):
            ids = list(dict.fromkeys(answer[0] for row, answer in rows if row["triple"] == triple))
            ids += [name for key in ids if (name := key.split("@")[0]) not in ids]
            values[triple] = evaluate(*(images[f"{triple}__{part}"] for part in "ABF"), ids)
    out = []
    for row, (key, program, function, tolerance, note) in rows:
        theirs = _number(row["value"])
        if theirs is None:
            continue
        # The row of the squared error has our root beside it.
        ours = values[row["triple"]][key] ** (2 if row["metric"] == "MSE" else 1)
        default = values[row["triple"]][key.split("@")[0]]
        out.append(Comparison(key, program, function, row["triple"], ours, theirs, tolerance, note, default))
    return out


def _departures(found: list[Comparison]) -> list[str]:
    """Where a default differs from its program on purpose: both values by triple."""
    lines = [
        "",
        "## Where a default departs from its program",
        "",
        "`q_cb` takes contrast against a local mean of at least one grey level and calls masked contrasts",
        "below 1e-6 equal. The program, `q_cb@liu`, divides two rounding errors on a black background: one",
        "code gives .59339, .59494 and .59479 on three processors. Constant images have no phase congruency",
        "in `fsim`.",
        "",
        "| triple | `q_cb` | `q_cb@liu` |",
        "|---|---|---|",
    ]
    for c in found:
        if c.id == "q_cb@liu" and c.program == "definition":
            lines.append(f"| {c.triple} | {c.default:.5f} | {c.ours:.5f} |")
    return lines


# Figures by `python benchmarks/other_processors.py`; the tests hold the tolerances.
_OTHERS = [
    "",
    "## Other libraries, in every clone",
    "",
    "`tests/metrics/peer_values.csv` holds 141 values of scikit-image, scikit-learn, SciPy, NumPy,",
    "torchmetrics, piq, pytorch-msssim and sewar on five stored triples (`benchmarks/peer_values.py`",
    "makes them): equal to 1e-9 in double precision, to 2e-5 where the library works in single.",
    "",
    "## Another processor, the same number",
    "",
    "Every id was computed with torch, NumPy, MKL, OpenBLAS and oneDNN held to other instructions, one",
    "and two threads, in batches, alone and reversed, on nine sets of images with flat and constant ones",
    "among them. The largest relative difference of any id is 1.2e-7 (`psnr@cddfuse`, single precision as",
    "in the program); of a default 7e-8 (`cc` of an image and its negative). The exception is `q_cb@liu`,",
    "whose tolerance is 0.004. What is left to rounding is stated in each metric's notes; `tolerance` in",
    "its facts is what `compare` goes by.",
]


def write(found: list[Comparison], docs: Path) -> None:
    """Write the page and the table."""
    with (docs / "calibration.csv").open("w", newline="", encoding="utf-8") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow(
            ["id", "program", "function", "triple", "ours", "theirs", "difference", "tolerance", "within"]
        )
        for c in found:
            figures = [f"{c.ours:.10g}", f"{c.theirs:.10g}", f"{c.difference:.1e}", f"{c.tolerance:g}"]
            out.writerow([c.id, c.program, c.function, c.triple, *figures, "yes" if c.within else "NO"])
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in found:
        groups.setdefault((c.id, c.program, c.note), []).append(c)
    lines = [
        "# Calibration",
        "",
        "Every metric against the published programs, on four 256x256 triples (MRI-PET average, MRI-PET",
        "Laplacian pyramid, CT-MRI average with noise, F equal to A). *definition* is the canonical value:",
        "MATLAB programs under Octave 7.3, and the Python peers where they agree. A name after `@` is a",
        "variant that reproduces one program, its slips included. Every figure is in",
        "[calibration.csv](calibration.csv). Made by `python benchmarks/calibration.py FOLDER`;",
        "`tests/metrics/test_calibration.py` asserts it where the images are.",
        "",
        "| id | program | triples | largest difference | tolerance | within | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for (key, program, note), group in sorted(groups.items()):
        real = [c.difference for c in group if not math.isnan(c.theirs)]
        nans = len(group) - len(real)
        worst = f"{max(real):.1e}" if real else "-"
        remark = "; ".join(n for n in (note, f"the program is NaN on {nans}" if nans else "") if n)
        within = "yes" if all(c.within for c in group) else "**no**"
        tolerance = f"{group[0].tolerance:g}"
        lines.append(f"| `{key}` | {program} | {len(group)} | {worst} | {tolerance} | {within} | {remark} |")
    lines += _departures(found)
    lines += _OTHERS
    lines += [
        "",
        "## No reference",
        "",
        "No runnable program returns these; tests of their properties hold them.",
        "",
    ]
    registry, checked = metric_registry(), {c.id.split(".")[0] for c in found}
    for name in registry.names():
        info = registry.load(name).info
        if name not in {key.split("@")[0] for key in checked}:
            lines.append(f"- `{name}`: {info.title}.")
        lines += [
            f"- `{name}@{v}`: {text}." for v, text in info.variants.items() if f"{name}@{v}" not in checked
        ]
    lines += [
        "- 3D versions: only SSIM and NMI of scikit-image score volumes by these definitions; the tests hold",
        "  the others to their 2D values on stacks of one slice.",
        "",
    ]
    (docs / "calibration.md").write_text("\n".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "golden.csv").is_file():
        print(
            f"usage: python {Path(__file__).name} FOLDER, which holds golden.csv and triples.npz",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(1)  # threads that wait for each other are slower than one here
    found = comparisons(Path(arguments[0]))
    write(found, DOCS)
    missed = [c for c in found if not c.within]
    print(f"{len(found)} values compared, {len(missed)} outside their tolerance")
    for c in missed:
        print(f"  {c.id} {c.program} {c.triple}: ours {c.ours:.10g}, theirs {c.theirs:.10g}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
