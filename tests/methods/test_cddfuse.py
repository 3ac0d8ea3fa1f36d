"""CDDFuse against a reference that follows the published program, layer by layer in its names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench
from fusebench.errors import InputError

from .learned_2d import images, parameters, random_state
from .restormer_2d import base_block, base_table, norm, norm_table

DICTS = ("DIDF_Encoder", "DIDF_Decoder", "BaseFuseLayer", "DetailFuseLayer")


def _table():
    def block(name):
        return {
            f"{name}.attn.temperature": (8, 1, 1),
            f"{name}.attn.qkv.weight": (192, 64, 1, 1),
            f"{name}.attn.qkv_dwconv.weight": (192, 1, 3, 3),
            f"{name}.attn.project_out.weight": (64, 64, 1, 1),
            f"{name}.ffn.project_in.weight": (256, 64, 1, 1),
            f"{name}.ffn.dwconv.weight": (256, 1, 3, 3),
            f"{name}.ffn.project_out.weight": (64, 128, 1, 1),
            **norm_table(name, 64),
        }

    def coupling(name):
        table = {f"{name}.shffleconv.weight": (64, 64, 1, 1), f"{name}.shffleconv.bias": (64,)}
        for part in ("phi", "rho", "eta"):
            layers = f"{name}.theta_{part}.bottleneckBlock"
            table |= {f"{layers}.0.weight": (64, 32, 1, 1), f"{layers}.3.weight": (64, 1, 3, 3)}
            table |= {f"{layers}.5.weight": (32, 64, 1, 1)}
        return table

    encoder, decoder, base, detail = DICTS
    table = {
        f"{encoder}.patch_embed.proj.weight": (64, 1, 3, 3),
        f"{decoder}.reduce_channel.weight": (64, 128, 1, 1),
        f"{decoder}.output.0.weight": (32, 64, 3, 3),
        f"{decoder}.output.2.weight": (1, 32, 3, 3),
    }
    for i in range(4):
        table |= block(f"{encoder}.encoder_level1.{i}") | block(f"{decoder}.encoder_level2.{i}")
    for i in range(3):
        table |= coupling(f"{encoder}.detailFeature.net.{i}")
    table |= base_table(f"{encoder}.baseFeature", 64) | base_table(base, 64)
    return table | coupling(f"{detail}.net.0")


TABLE = _table()


def block(s, name, x):
    """A Restormer block: attention between the 8 channels of each of 8 heads, gated MLP."""

    def conv(part, y, **options):
        return nnf.conv2d(y, s[f"{name}.{part}.weight"], **options)

    q, k, v = conv(
        "attn.qkv_dwconv", conv("attn.qkv", norm(s, f"{name}.norm1", x)), padding=1, groups=192
    ).chunk(3, 1)
    out = torch.zeros_like(x)
    for head in range(8):
        own = slice(8 * head, 8 * head + 8)
        q1, k1, v1 = (y[:, own].flatten(2) for y in (q, k, v))
        scores = nnf.normalize(q1, dim=-1) @ nnf.normalize(k1, dim=-1).mT
        mixed = (scores * s[f"{name}.attn.temperature"][head]).softmax(-1) @ v1
        out[:, own] = mixed.view_as(out[:, own])
    x = x + conv("attn.project_out", out)
    y = conv("ffn.dwconv", conv("ffn.project_in", norm(s, f"{name}.norm2", x)), padding=1, groups=256)
    return x + conv("ffn.project_out", nnf.gelu(y[:, :128]) * y[:, 128:])


def coupling(s, name, x):
    def bottleneck(part, y):
        w0, w3, w5 = (s[f"{name}.theta_{part}.bottleneckBlock.{i}.weight"] for i in (0, 3, 5))
        y = nnf.pad(nnf.conv2d(y, w0).clamp(0, 6), (1, 1, 1, 1), mode="reflect")
        return nnf.conv2d(nnf.conv2d(y, w3, groups=64).clamp(0, 6), w5)

    x = nnf.conv2d(x, s[f"{name}.shffleconv.weight"], s[f"{name}.shffleconv.bias"])
    z1, z2 = x[:, :32], x[:, 32:]
    z2 = z2 + bottleneck("phi", z1)
    return torch.cat((z1 * bottleneck("rho", z2).exp() + bottleneck("eta", z2), z2), 1)


def published(s, first, second, residual=False):
    encoder, decoder, base, detail = DICTS
    sums = [0, 0]
    for image in (first, second):
        x = nnf.conv2d(image, s[f"{encoder}.patch_embed.proj.weight"], padding=1)
        for i in range(4):
            x = block(s, f"{encoder}.encoder_level1.{i}", x)
        sums[0] = sums[0] + base_block(s, f"{encoder}.baseFeature", x, reflect=False)
        for i in range(3):
            x = coupling(s, f"{encoder}.detailFeature.net.{i}", x)
        sums[1] = sums[1] + x
    x = torch.cat((base_block(s, base, sums[0], reflect=False), coupling(s, f"{detail}.net.0", sums[1])), 1)
    x = nnf.conv2d(x, s[f"{decoder}.reduce_channel.weight"])
    for i in range(4):
        x = block(s, f"{decoder}.encoder_level2.{i}", x)
    x = nnf.leaky_relu(nnf.conv2d(x, s[f"{decoder}.output.0.weight"], padding=1), 0.01)
    x = nnf.conv2d(x, s[f"{decoder}.output.2.weight"], padding=1)
    return (x + first + second if residual else x).sigmoid()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file as the authors publish it: four dicts, with the names that wrapped networks have."""
    state = random_state(TABLE)
    dicts = {d: {} for d in DICTS}
    for key, value in state.items():
        part, _, name = key.partition(".")
        dicts[part][f"module.{name}"] = value
    path = tmp_path_factory.mktemp("cddfuse") / "CDDFuse_MIF.pth"
    torch.save(dicts, path)
    return str(path)


def make(file, **params):
    method = fusebench.create_method("cddfuse", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == fusebench.create_method("cddfuse").info.params == 1_188_272


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("size", "residual"), [((21, 14), False), ((70, 66), True)])
def test_the_published_program(file, fast, size, residual):
    a, b = images(1, *size)
    expected = published(random_state(TABLE), b, a, residual)
    method = make(file, residual=residual, fast=fast)
    assert method.origin == "authors'"
    fused = method.fuse_slices(a, b)
    assert torch.allclose(fused, expected, atol=1e-5)
    assert fused.std() > 0.05


def test_compat_stretches_each_picture_and_leaves_a_constant_one(file):
    a, b = images(2, 12, 11)
    plain, stretched = (make(file, compat=c).fuse_slices(a, b) for c in (False, True))
    for x, y in zip(plain, stretched, strict=True):
        assert torch.allclose(y, (x - x.min()) / (x.max() - x.min()), atol=1e-6)
    one = a[:1, :, :1, :1] * 0
    assert torch.equal(make(file, compat=True).fuse_slices(one, one), make(file).fuse_slices(one, one))


def test_the_order_of_the_images_has_no_influence(file):
    a, b = images(1, 17, 19)
    method = make(file)
    assert torch.allclose(method.fuse_slices(a, b), method.fuse_slices(b, a), atol=1e-6)


def test_a_file_with_a_part_missing_is_refused(file, tmp_path):
    state = torch.load(file, weights_only=True)
    del state["DetailFuseLayer"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"DetailFuseLayer\.net\.0"):
        make(str(tmp_path / "part.pth"))
