"""MATR against a reference that follows the published program: unfolded kernels, real attention, its view."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench
from fusebench.errors import InputError

from .learned_2d import images, parameters, random_state, with_random_weights

NORM = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}


def _table():
    table = {"convolutional_out.conv1.weight": (1, 16, 1, 1)}
    table |= {f"patch_embed.norm.{k}": (96,) for k in ("weight", "bias")}
    for name, n in (("convInput", 2), ("conv", 16)):
        table[f"{name}.conv1.weight"] = (16, n, 3, 3)
        table |= {
            f"{name}.conv1.{k}.weight": s
            for k, s in (("ce", (5, 9)), ("ci", (16, n)), ("gd", (9, 5)), ("gd2", (9, 5)))
        }
        for norm, size in (("conv1.ce_bn", n), ("conv1.ci_bn2", n), ("conv1.ci_bn", 16), ("bn1", 16)):
            table |= {f"{name}.{norm}.{k}": (size,) for k in NORM}
            table[f"{name}.{norm}.num_batches_tracked"] = ()
    for i in range(3):
        block = f"basicLayer.blocks.{i}."
        table |= {
            f"{block}attn.relative_position_bias_table": (1, 8),
            f"{block}attn.relative_position_index": (1, 1),
        }
        for k, (o, n) in {
            "attn.qkv": (48, 16),
            "attn.proj": (16, 16),
            "mlp.fc1": (64, 16),
            "mlp.fc2": (16, 64),
        }.items():
            table |= {f"{block}{k}.weight": (o, n), f"{block}{k}.bias": (o,)}
        table |= {f"{block}{k}.{w}": (16,) for k in ("norm1", "norm2") for w in ("weight", "bias")}
    return table


TABLE = _table()


def reference(s, x):
    """One image (1, 2, n, n), square as the published program wants it."""

    def norm(name, y):
        return nnf.batch_norm(
            y, *(s[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        )

    def conv(name, y):
        side = y.shape[-1]
        code = nnf.adaptive_avg_pool2d(y, 3).flatten(2) @ s[f"{name}.conv1.ce.weight"].T
        inner = norm(f"{name}.conv1.ce_bn", code).relu() @ s[f"{name}.conv1.gd.weight"].T
        mixed = torch.einsum(
            "oc,bcl->bol", s[f"{name}.conv1.ci.weight"], norm(f"{name}.conv1.ci_bn2", code).relu()
        )
        outer = norm(f"{name}.conv1.ci_bn", mixed).relu() @ s[f"{name}.conv1.gd2.weight"].T
        gate = torch.sigmoid(inner[:, None] + outer[:, :, None])
        kernel = (gate.view(1, 16, -1, 3, 3) * s[f"{name}.conv1.weight"]).flatten(2)
        return norm(f"{name}.bn1", (kernel @ nnf.unfold(y, 3, padding=1)).view(1, 16, side, side)).relu()

    def block(name, t):
        def linear(k, y):
            return nnf.linear(y, s[f"{name}.{k}.weight"], s[f"{name}.{k}.bias"])

        def layer_norm(k, y):
            return nnf.layer_norm(y, (16,), s[f"{name}.{k}.weight"], s[f"{name}.{k}.bias"])

        q, k, v = linear("attn.qkv", layer_norm("norm1", t)).view(-1, 1, 3, 8, 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / 2**0.5 + s[f"{name}.attn.relative_position_bias_table"].view(1, 8, 1, 1)
        t = t + linear("attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16))
        return t + linear("mlp.fc2", nnf.gelu(linear("mlp.fc1", layer_norm("norm2", t))))

    first, total = conv("convInput", x), 0
    for depth in (1, 2, 3):
        y = first
        for _ in range(depth):
            y = conv("conv", y)
        t = y.contiguous().view(-1, 16)  # the quirk: memory as it lies, not the channels of a pixel
        for i in range(3):
            t = block(f"basicLayer.blocks.{i}", t)
        total = total + conv("conv", t.view(y.shape))
    return nnf.conv2d(total, s["convolutional_out.conv1.weight"]).tanh()


@pytest.fixture
def method(tmp_path):
    torch.save(random_state(TABLE), tmp_path / "model_10.pth")
    method = fusebench.create_method("matr", weights=str(tmp_path / "model_10.pth"))
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == 13_422
    unused = 192 + 3 * (8 + 32 * 16 + 32)
    assert fusebench.create_method("matr").info.params == 13_422 - unused


@pytest.mark.parametrize("side", [16, 21])
def test_the_published_program(method, side):
    a, b = images(2, side, side)
    state = random_state(TABLE)
    expected = torch.cat([reference(state, torch.cat([b, a], 1)[i : i + 1]) for i in range(2)])
    assert expected.abs().max() > 0.1
    assert torch.allclose(method.fuse_slices(a, b), expected.clamp(0, 1), atol=1e-5)
    assert method.describe().trained_on == "authors' weights (model_10.pth)"


def test_the_shipped_weights_are_not_for_the_published_program():
    with pytest.raises(InputError, match="shipped weights are for compat=False"):
        fusebench.create_method("matr", compat=True)


def test_by_default_tokens_are_pixels_so_the_network_follows_a_shift_of_the_image(tmp_path):
    """A token of memory depends on the row length; the channels of a pixel do not."""
    a, b = torch.zeros(2, 1, 1, 96, 96)
    a[..., 44:50, 44:51] = b[..., 45:49, 46:48] = 0.8
    for compat in (False, True):
        method = with_random_weights("matr", tmp_path, compat=compat)
        # The gates see 3x3 averages, so everything stays inside one of their 32x32 cells.
        moved = method.fuse_slices(*(x.roll((2, 3), (2, 3)) for x in (a, b)))
        shifted = method.fuse_slices(a, b).roll((2, 3), (2, 3))
        same = torch.allclose(moved[..., 20:76, 20:76], shifted[..., 20:76, 20:76], atol=1e-5)
        assert same is not compat


def test_inference_is_the_training_arithmetic_with_fixed_statistics(tmp_path):
    method = with_random_weights("matr", tmp_path)
    a, b = images(3, 15, 12)
    fast = method.network(b, a)
    method.network.train()
    for m in method.network.modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            m.eval()
    assert torch.allclose(method.network(b, a), fast, atol=1e-5)
