"""DILRAN against a reference that follows the published program, and its shortcuts against the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, parameters, random_state, with_random_weights


def _table():
    def norm(name):
        return {f"{name}.{k}": (64,) for k in ("weight", "bias", "running_mean", "running_var")} | {
            f"{name}.num_batches_tracked": ()
        }

    def conv(name, o, i, k):
        return {f"{name}.weight": (o, i, k, k), f"{name}.bias": (o,)}

    return {
        **conv("fe.conv_id.0", 64, 192, 1),
        **conv("fe.conv1", 64, 1, 1),
        **conv("fe.conv2.0", 64, 64, 3),
        **norm("fe.conv2.1"),
        **conv("fe.conv2.3", 64, 64, 3),
        **norm("fe.conv2.4"),
        **norm("fe.bnorm"),
        **{k: v for i in (1, 2, 3) for k, v in conv(f"fe.fe.convd{i}", 64, 64, 3).items()},
        **conv("fe.fe.reduce", 64, 192, 1),
        **norm("fe.fe.bnorm1"),
        **conv("fe.fe.dilran.conv_d", 64, 64, 3),
        **norm("fe.fe.dilran.bnorm"),
        **conv("recon.recon_conv.0", 64, 64, 3),
        **conv("recon.recon_conv.1", 32, 64, 3),
        **conv("recon.recon_conv.2", 1, 32, 3),
    }


TABLE = _table()


def published(seed=0):
    return random_state(TABLE, seed)


def encode(s, x):
    """One image; batch norm in training mode, as the published inference leaves it."""

    def conv(name, y, d=1):
        return nnf.conv2d(y, s[f"{name}.weight"], s[f"{name}.bias"], padding="same", dilation=d)

    def pur(y):
        return nnf.interpolate(nnf.avg_pool2d(y, 2, 2), scale_factor=2, mode="nearest").relu()

    def norm(y):
        return nnf.batch_norm(y, None, None, s["fe.fe.bnorm1.weight"], s["fe.fe.bnorm1.bias"], training=True)

    x = x + pur(x) * conv("fe.conv1", x)
    y = torch.cat([conv(f"fe.fe.convd{i}", x, d) for i, d in ((1, 1), (2, 3), (3, 5))], 1)
    y = norm(conv("fe.fe.reduce", y))
    c = "fe.fe.dilran.conv_d"
    y = y + pur(y) * (conv(c, y) + conv(c, conv(c, y)) + conv(c, conv(c, conv(c, y))))
    return pur(x) * norm(y) + x


def decode(s, f):
    for i in range(3):
        f = nnf.conv2d(f, s[f"recon.recon_conv.{i}.weight"], s[f"recon.recon_conv.{i}.bias"], padding=1)
    return f


def fuse(f1, f2, rule):
    if rule == "addition":
        return f1 + f2
    if rule == "average":
        return (f1 + f2) / 2
    if rule == "fer":
        e = f1**2 + f2**2
        e[e == 0] = 1
        return f1**2 / e * f1 + f2**2 / e * f2
    if rule == "sfnn":
        n1, n2 = (
            max(np.linalg.svd(m, compute_uv=False).sum() for m in f.softmax(1)[0].double().numpy()) ** 2
            for f in (f1, f2)
        )
        return (n1 * f1 + n2 * f2) / (n1 + n2)
    l1, l2 = f1.abs().sum(), f2.abs().sum()
    return {
        "l1nw": l1 * f1 + l2 * f2,
        "al1nw": l1 / 2 * f1 + l2 / 2 * f2,
        "fl1n": (l1 * f1 + l2 * f2) / (l1 + l2),
    }[rule]


def make(tmp_path, **params):
    torch.save(published(), tmp_path / "last.pt")
    method = fusebench.create_method("dilran", weights=str(tmp_path / "last.pt"), **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == 302_721
    unused = {
        k: v
        for k, v in TABLE.items()
        if k.startswith(("fe.conv_id", "fe.conv2", "fe.bnorm", "fe.fe.dilran.bnorm"))
    }
    assert parameters(TABLE) - parameters(unused) == 216_001


@pytest.mark.parametrize("rule", ["sfnn", "fl1n", "l1nw", "al1nw", "fer", "addition", "average"])
def test_the_published_rules(tmp_path, rule):
    a, b = images(1, 22, 26)
    s = published()
    expected = decode(s, fuse(encode(s, b), encode(s, a), rule))
    fused = make(tmp_path, rule=rule, compat=True).fuse_slices(a, b)
    assert torch.allclose(fused, expected.clamp(0, 1), atol=2e-5)
    assert rule in ("l1nw", "al1nw") or ((fused > 0) & (fused < 1)).float().mean() > 0


@pytest.mark.parametrize(("rule", "equal"), [("addition", "average"), ("l1nw", "fl1n"), ("al1nw", "fl1n")])
def test_by_default_weights_sum_to_one(tmp_path, rule, equal):
    a, b = images(1, 20, 20)
    fused = [make(tmp_path, rule=r).fuse_slices(a, b) for r in (rule, equal)]
    assert torch.allclose(*fused, atol=1e-6)


def test_the_fast_way_is_the_network(tmp_path):
    method = make(tmp_path)
    for size in ((2, 2), (24, 18), (70, 46)):
        x = images(1, *size)[0]
        fast, features = method.quick.encode(x), method.network.encode(x)
        assert torch.allclose(fast, features, atol=2e-4, rtol=1e-4)
        fast, image = method.quick.decode(features), method.network.decode(features)
        assert torch.allclose(fast, image, atol=1e-5 * max(1.0, float(image.abs().max())))


def test_batch_norm_takes_each_image_by_itself(tmp_path):
    method = with_random_weights("dilran", tmp_path)
    x = torch.cat(images(1, 16, 16))
    both = method.network.encode(x)
    assert torch.allclose(both[:1], method.network.encode(x[:1]), atol=1e-5)


def test_odd_sizes_are_the_repeated_ones_cropped(tmp_path):
    a, b = images(1, 15, 17)
    method = make(tmp_path)
    wide = method.fuse_slices(*(nnf.pad(x, (0, 1, 0, 1), mode="replicate") for x in (a, b)))
    assert torch.equal(method.fuse_slices(a, b), wide[..., :15, :17])
