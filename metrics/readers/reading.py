"""One case set up for reading, what is read off a fused image of it, and the share of the better source.

The readings are those of the image as displayed.  `reading` is the worst share (x - chance) / (best source
- chance) of the first three: 1 says "as good as having the right source"; a copy of one source and a blend
of both fail one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.case import Case

from . import observer, outline, uptake
from .channels import Array, channel_maps, channel_values, displayed
from .findings import (
    DEPTHS,
    SIGMA_B,
    Findings,
    Mask,
    Sites,
    depths_of,
    implant,
    put_findings,
    seed_of,
    sigma_of,
)
from .observer import Answers, Values
from .outline import Told

# A source that reads no better than this over chance is not one to be compared with.
SEEN = 0.1
CHANCE = 0.5
SIGNS = (1, -1)
SHARED = ("cho_auc.a", "cho_auc.b", "outline")
# Findings lie where the functional image has this share of its 99th percentile, unless tissue is known.
ACTIVE = 0.2
# Around the foreground in mm: what the widest channel sees of it.
_MARGIN = 14.0


@dataclass(frozen=True)
class Reading:
    """The readings of one image.

    Attributes
    ----------
    values : mapping
        Value by metric id: ``cho_auc.a``, ``cho_auc.b``, ``cho_auc.worst``, ``outline``, ``uptake_r2``, and
        of a fused image ``share.<id>`` and ``reading``.  What could not be read is left out.
    reasons : mapping
        Why a value is left out, by metric id.
    answers : mapping
        By ``cho_auc.a`` and ``cho_auc.b``: what the observer answered on bright and on dark findings.
    pairs : mapping
        How each pair of tissue classes was told apart.
    """

    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, tuple[Answers, ...]] = field(default_factory=dict)
    pairs: Mapping[tuple[str, str], Told] = field(default_factory=dict)


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
    reference : ndarray, optional
        The functional image where it belongs, if `b` is not: what the right source would have been.
    truth : mapping, optional
        ``gm``, ``wm``, ``csf`` (fractions), ``uptake``, ``misalignment`` of simulated data.  Without it the
        tissue classes are three grey-value classes of `a`, and there is no `uptake_r2`.
    depths : tuple of float
        Of structural and functional findings.
    sigma_b : float
        Standard deviation of functional findings, mm.

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
        reference: NDArray[Any] | None = None,
        truth: Mapping[str, Any] | None = None,
        depths: tuple[float, float] = DEPTHS["volume"],
        sigma_b: float = SIGMA_B,
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
            sigma_b=sigma_b,
            displacement=shift,
        )
        self._right = self.b, found.b_with
        if reference is not None:
            right = self._flat(reference)
            self._right = right, implant(right, found.b, self.spacing)
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
            taken_up = (
                self.b > ACTIVE * np.percentile(self.b[self.mask], 99) if self.mask.any() else self.mask
            )
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

    @property
    def a_with(self) -> Array:
        """Structural source with findings, of the shape of the case."""
        return self.findings.a_with

    @property
    def b_with(self) -> Array:
        """Functional source with findings."""
        return self.findings.b_with

    def table(self) -> list[dict[str, Any]]:
        """Findings as rows: kind (a, b), sign, depth, sigma in mm, voxel indices d, h, w."""
        rows: list[dict[str, Any]] = []
        for kind, sites in (("a", self.findings.a), ("b", self.findings.b)):
            for place, sign in zip(sites.places, sites.signs, strict=True):
                d, h, w = [0] * (3 - len(place)) + [int(p) for p in place]
                facts = {"kind": kind, "sign": int(sign), "depth": sites.depth, "sigma": sites.sigma}
                rows.append({**facts, "d": d, "h": h, "w": w})
        return rows

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
        at = self._channels(levels)
        values: dict[str, float] = {}
        reasons: dict[str, str] = {}
        answers: dict[str, tuple[Answers, ...]] = {}
        if with_findings is not None:
            change = displayed(self._flat(with_findings)) - levels
            for key, found in (("cho_auc.a", self.findings.a), ("cho_auc.b", self.findings.b)):
                few = _too_few(found)
                if few:
                    reasons[key] = few
                else:
                    answers[key] = tuple(self._detect(at, change, found, sign) for sign in SIGNS)
                    values[key] = float(np.mean([x.auc() for x in answers[key]]))
            if {"cho_auc.a", "cho_auc.b"} <= values.keys():
                values["cho_auc.worst"] = min(values["cho_auc.a"], values["cho_auc.b"])
            else:
                reasons["cho_auc.worst"] = next(iter(reasons.values()))
        voxels = tuple(self._voxels.T)
        features = np.column_stack([at(self._voxels), levels[voxels]])
        pairs = outline.tell_apart(features, self._classes, self._voxels, self.spacing, self._view)
        if len(pairs) == math.comb(len(outline.CLASSES), 2):
            values["outline"] = min(told.accuracy for told in pairs.values())
        else:
            reasons["outline"] = "the structural image has no three tissue classes of 50 voxels"
        if self.truth is not None and "uptake" in self.truth:
            true, gm = (self._flat(self.truth[name]) for name in ("uptake", "gm"))
            r2 = uptake.uptake_r2(levels, true, gm, self.mask, self.spacing)
            if math.isfinite(r2):
                values["uptake_r2"] = r2
            else:
                reasons["uptake_r2"] = "too few regions of grey matter"
        else:
            reasons["uptake_r2"] = "needs ground truth, which this case does not have"
        return Reading(values, reasons, answers, pairs)

    def _channels(self, levels: Array) -> Callable[[NDArray[np.intp]], Array]:
        """Channels (N, P) of a displayed image as a function of places (N, ndim)."""
        maps = channel_maps(levels[self._box], self.spacing)
        return lambda places: maps[(slice(None), *(places - self._corner).T)].T

    def _detect(self, at: Any, change: Array, found: Sites, sign: int) -> Answers:
        """Read the findings of one kind and sign, which have a template of their own."""
        places = found.places[found.signs == sign]
        folds = observer.folds_of(places, self.spacing, self._view)
        folds_there = observer.folds_of(found.background, self.spacing, self._view)
        return observer.observe(*self._seen(at, change, found, sign), folds, folds_there)

    def _seen(self, at: Any, change: Array, found: Sites, sign: int) -> tuple[Array, Array, Array]:
        places = found.places[found.signs == sign]
        absent = at(places)
        return absent + channel_values(change, places, self.spacing), absent, at(found.background)

    def seen(
        self, image: NDArray[Any], with_findings: NDArray[Any], found: Sites, sign: int
    ) -> tuple[Array, Array, Array]:
        """Channels (N, P) at the findings of one kind and sign, with and without them, and elsewhere.

        Parameters
        ----------
        image, with_findings : ndarray
            As of `look`.
        found : Sites
            Of `findings`.
        sign : {1, -1}
        """
        levels = displayed(self._flat(image))
        change = displayed(self._flat(with_findings)) - levels
        return self._seen(self._channels(levels), change, found, sign)

    @cached_property
    def sources(self) -> dict[str, Reading]:
        """Readings of the two sources, which play the same game: ``a`` and ``b``, where `b` belongs."""
        return {"a": self.look(self.a, self.findings.a_with), "b": self.look(*self._right)}

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
        return Reading(values, reasons, seen.answers, seen.pairs)

    def standard_errors(self, reading: Reading, draws: int = 200) -> dict[str, float]:
        """Bootstrap standard errors of ``cho_auc.a``, ``cho_auc.b``, ``outline`` and ``reading``.

        Findings are drawn within kind and sign, voxels by blocks of space; the same ones for the image and
        for the source that it is compared with.
        """
        rng = np.random.default_rng(0)
        out: dict[str, float] = {}
        shares = []

        def take(key: str, redo: Callable[[Reading], Values]) -> None:
            """Errors and shares of one reading, which `redo` makes of an image (K,)."""
            values = redo(reading)
            best = max(self.sources.values(), key=lambda r: r.values.get(key, 0.0))
            out[key] = float(np.nanstd(values))
            shares.append((values - CHANCE) / np.maximum(redo(best) - CHANCE, SEEN / 2))

        for key, answers in reading.answers.items():
            counts = [len(x.present) for x in answers]
            drawn = [rng.multinomial(n, np.full(n, 1 / n), draws).astype(np.float64) for n in counts]
            take(
                key,
                lambda r, key=key, drawn=drawn: np.mean(  # type: ignore[misc]
                    [x.bootstrap(d) for x, d in zip(r.answers[key], drawn, strict=True)], axis=0
                ),
            )
        if "outline" in reading.values:
            size = 1 + max(int(told.blocks.max()) for told in reading.pairs.values())
            blocks = rng.multinomial(size, np.full(size, 1 / size), draws).astype(np.float64)
            take("outline", lambda r: np.min([told.bootstrap(blocks) for told in r.pairs.values()], axis=0))
        if "reading" in reading.values:
            out["reading"] = float(np.nanstd(np.min(shares, axis=0)))
        return out


def game_of(case: Case) -> Game:
    """The game of a case: places from its origin, depths by its modalities, truth where it has one."""
    flat = case.a.shape[0] == 1
    truth = case.truth
    reference = case.reference.data
    if truth is not None and "pet_aligned" in truth:
        reference = truth["pet_aligned"]
    return Game(
        case.a.data,
        case.b.data,
        case.mask,
        case.a.spacing,
        seed_of(case.origin or case.fingerprint),
        reference=reference,
        truth=truth,
        depths=depths_of(2 if flat else 3, str(case.meta.get("modality", ""))),
        sigma_b=sigma_of(2 if flat else 3, str(case.meta.get("modality", ""))),
    )


def _too_few(found: Sites) -> str:
    """Why findings of one kind cannot be read, or ""."""
    least = min(int((found.signs == sign).sum()) for sign in SIGNS)
    if least >= observer.FEWEST:
        return ""
    return f"room for {len(found)} findings only; {2 * observer.FEWEST} are the fewest to read"
