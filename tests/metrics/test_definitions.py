"""Against slow, literal versions of the definitions that no library has, on synthetic triples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate
from scipy.signal import convolve2d

from fusebench.metrics import evaluate

from .triples import Image, triple

Array = NDArray[np.float64]
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)


@pytest.fixture(scope="module")
def images() -> tuple[Image, Image, Image]:
    return triple((34, 41), 11)


def _gauss(size: int, sigma: float) -> Array:
    x = np.arange(size) - (size - 1) / 2
    g = np.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2))
    return g / g.sum()


def _patches(x: Array, size: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size))


def test_qabf(images: tuple[Image, Image, Image]) -> None:
    def edges(x: Image) -> tuple[Array, Array]:
        gx = convolve2d(x.astype(float), SOBEL, "same")
        gy = convolve2d(x.astype(float), -SOBEL.T, "same")
        angle = np.full(gx.shape, math.pi / 2)
        np.divide(gy, gx, out=angle, where=gx != 0)
        angle[gx != 0] = np.arctan(angle[gx != 0])
        return np.hypot(gx, gy), angle

    (ga, aa), (gb, ab), (gf, af) = (edges(x) for x in images)
    top = 0.0
    for g, angle in ((ga, aa), (gb, ab)):
        for y, x in np.ndindex(g.shape):
            s, f = g[y, x], gf[y, x]
            ratio = f / s if s > f else s if s == f else s / f
            aligned = 1 - abs(angle[y, x] - af[y, x]) / (math.pi / 2)
            q = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + math.exp(-22 * (aligned - 0.8)))
            top += q * s
    assert evaluate(*images, ["qabf"])["qabf"] == pytest.approx(top / (ga + gb).sum(), abs=1e-10)


def test_nabf(images: tuple[Image, Image, Image]) -> None:
    def edges(x: Image) -> tuple[Array, Array]:
        across = correlate(x.astype(float), SOBEL / 8, mode="mirror")
        down = correlate(x.astype(float), SOBEL.T / 8, mode="mirror")
        return np.hypot(across, down), np.arctan2(across, down)

    (ga, aa), (gb, ab), (gf, af) = (edges(x) for x in images)
    top = bottom = 0.0
    for g, angle in ((ga, aa), (gb, ab)):
        for y, x in np.ndindex(g.shape):
            s, f = g[y, x], gf[y, x]
            ratio = 0.0 if 0 in (s, f) else min(s, f) / max(s, f)
            # Orientation is modulo 180 degrees.
            fold = [
                math.atan(math.tan(v)) if abs(math.cos(v)) > 1e-15 else math.copysign(math.pi / 2, v)
                for v in (angle[y, x], af[y, x])
            ]
            aligned = abs(abs(fold[0] - fold[1]) - math.pi / 2) * 2 / math.pi
            q = math.sqrt(
                0.9999 / (1 + math.exp(-19 * (ratio - 0.5))) * 0.9995 / (1 + math.exp(-22 * (aligned - 0.5)))
            )
            weight = s**1.5 if s >= 2 else 0.001
            bottom += weight
            if f > ga[y, x] and f > gb[y, x]:
                top += (1 - q) * weight
    assert evaluate(*images, ["nabf"])["nabf"] == pytest.approx(top / bottom, rel=1e-6)


def test_q_w_and_q_s(images: tuple[Image, Image, Image]) -> None:
    window = _gauss(11, 1.5)
    a, b, f = (_patches(x.astype(float), 11) for x in images)

    def moments(x: Array, y: Array) -> tuple[Array, ...]:
        mx, my = ((p * window).sum((2, 3)) for p in (x, y))
        xx, yy, xy = (
            ((p - mp[..., None, None]) * (q - mq[..., None, None]) * window).sum((2, 3))
            for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
        )
        c1, c2 = 2.55**2, 7.65**2
        ssim = (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
        return ssim, xx

    (sa, va), (sb, vb) = moments(a, f), moments(b, f)
    flat = (va < 1e-9) & (vb < 1e-9)
    va, vb = np.where(flat, 0.5, va), np.where(flat, 0.5, vb)
    quality = va / (va + vb) * sa + vb / (va + vb) * sb
    weight = np.maximum(va, vb)
    values = evaluate(*images, ["q_s", "q_w"])
    assert values["q_s"] == pytest.approx(quality.mean(), abs=1e-9)
    assert values["q_w"] == pytest.approx((quality * weight).sum() / weight.sum(), abs=1e-9)


def test_mef_ssim(images: tuple[Image, Image, Image]) -> None:
    window = _gauss(11, 1.5)
    a, b, f = (_patches(x.astype(float), 11).reshape(-1, 11, 11) for x in images)
    scores = []
    for pa, pb, pf in zip(a, b, f, strict=True):
        ca, cb = pa - pa.mean(), pb - pb.mean()
        la, lb = np.linalg.norm(ca), np.linalg.norm(cb)
        consistency = min((np.linalg.norm(ca + cb) + 1e-16) / (la + lb + 1e-16), 1 - 1e-12)
        power = min(math.tan(math.pi / 2 * consistency), 10)
        la, lb = la + 0.001, lb + 0.001
        wa, wb = (la / 11) ** power + 1e-16, (lb / 11) ** power + 1e-16
        r = wa / (wa + wb) * ca / la + wb / (wa + wb) * cb / lb
        if np.linalg.norm(r) > 0:
            r *= max(la, lb) / np.linalg.norm(r)
        mr, mf = (window * r).sum(), (window * pf).sum()
        cov = (window * (r - mr) * (pf - mf)).sum()
        var = (window * (r - mr) ** 2).sum() + (window * (pf - mf) ** 2).sum()
        scores.append((2 * cov + 7.65**2) / (var + 7.65**2))
    assert evaluate(*images, ["mef_ssim"])["mef_ssim"] == pytest.approx(np.mean(scores), abs=1e-7)


def _fmi_pair(x: Array, f: Array) -> float:
    def density(v: Array) -> Array:
        v = np.ones(9) if v.max() == v.min() else (v - v.min()) / (v.max() - v.min())
        return v / v.sum()

    p, q = density(x), density(f)
    flat = [v.max() == v.min() for v in (x, f)]
    c = float(all(flat)) if any(flat) else float(np.corrcoef(p, q)[0, 1])
    cp, cq = p.cumsum(), q.cumsum()
    index = np.arange(1, 10)
    sd = [math.sqrt(max((index**2 * v).sum() - (index * v).sum() ** 2, 0)) for v in (p, q)]
    upper = np.minimum(cq[:, None], cp)
    lower = np.maximum(cq[:, None] + cp - 1, 0)
    bound = upper if c >= 0 else lower
    covariance = (bound - np.outer(cq, cp)).sum()
    share = 0.0 if c == 0 or 0 in sd else c / (covariance / (sd[0] * sd[1]))
    mass = np.diff(np.diff(np.pad(bound, ((1, 0), (1, 0))), axis=0), axis=1)
    joint = share * mass + (1 - share) * np.outer(q, p)

    def entropy(v: Array) -> float:
        v = v[np.abs(v) > 1e-15]
        return float(-(v * np.log2(np.abs(v))).sum())

    mutual = entropy(p) + entropy(q) - entropy(joint.ravel())
    return 2 * mutual / (entropy(p) + entropy(q)) if entropy(p) + entropy(q) else 0.0


@pytest.mark.parametrize("key", ["fmi_none", "fmi_gradient"])
def test_fmi(key: str) -> None:
    raw = triple((15, 17), 12, background=False)
    features = [x.astype(float) if key == "fmi_none" else np.gradient(x.astype(float), axis=1) for x in raw]
    a, b, f = (_patches(x, 3).transpose(0, 1, 3, 2).reshape(-1, 9) for x in features)
    scores = [
        (float((x == z).all()) or _fmi_pair(x, z)) + (float((y == z).all()) or _fmi_pair(y, z))
        for x, y, z in zip(a, b, f, strict=True)
    ]
    assert evaluate(*raw, [key])[key] == pytest.approx(np.mean(scores) / 2, abs=1e-6)


def test_viff(images: tuple[Image, Image, Image]) -> None:
    big = triple((100, 110), 13)
    levels = [x.astype(float) for x in big]
    total, weights = 0.0, (1, 0, 0.15, 1)
    for scale, weight in enumerate(weights):
        size = 2 ** (4 - scale) + 1
        window = _gauss(size, size / 5)
        if scale:
            levels = [convolve2d(x, window, "valid")[::2, ::2] for x in levels]
        a, b, f = levels

        def smooth(x: Array, window: Array = window) -> Array:
            return convolve2d(x, window, "valid")

        found = []
        for s in (a, b):
            vs = np.maximum(smooth(s * s) - smooth(s) ** 2, 0)
            vf = np.maximum(smooth(f * f) - smooth(f) ** 2, 0)
            cov = smooth(s * f) - smooth(s) * smooth(f)
            gain = cov / (vs + 1e-10)
            rest = vf - gain * cov
            gain[vs < 1e-10] = 0
            rest[vs < 1e-10] = vf[vs < 1e-10]
            vs[vs < 1e-10] = 0
            gain[vf < 1e-10] = 0
            rest[vf < 1e-10] = 0
            rest[gain < 0] = vf[gain < 0]
            gain = np.maximum(gain, 0)
            noise = 0.005 * 255**2
            kept = np.log10(1 + gain**2 * vs / (np.maximum(rest, 1e-10) + noise))
            found.append((gain, kept, np.log10(1 + vs / noise)))
        first = found[0][0] < found[1][0]
        kept, whole = (np.where(first, found[0][k], found[1][k]) for k in (1, 2))
        total += weight * (kept + 1e-7).sum() / (whole + 1e-7).sum()
    assert evaluate(*big, ["viff"])["viff"] == pytest.approx(total / sum(weights), abs=1e-8)


def test_q_sf_and_q_m(images: tuple[Image, Image, Image]) -> None:
    a, b, f = (x.astype(float) for x in images)
    have = want = 0.0
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        weight = math.sqrt(0.5) if dy and dx else 1.0
        h, w = f.shape
        first = (slice(0, h - dy), slice(max(0, -dx), w - max(0, dx)))
        second = (slice(dy, h), slice(max(0, dx), w - max(0, -dx)))
        have += weight * ((f[second] - f[first]) ** 2).sum()
        want += weight * (np.maximum(abs(a[second] - a[first]), abs(b[second] - b[first])) ** 2).sum()
    values = evaluate(*images, ["q_sf", "q_m"])
    assert values["q_sf"] == pytest.approx(math.sqrt(have / want) - 1, abs=1e-10)

    import pywt

    low = [x[:34, :40] for x in (a, b, f)]
    expected = 1.0
    for power in (2 / 3, 1 / 3):
        h, w = (n // 2 * 2 for n in low[0].shape)
        bands = [pywt.dwt2(x[:h, :w], "haar", mode="periodization") for x in low]
        low = [x[0] for x in bands]
        (da, db, df) = (x[1] for x in bands)
        top = bottom = 0.0
        for source in (da, db):
            energy = sum(c**2 for c in source)
            kept = sum(np.exp(-abs(c - d)) for c, d in zip(source, df, strict=True))
            top, bottom = top + (kept * energy).sum(), bottom + energy.sum()
        expected *= (top / bottom) ** power
    assert values["q_m"] == pytest.approx(expected, abs=1e-10)


def test_q_te(images: tuple[Image, Image, Image]) -> None:
    def stretch(x: Image) -> NDArray[np.int64]:
        v = (x.astype(float) - x.min()) / (int(x.max()) - int(x.min()))
        return np.floor(v * 255 + 0.5).astype(int)

    def tsallis(x: Image, y: Image, q: float) -> float:
        p, _, _ = np.histogram2d(stretch(x).ravel(), stretch(y).ravel(), bins=256, range=[[0, 256]] * 2)
        p /= p.sum()
        px, py = p.sum(1), p.sum(0)
        total = sum(p[i, j] ** q / (px[i] * py[j]) ** (q - 1) for i, j in zip(*np.nonzero(p), strict=True))
        return (1 - total) / (1 - q)

    def entropy(x: Image) -> float:
        p = np.bincount(stretch(x).ravel()) / x.size
        return float(-(p[p > 0] * np.log2(p[p > 0])).sum())

    a, b, f = images
    q = 0.43137
    expected = (tsallis(a, f, q) + tsallis(b, f, q)) / (entropy(a) ** q + entropy(b) ** q + tsallis(a, b, q))
    assert evaluate(*images, ["q_te@paper"])["q_te@paper"] == pytest.approx(expected, abs=1e-10)


def test_edges_in_3d_against_loops() -> None:
    images = triple((9, 10, 11), 14, background=False)
    smooth, slope = np.array([1, 2, 1]), np.array([-1, 0, 1])

    def gradient(x: Image) -> Array:
        parts = []
        for axis in range(3):
            kernel = np.ones((1, 1, 1))
            for k in range(3):
                shape = [1, 1, 1]
                shape[k] = 3
                kernel = kernel * (slope if k == axis else smooth).reshape(shape)
            parts.append(correlate(x.astype(float), kernel / 4, mode="nearest"))
        return np.stack(parts)

    a, b, f = (gradient(x) for x in images)
    norms = [np.linalg.norm(x, axis=0) for x in (a, b, f)]
    top = 0.0
    for g, n in ((a, norms[0]), (b, norms[1])):
        cosine = np.abs((g * f).sum(0)) / (n * norms[2])
        aligned = 1 - np.arccos(np.minimum(cosine, 1)) * 2 / math.pi
        ratio = np.minimum(n, norms[2]) / np.maximum(n, norms[2])
        q = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (aligned - 0.8)))
        top += (q * n).sum()
    assert evaluate(*images, ["qabf"])["qabf"] == pytest.approx(top / (norms[0] + norms[1]).sum(), abs=1e-5)
