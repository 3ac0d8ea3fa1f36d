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
from ..metric import MetricInfo
from ..store.folder import RunFolder
from ..store.rows import OUTDATED
from ..text import printable
from .manifest_shape import AGAIN, NAMED, checked_manifest
from .spec import MethodSpec

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "scikit-image", "pandas", "PyWavelets", "safetensors")
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
        for part in NAMED:
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
    if folder.is_file():
        raise InputError(f"{folder}: a file; give the run folder, which is {folder.parent}")
    path = RunFolder(folder).manifest
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no file; remove it and run again")
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}; is {folder} a run folder?") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {AGAIN}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); {AGAIN}") from None
    return checked_manifest(content, path)


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
