"""DenseFuse against a small reference with the authors' names, on their 0..255 scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from scipy.ndimage import uniform_filter

import fusebench
from fusebench.errors import InputError

from .learned_2d import images, module, parameters, random_state, with_random_weights

DENSE = "DB1.denseblock.{}.dense_conv.conv2d"
WIDTHS = {
    "conv1.conv2d": (16, 1),
    **{DENSE.format(i): (16, 16 * (i + 1)) for i in range(3)},
    "conv2.conv2d": (64, 64),
    "conv3.conv2d": (32, 64),
    "conv4.conv2d": (16, 32),
    "conv5.conv2d": (1, 16),
}
TABLE = {f"{k}.weight": (*v, 3, 3) for k, v in WIDTHS.items()} | {
    f"{k}.bias": v[:1] for k, v in WIDTHS.items()
}


def published(seed=0):
    state = random_state(TABLE, seed)
    # Enough bias to matter on 0..255, and outputs that are not all cut by the last ReLU.
    return {
        k: v * 100 + (60 if k.startswith("conv5") else 0) if k.endswith("bias") else v
        for k, v in state.items()
    }


def layer(state, name, x):
    x = nnf.pad(x, (1, 1, 1, 1), mode="reflect")
    return nnf.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]).clamp_min(0)


def encode(state, x):
    x = layer(state, "conv1.conv2d", x)
    for i in range(3):
        x = torch.cat([x, layer(state, DENSE.format(i), x)], 1)
    return x


def decode(state, x):
    for i in range(2, 6):
        x = layer(state, f"conv{i}.conv2d", x)
    return x.clamp(0, 255)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "published.model"
    torch.save(published(), path)
    return str(path)


def make(file, **params):
    method = fusebench.create_method("densefuse", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == 74_193


def test_addition_is_the_published_arithmetic(file):
    a, b = images(2, 21, 18)
    state = published()
    expected = decode(state, (encode(state, 255 * b) + encode(state, 255 * a)) / 2)
    assert 1 < expected.mean() < 254
    method = make(file)
    assert method.describe().trained_on.startswith("authors' weights")
    assert torch.allclose(255 * method.fuse_slices(a, b), expected, atol=5e-3)
    assert torch.equal(make(file, compat=True).fuse_slices(a, b), method.fuse_slices(a, b))


@pytest.mark.parametrize("average", [True, False])
def test_l1_rule(average):
    generator = np.random.default_rng(0)
    f1, f2 = generator.standard_normal((2, 5, 7, 9)).astype(np.float32)
    f1[:, :4] = f2[:, :4] = 0  # no activity: one half each, not NaN
    activity = []
    for f in (f1, f2):
        activity.append(np.abs(f).sum(0))
        if average:
            activity[-1] = uniform_filter(activity[-1], 3, mode="nearest")
    total = activity[0] + activity[1]
    w = np.where(total > 1e-6, activity[0] / np.where(total > 1e-6, total, 1), 0.5)
    fused = module("densefuse").l1_fusion(torch.tensor(f1)[None], torch.tensor(f2)[None], average)
    assert np.allclose(fused[0].numpy(), w * f1 + (1 - w) * f2, atol=1e-5)


def test_the_published_soft_max_overflows_on_pictures_and_says_so(file, tmp_path):
    a, b = images(1, 16, 16)
    with pytest.raises(InputError, match="overflows"):
        make(file, strategy="l1", compat=True).fuse_slices(a, b)
    assert make(file, strategy="l1").fuse_slices(a, b).isfinite().all()


def test_the_published_soft_max_where_it_does_not_overflow(file):
    method = make(file, strategy="l1", compat=True)
    f1, f2 = torch.rand(2, 1, 64, 4, 4) / 255  # sums below 88 on the 0..255 scale
    e1, e2 = (torch.exp((255 * f).sum(1, keepdim=True)) for f in (f1, f2))
    expected = (e1 * f1 + e2 * f2) / (e1 + e2)
    assert torch.allclose(module("densefuse")._softmax_fusion(f1, f2), expected, atol=1e-7)
    assert method.strategy == "l1"


def test_average_only_changes_the_l1_rule(tmp_path):
    a, b = images(1, 17, 13)
    plain, averaged = (
        with_random_weights("densefuse", tmp_path, strategy="l1", average3x3=x).fuse_slices(a, b)
        for x in (False, True)
    )
    assert not torch.allclose(plain, averaged, atol=1e-4)
