"""Readers as metrics: `cho_auc`, `outline`, `uptake_r2`, and `reading`, the worst of the first three.

They read a case that `reading.game_of` has set up.  The runner puts it into ``truth["trial"]``, and what
the method makes of the sources with findings into ``truth["fused_with"]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusebench.errors import InputError, Undefined
from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from .reading import Game, Reading, game_of


def _game(t: Triple) -> Game:
    game = (t.truth or {}).get("trial")
    if not isinstance(game, Game):
        raise InputError(
            'this metric reads a case with findings; score it in protocol readers, or give truth={"trial": '
            'game_of(case), "fused_with": what the method makes of the trial\'s a_with and b_with}'
        )
    return game


def _read(t: Triple) -> Reading:
    fused_with = (t.truth or {}).get("fused_with")
    return t.cached("reading", lambda: _game(t).read(t.fused[0].cpu().numpy() / 255, fused_with))


def _value(t: Triple, key: str) -> Tensor:
    seen = _read(t)
    if key not in seen.values:
        raise Undefined(seen.reasons.get(key, "not defined for this case"))
    return torch.tensor([seen.values[key]], dtype=torch.float64, device=t.device)


@metric(
    MetricInfo(
        name="cho_auc",
        title="Findings told from other places (AUC of a channelised Hotelling observer)",
        formula=r"P(t_{\mathrm{finding}}>t_{\mathrm{elsewhere}})"
        r",\quad t=\mathbf{v}\cdot K^{-1}\,\Delta\overline{\mathbf{v}}"
        r",\quad\mathbf{v}:\;\mathrm{channels}",
        family="task",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="Myers & Barrett 1987; Abbey & Barrett 2001; Gifford 2007",
        parts=("a", "b", "worst"),
        ranked=True,
        needs_trial=True,
        needs_findings=True,
        symmetric=False,
        notes="Gaussian findings, bright and dark, put into the structural (a) and the functional source "
        "(b); a place with one is told from other places without. 0.5 is no information. The default is the "
        "mean of both kinds, worst the lower one.",
    ),
    trial=game_of,
)
def cho_auc(t: Triple, part: str, variant: str) -> Tensor:
    """Chance that an observer of the displayed image tells a finding from another place."""
    if part:
        return _value(t, f"cho_auc.{part}")
    return (_value(t, "cho_auc.a") + _value(t, "cho_auc.b")) / 2


@metric(
    MetricInfo(
        name="outline",
        title="Tissue told from tissue (balanced accuracy, worst pair)",
        formula=r"\min_{\mathrm{pairs\;of\;tissues}}\;\frac{1}{2}\,(\mathrm{sensitivity}"
        r"+\mathrm{specificity})",
        family="task",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="FuseBench; linear discriminant on observer channels",
        ranked=True,
        needs_trial=True,
        symmetric=False,
        notes="Two of fluid, grey and white matter are told apart at a voxel, from the channels and the grey "
        "value there; the pair that is told worst counts. 0.5 is no information. Classes are the truth "
        "of simulated data, else three multi-Otsu classes of the structural image.",
    ),
    trial=game_of,
)
def outline(t: Triple, part: str, variant: str) -> Tensor:
    """Balanced accuracy of the worst pair of tissue classes."""
    return _value(t, "outline")


@metric(
    MetricInfo(
        name="uptake_r2",
        title="True regional uptake explained (cross-validated R²)",
        formula=r"1-\frac{\sum\,(u-\hat{u}(F))^2}{\sum\,(u-\overline{u})^2}",
        family="task",
        direction="higher",
        low=-math.inf,
        high=1.0,
        paper="FuseBench phantom",
        ranked=True,
        needs_truth=True,
        needs_trial=True,
        symmetric=False,
        notes="A line from the mean grey value of a 14 mm region of grey matter to its true uptake, fitted "
        "in other regions. 0 is no better than the mean uptake.",
    ),
    trial=game_of,
)
def uptake_r2(t: Triple, part: str, variant: str) -> Tensor:
    """Share of the variance of true uptake over regions that the fused image explains."""
    return _value(t, "uptake_r2")


@metric(
    MetricInfo(
        name="reading",
        title="Worst reading as a share of the better source's",
        formula=r"\min_i\;\frac{x_i(F)-\frac{1}{2}}{\max\,(x_i(A),\,x_i(B))-\frac{1}{2}}",
        family="task",
        direction="higher",
        low=-math.inf,
        high=math.inf,
        paper="FuseBench",
        parts=("a", "b", "outline"),
        ranked=True,
        needs_trial=True,
        needs_findings=True,
        symmetric=False,
        notes="(x - chance) / (better source - chance) of cho_auc.a, cho_auc.b and outline (the parts), the "
        "lowest of the three. 1 is as good as having the right source; copies and blends fail in one.",
    ),
    trial=game_of,
)
def reading(t: Triple, part: str, variant: str) -> Tensor:
    """Retained share of the weakest of three readings."""
    if not part:
        return _value(t, "reading")
    return _value(t, "share.outline" if part == "outline" else f"share.cho_auc.{part}")


@metric(
    MetricInfo(
        name="reading_se",
        title="Standard error of the reading over findings",
        formula=r"\mathrm{sd}_{\mathrm{findings\;drawn\;anew}}\;(\mathrm{reading})",
        family="task",
        direction="none",
        low=0.0,
        high=math.inf,
        paper="FuseBench; bootstrap over findings",
        parts=("a", "b"),
        needs_trial=True,
        needs_findings=True,
        symmetric=False,
        notes="How far the reading of this case would move with other findings; parts: of cho_auc.a and .b.",
    ),
    trial=game_of,
)
def reading_se(t: Triple, part: str, variant: str) -> Tensor:
    """Bootstrap standard error within the case."""
    seen = _read(t)
    errors = t.cached("reading errors", lambda: _game(t).standard_errors(seen))
    key = f"cho_auc.{part}" if part else "reading"
    if key not in errors:
        raise Undefined(seen.reasons.get(key, "not defined for this case"))
    return torch.tensor([errors[key]], dtype=torch.float64, device=t.device)
