"""An entry from a run: the rows of one method that stand, and the volumes of two cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusebench.engine.from_files import WITH_FINDINGS
from fusebench.engine.manifest import read_manifest
from fusebench.engine.volumes import has_own_findings
from fusebench.errors import InputError
from fusebench.plugins import find_plugins
from fusebench.store.folder import RunFolder
from fusebench.store.read_rows import read_log
from fusebench.store.rows import Row

from .board import known_by_files
from .entries import About, Entry, checked, chosen_cases, read_entry, write_entry
from .rescore import code_of, wanted_key

# Of the manifest; what a stranger need not know, such as the command and its paths, stays at home.
_HARDWARE = ("machine", "system", "processor", "instructions", "cores", "gpus")
_OPTIONS = ("metrics", "protocols", "seed", "device", "threads", "repeats", "split")
_DATASET = ("name", "split", "fingerprint", "cases", "parameters", "summary", "licence", "citation")


def make_entry(
    run: Path, out: Path, *, method: str = "", name: str = "", authors: Sequence[str] = (), **about: str
) -> Entry:
    """Write the entry of one method of a run folder.

    Parameters
    ----------
    run, out : Path
        Run folder, made with ``--save-fused``; and the folder to write.
    method : str
        Which one; may be left out where the run has one that is no control.
    name : str
        On the board; by default the method's.
    authors : sequence of str
    **about
        Further fields of `entries.About`.

    Raises
    ------
    InputError
        The run lacks what an entry needs, or its rows are not those of the present code.
    """
    rows, manifest = read_log(run), read_manifest(run)
    methods = manifest.get("methods", {})
    method = method or _only(run, rows, methods)
    mine = [r for r in rows if r.method == method]
    if not mine:
        has = ", ".join(dict.fromkeys(r.method for r in rows))
        raise InputError(f"{run}: no rows of {method!r}; it has {has}")
    facts = methods.get(method, {})
    said = {k: v for k, v in about.items() if v}
    said.setdefault("paper", str(facts.get("paper") or ""))
    said.setdefault("training_data", str(facts.get("trained_on") or ""))
    said.setdefault("licence", str(facts.get("licence") or ""))
    asked = checked(About(name=name or method, method=method, authors=tuple(authors), **said), "entry")
    plugins = find_plugins()
    if not known_by_files(facts):
        other = sum(r.key != wanted_key(r, str(facts.get("key")), manifest, plugins) for r in mine)
        if other:
            raise InputError(
                f"{run}: {other} of {len(mine)} rows of {method} were made by other code or libraries than "
                "are here; run the same command again"
            )
    volumes = _volumes(run, asked.name, mine)
    code = code_of(plugins, [r.metric for r in mine])
    write_entry(out, asked, mine, {**_shared(manifest, method), "code": code}, volumes)
    return read_entry(out)


def _only(run: Path, rows: Sequence[Row], methods: Mapping[str, Any]) -> str:
    names = [m for m in dict.fromkeys(r.method for r in rows) if not methods.get(m, {}).get("control")]
    if len(names) != 1:
        raise InputError(f"{run}: has {', '.join(names) or 'controls only'}; say which with --method NAME")
    return names[0]


def _volumes(run: Path, name: str, rows: Sequence[Row]) -> dict[str, Path]:
    """Fused volumes of the chosen cases, with findings where they were made."""
    found = {}
    row, folder = rows[0], RunFolder(run)
    for case in chosen_cases(name, list(dict.fromkeys(r.case for r in rows))):
        path = folder.fused(row.dataset, case, row.method)
        if not path.is_file():
            raise InputError(f"{path}: an entry needs this volume; run the same command with --save-fused")
        found[case] = path
        second = path.parent / "findings" / path.name
        if second.is_file() and has_own_findings(row.method):
            found[case + WITH_FINDINGS] = second
    return found


def _shared(manifest: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The manifest without paths and names of this machine."""

    def some(part: str, keys: Sequence[str]) -> dict[str, Any]:
        return {k: manifest[part][k] for k in keys if k in manifest.get(part, {})}

    facts = {k: v for k, v in manifest.get("methods", {}).get(method, {}).items() if k != "broken"}
    if not known_by_files(facts):
        facts.pop("origin", None)
    facts["parameters"] = {k: v for k, v in (facts.get("parameters") or {}).items() if k != "weights"}
    data = some("dataset", (*_DATASET, "loading"))
    data["parameters"] = {
        k: v
        for k, v in (data.get("parameters") or {}).items()
        if not isinstance(v, str) or not {"/", "\\"} & set(v)
    }
    return {
        "run": {k: v for k, v in manifest.get("run", {}).items() if k != "command"},
        "options": some("options", _OPTIONS),
        "git": some("git", ("commit", "changed")),
        "versions": dict(manifest.get("versions", {})),
        "hardware": some("hardware", _HARDWARE),
        "dataset": data,
        "methods": {method: facts},
    }
