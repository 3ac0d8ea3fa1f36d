"""What can be found out about an entry without its code: rows that fit, and two volumes scored again."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusebench.api import run_request
from fusebench.case import Case
from fusebench.dataset import Dataset
from fusebench.engine.data import open_dataset
from fusebench.engine.from_files import WITH_FINDINGS
from fusebench.engine.plan import metric_source
from fusebench.engine.request import Request
from fusebench.errors import FuseBenchError, InputError
from fusebench.files import open_plain, read_json
from fusebench.images.packed import unpack
from fusebench.metric import MetricId, MetricInfo
from fusebench.plugins import Plugins, find_plugins
from fusebench.scoring.protocol import PROTOCOLS, READERS
from fusebench.store.data_keys import data_key
from fusebench.store.keys import fuse_key, libraries, score_key, scoring_key
from fusebench.store.read_rows import read_log
from fusebench.store.rows import Row

from .board import known_by_files
from .entries import Entry, chosen_cases

# The dataset that everyone makes for himself, and what may be chosen of it in an entry.
PHANTOM = "phantom"
_OPTIONS = {"size": 160, "fwhm": 20, "counts": 1e6, "misalign": 20, "subjects": 64}
# Of rows that a GPU made, the largest difference that counts as none.
_ON_GPU = 1e-3
_SHOWN = 3
# The badges that a check can give an entry.
BADGES = ("refused", "self-reported", "re-scored")


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes
    ----------
    name, digest : str
        Of the entry, and of its files.
    badge : {"refused", "self-reported", "re-scored"}
    problems : tuple of str
        Why it is refused.
    notes : tuple of str
        What could not be checked.
    old : tuple of str
        Metrics whose values are those of another version of their code.
    compared : int
        Values that were scored again and agree.
    """

    name: str
    digest: str
    badge: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    compared: int = 0

    def lines(self) -> list[str]:
        """The verdict in words."""
        again = f", {self.compared} values scored again" if self.compared else ""
        found = [f"{self.name}: {self.badge}{again}"]
        found += [f"problem: {p}" for p in self.problems] + [f"note: {n}" for n in self.notes]
        if self.old:
            found.append(f"older metric version, greyed on the board: {', '.join(self.old)}")
        return found


def code_of(plugins: Plugins, metrics: Sequence[str]) -> dict[str, Any]:
    """The code that scores here: hash by metric name, of the core, and versions of libraries."""
    names = sorted({MetricId.parse(m).name for m in metrics})
    return {
        "metrics": {name: metric_source(plugins, name) for name in names},
        "scoring": scoring_key(),
        "libraries": libraries(),
    }


def wanted_key(row: Row, method_key: str, manifest: Mapping[str, Any], plugins: Plugins) -> str:
    """Key that a row of a method has, if it is of the present code; `manifest` is that of its run."""
    data = data_key(row.fingerprint, row.group, str(manifest.get("dataset", {}).get("loading") or ""))
    threads = int(manifest.get("options", {}).get("threads", 1))
    volume = fuse_key(method_key, data, row.seed, row.device, threads)
    return score_key(
        volume, row.protocol, row.metric, metric_source(plugins, MetricId.parse(row.metric).name)
    )


def check(entry: Entry, plugins: Plugins | None = None) -> Verdict:
    """Check an entry: its rows against the data they name, and its volumes by scoring them again.

    A value that its own code does not give is a problem.  One that the present code does not give, where the
    entry says that other code made it, is of an older metric version.
    """
    plugins = plugins or find_plugins()
    about = entry.about
    try:
        infos = {m: _info(m, plugins) for m in dict.fromkeys(r.metric for r in entry.rows)}
        problems = [*_implausible(entry, infos)]
        other = _other_code(entry, plugins)
        if about.name in plugins.methods and about.name != about.method:
            problems.append(f"the name {about.name!r} is that of a bundled method; choose another")
        if entry.dataset != PHANTOM:
            notes = (f"data {entry.dataset}: whoever checks has no copy, so nothing was scored again",)
            badge = "refused" if problems else "self-reported"
            return Verdict(about.name, entry.digest, badge, tuple(problems), notes, tuple(sorted(other)))
        cases = {c.id: c for c in _phantom(entry, plugins).cases("test")}
        problems += _foreign(entry, cases)
        if not problems and not other:
            problems += _keys(entry, plugins)
        found: dict[tuple[str, str, str], Row] = {}
        if not problems:
            found = _score_again(entry, cases, plugins)
    except FuseBenchError as error:
        return Verdict(about.name, entry.digest, "refused", (str(error),))
    compared, old = 0, set()
    wrong: list[str] = []
    for row in entry.rows:
        again = found.get((row.case, row.protocol, row.metric))
        if again is None or again.status == "skip":
            continue
        if _same(row, again, infos[row.metric]):
            compared += 1
        elif MetricId.parse(row.metric).name in other:
            old.add(MetricId.parse(row.metric).name)
        else:
            now = "no value" if again.value is None else f"{again.value:.6g}"
            said = "no value" if row.value is None else f"{row.value:.6g}"
            wrong.append(f"{row.metric} of {row.case} is {now} and not {said} (its volume scored again)")
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        problems.append("; ".join(wrong[:_SHOWN]) + more)
    missing = len(cases) - len({r.case for r in entry.rows})
    absent = (f"{missing} of {len(cases)} cases are not in it",) if missing else ()
    badge = "refused" if problems else "re-scored"
    return Verdict(about.name, entry.digest, badge, tuple(problems), absent, tuple(sorted(old)), compared)


def _info(metric: str, plugins: Plugins) -> MetricInfo:
    parsed = MetricId.parse(metric)
    info: MetricInfo = plugins.metrics.load(parsed.name).info
    parsed.check(info)
    return info


def _implausible(entry: Entry, infos: Mapping[str, MetricInfo]) -> list[str]:
    """Protocols that there are not, and values beyond the range of their metric."""
    for row in entry.rows:
        if row.protocol not in PROTOCOLS:
            return [f"no protocol is called {row.protocol!r}"]
        info = infos[row.metric]
        if row.value is None or "@" in row.metric or "." in row.metric:
            continue  # the range is that of the default variant
        slack = (
            1e-6 * max(1.0, abs(info.low), abs(info.high)) if math.isfinite(info.high - info.low) else 1e-6
        )
        if not info.low - slack <= row.value <= info.high + slack:
            return [
                f"{row.metric} of {row.case} is {row.value:.6g}; it lies in {info.low:g} to {info.high:g}"
            ]
    return []


def _other_code(entry: Entry, plugins: Plugins) -> set[str]:
    """Metrics that the entry says other code scored."""
    said = entry.manifest.get("code", {})
    now = code_of(plugins, [r.metric for r in entry.rows])
    if not isinstance(said, dict) or not isinstance(said.get("metrics"), dict):
        return set(now["metrics"])
    if (said.get("scoring"), said.get("libraries")) != (now["scoring"], now["libraries"]):
        return set(now["metrics"])
    return {name for name, key in now["metrics"].items() if said["metrics"].get(name) != key}


def _phantom(entry: Entry, plugins: Plugins) -> Dataset:
    """The phantoms that the entry names, if they are of a size that is made here."""
    data = entry.manifest.get("dataset", {})
    given = data.get("parameters", {})
    if not isinstance(given, dict) or data.get("split", "test") != "test":
        raise InputError("the entry is not of the test split of the phantom")
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in _OPTIONS or not number or not 0 <= value <= _OPTIONS[name]:
            raise InputError(f"parameter {ascii(name)[:40]} of the phantom is not one that is checked here")
    return open_dataset(plugins, PHANTOM, None, given)


def _foreign(entry: Entry, cases: Mapping[str, Case]) -> list[str]:
    """Rows of cases or people that the data do not have, or of other voxels."""
    for row in entry.rows:
        case = cases.get(row.case)
        if case is None or row.group != case.group:
            return [f"case {row.case} of subject {row.group} is none of these phantoms"]
        if row.fingerprint != case.fingerprint:
            return [
                f"case {row.case} has other voxels here; run it with the versions in constraints.txt (numpy, "
                "scipy), and with this version of FuseBench"
            ]
    return []


def _keys(entry: Entry, plugins: Plugins) -> list[str]:
    """Rows whose key is not what their parts give: moved from another case, method or metric."""
    if known_by_files(entry.facts):
        return []  # their keys hold hashes of images that are not all here
    key = str(entry.facts.get("key", ""))
    for row in entry.rows:
        if row.key != wanted_key(row, key, entry.manifest, plugins):
            return [f"the key of {row.metric} of {row.case} does not fit the row; was it edited?"]
    return []


class _Some(Dataset):
    """Some cases of a dataset."""

    def __init__(self, whole: Dataset, cases: Sequence[Case]) -> None:
        self.info, self._cases = replace(whole.info), cases  # type: ignore[misc]

    def cases(self, split: str = "test") -> Sequence[Case]:
        return self._cases if split == "test" else []


def _score_again(
    entry: Entry, cases: Mapping[str, Case], plugins: Plugins
) -> dict[tuple[str, str, str], Row]:
    """Rows of the chosen cases, made anew from the entry's volumes."""
    chosen = chosen_cases(entry.about.name, list(cases))
    ids = list(dict.fromkeys(r.metric for r in entry.rows))
    protocols = tuple(dict.fromkeys(r.protocol for r in entry.rows))
    with tempfile.TemporaryDirectory() as made:
        results = Path(made) / "results" / "entry"
        results.mkdir(parents=True)
        for case in chosen:
            mine = [r for r in entry.rows if r.case == case]
            if not mine:
                raise InputError(f"no rows of {case}, which is one of the two that are scored again")
            read = any(r.protocol == READERS and r.status == "ok" for r in mine)
            for name in (case, case + WITH_FINDINGS):
                path = entry.volumes.get(name)
                if path is None and (read or name == case):
                    raise InputError(f"volumes/{name}.nii.gz is missing; it is to be scored again")
                if path is not None:
                    _copy(path, results / f"{name}.nii.gz", cases[case])
        request = Request(
            dataset=_Some(_phantom(entry, plugins), [cases[c] for c in chosen]),
            results_dir=results.parent,
            protocols=protocols,
            metrics=ids,
            device="cpu",
            jobs=0,
            save="none",
            out=Path(made) / "run",
        )
        run_request(request)
        return {(r.case, r.protocol, r.metric): r for r in read_log(Path(made) / "run")}


def _copy(path: Path, target: Path, case: Case) -> None:
    """Copy a volume that unpacks to no more than one of this case can."""
    voxels = int(np.prod(case.a.shape))
    try:
        with open_plain(path) as packed:
            content, _ = unpack(packed, 8 * voxels + (1 << 20))
    except Exception as error:  # too much, truncated, or no gzip: zlib raises nearly anything
        raise InputError(f"volumes/{path.name}: not a volume of {case.id} ({type(error).__name__})") from None
    if not content:
        raise InputError(f"volumes/{path.name}: not compressed, or empty")
    target.write_bytes(path.read_bytes())


def _same(row: Row, again: Row, info: MetricInfo) -> bool:
    if row.value is None or again.value is None:
        return row.value is None and again.value is None
    if row.value == again.value:
        return True
    variant = MetricId.parse(row.metric).variant
    least = info.tolerances.get(variant, info.tolerance)
    if not row.device.startswith("cpu"):
        least = max(least, _ON_GPU)
    return abs(row.value - again.value) <= least * max(1.0, abs(again.value))


# -- verdicts on disk --------------------------------------------------------------------------------


def verdict_text(verdict: Verdict) -> str:
    """A verdict as JSON."""
    return json.dumps(asdict(verdict), indent=1) + "\n"


def read_verdicts(folder: Path) -> dict[str, Verdict]:
    """Verdicts by the digest of the entry that they are on; made by whoever reads them, not by entries."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            verdict = _verdict(read_json(path))
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(
                f"{path}: no verdict of `submit --check`; make it again with --verdict, or delete it"
            ) from None
        found[verdict.digest] = verdict
    return found


def _verdict(content: Any) -> Verdict:
    """The verdict that a file holds; `ValueError`, `TypeError` or `KeyError` where it holds none."""
    lists = {k: tuple(content[k]) for k in ("problems", "notes", "old")}
    verdict = Verdict(**{**content, **lists})
    texts = (verdict.name, verdict.digest, verdict.badge, *verdict.problems, *verdict.notes, *verdict.old)
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise TypeError
    if verdict.badge not in BADGES or type(verdict.compared) is not int:
        raise ValueError
    return verdict
