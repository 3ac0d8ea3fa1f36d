"""The metric contract: `MetricInfo` (direction, range, unit as data) and metric ids.

A metric id is ``name[.part][@variant]``: ``psnr``, ``psnr.a`` (against the structural source alone),
``psnr.worst`` (the worse of the two), ``mi@cddfuse`` (another program's definition, number for number).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import InputError

Direction = Literal["higher", "lower", "zero", "none"]


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """Facts about a metric; written as a literal in the plugin's file.

    Parameters
    ----------
    name, title : str
        Id (a string literal) and full name.
    family : str
        "fidelity", "structure", "information", "gradient", "perception" or "task".
    direction : {"higher", "lower", "zero", "none"}
        What is better; "zero": closest to 0; "none": descriptive, never ranked.
    low, high : float
        Range of the default variant.
    unit : str
        "dB", "bit", "" ...
    paper : str
        Source of the definition.
    dims : tuple of int
        2 and 3 where the definition generalises; (2,) where it rests on 2D models.
    parts : tuple of str
        Named parts: "a", "b" (one source), "worst".
    variants : mapping
        Variant name to one line that says what differs.
    ranked : bool
        In the default ranking set.
    needs_truth : bool
        A task metric that needs the ground truth of simulated data.
    symmetric : bool
        Swapping the sources leaves the default value unchanged.
    """

    name: str
    title: str
    family: str
    direction: Direction
    low: float
    high: float
    unit: str = ""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    parts: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    ranked: bool = False
    needs_truth: bool = False
    symmetric: bool = True
    notes: str = ""


@dataclass(frozen=True)
class MetricId:
    """A parsed metric id."""

    name: str
    part: str = ""
    variant: str = ""

    _PATTERN = re.compile(r"(?P<name>[\w-]+)(?:\.(?P<part>\w+))?(?:@(?P<variant>[\w-]+))?")

    @classmethod
    def parse(cls, text: str) -> MetricId:
        """Parse ``name[.part][@variant]``; `InputError` if it is not of that form."""
        match = cls._PATTERN.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is no metric id; the form is name[.part][@variant]")
        return cls(match["name"], match["part"] or "", match["variant"] or "")

    def check(self, info: MetricInfo) -> MetricId:
        """Return self, or `InputError` where `info` has no such part or variant."""
        if self.part and self.part not in info.parts:
            raise InputError(f"{info.name} has no part {self.part!r}; it has {list(info.parts)}")
        if self.variant and self.variant not in info.variants:
            raise InputError(f"{info.name} has no variant {self.variant!r}; it has {list(info.variants)}")
        return self

    def __str__(self) -> str:
        part = f".{self.part}" if self.part else ""
        return self.name + part + (f"@{self.variant}" if self.variant else "")
