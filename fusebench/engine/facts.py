"""Facts that plugins state of themselves, as types without code: they go to other processes and manifests."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from ..method_info import MethodInfo, Weights
from ..metric import MetricInfo

Info = TypeVar("Info", MethodInfo, MetricInfo)


def plain_facts(info: Any, kind: type[Info], where: str = "info") -> Info:
    """`info` as a `kind` of plain types: no class of a plugin's own is left in it.

    Parameters
    ----------
    where : str
        What has given it, for the message.

    Raises
    ------
    TypeError
        It is none, or holds what cannot be stored.
    """
    if not isinstance(info, kind):
        raise TypeError(f"{where} is {type(info).__name__}, not a {kind.__name__}")
    return kind(**{f.name: _plain(getattr(info, f.name), f.name) for f in fields(kind)})


def plain_values(facts: Mapping[Any, Any]) -> dict[str, Any]:
    """Those facts that can be made plain, by name; of a NumPy scalar, the number or text that it holds."""
    found = {}
    for name, value in facts.items():
        with contextlib.suppress(TypeError):
            found[str(name)] = _plain(value, "")
    return found


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, Weights)):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(one, name) for one in value)
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(one, name) for key, one in value.items()}
    if isinstance(value, Integral) and abs(int(value)) < 2**63:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isfinite(number) or name in ("low", "high", ""):  # a metric may have no bound
            return number
    raise TypeError(f"info.{name} is {repr(value)[:40]}: give text, or a number that can be stored")
