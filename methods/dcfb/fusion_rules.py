"""Rules that join two feature volumes into one image, as the published DC2Fusion program has them.

The norms of L1NW, AL1NW and FL1N are sums over the *whole* tensor, batch included, so L1NW and AL1NW
grow with the number of voxels and with the square of the features.  That is how the published program
works; see ``docs/dcfb.md`` for what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fusebench.errors import InputError


def addition(f1: Tensor, f2: Tensor) -> Tensor:
    """Sum of the features."""
    return f1 + f2


def average(f1: Tensor, f2: Tensor) -> Tensor:
    """Mean of the features."""
    return (f1 + f2) / 2


def feature_energy_ratio(f1: Tensor, f2: Tensor) -> Tensor:
    """Each feature weighted by its share of the local energy; 0 where both are 0."""
    e1, e2 = f1.square(), f2.square()
    total = e1 + e2
    total = total.masked_fill(total == 0, 1)
    return e1 / total * f1 + e2 / total * f2


def l1_norm_weights(f1: Tensor, f2: Tensor) -> Tensor:
    """Each feature times its own L1 norm, not normalised (the published default)."""
    return f1.abs().sum() * f1 + f2.abs().sum() * f2


def averaged_l1_norm_weights(f1: Tensor, f2: Tensor) -> Tensor:
    """Half of `l1_norm_weights`."""
    return f1.abs().sum() / 2 * f1 + f2.abs().sum() / 2 * f2


def normalised_l1_weights(f1: Tensor, f2: Tensor) -> Tensor:
    """`l1_norm_weights` with weights that sum to one."""
    n1, n2 = f1.abs().sum(), f2.abs().sum()
    return n1 / (n1 + n2) * f1 + n2 / (n1 + n2) * f2


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "addition": addition,
    "average": average,
    "FER": feature_energy_ratio,
    "L1NW": l1_norm_weights,
    "AL1NW": averaged_l1_norm_weights,
    "FL1N": normalised_l1_weights,
}


def fusion_rule(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The rule called `name`.

    Raises
    ------
    InputError
        Unknown name; SFNN among them, which the published program names but cannot run on volumes.
    """
    if name not in RULES:
        reason = "is defined for 2D features only" if name == "SFNN" else "is not known"
        raise InputError(f"fusion rule {name!r} {reason}; choose one of {', '.join(RULES)}")
    return RULES[name]
