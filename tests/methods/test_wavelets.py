"""DWT and SWT fusion against direct use of PyWavelets."""

import numpy as np
import pytest
import pywt
import torch
from scipy import ndimage

import fusebench
from fusebench.errors import InputError


def images(shape):
    rng = np.random.default_rng(3)
    # Away from 0 and 1, so that no clipping hides a difference.
    return [(0.4 + 0.2 * rng.random(shape)).astype(np.float32) for _ in range(2)]


def run(name, a, b, **parameters):
    return fusebench.create_method(name, **parameters).fuse(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def test_dwt_of_a_slice_is_the_2d_transform():
    a, b = images((1, 32, 40))
    (base_a, *fine_a), (base_b, *fine_b) = (pywt.wavedec2(x[0], "db2", level=2) for x in (a, b))
    fine = [
        tuple(np.where(np.abs(p) >= np.abs(q), p, q) for p, q in zip(s, t, strict=True))
        for s, t in zip(fine_a, fine_b, strict=True)
    ]
    want = pywt.waverec2([(base_a + base_b) / 2, *fine], "db2")
    np.testing.assert_allclose(run("dwt", a, b, wavelet="db2", levels=2, window=1)[0], want, atol=1e-6)


def test_dwt_consistency_check():
    """One level of Haar in 3D, window of 3, written out."""
    a, b = images((12, 14, 16))
    p, q = (pywt.dwtn(x, "haar") for x in (a, b))
    mixed = {"aaa": (p["aaa"] + q["aaa"]) / 2}
    for band in p.keys() - mixed.keys():
        strong = [ndimage.maximum_filter(np.abs(x[band]), 3) for x in (p, q)]
        votes = ndimage.uniform_filter((strong[0] >= strong[1]).astype(float), 3)
        mixed[band] = np.where(votes > 0.5, p[band], q[band])
    want = pywt.idwtn(mixed, "haar")
    np.testing.assert_allclose(run("dwt", a, b, wavelet="haar", levels=1), want, atol=1e-6)


def test_swt_of_a_slice_is_the_2d_transform():
    a, b = images((1, 32, 48))
    coarse, fine = [], []
    for x in (a, b):
        base, *details = pywt.swt2(x[0], "db2", level=2, norm=True, trim_approx=True)
        coarse.append(base)
        fine.append(details)
    details = [
        tuple(np.where(np.abs(p) >= np.abs(q), p, q) for p, q in zip(s, t, strict=True))
        for s, t in zip(*fine, strict=True)
    ]
    want = pywt.iswt2([sum(coarse) / 2, *details], "db2", norm=True)
    np.testing.assert_allclose(run("swt", a, b, levels=2)[0], want, atol=1e-6)


def test_swt_is_shift_invariant_and_dwt_is_not():
    a, b = images((16, 16, 16))
    moved = [np.roll(x, 1, axis=2) for x in (a, b)]
    np.testing.assert_allclose(run("swt", *moved), np.roll(run("swt", a, b), 1, axis=2), atol=1e-6)
    assert (
        np.abs(run("dwt", *moved, wavelet="haar") - np.roll(run("dwt", a, b, wavelet="haar"), 1, 2)).max()
        > 1e-3
    )


@pytest.mark.parametrize("name", ["dwt", "swt"])
@pytest.mark.parametrize("parameters", [{"wavelet": "morl"}, {"wavelet": "no-such"}, {"levels": 0}])
def test_bad_parameters(name, parameters):
    with pytest.raises(InputError, match=name):
        fusebench.create_method(name, **parameters)


def test_bad_window():
    with pytest.raises(InputError, match="window"):
        fusebench.create_method("dwt", window=4)


@pytest.mark.parametrize("name", ["dwt", "swt"])
def test_thin_volume_is_filtered_in_plane(name):
    """Two slices are too few for a level: the transform leaves that axis alone."""
    a, b = images((2, 32, 32))
    both = run(name, a, b, wavelet="db2", levels=1)
    if name == "swt":
        np.testing.assert_allclose(both[:1], run(name, a[:1], b[:1], wavelet="db2", levels=1), atol=1e-6)
    assert not np.allclose(both, (a + b) / 2, atol=1e-3)
