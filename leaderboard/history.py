"""Scores and times over commits: one small Parquet file per commit, charts with steps marked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fusebench.errors import InputError
from fusebench.files import atomic_path, read_json, refuse_foreign, refuse_links, write_text
from fusebench.store.read_rows import can_name
from fusebench.store.rows import COLUMNS
from fusebench.text import plural

from . import charts, runs
from .columns import facts_of
from .matching import BENCHMARK
from .pages import copy_shared, environment, slug

_STORED = re.compile(r"\d{8}T\d{6}-[0-9a-f]+\.parquet")  # what `add` names its files
_KEPT = ("run", "git", "versions", "hardware", "dataset", "metrics")
# A step must be at least this large to be worth a mark: ratio of times, relative change of a score.
LEAST_STEP = {"seconds": 0.05, "quality": 1e-6}
# Least height of a panel, relative to its level.
LEAST_SPAN = 0.01
# Floor of the noise of a series, so that rounding is not taken for signal.
_FLOOR = {"seconds": 0.01, "quality": 1e-7}


# -- the store ---------------------------------------------------------------------------------------


def add(
    source: str | Path,
    store: str | Path,
    *,
    benchmarks: Sequence[str | Path] = (),
    commit: str | None = None,
    time: str | None = None,
) -> Path:
    """Keep one run in the store, under its commit; what the commit had before is replaced.

    Parameters
    ----------
    source : path
        Run folder, or a pytest-benchmark JSON file.
    store : path
        Folder of the store; made when missing.
    benchmarks : sequence of paths
        pytest-benchmark JSON files of the same commit.
    commit, time : str, optional
        Default: what the manifest or the JSON file says.

    Returns
    -------
    Path
        The file written.
    """
    source = Path(source)
    files = [Path(b) for b in benchmarks]
    if source.suffix == ".json":
        files.insert(0, source)
        rows, manifest = pd.DataFrame(columns=list(COLUMNS)), {}
    else:
        found = runs.load([source])
        rows, manifest = found.rows, {k: found.manifest.get(k, {}) for k in _KEPT}
        # Enough of each method to draw it.
        manifest["methods"] = {
            m: {"name": m, "control": bool(i.get("control")), "dims": i.get("dims")}
            for m, i in found.manifest.get("methods", {}).items()
        }
    for file in files:
        extra, facts = read_benchmark(file)
        rows = pd.concat([rows, extra], ignore_index=True) if len(rows) else extra
        manifest = {**facts, **manifest}
    commit = commit or str(manifest.get("git", {}).get("commit") or "")
    time = time or str(manifest.get("run", {}).get("created") or "")
    if not re.fullmatch(r"[0-9a-fA-F]{7,64}", commit):
        raise InputError(f"{source}: which commit was it run on? give --commit SHA (found {commit!r})")
    moment = _moment(time)
    if pd.isna(moment):
        raise InputError(f"{source}: {time!r} is no time; give --time as 2026-11-22T12:00:00Z")
    manifest["git"] = {**manifest.get("git", {}), "commit": commit}
    manifest["run"] = {**manifest.get("run", {}), "created": moment.isoformat()}
    folder = Path(store)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{moment:%Y%m%dT%H%M%S}-{commit[:12]}.parquet"
    table = pa.Table.from_pandas(rows, preserve_index=False)
    described = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), runs.METADATA: json.dumps(manifest)}
    )
    with atomic_path(path) as temporary:
        pq.write_table(described, temporary, compression="zstd")
    for old in folder.glob(f"*-{commit[:12]}.parquet"):  # of the same commit, only when this one is there
        if old != path and _STORED.fullmatch(old.name):
            old.unlink()
    return path


def _moment(time: str) -> Any:
    """A text as a moment of universal time; NaT where it is none, or of no commit."""
    try:
        moment = pd.to_datetime(time, utc=True, errors="coerce")
    except (ValueError, OverflowError, NotImplementedError):  # for some years, whatever `errors` says
        return pd.NaT
    return moment if pd.isna(moment) or 1970 <= moment.year < 2200 else pd.NaT


def read_benchmark(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and facts of a pytest-benchmark JSON file; the time kept is the minimum of the rounds."""
    again = "make it again with pytest --benchmark-json"
    try:
        content = read_json(path)
        stats = [
            (b["fullname"], *(float(b["stats"][n]) for n in ("min", "iqr"))) for b in content["benchmarks"]
        ]
        commit = str((content.get("commit_info") or {}).get("id") or "")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not a pytest-benchmark file ({error!r:.120}); {again}") from None
    for name, *seconds in stats:
        if not can_name(name, "method") or not np.isfinite(seconds).all():
            raise InputError(f"{path}: a benchmark {ascii(name)[:80]} of {seconds} s is none; {again}")
    base: dict[str, Any] = dict.fromkeys(COLUMNS)
    base |= {"run": "", "key": "", "dataset": "pytest-benchmark", "group": "", "protocol": BENCHMARK,
             "metric": "", "status": "ok", "reason": "", "device": "cpu", "seed": 0}  # fmt: skip
    rows = [{**base, "method": n, "case": n, "fuse_seconds": s, "fuse_iqr": q} for n, s, q in stats]
    facts = {"git": {"commit": commit}, "run": {"created": str(content.get("datetime") or "")}}
    return pd.DataFrame(rows, columns=list(COLUMNS)), facts


def read(store: str | Path) -> list[runs.Runs]:
    """All commits of a store, oldest first."""
    files = sorted(Path(store).glob("*.parquet"))
    if not files:
        raise InputError(f"{store}: no history there; fill it with `history add RUN --store {store}`")
    return [runs.load([f]) for f in files]


# -- series and steps --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Series:
    """One number over commits.

    Attributes
    ----------
    kind : {"quality", "seconds"}
    group : str
        Chart it belongs to, such as ``phantom, volume, psnr``.
    name : str
        Method or benchmark.
    direction : str
    commits : list of str
    values : ndarray
        NaN where a commit has none.
    """

    kind: str
    group: str
    name: str
    direction: str
    commits: list[str]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A lasting change: the first commit at the new level, the medians before and after."""

    series: Series
    index: int
    before: float
    after: float

    @property
    def commit(self) -> str:
        return self.series.commits[self.index]

    @property
    def worse(self) -> bool:
        """True if the step goes against the series' direction."""
        a, b = self.before, self.after
        if self.series.direction == "zero":
            a, b = abs(a), abs(b)
        return b < a if self.series.direction == "higher" else b > a

    def describe(self) -> str:
        """``0.2 to 0.26 (+30.0 %)``."""
        percent = 100 * (self.after / self.before - 1) if self.before else np.inf
        return f"{self.before:.4g} to {self.after:.4g} ({percent:+.3g} %)"


def collect(history: Sequence[runs.Runs]) -> list[Series]:
    """Mean scores and median times of every method, and the time of every benchmark, over commits."""
    commits = [str(h.manifest.get("git", {}).get("commit", "")) for h in history]
    directions: dict[str, str] = {}
    parts = []
    for i, h in enumerate(history):
        ok = h.rows[h.rows["status"] == "ok"].assign(commit=i)
        for metric in ok["metric"].dropna().unique():
            if metric:
                directions[metric] = str(facts_of(str(metric), h.manifest).get("direction", "none"))
        parts.append(ok)
    rows = pd.concat(parts, ignore_index=True)
    scored = rows[rows["protocol"] != BENCHMARK]
    found = []
    keys = ["dataset", "protocol", "metric", "method"]
    means = scored.groupby([*keys, "commit"])["value"].mean()
    for (dataset, protocol, metric, method), values in runs.groups(means, keys):
        if directions.get(metric, "none") != "none":
            group = f"{dataset}, {protocol}, {metric}"
            found.append(_series("quality", group, method, directions[metric], commits, values))
    timed = rows.groupby(["dataset", "method", "case", "commit"])["fuse_seconds"].max().dropna()
    median = timed.groupby(level=["dataset", "method", "commit"]).median()
    for (dataset, method), values in runs.groups(median, ["dataset", "method"]):
        found.append(_series("seconds", f"{dataset}, seconds", method, "lower", commits, values))
    return found


def _series(
    kind: str, group: str, name: str, direction: str, commits: list[str], values: pd.Series
) -> Series:
    by_commit = values.droplevel([n for n in values.index.names if n != "commit"])
    dense = by_commit.reindex(range(len(commits))).to_numpy(dtype=float)
    return Series(kind, group, name, direction, commits, dense)


def noise(series: Series) -> float:
    """Standard deviation from commit to commit (log scale for seconds), steps and outliers left out."""
    x = _scaled(series)[np.isfinite(series.values)]
    floor = _FLOOR[series.kind] * (
        1.0 if series.kind == "seconds" else max(1.0, float(np.abs(x).mean() or 0))
    )
    if len(x) < 3:
        return floor
    difference = np.diff(x)
    deviation = np.median(np.abs(difference - np.median(difference)))
    return float(max(floor, 1.4826 * deviation / np.sqrt(2)))


def _scaled(series: Series) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(series.values) if series.kind == "seconds" else series.values


def segments(series: Series, *, penalty: float = 5.0, shortest: int = 3) -> list[tuple[int, int]]:
    """Stretches of commits at one level, as index ranges into the commits that have a value.

    PELT (Killick et al. 2012, in `ruptures`) on absolute deviations, which single slow runs hardly move,
    in units of the series' own noise; `penalty` times log(n) per step.
    """
    import ruptures

    x = _scaled(series)[np.isfinite(series.values)]
    n = len(x)
    if n < 2 * shortest:
        return [(0, n)]
    scaled = (x - np.median(x)) / noise(series)
    found = ruptures.Pelt(model="l1", min_size=shortest, jump=1).fit(scaled).predict(pen=penalty * np.log(n))
    ends = [0, *found]
    return list(pairwise(ends))


def steps(series: Series) -> list[Step]:
    """Lasting changes of a series, oldest first."""
    where = np.flatnonzero(np.isfinite(series.values))
    parts = segments(series)
    found = []
    for (a, b), (_, c) in pairwise(parts):
        before = float(np.median(series.values[where[a:b]]))
        after = float(np.median(series.values[where[b:c]]))
        relative = (
            abs(after / before - 1)
            if series.kind == "seconds"
            else abs(after - before) / max(1.0, abs(before))
        )
        if relative > LEAST_STEP[series.kind]:
            found.append(Step(series, int(where[b]), before, after))
    return found


# -- charts ------------------------------------------------------------------------------------------


def chart(store: str | Path, out: str | Path) -> tuple[list[Path], list[Step]]:
    """Draw the history: one PNG and SVG per group of series, and ``index.html`` with the steps.

    Returns
    -------
    paths : list of Path
        ``index.html`` first.
    found : list of Step
        All steps, by commit.
    """
    history = read(store)
    series = collect(history)
    found = sorted((s for x in series for s in steps(x)), key=lambda s: s.index)
    out = Path(out)
    _check_ours(out)
    copy_shared(out)
    paths, drawn = [], []
    for group in dict.fromkeys(x.group for x in series):
        some = [x for x in series if x.group == group]
        for path in charts.save(over_commits(group, some, found), out / "figures" / slug(group)):
            paths.append(path)
        drawn.append(
            {"caption": group, "png": f"figures/{slug(group)}.png", "svg": f"figures/{slug(group)}.svg"}
        )
    last = history[-1].manifest
    text = (
        environment(last)
        .get_template("history.html")
        .render(
            root="",
            home="History",
            steps=found,
            drawn=drawn,
            commits=plural(len(history), "commit"),
            first=str(history[0].manifest.get("run", {}).get("created", ""))[:10],
            last=str(last.get("run", {}).get("created", ""))[:10],
        )
    )
    write_text(out / "index.html", text)
    return [out / "index.html", *paths], found


def _check_ours(out: Path) -> None:
    """Raise `InputError` where the page would replace files of others, or be written through a link."""
    page = out / "index.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if "<title>FuseBench history" not in text:
        refuse_foreign(out, ("index.html", "static", "figures"), "`history chart`")
    refuse_links(out, ("static", "figures"))


def over_commits(title: str, series: Sequence[Series], found: Sequence[Step]) -> Figure:
    """One panel per series: values, the noise band around each level, and marked steps."""
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    with rc_context(charts.STYLE):
        figure = Figure(figsize=(4.2 * columns, 2.1 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax in grid.ravel()[len(series) :]:
            ax.set_axis_off()
        for ax, one in zip(grid.ravel(), series, strict=False):
            _panel(ax, one, [s for s in found if s.series is one])
        figure.suptitle(charts.plain(title), fontsize=10)
    return figure


def _panel(ax: Axes, series: Series, found: Sequence[Step]) -> None:
    where = np.flatnonzero(np.isfinite(series.values))
    values = series.values[where]
    wide = 3 * noise(series)
    for a, b in segments(series):
        if a == b:
            continue
        level = float(np.median(values[a:b]))
        seconds = series.kind == "seconds"
        low, high = (level * np.exp(-wide), level * np.exp(wide)) if seconds else (level - wide, level + wide)
        ends = [where[a] - 0.4, where[b - 1] + 0.4]
        ax.fill_between(ends, low, high, color=charts.METHOD, alpha=0.15, linewidth=0)
        ax.plot(ends, [level, level], color=charts.METHOD, linewidth=0.8, alpha=0.6)
    ax.plot(where, values, "o", color=charts.METHOD, markersize=2.5)
    for step in found:
        # Told apart by the shape of the mark too: down is worse, up is better.
        ax.axvline(step.index - 0.5, color=charts.ACCENT, linewidth=1, linestyle="--")
        ax.plot(step.index, series.values[step.index], marker="v" if step.worse else "^", color=charts.ACCENT,
                markersize=7, zorder=4)  # fmt: skip
    low, high = ax.get_ylim()
    middle = (low + high) / 2
    # Scores that never change would fill the panel with their rounding.
    half = max(high - low, LEAST_SPAN * abs(middle)) / 2
    ax.set_ylim(middle - half, middle + half)
    ax.set_title(charts.plain(series.name), fontsize=8)
    ax.ticklabel_format(axis="y", useOffset=False)
    shown = np.linspace(0, len(series.commits) - 1, min(4, len(series.commits))).round().astype(int)
    ax.set_xticks(shown, [series.commits[i][:7] for i in shown], fontsize=7, rotation=30)
