"""Two runs of the same benchmark compared, case by case: did anything get worse?

Quality is gated, time and memory warn: scores of a deterministic method repeat to the last digits, times
on a shared machine do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fusebench.text import plural

from .columns import facts_of
from .escape import markdown_text
from .matching import KEY, absent, absent_note, has_value, ok, same_data, scored, unmatched
from .runs import Runs, groups

Mode = Literal["auto", "exact", "test"]
Verdict = Literal["loss", "gain", "same", "warning"]

# Ratios that count as noise while nothing is known about the machine, and the narrowest band ever used.
UNKNOWN_BAND = {"seconds": 1.5, "memory": 1.25}
NARROWEST_BAND = {"seconds": 1.10, "memory": 1.05}
# A band is this much wider than the largest deviation among the baselines: the next one may be larger.
BAND_MARGIN = 1.5


@dataclass(frozen=True)
class Change:
    """One compared series.

    Attributes
    ----------
    kind : str
        "quality", "failure", "seconds" or "memory".
    method, dataset, protocol, metric : str
    cases : int
        Pairs compared; for a failure the cases that have no value any more.
    base, new : float
        Means (quality), or medians (seconds), or peaks (memory).
    change : float
        Quality: mean gain in the metric's direction, so a loss is negative.  Time and memory: ratio new/base.
    limit : float
        What `change` was held against.
    p : float or None
        Of the paired test, Holm-adjusted, where one was made.
    verdict : {"loss", "gain", "same", "warning"}
    detail : str
    """

    kind: str
    method: str
    dataset: str
    protocol: str
    metric: str
    cases: int
    base: float
    new: float
    change: float
    limit: float
    p: float | None
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    Attributes
    ----------
    changes : tuple of Change
    notes : tuple of str
    absent : int
        Scores of the base that the new run has no row for, of methods in both: not compared.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    absent: int = 0

    def of(self, verdict: Verdict) -> list[Change]:
        """Changes with one verdict."""
        return [c for c in self.changes if c.verdict == verdict]

    @property
    def lost(self) -> bool:
        """True if anything that gates got worse."""
        return bool(self.of("loss"))

    def to_json(self) -> str:
        """Everything, for machines."""
        clean = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(c).items()}
            for c in self.changes
        ]
        content = {"lost": self.lost, "absent": self.absent, "notes": self.notes, "changes": clean}
        return json.dumps(content, indent=2) + "\n"

    def to_markdown(self) -> str:
        """A summary for a pull request."""
        quality = [c for c in self.changes if c.kind in ("quality", "failure")]
        head = "got worse" if self.lost else "nothing got worse"
        if self.absent:
            head += f", {plural(self.absent, 'score')} of the base not in the new run"
        counts = f"{len(self.of('loss'))} worse, {len(self.of('gain'))} better"
        counts += f", {plural(len(self.of('warning')), 'warning')}"
        lines = [f"### FuseBench: {head}", "", f"{plural(len(quality), 'score')} compared: {counts}.", ""]
        parts = {"Worse": self.of("loss"), "Warnings": self.of("warning"), "Better": self.of("gain")}
        for title, some in parts.items():
            if some:
                lines += [f"**{title}**", "", *_markdown_table(some), ""]
        lines += [f"- {markdown_text(n)}" for n in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def _markdown_table(changes: Sequence[Change]) -> list[str]:
    lines = [
        "| method | what | cases | base | new | change | limit | |",
        "| :-- | :-- | --: | --: | --: | --: | --: | :-- |",
    ]
    for c in changes[:50]:
        what = c.metric if c.kind == "quality" else c.kind
        where = "/".join(x for x in (c.dataset, c.protocol) if x)
        change = f"×{c.change:.3f}" if c.kind in ("seconds", "memory") else f"{c.change:+.3g}"
        limit = f"×{c.limit:.2f}" if c.kind in ("seconds", "memory") else f"{c.limit:.1g}"
        p = f"p = {c.p:.2g}" if c.p is not None else ""
        cells = [c.method, f"{what} ({where})", str(c.cases), f"{c.base:.6g}", f"{c.new:.6g}", change, limit]
        text = markdown_text("; ".join(x for x in (p, c.detail) if x))
        lines.append("| " + " | ".join([markdown_text(x) for x in cells] + [text]) + " |")
    if len(changes) > 50:
        lines.append(f"| and {len(changes) - 50} more |" + " |" * 7)
    return lines


def compare(
    base: Runs,
    new: Runs,
    *,
    baselines: Sequence[Runs] = (),
    mode: Mode = "auto",
    tolerance: float | None = None,
    alpha: float = 0.05,
    min_effect: float = 0.05,
    gate_costs: bool = False,
) -> Comparison:
    """Compare two runs case by case.

    Parameters
    ----------
    base, new : Runs
    baselines : sequence of Runs
        Further runs of the base: the noise band of time and memory is learned from them and `base`.
    mode : {"auto", "exact", "test"}
        "exact": a loss above `tolerance` counts, of the mean or, where the mean stays, of one case.
        "test": the mean loss must be significant (paired Wilcoxon by subject, Holm over all series) and
        exceed `min_effect`.  "auto": "exact" for rows that both runs made on a CPU, else "test".
    tolerance : float, optional
        Relative to the value above 1, absolute below.  None: what the metric and the method declare
        (`MetricInfo.tolerance`, `MethodInfo.tolerance`), which is 1e-6 for nearly all; the larger counts.
    alpha, min_effect : float
        `min_effect` is in standard deviations of the base over cases.
    gate_costs : bool
        Count time and memory beyond the noise band as losses, not warnings.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        The runs have no row in common, or none of the same data.
    """
    notes: list[str] = []
    base, new, baselines = same_data(base, new, baselines, notes)
    quality = _quality(base, new, mode, tolerance, alpha, min_effect, notes)
    failures = _failures(base, new)
    costs = _costs(base, new, baselines, gate_costs, notes)
    left_out = absent(base, new)
    notes += [*unmatched(base, new), *absent_note(left_out)]
    return Comparison((*failures, *quality, *costs), tuple(notes), len(left_out))


def _quality(
    base: Runs,
    new: Runs,
    mode: Mode,
    tolerance: float | None,
    alpha: float,
    min_effect: float,
    notes: list[str],
) -> list[Change]:
    left, right = ok(base), ok(new)
    columns = [*KEY, "group", "value", "device"]
    pairs = left[columns].merge(right[[*KEY, "value", "device"]], on=KEY, suffixes=("_base", "_new"))
    found: list[tuple[Change, bool]] = []
    for (dataset, protocol, metric, method), t in groups(pairs, ["dataset", "protocol", "metric", "method"]):
        facts = facts_of(metric, new.manifest)
        direction = facts.get("direction", "none")
        if direction == "none":
            continue
        a, b = t["value_base"].to_numpy(dtype=float), t["value_new"].to_numpy(dtype=float)
        with np.errstate(invalid="ignore"):
            gain = {"lower": a - b, "zero": np.abs(a) - np.abs(b)}.get(str(direction), b - a)
        on_cpu = bool((t["device_base"].eq("cpu") & t["device_new"].eq("cpu")).all())
        gain = np.where(a == b, 0.0, gain)  # infinite in both, as the PSNR of a copy, is no change
        size = np.abs(a[np.isfinite(a)])
        exact = mode == "exact" or (mode == "auto" and on_cpu)
        p: float | None = None
        if exact:
            least = _tolerance(facts, new, method) if tolerance is None else tolerance
            limit = least * max(1.0, float(size.mean()) if len(size) else 0.0)
        else:
            finite = a[np.isfinite(a)]  # the spread of the others, where one is a copy with infinite PSNR
            spread = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
            limit = min_effect * spread if len(a) > 1 else np.inf
            subject = pd.Series(gain).groupby(t["group"].to_numpy()).mean().to_numpy()
            p = _paired_p(subject)
        mean = float(gain.mean())
        worst = int(gain.argmin())
        detail = f"worst case {t['case'].iloc[worst]}: {gain[worst]:+.3g}" if gain[worst] < -limit else ""
        verdict: Verdict = "loss" if mean < -limit else "gain" if mean > limit else "same"
        if exact and verdict == "same" and gain[worst] < -limit:
            verdict = "loss"  # one case alone can drown in the mean of many
        means = float(a.mean()), float(b.mean())
        change = Change(
            "quality", method, dataset, protocol, metric, len(a), *means, mean, limit, p, verdict, detail
        )
        found.append((change, exact))
    return _adjusted(found, alpha, notes)


def _tolerance(metric: Mapping[str, Any], runs: Runs, method: str) -> float:
    stated = runs.manifest.get("methods", {}).get(method, {}).get("tolerance") or 0.0
    found = max(float(metric["tolerance"]), float(stated))
    return found if math.isfinite(found) else 0.0


def _paired_p(gain: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    gain = gain[gain != 0]
    # Fewer than six subjects cannot reach 5 % whatever they say.
    return float(stats.wilcoxon(gain).pvalue) if len(gain) else 1.0


def _adjusted(found: list[tuple[Change, bool]], alpha: float, notes: list[str]) -> list[Change]:
    """Holm over all tested series; a tested change that is not significant is no change."""
    tested = [i for i, (_, exact) in enumerate(found) if not exact]
    changes = [c for c, _ in found]
    if tested:
        adjusted = multipletests([changes[i].p or 0.0 for i in tested], method="holm")[1]
        for i, p in zip(tested, adjusted, strict=True):
            verdict = changes[i].verdict if p < alpha else "same"
            changes[i] = Change(**{**asdict(changes[i]), "p": float(p), "verdict": verdict})
        notes.append(f"{len(tested)} scores tested by subject: not all ran on a CPU, or --mode test.")
    return changes


def _failures(base: Runs, new: Runs) -> list[Change]:
    """Cases that had a value and now have none, or a reason in its place; a skip is a loss too."""
    had, rows = ok(base)[KEY], scored(new)
    gone = rows.loc[~has_value(rows), [*KEY, "status", "reason"]]
    gone["status"] = gone["status"].astype(object).replace("ok", "not defined")
    lost = had.merge(gone, on=KEY)
    changes = []
    for (dataset, protocol, method, status), t in groups(lost, ["dataset", "protocol", "method", "status"]):
        n = int(t["case"].nunique())
        names = t["metric"].unique()
        where = names[0] if len(names) == 1 else plural(len(names), "metric")
        reason = ": ".join(filter(None, (f"{status} in {where}", t["reason"].iloc[0])))[:200]
        numbers = (n, np.nan, np.nan, -float(n), 0.0, None)
        changes.append(Change("failure", method, dataset, protocol, "", *numbers, "loss", reason))
    return changes


# -- time and memory ---------------------------------------------------------------------------------


def cost_table(runs: Runs) -> pd.DataFrame:
    """Seconds and peak memory (MB) of each method and case."""
    rows = runs.rows[runs.rows["status"] == "ok"]
    keys = ["dataset", "method", "case"]
    return rows.groupby(keys)[["fuse_seconds", "memory_mb"]].max().set_axis(["seconds", "memory"], axis=1)


def log_ratios(base: pd.DataFrame, new: pd.DataFrame, kind: str) -> pd.Series:
    """Median over cases of log(new / base), by dataset and method."""
    a, b = base[kind].dropna(), new[kind].dropna()
    both = pd.concat([a, b], axis=1, join="inner", keys=["a", "b"])
    both = both[(both > 0).all(axis=1)]
    ratio = pd.Series(np.log(both["b"] / both["a"]), index=both.index, dtype=float)
    return ratio.groupby(level=["dataset", "method"]).median()


def noise_band(tables: Sequence[pd.DataFrame], kind: str) -> float:
    """Ratio up to which a cost is noise, learned from repeated baselines.

    The largest median ratio between any baseline and the middle of all, of any method, widened by
    `BAND_MARGIN` on the log scale.
    """
    if len(tables) < 2:
        return UNKNOWN_BAND[kind]
    middle = pd.concat(list(tables)).groupby(level=["dataset", "method", "case"]).median()
    spread = [log_ratios(middle, t, kind).abs().max() for t in tables]
    widest = float(np.nanmax([0.0, *spread]))
    return float(max(NARROWEST_BAND[kind], np.exp(BAND_MARGIN * widest)))


def _costs(base: Runs, new: Runs, baselines: Sequence[Runs], gate: bool, notes: list[str]) -> list[Change]:
    tables = [cost_table(r) for r in (base, *baselines)]
    # The new run is held against the middle of all baselines: one may itself be off.
    middle = pd.concat(tables).groupby(level=["dataset", "method", "case"]).median()
    fresh = cost_table(new)
    changes = []
    for kind in ("seconds", "memory"):
        band = noise_band(tables, kind)
        source = (
            f"learned from {len(tables)} baselines"
            if len(tables) > 1
            else "assumed: give --baseline to learn it"
        )
        notes.append(f"Noise band of {kind}: ×{band:.2f}, {source}.")
        for (dataset, method), log in _pairs(log_ratios(middle, fresh, kind)):
            ratio = float(np.exp(log))
            worse: Verdict = "loss" if gate else "warning"
            verdict: Verdict = worse if ratio > band else "gain" if ratio < 1 / band else "same"
            a, b = (t[kind].xs((dataset, method), level=("dataset", "method")) for t in (middle, fresh))
            changes.append(Change(kind, method, dataset, "", "", len(b), float(a.median()), float(b.median()),
                                  ratio, band, None, verdict))  # fmt: skip
    return changes


def _pairs(series: Any) -> list[tuple[tuple[str, str], float]]:
    return [((str(d), str(m)), float(v)) for (d, m), v in series.items()]
