"""The channelised Hotelling observer: is there a finding here?

Its template is learnt from other places of the same case than those that it reads (blocks in space), and
some noise of its own keeps it from being perfect, as people are not.

Myers & Barrett, JOSA A 4 (1987) 2447; Abbey & Barrett, JOSA A 18 (2001) 473; Ledoit & Wolf, J. Multivariate
Analysis 88 (2004) 365; internal noise: Eckstein et al. (2003), Park et al., JOSA A 24 (2007) B136.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Values = NDArray[np.float64]

# Variance of the internal noise as a share of that of the decision variable over places without finding.
INTERNAL = 0.5
FOLDS = 5
# Edge of the blocks in mm.
BLOCK = 30.0
# Fewer findings of one sign are too few to learn from and to count.
FEWEST = 5


@dataclass(frozen=True, eq=False)
class Answers:
    """Decision variables of one task, in units of their spread over places without finding.

    Attributes
    ----------
    present : ndarray, shape (N,)
        At the findings.
    absent : ndarray, shape (N,)
        At the same places in the image without findings.
    """

    present: Values
    absent: Values

    def wins(self, internal: float = INTERNAL) -> Values:
        """Chance (N, N) that finding i is told from place j without one; 0 on the diagonal, no pair."""
        ahead = self.present[:, None] - self.absent[None, :]
        out: Values = ndtr(ahead / np.sqrt(2 * internal)) if internal else (ahead > 0) + 0.5 * (ahead == 0)
        np.fill_diagonal(out, 0)
        return out

    def auc(self, internal: float = INTERNAL) -> float:
        """Chance that a finding is told from another place without.

        A place is compared with others, not with itself: anatomy is clutter.  The others are those of the
        findings: where nothing is seen, luck with the places cancels and the AUC is 1/2.
        """
        count = len(self.present)
        return float(self.wins(internal).sum() / (count * (count - 1)))

    def bootstrap(self, draws: Values) -> Values:
        """AUC (K,) where places count as often as `draws` (K, N) says."""
        pairs = draws.sum(axis=1) ** 2 - (draws**2).sum(axis=1)
        out: Values = np.einsum("ki,ij,kj->k", draws, self.wins(), draws) / pairs
        return out


def shrunk_covariance(x: Values) -> Values:
    """Covariance of rows `x` (N, P), shrunk towards a multiple of the identity (Ledoit & Wolf 2004)."""
    count, size = x.shape
    centred = x - x.mean(axis=0)
    sample = centred.T @ centred / count
    mean = np.trace(sample) / size
    target: Values = mean * np.eye(size)
    distance = ((sample - target) ** 2).sum()
    if distance == 0:
        return target
    error = ((centred**2).T @ (centred**2) / count - sample**2).sum() / count
    share = min(1.0, error / distance)
    out: Values = share * target + (1 - share) * sample
    return out


def blocks_of(places: NDArray[np.intp], spacing: Sequence[float], shape: Sequence[int]) -> NDArray[np.intp]:
    """Block of space (N, ndim) that each place lies in; the middle of the image is a corner."""
    middle = (np.asarray(shape) - 1) / 2
    out: NDArray[np.intp] = np.floor((places - middle) * np.asarray(spacing) / BLOCK).astype(np.intp)
    return out


def folds_of(places: NDArray[np.intp], spacing: Sequence[float], shape: Sequence[int]) -> NDArray[np.intp]:
    """Fold of each place: blocks in space, dealt out so that neighbours are in different folds."""
    blocks = blocks_of(places, spacing, shape)
    out: NDArray[np.intp] = (blocks * np.arange(1, places.shape[1] + 1)).sum(axis=1) % FOLDS
    return out


def template(change: Values, absent: Values) -> Values:
    """Hotelling template (P,) of unit spread over `absent` (M, P), for a mean change (P,) of the channels."""
    scale = absent.std(axis=0)
    scale[scale == 0] = 1
    covariance = shrunk_covariance(absent / scale)
    # A flat image has no spread at all: any template then says nothing.
    covariance += 1e-9 * max(np.trace(covariance), 1e-9) * np.eye(len(scale))
    weights = np.linalg.solve(covariance, change / scale)
    spread = float(np.sqrt(weights @ covariance @ weights))
    out: Values = weights / scale / spread if spread > 0 else np.zeros_like(scale)
    return out


def observe(
    present: NDArray[Any],
    absent: NDArray[Any],
    background: NDArray[Any],
    folds: NDArray[np.intp],
    background_folds: NDArray[np.intp],
) -> Answers:
    """Read places with a template from the other folds.

    Parameters
    ----------
    present, absent : ndarray, shape (N, P)
        Channels at the findings, with and without them.
    background : ndarray, shape (M, P)
        Channels at other places without finding.
    folds, background_folds : ndarray, shape (N,), (M,)

    Returns
    -------
    Answers
    """
    with_, without, other = (np.asarray(x, np.float64) for x in (present, absent, background))
    change = with_ - without
    out = Answers(np.zeros(len(with_)), np.zeros(len(without)))
    for fold in np.unique(folds):
        here, there = folds == fold, background_folds == fold
        if here.all():  # nowhere to learn
            continue
        known = np.concatenate([without[~here], other[~there]])
        weights = template(change[~here].mean(axis=0), known)
        level = known.mean(axis=0)
        out.present[here] = (with_[here] - level) @ weights
        out.absent[here] = (without[here] - level) @ weights
    return out
