"""SwinFusion against a reference with cyclic shifts and masks, as the published program has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, module, parameters, random_state


def _table():
    def linear(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.weight": (60,), f"{name}.bias": (60,)}

    def conv(name, outputs, inputs):
        return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}

    def half(name, side, cross):
        attention = f"{name}.attn{side}"
        table = (
            norm(f"{name}.norm1{side}") | norm(f"{name}.norm2{side}") | linear(f"{attention}.proj", 60, 60)
        )
        table |= linear(f"{name}.mlp{side}.fc1", 120, 60) | linear(f"{name}.mlp{side}.fc2", 60, 120)
        table[f"{attention}.relative_position_bias_table"] = (225, 6)
        table[f"{attention}.relative_position_index"] = (64, 64)
        if cross:
            return table | linear(f"{attention}.q", 60, 60) | linear(f"{attention}.kv", 120, 60)
        return table | linear(f"{attention}.qkv", 180, 60)

    table = norm("patch_embed.norm") | norm("norm_Re") | conv("conv_after_body_Fusion", 60, 120)
    for side in "AB":
        table |= norm(f"norm_Ex_{side}") | norm(f"norm_Fusion_{side}") | conv(f"conv_first1_{side}", 30, 1)
        for i in range(4):
            table |= half(f"layers_Ex_{side}.0.residual_group.blocks.{i}", "", False)
        for stage in range(2):
            for i in range(2):
                table |= half(f"layers_Fusion.{stage}.residual_group_{side}.blocks.{i}", "", False)
                table |= half(f"layers_Fusion.{stage}.residual_group.blocks.{i}", f"_{side}", True)
    for i in range(4):
        table |= half(f"layers_Re.0.residual_group.blocks.{i}", "", False)
    table |= conv("conv_first2_A", 60, 30) | conv("conv_first2_B", 30, 30)
    return table | conv("conv_last1", 30, 60) | conv("conv_last2", 15, 30) | conv("conv_last3", 1, 15)


TABLE = _table()


def published(s, structural, functional):
    """The published program on one pair, whose sides are multiples of 8."""

    def linear(name, x):
        return nnf.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def norm(name, x):
        return nnf.layer_norm(x, (60,), s[f"{name}.weight"], s[f"{name}.bias"])

    def conv(name, x):
        """Of tokens (H, W, C)."""
        return nnf.conv2d(x.movedim(-1, 0)[None], s[f"{name}.weight"], s[f"{name}.bias"], padding=1)[
            0
        ].movedim(0, -1)

    def cut(x, shift):
        x = x.roll((-shift, -shift), (0, 1))
        return x.unflatten(0, (-1, 8)).unflatten(2, (-1, 8)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def attend(name, q, kv, shift):
        """Queries (H, W, 60), keys and values (H, W, 120), windows of which are labelled by their part."""
        h, w = q.shape[:2]
        place = torch.arange(64)
        dy, dx = place[:, None] // 8 - place // 8, place[:, None] % 8 - place % 8
        bias = s[f"{name}.relative_position_bias_table"][(dy + 7) * 15 + dx + 7].movedim(-1, 0)
        label = torch.zeros(h, w)
        label[:shift] += 1
        label[:, :shift] += 2
        parts = cut(label[..., None], shift)[..., 0]
        mask = torch.where(parts[:, None] == parts[:, :, None], 0.0, -100.0)
        q, k, v = (
            x.unflatten(-1, (6, 10)).transpose(1, 2) for x in (cut(q, shift), *cut(kv, shift).chunk(2, -1))
        )
        scores = (q / 10**0.5) @ k.mT + bias + mask[:, None]
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        out = (
            out.view(h // 8, w // 8, 8, 8, 60).transpose(1, 2).reshape(h, w, 60).roll((shift, shift), (0, 1))
        )
        return linear(f"{name}.proj", out)

    def finish(name, side, x):
        hidden = nnf.gelu(linear(f"{name}.mlp{side}.fc1", norm(f"{name}.norm2{side}", x)))
        return x + linear(f"{name}.mlp{side}.fc2", hidden)

    def group(name, x, depth):
        for i in range(depth):
            block = f"{name}.blocks.{i}"
            q, kv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).split((60, 120), -1)
            x = finish(block, "", x + attend(f"{block}.attn", q, kv, 4 * (i % 2)))
        return x

    def leaky(x):
        return nnf.leaky_relu(x, 0.2)

    pair = []
    for side, image in (("A", structural), ("B", functional)):  # both by the layers of the first
        x = leaky(conv("conv_first2_A", leaky(conv("conv_first1_A", image[0, 0, ..., None]))))
        x = group(f"layers_Ex_{side}.0.residual_group", norm("patch_embed.norm", x), 4)
        pair.append(norm("patch_embed.norm", norm(f"norm_Ex_{side}", x)))
    for stage in range(2):
        name = f"layers_Fusion.{stage}.residual_group"
        pair = [group(f"{name}_{side}", x, 2) for side, x in zip("AB", pair, strict=True)]
        for i in range(2):
            block, out = f"{name}.blocks.{i}", []
            own = [norm(f"{block}.norm1_{side}", x) for side, x in zip("AB", pair, strict=True)]
            for j, side in enumerate("AB"):
                q, kv = (
                    linear(f"{block}.attn_{side}.q", own[j]),
                    linear(f"{block}.attn_{side}.kv", own[1 - j]),
                )
                out.append(finish(block, f"_{side}", pair[j] + attend(f"{block}.attn_{side}", q, kv, 4 * i)))
            pair = out
    x = torch.cat([norm(f"norm_Fusion_{side}", x) for side, x in zip("AB", pair, strict=True)], -1)
    x = norm("patch_embed.norm", leaky(conv("conv_after_body_Fusion", x)))
    x = norm("norm_Re", group("layers_Re.0.residual_group", x, 4))
    return conv("conv_last3", leaky(conv("conv_last2", leaky(conv("conv_last1", x)))))[None, None, ..., 0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("swinfusion") / "10000_E.pth"
    torch.save({"params": random_state(TABLE)}, path)
    return str(path)


def make(file):
    method = fusebench.create_method("swinfusion", weights=file)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == 973_681
    unused = {k: v for k, v in TABLE.items() if k.startswith(("conv_first1_B", "conv_first2_B"))}
    assert fusebench.create_method("swinfusion").info.params == 973_681 - parameters(unused) == 965_251


@torch.no_grad()
@pytest.mark.parametrize("size", [(24, 16), (8, 32)])
def test_the_published_network(file, size):
    a, b = images(1, *size)
    expected = published(random_state(TABLE), a, b)
    method = make(file)
    assert method.origin == "authors'"
    fused = method.network(b, a)
    assert expected.std() > 0.05
    assert torch.allclose(fused, expected, atol=2e-5 * max(1.0, float(expected.abs().max())))


def test_images_are_extended_by_their_mirror_image_as_published(file):
    a, b = images(1, 13, 16)
    method = make(file)
    wide = []
    for x in (b, a):
        x = torch.cat((x, x.flip(2)), 2)[:, :, :16]
        wide.append(torch.cat((x, x.flip(3)), 3)[..., :24])  # a multiple of 8 by 8 more
    with torch.no_grad():
        expected = method.network(*wide)[..., :13, :16].clamp(0, 1)
    assert torch.allclose(method.fuse_slices(a, b), expected, atol=1e-6)
    assert module("swinfusion").mirrored(torch.arange(3.0), 0).tolist() == [0, 1, 2, 2, 1, 0, 0, 1]


def test_rows_one_by_one_are_the_whole(file):
    method = make(file)
    a, b = images(2, 24, 16)
    with torch.no_grad():
        rows = method.network(b, a)
    with torch.enable_grad():
        assert torch.allclose(method.network(b, a), rows, atol=1e-5 * max(1.0, float(rows.abs().max())))
