"""SwinFuse against references: the published tiles; shifted windows by cyclic shift and mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, module, parameters, random_state, with_random_weights

HEADS = (1, 2, 4)


def _table():
    table = {"patch_embed.proj.weight": (96, 1, 1, 1), "conv.weight": (1, 96, 1, 1), "conv.bias": (1,)}
    table |= {f"{n}.{k}": (96,) for n in ("patch_embed.norm", "norm") for k in ("weight", "bias")}
    table |= {
        "patch_embed.proj.bias": (96,),
        "norm_up.weight": (192,),
        "norm_up.bias": (192,),
        "prelu.weight": (1,),
    }
    for stage, heads in enumerate(HEADS, 1):
        for i in range(6):
            b = f"EN{stage}_0.blocks.{i}"
            table |= {
                f"{b}.attn.relative_position_bias_table": (169, heads),
                f"{b}.attn.relative_position_index": (49, 49),
            }
            for k, (o, n) in {
                "attn.qkv": (288, 96),
                "attn.proj": (96, 96),
                "mlp.fc1": (384, 96),
                "mlp.fc2": (96, 384),
            }.items():
                table |= {f"{b}.{k}.weight": (o, n), f"{b}.{k}.bias": (o,)}
            table |= {f"{b}.{k}.{w}": (96,) for k in ("norm1", "norm2") for w in ("weight", "bias")}
    return table


TABLE = _table()


def attention(s, name, heads, windows, mask=None):
    """Windows (M, 49, 96); `mask` (M, 49, 49) is added."""
    qkv = nnf.linear(windows, s[f"{name}.qkv.weight"], s[f"{name}.qkv.bias"])
    q, k, v = qkv.view(-1, 49, 3, heads, 96 // heads).permute(2, 0, 3, 1, 4)
    table = s[f"{name}.relative_position_bias_table"]
    bias = torch.empty(heads, 49, 49)
    for i in range(49):
        for j in range(49):
            dy, dx = i // 7 - j // 7, i % 7 - j % 7
            bias[:, i, j] = table[(dy + 6) * 13 + dx + 6]
    scores = q @ k.mT / (96 // heads) ** 0.5 + bias
    if mask is not None:
        scores = scores + mask[:, None]
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 49, 96)
    return nnf.linear(out, s[f"{name}.proj.weight"], s[f"{name}.proj.bias"])


def block(s, name, heads, x, shift=0):
    """One block on (H, W, 96), both multiples of 7."""

    def norm(k, y):
        return nnf.layer_norm(y, (96,), s[f"{name}.{k}.weight"], s[f"{name}.{k}.bias"])

    def cut(y):
        return y.unflatten(0, (-1, 7)).unflatten(2, (-1, 7)).transpose(1, 2).reshape(-1, 49, y.shape[-1])

    h, w, _ = x.shape
    y = norm("norm1", x).roll((-shift, -shift), (0, 1))
    mask = None
    if shift:
        region = torch.zeros(h, w)
        for i, rows in enumerate((slice(0, -7), slice(-7, -shift), slice(-shift, None))):
            for j, columns in enumerate((slice(0, -7), slice(-7, -shift), slice(-shift, None))):
                region[rows, columns] = 3 * i + j
        label = cut(region[..., None])[..., 0]
        mask = torch.where(label[:, None] == label[:, :, None], 0.0, -1e4)
    out = attention(s, f"{name}.attn", heads, cut(y), mask)
    out = out.view(h // 7, w // 7, 7, 7, 96).transpose(1, 2).reshape(h, w, 96).roll((shift, shift), (0, 1))
    x = x + out
    hidden = nnf.gelu(nnf.linear(norm("norm2", x), s[f"{name}.mlp.fc1.weight"], s[f"{name}.mlp.fc1.bias"]))
    return x + nnf.linear(hidden, s[f"{name}.mlp.fc2.weight"], s[f"{name}.mlp.fc2.bias"])


def encode(s, x, depth):
    x = x[..., None] * s["patch_embed.proj.weight"].flatten() + s["patch_embed.proj.bias"]
    x = nnf.layer_norm(x, (96,), s["patch_embed.norm.weight"], s["patch_embed.norm.bias"])
    for stage, heads in enumerate(HEADS, 1):
        y = x
        for i in range(depth):
            y = block(s, f"EN{stage}_0.blocks.{i}", heads, y, 3 * (i % 2))
        x = x + y
    return nnf.layer_norm(x, (96,), s["norm.weight"], s["norm.bias"])


def published_tile(s, first, second):
    f1, f2 = (encode(s, x, 1) for x in (first, second))
    fused = 0
    for axes in ((0, 1), (2,)):
        e1, e2 = (f.abs().mean(axes, keepdim=True).exp() for f in (f1, f2))
        fused = fused + (e1 * f1 + e2 * f2) / (e1 + e2 + 1e-5)
    return (fused @ s["conv.weight"].flatten() + s["conv.bias"]).tanh()


@pytest.fixture
def file(tmp_path):
    torch.save(random_state(TABLE), tmp_path / "swin.pth")
    return str(tmp_path / "swin.pth")


def make(file, **params):
    method = fusebench.create_method("swinfuse", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == 2_021_276
    assert fusebench.create_method("swinfuse").info.params == 2_021_276 - 385


@torch.no_grad()
def test_compat_is_the_published_program_on_a_tile(file):
    a, b = images(1, 30, 100)
    s = random_state(TABLE)
    expected = published_tile(s, *(nnf.pad(2 * x[0, 0] - 1, (0, 124, 0, 194)) for x in (b, a)))
    fused = make(file, compat=True).fuse_slices(a, b)[0, 0]
    assert torch.allclose(fused, expected[:30, :100] / 2 + 0.5, atol=2e-5)
    assert fused.std() > 0.02


def test_compat_fuses_each_tile_by_itself(file):
    a, b = images(1, 6, 231)
    method = make(file, compat=True)
    parts = [method.fuse_slices(a[..., s], b[..., s]) for s in (slice(0, 224), slice(224, 231))]
    assert torch.equal(method.fuse_slices(a, b), torch.cat(parts, -1))


@torch.no_grad()
def test_all_blocks_with_shifted_windows_are_the_cyclic_shift_with_a_mask(file):
    s = random_state(TABLE)
    x = 2 * images(1, 21, 28)[0][0, 0] - 1
    assert torch.allclose(make(file).network.encode(x[None])[0], encode(s, x, 6), atol=1e-4)


def test_windows_at_the_border_see_only_their_own_pixels():
    block = module("swinfuse").SwinBlock(2, 3).eval()
    assert module("swinfuse")._segments(18, 3) == [(0, 3, 3), (3, 17, 7), (17, 18, 1)]
    with torch.no_grad():
        x = torch.randn(1, 18, 10, 96)
        y = x.clone()
        y[:, 17] += 1  # the last row is a window of its own
        changed = (block(y) - block(x)).abs().amax((0, 2, 3)) > 1e-6
        assert changed.tolist() == [False] * 17 + [True]
        block.train()
        whole = block(x)
        block.eval()
        assert torch.allclose(block(x), whole, atol=1e-6)


def test_the_frame_of_air_has_no_influence_and_stays_black(tmp_path):
    method = with_random_weights("swinfuse", tmp_path)
    a, b = (x.clamp_min(0.01) for x in images(1, 10, 12))
    frame = [nnf.pad(x, (4, 3, 2, 5)) for x in (a, b)]
    fused = method.fuse_slices(*frame)
    assert torch.allclose(fused[..., 2:12, 4:16], method.fuse_slices(a, b), atol=1e-6)
    fused[..., 2:12, 4:16] = 0
    assert not fused.any()


def test_what_is_black_in_both_images_is_black(tmp_path):
    method = with_random_weights("swinfuse", tmp_path)
    a, b = images(2, 20, 24)
    a[..., 8:10, 5:9] = b[..., 8:10, 7:12] = 0
    fused, black = method.fuse_slices(a, b), (a == 0) & (b == 0)
    assert (fused[black] == 0).all() and black[..., 8:10, 7:9].all()
    assert (fused[~black] > 0).any()


@pytest.mark.parametrize("packed", [True, False])
def test_the_faster_form_is_the_network_with_and_without_packed_weights(file, packed, monkeypatch):
    if not packed:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain, quick = make(file, fast=False), make(file)
    a, b = images(2, 33, 45)
    a[:, :, :9], b[:, :, :9] = 0, 0
    b[1] = 0  # one image black throughout
    fused = plain.fuse_slices(a, b)
    found = quick.fuse_slices(a, b)
    assert quick.quick is not None and not torch.equal(found, fused)
    assert torch.allclose(found, fused, atol=2e-6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.allclose(quick.fuse_slices(a, b), found, atol=2e-6)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(quick.fuse_slices(a[1:], b[1:]), found[1:])
