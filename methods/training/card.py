"""Files beside the weights: the card, the curve as numbers and as a picture, the full log."""

from __future__ import annotations

import csv
import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from .checkpoint import write_atomically

Rows = Sequence[Mapping[str, float]]

# The published curve holds every one of the first steps (to check a retraining) and a thinned rest.
FIRST, REST = 200, 800


def write_log(path: Path, history: Rows) -> None:
    """All rows as CSV, empty where a step has no such number; no times, so equal runs give equal files."""
    columns = list(dict.fromkeys(key for row in history for key in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.9g}" for k, v in row.items()} for row in history)

    write_atomically(path, write)


def write_card(
    out: Path,
    name: str,
    facts: Mapping[str, Any],
    history: Rows,
    *,
    monitored: str,
    best: Mapping[str, float] | None,
) -> None:
    """Write ``name.md``, ``name_curve.csv`` and ``name_curve.png``.

    Parameters
    ----------
    facts : mapping
        Listed as they come.
    best : mapping, optional
        The validated row whose weights were kept; None when the last ones were.
    """
    every = max(1, len(history) // REST)
    thinned = [r for r in history if r["step"] <= FIRST or r["step"] % every == 0 or monitored in r]
    write_log(out / f"{name}_curve.csv", thinned)
    validated = [r for r in history if monitored in r]
    if history:
        picture = _curve(history, validated, monitored)
        write_atomically(out / f"{name}_curve.png", lambda path: picture.savefig(path, dpi=80))
    kept = f"step {best['step']:.0f}, {monitored} {best[monitored]:.6g}" if best else "the last step"
    lines = [f"# {name}", "", f"Weights of {kept}.", "", "| | |", "|---|---|"]
    lines += [f"| {k} | {_cell(v)} |" for k, v in facts.items() if v not in ("", None, {}, [])]
    lines += [f"| date | {datetime.date.today().isoformat()} |", f"| torch | {torch.__version__} |"]
    lines += [f"| Python | {platform.python_version()} |", ""]
    if facts.get("command"):
        lines += [
            "To check the first losses against the curve, run the command with `--stop-after 200`.",
            "",
        ]
    if validated:
        keys = [k for k in validated[-1] if k not in ("step", "lr")]
        lines += ["## Validation", "", "| step | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 1)]
        shown = validated[:: max(1, len(validated) // 20)]
        shown += [validated[-1]] if shown[-1] is not validated[-1] else []
        lines += [
            f"| {r['step']:.0f} | " + " | ".join(f"{r[k]:.5g}" if k in r else "" for k in keys) + " |"
            for r in shown
        ]
        lines.append("")
    if history:
        lines += [f"![loss curve]({name}_curve.png)", ""]
    write_atomically(out / f"{name}.md", lambda path: path.write_text("\n".join(lines), encoding="utf-8"))


def write_picture(path: Path, picture: Tensor) -> None:
    """Write a grey picture (H, W) in [0, 1] as PNG."""
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    write_atomically(path, lambda temporary: imsave(temporary, levels, cmap="gray", vmin=0, vmax=255))


def hardware(device: torch.device, count: int) -> str:
    """One line on what the run was computed with."""
    if device.type == "cuda":
        return f"{count} x {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"CPU {_processor()}, {count} process{'es' * (count > 1)}, {torch.get_num_threads()} threads each"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _curve(history: Rows, validated: Rows, monitored: str) -> Figure:
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([r["step"] for r in history], [r["loss"] for r in history], lw=0.7, label="loss")
    axes.set(xlabel="step", ylabel="loss")
    if validated:
        side = axes.twinx()
        side.plot([r["step"] for r in validated], [r[monitored] for r in validated], "o-", ms=3, color="C1")
        side.set_ylabel(monitored, color="C1")
    return figure
