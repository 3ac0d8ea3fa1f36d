"""Facts about a fusion method: `MethodInfo`.  Needs no torch, so that planning a run need not import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The processor that costs are stated for.
REFERENCE = "one thread of an AMD EPYC (Zen 5)"
# Largest cost of a method in the named set `fast`: all of them together take less than two minutes on the
# default data with two cores (tests/methods/test_costs.py adds up).
FAST = 0.3
# And in the set `standard`, which leaves out what alone takes minutes for each volume.
STANDARD = 10.0
# The set that a run takes where no method is named.
DEFAULT_SET = "standard"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A shipped weights file: path relative to the plugin's file, and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """Facts about a method; written as a literal in the plugin's file so that listing needs no import.

    Parameters
    ----------
    name : str
        Public name; a string literal.
    summary : str
        One line.
    dims : {2, 3}
        3: fuses volumes natively.  2: a slice-wise method (marked so on the board).
    paper, licence, notes : str
        Citation; licence of code and weights; anything a reader of the board should know.
    trained_on : str
        In words, the data that the weights were trained on, "" if nothing is learned.
    trained_splits : tuple of str
        The same for the board, ``dataset/split``: scores on such a split are flagged.
    weights : Weights, optional
        Shipped weights.
    params : int
        Learned parameters in use.
    colour : str
        What is fused of a colour input.
    control : bool
        A control (source copy, blend, noise) that shows what a metric rewards; ranked apart.
    cost : float, optional
        Seconds that fusing takes per million voxels of a head volume, on one thread of the reference
        processor (`REFERENCE`); ``benchmarks/costs.py`` measures it.  It decides the order of a run, the time
        left that is shown and what ``--methods fast`` holds, never a value.  None: not known before a run.
    tolerance : float
        Largest difference that another processor, linear algebra or count of threads makes on a CPU to a
        score of its results, relative to scores above 1 (``benchmarks/other_processors.py`` measures it).  A
        change within it is none: see ``compare``.  Where the last bits of an image move at all, some voxels
        get another 8-bit level, and MI changes by some 1e-5.
    """

    name: str
    summary: str
    dims: Literal[2, 3] = 3
    paper: str = ""
    licence: str = "MIT"
    trained_on: str = ""
    trained_splits: tuple[str, ...] = ()
    weights: Weights | None = None
    params: int = 0
    colour: str = "luminance fused, functional chroma carried"
    control: bool = False
    cost: float | None = None
    tolerance: float = 1e-6
    notes: str = ""


def is_fast(info: MethodInfo | None) -> bool:
    """True for what ``--methods fast`` runs; a method of unknown cost is no part of it."""
    return info is not None and info.cost is not None and info.cost <= FAST


def is_standard(info: MethodInfo | None) -> bool:
    """True for what ``--methods standard`` runs: all but the dear; one of unknown cost is part of it."""
    return info is None or info.cost is None or info.cost <= STANDARD
