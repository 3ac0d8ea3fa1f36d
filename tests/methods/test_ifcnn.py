"""IFCNN against a small reference with the authors' names, on three equal channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, module, random_state

NORM = ("running_mean", "running_var", "weight", "bias")
TABLE = {
    "conv1.weight": (64, 3, 7, 7),
    **{f"{k}.conv.weight": (64, 64, 3, 3) for k in ("conv2", "conv3")},
    **{f"{k}.bn.{n}": (64,) for k in ("conv2", "conv3") for n in NORM},
    "conv4.weight": (3, 64, 1, 1),
    "conv4.bias": (3,),
}


def published():
    state = random_state(TABLE)
    for key in state:
        if key.endswith("bn.weight"):
            state[key] = state[key] + 1
    state["conv4.bias"] += 0.5  # so that little of it is clipped
    return state


def block(s, name, x):
    x = nnf.conv2d(nnf.pad(x, (1, 1, 1, 1), mode="replicate"), s[f"{name}.conv.weight"])
    mean, variance, weight, bias = (
        s[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
    )
    return nnf.batch_norm(x, mean, variance, weight, bias).clamp_min(0)


def reference(s, rule, *pair):
    features = []
    for x in pair:
        x = nnf.pad(x.expand(-1, 3, -1, -1), (3, 3, 3, 3), mode="replicate")
        features.append(block(s, "conv2", nnf.conv2d(x, s["conv1.weight"])))
    both = torch.stack(features)
    joined = {"max": both.amax, "sum": both.sum, "mean": both.mean}[rule](0)
    colours = nnf.conv2d(block(s, "conv3", joined), s["conv4.weight"], s["conv4.bias"]).clamp(0, 1)
    red, green, blue = colours.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@pytest.fixture
def file(tmp_path):
    torch.save(published(), tmp_path / "IFCNN-MAX.pth")
    return str(tmp_path / "IFCNN-MAX.pth")


def make(file, **params):
    method = fusebench.create_method("ifcnn", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_values():
    assert sum(torch.Size(shape).numel() for shape in TABLE.values()) == 83_843
    assert fusebench.create_method("ifcnn").info.params == 83_843 - 4 * 64


@pytest.mark.parametrize("rule", ["max", "sum", "mean"])
@pytest.mark.parametrize("fast", [True, False])
def test_the_published_program(file, rule, fast):
    a, b = images(2, 19, 26)
    expected = reference(published(), rule, b, a)
    assert expected.std() > 0.05
    method = make(file, rule=rule, fast=fast)
    assert torch.allclose(method.fuse_slices(a, b), expected, atol=1e-5)
    assert method.describe().trained_on == "authors' weights (IFCNN-MAX.pth)"


def test_the_merged_kernel_does_not_hold_in_the_outermost_pixels(file, monkeypatch):
    """They are done the long way; without that the faster form differs there and nowhere else."""
    method = make(file)
    x, _ = images(1, 20, 24)
    with torch.no_grad():
        whole = method.quick.encode(x)
        method.quick.net = type(
            "Nothing", (), {"encode": staticmethod(lambda x: x.new_zeros(1, 64, *x.shape[2:]))}
        )
        without = method.quick.encode(x)
    same = (whole - without).abs().amax((0, 1)) == 0
    assert same[1:-1, 1:-1].all()
    assert not same[0].any() and not same[:, -1].any()


def test_pairs_for_training_show_each_pixel_sharp_in_one_image():
    pair = module("_recipes_ifcnn").blurred_pair
    x = torch.rand(3, 1, 32, 40)
    torch.manual_seed(1)
    first, second = pair(x)
    sharp = torch.stack((first == x, second == x))
    assert sharp.any(0).all()
    assert 0.1 < sharp[0].float().mean() < 0.9
    blurred = torch.where(sharp[0], second, first)
    assert blurred.std() < 0.7 * x.std()
    assert torch.allclose(blurred.mean(), x.mean(), atol=0.02)
