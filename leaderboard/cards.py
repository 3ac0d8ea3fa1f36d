"""Facts of methods and metrics as the pages list them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def method_card(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of a method as terms and texts, without the empty ones."""
    weights = info.get("weights") or {}
    provenance = f"{weights['file']}, sha256 {weights['sha256']}" if weights.get("file") else "none"
    parameters = ", ".join(f"{k} = {v}" for k, v in (info.get("parameters") or {}).items())
    return _filled(
        [
            ("kind", {2: "slice by slice (2D)", 3: "native 3D"}.get(info.get("dims") or 0, "")),
            ("paper", info.get("paper")),
            ("licence", info.get("licence")),
            ("trained on", info.get("trained_on") or "nothing learned"),
            ("weights", provenance),
            ("learned parameters", info.get("params") or 0),
            ("settings", parameters),
            ("colour", info.get("colour")),
            ("notes", info.get("notes")),
            ("origin", _place(str(info.get("origin") or ""))),
            ("content key", info.get("key")),
        ]
    )


def _place(origin: str) -> str:
    """Where a plugin is from, without the folders of the machine it ran on."""
    return "/".join(origin.split("/")[-2:]) if origin.startswith("/") else origin


def metric_card(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Definition of a metric as terms and texts, without the empty ones."""
    better = {"higher": "higher is better", "lower": "lower is better",
              "zero": "closest to zero is best, case by case", "none": "descriptive: not ranked"}  # fmt: skip
    variants = facts.get("variants") or {}
    return _filled(
        [
            ("better", better.get(str(facts.get("direction")), "not known")),
            (
                "range",
                f"{facts['low']:g} to {facts['high']:g}".replace("inf", "∞")
                if facts.get("high") is not None
                else "",
            ),
            ("unit", facts.get("unit")),
            ("family", facts.get("family")),
            ("paper", facts.get("paper")),
            ("dimensions", ", ".join(f"{d}D" for d in facts.get("dims") or ())),
            ("parts", ", ".join(facts.get("parts") or ())),
            ("variants", "; ".join(f"@{k}: {v}" for k, v in variants.items())),
            ("needs ground truth", "yes" if facts.get("needs_truth") else ""),
            ("notes", facts.get("notes")),
        ]
    )


def _filled(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(k, str(v)) for k, v in pairs if v not in (None, "")]
