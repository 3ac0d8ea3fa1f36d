"""Wavelet VIF: needs pyrtools and some room."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fusebench.errors import InputError
from fusebench.metrics import evaluate, evaluate_slices

from .triples import peer, triple


def test_values() -> None:
    peer("pyrtools")
    a, b, f = triple((140, 150), 1)
    grey = np.full_like(a, 90)
    assert evaluate(a, a, a, ["vif_wavelet"])["vif_wavelet"] == pytest.approx(1, abs=1e-9)
    assert evaluate(grey, grey, f, ["vif_wavelet"])["vif_wavelet"] == 1
    assert evaluate(a, b, grey, ["vif_wavelet"])["vif_wavelet"] == pytest.approx(0, abs=1e-9)
    mixed = evaluate(a, b, f, ["vif_wavelet", "vif_wavelet.a", "vif_wavelet.b"])
    assert mixed["vif_wavelet"] == pytest.approx((mixed["vif_wavelet.a"] + mixed["vif_wavelet.b"]) / 2)
    assert 0 < mixed["vif_wavelet"] < 1
    noisy = np.clip(f + np.random.default_rng(0).normal(0, 25, f.shape), 0, 255).astype(np.uint8)
    assert evaluate(a, b, noisy, ["vif_wavelet"])["vif_wavelet"] < mixed["vif_wavelet"]
    same = evaluate(*(x.astype(np.float32) / 255 for x in (a, b, f)), ["vif_wavelet"])
    assert same["vif_wavelet"] == mixed["vif_wavelet"]
    full = evaluate(a, b, f, ["vif_wavelet"], mask=np.ones(a.shape, bool))
    assert full["vif_wavelet"] == pytest.approx(mixed["vif_wavelet"], rel=0.02)


def test_slices() -> None:
    peer("pyrtools")
    stack = [np.stack(x) for x in zip(*(triple((64, 70), seed) for seed in range(2)), strict=True)]
    batch = evaluate_slices(*stack, ["vif_wavelet"])["vif_wavelet"]
    each = [evaluate(*(x[n] for x in stack), ["vif_wavelet"])["vif_wavelet"] for n in range(2)]
    assert batch == pytest.approx(each, abs=1e-9)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    peer("pyrtools")
    with pytest.raises(InputError, match="32 pixels"):
        evaluate(*triple((20, 20)), ["vif_wavelet"])
    monkeypatch.setitem(sys.modules, "pyrtools.pyramids", None)
    with pytest.raises(InputError, match="needs pyrtools"):
        evaluate(*triple((40, 40)), ["vif_wavelet"])
