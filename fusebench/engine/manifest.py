"""The manifest of a run: versions, seeds, hashes, hardware, and the facts of every plugin in it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..files import ROOT, atomic_path, read_json
from ..metric import ARROWS, MetricInfo
from ..store.folder import RunFolder
from ..store.rows import OUTDATED
from ..text import printable
from .spec import MethodSpec

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "scikit-image", "pandas", "PyWavelets", "safetensors")
# By name of a method or metric, and kept from earlier commands.
_NAMED = ("methods", "metrics", "method_files", "metric_files")
# Of a manifest that are mappings.
_PARTS = (*_NAMED, "options", "run", "dataset", "hardware", "versions", "earlier", "git", OUTDATED)
# What the facts in them are; each may be absent or null.
_SHAPES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "methods": {
        **dict.fromkeys(("summary", "paper", "licence", "notes", "trained_on", "origin", "broken"), str),
        **dict.fromkeys(("key", "plugin", "source", "colour"), str),
        **dict.fromkeys(("dims", "params"), int),
        **{"trained_splits": list, "parameters": dict, "control": bool, "weights": dict},
        "tolerance": (int, float),
    },
    "metrics": {
        **dict.fromkeys(("title", "family", "direction", "unit", "paper"), str),
        **dict.fromkeys(("low", "high", "tolerance"), (int, float)),
        **{"tolerances": dict, "units": dict, "dims": list, "parts": list},
    },
    "method_files": {"file": str, "folder": str, "watched": dict},
    "metric_files": {"file": str},
    "options": {"protocols": list, "metrics": list, "split": str, "device": str},
    OUTDATED: {"rows": list},
    "dataset": {"name": str, "doubts": list, "left_out": str},
}
_AGAIN = "delete it and run again, rows.jsonl is kept"
_HOW = ("run", "options", "git", "versions", "hardware", "dataset")


def describe_run(
    *,
    run: str,
    command: Sequence[str],
    options: Mapping[str, Any],
    methods: Sequence[MethodSpec],
    metrics: Mapping[str, MetricInfo],
    dataset: Mapping[str, Any],
    hardware: Mapping[str, Any],
    git: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a run, ready for JSON."""
    return {
        "run": {
            "id": run,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(command),
            "ended": False,  # until what it replaces is gone from the rows
        },
        "options": dict(options),
        "git": dict(git),
        "versions": {"fusebench": __version__, "python": platform.python_version(), **_versions()},
        "hardware": dict(hardware),
        "dataset": dict(dataset),
        "methods": {
            m.name: {
                **asdict(m.info),
                "parameters": dict(m.parameters),
                "key": m.key,
                "plugin": m.plugin,
                "origin": m.origin,
                "broken": m.broken,
            }
            for m in methods
        },
        "metrics": {name: asdict(info) for name, info in metrics.items()},
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json``; what earlier commands into the same folder wrote is kept.

    Their methods and metrics are merged; how they ran is under ``earlier``, by the run id of their rows.
    """
    path = RunFolder(folder).manifest
    merged = dict(manifest)
    if path.exists():
        before = read_manifest(folder)
        for part in _NAMED:
            merged[part] = {**before.get(part, {}), **merged.get(part, {})}
        if OUTDATED in before:  # until this run says anew what is
            merged[OUTDATED] = before[OUTDATED]
        how = {part: before[part] for part in _HOW if part in before}
        merged["earlier"] = {**before.get("earlier", {}), str(before.get("run", {}).get("id", "")): how}
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(merged, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; what was stored is kept: make room and run the same command"
        ) from None


def same_again(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Request` for the data and scores of a stored run, as far as its manifest says."""
    options, dataset = manifest.get("options", {}), manifest.get("dataset", {})
    known: dict[str, tuple[Any, type | tuple[type, ...]]] = {
        "dataset": (dataset.get("name"), str),
        "data_dir": (options.get("data_dir"), str),
        "data_options": (options.get("data_options"), dict),
        "split": (options.get("split"), str),
        "cases": (options.get("cases"), int),
        "protocols": (options.get("protocols"), list),
        "metrics": (options.get("metrics"), list),
    }
    found: dict[str, Any] = {
        name: value for name, (value, kind) in known.items() if value and isinstance(value, kind)
    }
    if "data_dir" in found:
        found["data_dir"] = Path(found["data_dir"])
    return found


def other_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two runs into one folder differ in what every row depends on; "" where they do not."""
    found = []
    for name in ("seed", "device", "threads", "split"):
        old, new = (m.get("options", {}).get(name) for m in (before, now))
        if old is not None and old != new:
            found.append(f"{name} {printable(str(old))}, now {new}")
    old, new = (m.get("dataset", {}).get("name") for m in (before, now))
    if old is not None and old != new:
        found.append(f"dataset {printable(str(old))}, now {new}")
    return "; ".join(found)


def add_to_manifest(folder: Path, **parts: Mapping[str, Any]) -> None:
    """Set facts of parts of the manifest that only became known while running."""
    manifest = read_manifest(folder)
    for part, facts in parts.items():
        manifest[part] = {**manifest.get(part, {}), **facts}
    with atomic_path(folder / "manifest.json") as temporary:
        Path(temporary).write_text(json.dumps(manifest, indent=2, default=str) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json`` of a run folder.

    Raises
    ------
    InputError
        It is not there, or not a manifest.
    """
    path = RunFolder(folder).manifest
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no file; remove it and run again")
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; is {folder} a run folder?") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); {_AGAIN}") from None
    return checked_manifest(content, path)


def checked_manifest(content: Any, path: Path, remedy: str = _AGAIN) -> dict[str, Any]:
    """`content`, if its facts are of the kinds that the rest of the program takes them for.

    Parameters
    ----------
    content
        What the file at `path` holds.
    path : Path
    remedy : str
        What a user can do.

    Raises
    ------
    InputError
        They are not.
    """
    parts = [content, *(content.get(p, {}) for p in _PARTS)] if isinstance(content, dict) else [content]
    named = [
        facts for part in parts[1 : 1 + len(_NAMED)] if isinstance(part, dict) for facts in part.values()
    ]
    if not all(isinstance(part, dict) for part in (*parts, *named)):
        raise InputError(f"{path} is no manifest of a run; {remedy}")
    for part, shape in _SHAPES.items():
        facts = content.get(part, {})
        for one in facts.values() if part in _NAMED else [facts]:
            wrong = _wrong(one, shape)
            if wrong:
                raise InputError(f"{path} is no manifest of a run ({part}: {wrong}); {remedy}")
    found: dict[str, Any] = _printable(content)
    return found


def _wrong(facts: Mapping[str, Any], shape: Mapping[str, type | tuple[type, ...]]) -> str:
    """Name of a fact that is not of its type; "" where all are."""
    for name, types in shape.items():
        value = facts.get(name)
        if value is not None and not (isinstance(value, types) and _fits(name, value)):
            return name
    return "" if facts.get("direction", "none") in ARROWS else "direction"


def _fits(name: str, value: Any) -> bool:
    """True if a list holds what it is read for, and a number is one that a table takes."""
    if isinstance(value, list):
        return all(isinstance(item, int if name == "dims" else str) for item in value)
    return not isinstance(value, int) or abs(value) < 2**63


def _printable(value: Any) -> Any:
    """`value` with what would steer a terminal written out in all its texts: it may be a stranger's file."""
    if isinstance(value, str):
        return printable(value, keep="\n")
    if isinstance(value, dict):
        return {printable(str(k)): _printable(v) for k, v in value.items()}
    return [_printable(v) for v in value] if isinstance(value, list) else value


def protocol_order(found: Iterable[str], manifest: Mapping[str, Any]) -> list[str]:
    """Protocols of a table in the order in which the run was asked for them, others behind."""
    present = dict.fromkeys(found)
    asked = [p for p in manifest.get("options", {}).get("protocols", ()) if p in present]
    return list(dict.fromkeys([*asked, *present]))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the checkout and whether files differ from it; empty where there is none."""

    def ask(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return result.stdout.strip() if result.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(ask("status", "--porcelain")) if commit else None}
    except OSError:  # no git on this machine
        return {"commit": "", "changed": None}
