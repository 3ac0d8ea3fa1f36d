"""Kinds of the facts of a manifest, so that one that was edited or torn is told where it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..metric import ARROWS
from ..store.rows import OUTDATED
from ..text import printable

AGAIN = "delete it and run again, rows.jsonl is kept"
# By name of a method or metric, and kept from earlier commands.
NAMED = ("methods", "metrics", "method_files", "metric_files")
_DEEPEST = 30  # what is nested further is none of ours, and exhausts whoever walks through it

_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    """One that a table takes."""
    return isinstance(value, float) or _whole(value)


def _whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


def _each(check: _Check) -> _Check:
    """A list of what `check` allows."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def _by_name(check: _Check | None = None) -> _Check:
    """A mapping to what `check` allows, or to anything."""
    return lambda value: isinstance(value, dict) and (check is None or all(map(check, value.values())))


def _arrow(value: Any) -> bool:
    return isinstance(value, str) and value in ARROWS


# Facts of each part; each may be absent or null, and others beside them are not looked at.
_SHAPES: Mapping[str, Mapping[str, _Check]] = {
    "methods": {
        **dict.fromkeys(("summary", "paper", "licence", "notes", "trained_on", "origin"), _text),
        **dict.fromkeys(("key", "plugin", "source", "colour", "broken"), _text),
        **{"dims": _whole, "params": _whole, "trained_splits": _each(_text), "parameters": _by_name()},
        **{"control": _flag, "weights": _by_name(), "tolerance": _number},
    },
    "metrics": {
        **dict.fromkeys(("title", "family", "unit", "paper"), _text),
        **{"direction": _arrow, "low": _number, "high": _number, "tolerance": _number},
        **{"tolerances": _by_name(_number), "units": _by_name(_text), "variants": _by_name()},
        **{"dims": _each(_whole), "parts": _each(_text)},
    },
    "method_files": {"file": _text, "folder": _text, "watched": _by_name(_text)},
    "metric_files": dict.fromkeys(("file", "source"), _text),
    "run": {"id": _text, "created": _text, "ended": _flag},
    "options": {
        **{"protocols": _each(_text), "metrics": _each(_text), "split": _text, "device": _text},
        **dict.fromkeys(("seed", "threads", "repeats", "cases"), _whole),
        **{"data_dir": _text, "data_options": _by_name()},
    },
    OUTDATED: {"rows": _each(_text)},
    "dataset": {
        **dict.fromkeys(("name", "left_out", "split", "fingerprint", "loading"), _text),
        **{"doubts": _each(_text), "roles": _each(_text), "parameters": _by_name()},
    },
    "hardware": {},
    "versions": {},
    "git": {"commit": _text, "changed": _flag},
    "earlier": {},
}


def checked_manifest(content: Any, path: Path, remedy: str = AGAIN) -> dict[str, Any]:
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
    wrong = "" if isinstance(content, dict) else "no mapping"
    if not wrong:
        earlier = content.get("earlier", {})
        told = list(earlier.values()) if isinstance(earlier, dict) else []
        wrong = next((w for one in (content, *told) if (w := _wrong(one))), "")
    if wrong:
        raise InputError(f"{path} is no manifest of a run ({printable(wrong)[:80]}); {remedy}")
    try:
        found: dict[str, Any] = _printable(content, _DEEPEST)
    except ValueError as error:
        raise InputError(f"{path} is no manifest of a run ({error}); {remedy}") from None
    return found


def _wrong(content: Any) -> str:
    """Fact that is not of its kind, as ``part: fact``; "" where all is."""
    if not isinstance(content, dict):
        return "earlier"
    for part, shape in _SHAPES.items():
        facts = content.get(part, {})
        if not isinstance(facts, dict):
            return part
        for one in facts.values() if part in NAMED else [facts]:
            if not isinstance(one, dict):
                return part
            for name, check in shape.items():
                if one.get(name) is not None and not check(one[name]):
                    return f"{part}: {name}"
    return ""


def _printable(value: Any, deeper: int) -> Any:
    """`value` with what would steer a terminal written out in all its texts: it may be a stranger's file."""
    if isinstance(value, str):
        return printable(value, keep="\n")
    if not isinstance(value, dict | list):
        return value
    if not deeper:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {printable(str(k)): _printable(v, deeper - 1) for k, v in value.items()}
    return [_printable(v, deeper - 1) for v in value]
