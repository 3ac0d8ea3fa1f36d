"""GIFNet against a reference that follows the published program, layer by layer in its names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, parameters, random_state

NET = "extractor_multask.SwinTransformerSpecific"
BLOCKS = f"{NET}.layer1.blocks"


def _table():
    def conv(name, outputs, inputs, size, bias=True):
        table = {f"{name}.weight": (outputs, inputs, size, size)}
        return table | ({f"{name}.bias": (outputs,)} if bias else {})

    table = conv(f"{NET}.patch_embed_ivif.proj", 98, 98, 3) | conv(f"{NET}.patch_embed_mfif.proj", 98, 98, 3)
    table |= conv(f"{NET}.patch_unembed.proj.0", 98, 98, 3)
    for i in range(3):
        table |= conv(f"getSharedFeatures.conv_{i + 1}.conv2d", 32, 2 + 32 * i, 3)
    for i, (inputs, outputs) in enumerate(((128, 64), (64, 32), (32, 16), (16, 1))):
        table |= conv(f"cnnDecoder.decoder.{3 * i + 1}", outputs, inputs, 3)
        table |= conv(f"decoder_rec.decoder.{3 * i + 1}", outputs, inputs if i else 98, 3)
    table |= conv("cnnDecoder.fuseComplementFeatures.mlp.0", 98, 196, 1, bias=False)
    table |= conv("cnnDecoder.fuseComplementFeatures.mlp.2", 128, 98, 1, bias=False)
    for b in range(2):
        block = f"{BLOCKS}.{b}"
        for kind in ("", "_mfif"):
            table |= {f"{block}.norm1{kind}.{x}": (1, 98, 1, 1) for x in ("weight", "bias")}
            table |= conv(f"{block}.norm1{kind}.meta1", 98, 1, 1) | conv(
                f"{block}.norm1{kind}.meta2", 98, 1, 1
            )
            table |= conv(f"{block}.attn.conv{kind}", 98, 1, 5) | conv(f"{block}.attn.QK{kind}", 196, 98, 1)
            table |= conv(f"{block}.attn.V{kind}", 98, 98, 1) | conv(f"{block}.attn.proj{kind}", 98, 98, 1)
            table |= conv(f"{block}.mlp{kind}.mlp.0", 196, 98, 1) | conv(
                f"{block}.mlp{kind}.mlp.2", 98, 196, 1
            )
            table[f"{NET}.layer1.weights{kind}.{b}"] = (1,)
        meta = f"{block}.attn.attn"
        table |= {f"{meta}.relative_positions": (64, 64, 2), f"{meta}.meta.0.weight": (256, 2)}
        table |= {
            f"{meta}.meta.0.bias": (256,),
            f"{meta}.meta.2.weight": (2, 256),
            f"{meta}.meta.2.bias": (2,),
        }
    return table


TABLE = _table()


def published(s, functional, structural):
    """The published program on one pair, whose sides are multiples of 4."""

    def conv(name, x, pad=0, **options):
        x = nnf.pad(x, (pad,) * 4, mode="reflect") if pad else x
        return nnf.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **options)

    def norm(name, x):
        mean, spread = x.mean(), (x.var(unbiased=False) + 1e-5).sqrt()
        later = [
            conv(f"{name}.{meta}", y.view(1, 1, 1, 1)) for meta, y in (("meta1", spread), ("meta2", mean))
        ]
        return (x - mean) / spread * s[f"{name}.weight"] + s[f"{name}.bias"], *later

    def attend(block, asks, keys, values, shift):
        """Window by window, head by head."""
        h, w = asks.shape[-2:]
        after = [-(n + shift) % 8 for n in (w, h)]
        q, k, v = (
            nnf.pad(x, (shift, after[0], shift, after[1]), mode="reflect") for x in (asks, keys, values)
        )
        place = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1).view(
            64, 2
        )
        steps = place[:, None] - place
        steps = steps.sign() * steps.abs().log1p()
        meta = f"{block}.attn.attn.meta"
        hidden = nnf.linear(steps, s[f"{meta}.0.weight"], s[f"{meta}.0.bias"]).relu()
        bias = nnf.linear(hidden, s[f"{meta}.2.weight"], s[f"{meta}.2.bias"])
        out = torch.zeros_like(v)
        for y in range(0, v.shape[-2], 8):
            for x in range(0, v.shape[-1], 8):
                for head in range(2):
                    own = (0, slice(49 * head, 49 * head + 49), slice(y, y + 8), slice(x, x + 8))
                    qw, kw, vw = (t[own].flatten(1) for t in (q, k, v))
                    weights = (qw.T @ kw / 7 + bias[..., head]).softmax(-1)
                    out[own] = (weights @ vw.T).T.view(49, 8, 8)
        return out[..., shift : shift + h, shift : shift + w]

    def branch(b, kind, x, asks=None):
        """Of a block: `asks` are the queries of the other branch, whose own then ask nothing."""
        block = f"{BLOCKS}.{b}"
        y, rescale, rebias = norm(f"{block}.norm1{kind}", x)
        value = conv(f"{block}.attn.V{kind}", y)
        queries, keys = conv(f"{block}.attn.QK{kind}", y).chunk(2, 1)
        seen = attend(block, queries if asks is None else asks, keys, value, 4 * b)
        near = conv(f"{block}.attn.conv{kind}", value, 2, groups=98)
        x = x + conv(f"{block}.attn.proj{kind}", near + seen) * rescale + rebias
        hidden = conv(f"{block}.mlp{kind}.mlp.0", x).relu()
        return x + conv(f"{block}.mlp{kind}.mlp.2", hidden), queries

    x = torch.cat((functional, structural), 1)
    for i in range(3):
        x = torch.cat((x, conv(f"getSharedFeatures.conv_{i + 1}.conv2d", x, 1).relu()), 1)
    focus, queries = branch(0, "_mfif", conv(f"{NET}.patch_embed_mfif.proj", x, 1))
    modal, _ = branch(0, "", conv(f"{NET}.patch_embed_ivif.proj", x, 1), queries)
    focus, _ = branch(1, "_mfif", focus + s[f"{NET}.layer1.weights_mfif.0"] * modal)
    y = torch.cat((x, conv(f"{NET}.patch_unembed.proj.0", focus, 1)), 1)
    y = conv("cnnDecoder.fuseComplementFeatures.mlp.0", y).relu()
    y = conv("cnnDecoder.fuseComplementFeatures.mlp.2", y)
    for i in range(3):
        y = conv(f"cnnDecoder.decoder.{3 * i + 1}", y, 1).relu()
    return conv("cnnDecoder.decoder.10", y, 1).tanh() / 2 + 0.5


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gifnet") / "Final.model"
    torch.save(random_state(TABLE), path)
    return str(path)


def make(file):
    method = fusebench.create_method("gifnet", weights=file)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    learned = {k: v for k, v in TABLE.items() if "relative_positions" not in k}
    assert parameters(learned) == 822_780
    rest = {k: v for k, v in learned.items() if k.startswith(("decoder_rec", f"{NET}.layer1.weights."))}
    second = tuple(
        f"{BLOCKS}.1.{part}" for part in ("norm1", "attn.conv", "attn.QK", "attn.V", "attn.proj", "mlp")
    )
    rest |= {k: v for k, v in learned.items() if k.startswith(tuple(f"{part}." for part in second))}
    queries = 98 * 98 + 98  # of the other task in the first block
    used = 822_780 - parameters(rest) - queries - 1  # and the second block adds nothing to itself
    assert fusebench.create_method("gifnet").info.params == used == 652_676


@pytest.mark.parametrize("size", [(16, 24), (12, 20)])
def test_the_published_program(file, size):
    a, b = images(1, *size)
    expected = published(random_state(TABLE), b, a)
    method = make(file)
    assert method.origin == "authors'"
    fused = method.fuse_slices(a, b)
    assert torch.allclose(fused, expected, atol=1e-5)
    assert 0.02 < fused.std() < 0.4


def test_sides_that_are_no_multiples_of_four_are_reflected_on_the_way(file):
    a, b = images(1, 18, 21)
    fused = make(file).fuse_slices(a, b)
    assert fused.shape == a.shape and fused.std() > 0.02
    assert torch.equal(fused, make(file).fuse_slices(a, b))


def test_what_the_other_task_asks_has_no_influence(file, tmp_path):
    a, b = images(1, 16, 16)
    state = random_state(TABLE)
    for key in (f"{BLOCKS}.0.attn.QK.weight", f"{BLOCKS}.1.mlp.mlp.0.weight"):
        state[key][:98] += 1
    torch.save(state, tmp_path / "changed.model")
    fused = [make(str(path)).fuse_slices(a, b) for path in (file, tmp_path / "changed.model")]
    assert torch.equal(*fused)
