"""Nuclear norms of many matrices at once, which decide DILRAN's fusion."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_nuclear_norms(x: Tensor) -> Tensor:
    """The largest nuclear norm among the C matrices of each of N sets (N, C, H, W), in float64, shape (N,).

    A nuclear norm is at most the root of the rank times the Frobenius norm.  The matrix of largest
    Frobenius norm goes first, and only those whose bound reaches its nuclear norm follow: as a rule none.
    """
    squares = x.square().sum((2, 3)).double()
    first = torch.arange(len(x), device=x.device), squares.argmax(1)
    norms = torch.zeros_like(squares)
    norms[first] = nuclear_norms(x[first])
    bound = (squares * min(x.shape[2:])).sqrt() * (1 + 1e-5)
    bound[first] = 0
    rivals = bound > norms.amax(1, keepdim=True)
    if rivals.any():
        norms[rivals] = nuclear_norms(x[rivals])
    return norms.amax(1)


def nuclear_norms(x: Tensor) -> Tensor:
    """Nuclear norms of matrices (N, H, W), in float64.

    By the eigenvalues of the smaller Gram matrix, whose double precision keeps singular values down to
    1e-8 of the largest: single precision itself holds no more.
    """
    x = x.double()
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    norms: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1)
    return norms
