"""How the values against the two sources make one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OneSource = Callable[[str], Tensor]


def mean_of_two(one: OneSource, part: str) -> Tensor:
    """``one("a")`` and ``one("b")`` averaged, or the part asked for; "worst" is the smaller."""
    if part in ("a", "b"):
        return one(part)
    if part == "worst":
        return torch.minimum(one("a"), one("b"))
    return (one("a") + one("b")) / 2


def sum_of_two(one: OneSource, part: str) -> Tensor:
    """``one("a") + one("b")``, or the part asked for."""
    return one(part) if part else one("a") + one("b")
