"""Facts about a fusion method: `MethodInfo`.  Needs no torch, so that planning a run need not import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    notes: str = ""
