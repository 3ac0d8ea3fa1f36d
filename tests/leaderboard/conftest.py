"""Synthetic run folders: methods with known effects, failures and controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusebench.metric import MetricInfo
from fusebench.store.rows import COLUMNS, SCHEMA

METRICS = {
    "psnr": {
        "title": "Pooled PSNR",
        "family": "fidelity",
        "direction": "higher",
        "low": 0,
        "high": 99,
        "unit": "dB",
    },
    "ssim": {"title": "SSIM", "family": "structure", "direction": "higher", "low": -1, "high": 1},
    "mi": {
        "title": "Mutual information",
        "family": "information",
        "direction": "higher",
        "low": 0,
        "high": 16,
        "unit": "bit",
    },
    "qabf": {"title": "Edge preservation", "family": "gradient", "direction": "higher", "low": 0, "high": 1},
    "nabf": {"title": "Artefacts", "family": "gradient", "direction": "lower", "low": 0, "high": 1},
    "q_sf": {
        "title": "Spatial frequency ratio",
        "family": "gradient",
        "direction": "zero",
        "low": -1,
        "high": 9,
    },
    "en": {
        "title": "Entropy",
        "family": "information",
        "direction": "none",
        "low": 0,
        "high": 8,
        "unit": "bit",
    },
}
READINGS = {
    name: {"title": name, "family": "task", "direction": "higher", "low": 0, "high": 1}
    for name in ("reading", "cho_auc", "outline", "lesion_auc")
}
METRICS |= READINGS
CENTRE = dict.fromkeys(READINGS, 0.5) | {
    "psnr": 20.0,
    "ssim": 0.7,
    "mi": 3.0,
    "qabf": 0.5,
    "nabf": 0.1,
    "q_sf": 0.0,
    "en": 5.0,
}
SCALE = dict.fromkeys(READINGS, 0.05) | {
    "psnr": 1.0,
    "ssim": 0.03,
    "mi": 0.2,
    "qabf": 0.05,
    "nabf": 0.02,
    "q_sf": 0.1,
    "en": 0.5,
}


def metric_facts(names: list[str]) -> dict[str, Any]:
    facts = {}
    for name in dict.fromkeys(n.partition(".")[0] for n in names):
        ranked = name not in ("en", "q_sf", "cho_auc", "outline")
        info = MetricInfo(name=name, paper=f"Author {name} 2000", ranked=ranked, **METRICS[name])
        facts[name] = dict(info.__dict__.items())
    return facts


def make_run(
    effects: dict[str, float],
    *,
    cases: int = 8,
    per_subject: int = 1,
    metrics: list[str] | None = None,
    controls: tuple[str, ...] = (),
    fail: dict[str, list[int]] | None = None,
    noise: float = 0.5,
    protocols: tuple[str, ...] = ("volume",),
    seed: int = 0,
    dataset: str = "phantom",
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and manifest of a made-up run.

    `effects` gives each method's mean in units of the metric's scale; larger is better for every direction.
    A case has a difficulty common to all methods.  `fail` maps a method to case numbers that fail.
    """
    metrics = metrics or ["psnr", "ssim", "mi", "qabf", "nabf", "en"]
    rng = np.random.default_rng(seed)
    subjects = -(-cases // per_subject)
    difficulty = rng.normal(size=(subjects, len(metrics)))
    own = rng.normal(size=(len(effects), subjects, len(metrics))) * noise
    rows = []
    for p in protocols:
        for m, (method, effect) in enumerate(effects.items()):
            for c in range(cases):
                g = c // per_subject
                failed = c in (fail or {}).get(method, [])
                for k, metric in enumerate(metrics):
                    good = effect + difficulty[g, k] + own[m, g, k] + 0.1 * rng.normal()
                    name = metric.partition(".")[0]
                    direction = METRICS[name]["direction"]
                    value = CENTRE[name] + SCALE[name] * good * (-1 if direction == "lower" else 1)
                    if direction == "zero":
                        value = SCALE[name] * (4 - good)
                    rows.append(
                        {
                            "run": "r1", "key": f"{method}-{c}", "method": method,
                            "dataset": dataset, "case": f"case-{c:03d}",
                            "group": f"subject-{g:03d}", "protocol": p, "metric": metric,
                            "value": None if failed else value,
                            "status": "error" if failed else "ok",
                            "reason": "RuntimeError: planted failure" if failed else "",
                            "load_seconds": 0.1, "fuse_seconds": 0.2 * (m + 1) * (1 + 0.02 * rng.normal()),
                            "fuse_iqr": 0.01, "score_seconds": 0.3,
                            "memory_mb": 200.0 + 50 * m, "gpu_memory_mb": None,
                            "device": "cpu", "seed": 0, "fingerprint": "", "split": "test",
                        }
                    )  # fmt: skip
    manifest = {
        "run": {"id": "r1", "created": "2026-11-22T12:00:00+00:00", "command": "run_bench.py", "seed": 0,
                "device": "cpu"},
        "git": {"commit": "0" * 40, "dirty": False},
        "versions": {"fusebench": "0.1.0", "python": "3.11"},
        "hardware": {"cpu": "test", "cores": 1},
        "methods": {
            m: {
                "name": m, "summary": f"Method {m}",
                 "dims": 2 if m.endswith("2d") else 3, "paper": "Someone 2020", "licence": "MIT",
                "trained_on": "phantom/train" * m.startswith("net"),
                "weights": None,
                "params": 1_230_000 * m.startswith("net"), "colour": "", "control": m in controls,
                "notes": "",
                "parameters": {"levels": 4}, "origin": f"methods/{m}.py:1",
            }
            for m in effects
        },
        "metrics": metric_facts(metrics),
        "dataset": {"name": dataset, "fingerprint": "abcd", "split": "test", "licence": "MIT",
                    "cases": [f"case-{c:03d}" for c in range(cases)]},
        "protocols": list(protocols),
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)), manifest


def with_readings(
    likeness: dict[str, float], reading: dict[str, float], **options: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A run of protocols volume and readers; effects of a method in either."""
    rows, manifest = make_run(likeness, **options)
    names = ["reading", "cho_auc.a", "cho_auc.b", "outline"]
    read, facts = make_run(reading, **{**options, "metrics": names, "protocols": ("readers",)})
    manifest["metrics"] |= facts["metrics"]
    manifest["protocols"] = ["volume", "readers"]
    manifest["options"] = {"protocols": ["volume", "readers"], "seed": 0}
    return pd.concat([rows, read], ignore_index=True), manifest


def write_run(folder: Path, rows: pd.DataFrame, manifest: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    lines = (json.dumps({"schema": SCHEMA, **row}) for row in plain)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    rows.to_parquet(folder / "rows.parquet")
    rows.to_csv(folder / "rows.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


EFFECTS = {"good": 2.0, "fair2d": 1.0, "net": 0.9, "poor": -1.0, "source-mri": 3.0, "noise": -3.0}


@pytest.fixture
def small_run() -> tuple[pd.DataFrame, dict[str, Any]]:
    """Four methods, two controls (one wins), failures in one method."""
    return make_run(EFFECTS, controls=("source-mri", "noise"), fail={"net": [1, 2]})
