"""One case set up for reading, what is read off a fused image of it, and the share of the better source.

The readings are those of the image as displayed.  `reading` is the worst share (x - chance) / (best source
- chance) of the first three: 1 says "as good as having the right source"; a copy of one source and a blend
of both fail one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import observer, outline, uptake
from .channels import Array, channel_maps, channel_values, displayed
from .findings import DEPTHS, Findings, Mask, Sites, put_findings

# A source that reads no better than this over chance is not one to be compared with.
SEEN = 0.1
CHANCE = 0.5
SHARED = ("cho_auc.a", "cho_auc.b", "outline")
# Findings lie where the functional image has this share of its 99th percentile, unless tissue is known.
ACTIVE = 0.2
# Around the foreground in mm: what the widest channel sees of it.
_MARGIN = 14.0


@dataclass(frozen=True)
class Reading:
    """What was read off one image.

    Attributes
    ----------
    values : mapping
        Value by metric id: ``cho_auc.a``, ``cho_auc.b``, ``cho_auc.worst``, ``outline``, ``uptake_r2``, and
        of a fused image ``share.<id>`` and ``reading``.  What could not be read is left out.
    reasons : mapping
        Why a value is left out, by metric id.
    sites : mapping
        Per finding, the chance that the observer tells it from another place: by ``cho_auc.a|b``.
    """

    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    sites: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class Game:
    """A pair with findings, ready for images of it to be read.

    Parameters
    ----------
    a, b : ndarray, shape (D, H, W) or (H, W), in [0, 1]
        Sources; (1, H, W) counts as (H, W).
    mask : ndarray of bool
        Foreground.
    spacing : sequence of float
        Voxel size in mm per axis.
    seed : int
        Places of the findings, see `findings.seed_of`.
    truth : mapping, optional
        ``gm``, ``wm``, ``csf`` (fractions), ``uptake``, ``misalignment`` of simulated data.  Without it the
        tissue classes are three grey-value classes of `a`, and there is no `uptake_r2`.
    depths : tuple of float
        Of structural and functional findings.

    Attributes
    ----------
    findings : Findings
        ``findings.a_with`` and ``findings.b_with`` have the shape of `a`.
    """

    def __init__(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        mask: Mask,
        spacing: Sequence[float],
        seed: int,
        *,
        truth: Mapping[str, Any] | None = None,
        depths: tuple[float, float] = DEPTHS["default"],
    ) -> None:
        self.shape = a.shape
        flat = a.ndim == 3 and a.shape[0] == 1
        self._view = a.shape[1:] if flat else a.shape
        self.spacing = tuple(float(s) for s in spacing)[-len(self._view) :]
        self.a, self.b, self.mask = (self._flat(x) for x in (a, b, mask))
        self.truth = truth
        self.labels = self._labels()
        shift = None
        if truth is not None and "misalignment" in truth:
            moved = np.asarray(truth["misalignment"])
            shift = moved.reshape(len(moved), *self._view)[-len(self._view) :] if moved.any() else None
        tissue, grey = self._tissue()
        found = put_findings(
            self.a,
            self.b,
            self.mask,
            self.spacing,
            seed,
            tissue_a=tissue,
            tissue_b=grey,
            depths=depths,
            displacement=shift,
        )
        self._box = self._crop()
        self._corner = np.array([s.start for s in self._box])
        self._voxels, self._classes = outline.draw_voxels(self.labels, self.mask, seed)
        self.findings = Findings(
            found.a_with.reshape(self.shape),
            found.b_with.reshape(self.shape),
            found.a,
            found.b,
        )

    def _flat(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(x).reshape(self._view)

    def _labels(self) -> NDArray[np.uint8]:
        if self.truth is not None and "gm" in self.truth:
            fractions = [self._flat(self.truth[name]) for name in ("csf", "gm", "wm")]
            return outline.labels_from_fractions(*fractions)
        return outline.labels_from_image(self.a, self.mask)

    def _tissue(self) -> tuple[Mask | None, Mask | None]:
        """Where findings may lie: white and grey matter, and grey matter; None is anywhere."""
        bright, middle = self.labels >= 2, self.labels == 2
        if self.truth is None or "gm" not in self.truth:
            # Not in the scalp: a relative change of what takes up nothing is no finding.
            taken_up = self.b > ACTIVE * np.percentile(self.b[self.mask], 99) if self.mask.any() else self.mask
            bright, middle = bright & taken_up, middle & taken_up
        return (bright, middle) if middle.any() else (None, None)

    def _crop(self) -> tuple[slice, ...]:
        box = []
        for axis, step in enumerate(self.spacing):
            others = tuple(k for k in range(self.mask.ndim) if k != axis)
            inside = np.flatnonzero(self.mask.any(axis=others))
            if not inside.size:
                box.append(slice(0, self.mask.shape[axis]))
                continue
            margin = int(np.ceil(_MARGIN / step))
            box.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
        return tuple(box)

    # -- reading ---------------------------------------------------------------------------------

    def look(self, image: NDArray[Any], with_findings: NDArray[Any] | None) -> Reading:
        """Read one image, without shares.

        Parameters
        ----------
        image : ndarray, shape of the sources, in [0, 1]
        with_findings : ndarray, optional
            The same made of the sources with findings; None: only `outline` and `uptake_r2` are read.
        """
        levels = displayed(self._flat(image))
        maps = channel_maps(levels[self._box], self.spacing)

        def at(places: NDArray[np.intp]) -> Array:
            return maps[(slice(None), *(places - self._corner).T)].T

        values: dict[str, float] = {}
        reasons: dict[str, str] = {}
        sites: dict[str, NDArray[np.float64]] = {}
        if with_findings is not None:
            change = displayed(self._flat(with_findings)) - levels
            for key, found in (("cho_auc.a", self.findings.a), ("cho_auc.b", self.findings.b)):
                few = _too_few(found)
                if few:
                    reasons[key] = few
                else:
                    sites[key] = self._detect(at, change, found)
                    values[key] = float(sites[key].mean())
            if {"cho_auc.a", "cho_auc.b"} <= values.keys():
                values["cho_auc.worst"] = min(values["cho_auc.a"], values["cho_auc.b"])
            else:
                reasons["cho_auc.worst"] = next(iter(reasons.values()))
        voxels = tuple(self._voxels.T)
        features = np.column_stack([at(self._voxels), levels[voxels]])
        pairs = outline.balanced_accuracy(features, self._classes, self._voxels, self.spacing, self._view)
        if len(pairs) == math.comb(len(outline.CLASSES), 2):
            values["outline"] = min(pairs.values())
        else:
            reasons["outline"] = "the structural image has no three tissue classes of 50 voxels"
        if self.truth is not None and "uptake" in self.truth:
            truth = (self._flat(self.truth[name]) for name in ("uptake", "gm"))
            r2 = uptake.uptake_r2(levels, *truth, self.mask, self.spacing)
            if math.isfinite(r2):
                values["uptake_r2"] = r2
            else:
                reasons["uptake_r2"] = "too few regions of grey matter"
        else:
            reasons["uptake_r2"] = "needs ground truth, which this case does not have"
        return Reading(values, reasons, sites)

    def _detect(self, at: Any, change: Array, found: Sites) -> NDArray[np.float64]:
        """Chances (N,) of the findings of one kind, bright and dark ones each with their own template."""
        background = at(found.background)
        folds_there = observer.folds_of(found.background, self.spacing, self._view)
        out = np.empty(len(found))
        for sign in (1, -1):
            chosen = found.signs == sign
            places = found.places[chosen]
            absent = at(places)
            present = absent + channel_values(change, places, self.spacing)
            folds = observer.folds_of(places, self.spacing, self._view)
            out[chosen] = observer.observe(present, absent, background, folds, folds_there).per_site()
        return out

    @cached_property
    def sources(self) -> dict[str, Reading]:
        """Readings of the two sources, which play the same game: ``a`` and ``b``."""
        return {
            "a": self.look(self.a, self.findings.a_with),
            "b": self.look(self.b, self.findings.b_with),
        }

    @cached_property
    def best(self) -> dict[str, float]:
        """The better source's value by metric id."""
        read = [r.values for r in self.sources.values()]
        return {k: max(r[k] for r in read if k in r) for k in {*read[0], *read[1]}}

    def read(self, fused: NDArray[Any], fused_with: NDArray[Any] | None) -> Reading:
        """Read a fused image: values, shares of the better source, and the worst share.

        Parameters
        ----------
        fused : ndarray, shape of the sources, in [0, 1]
        fused_with : ndarray, optional
            What the same method makes of ``findings.a_with`` and ``findings.b_with``.
        """
        seen = self.look(fused, fused_with)
        values, reasons = dict(seen.values), dict(seen.reasons)
        for key in SHARED:
            if key not in values:
                continue
            over = self.best[key] - CHANCE
            if over < SEEN:
                reasons[f"share.{key}"] = f"neither source shows it ({self.best[key]:.2f})"
            else:
                values[f"share.{key}"] = (values[key] - CHANCE) / over
        missing = [k for k in SHARED if f"share.{k}" not in values]
        if missing and fused_with is None:
            reasons["reading"] = "needs the fused image with findings"
        elif missing:
            why = reasons.get(missing[0]) or reasons[f"share.{missing[0]}"]
            reasons["reading"] = f"{missing[0]}: {why}"
        else:
            values["reading"] = min(values[f"share.{k}"] for k in SHARED)
        return Reading(values, reasons, seen.sites)


def _too_few(found: Sites) -> str:
    """Why findings of one kind cannot be read, or ""."""
    least = min(int((found.signs == sign).sum()) for sign in (1, -1))
    if least >= observer.FEWEST:
        return ""
    return f"room for {len(found)} findings only; {2 * observer.FEWEST} are the fewest to read"
