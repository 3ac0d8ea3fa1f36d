"""References of layers that CDDFuse and EMMA share, in the names of the published files."""

from __future__ import annotations

import torch.nn.functional as nnf


def norm_table(name, width):
    return {f"{name}.{n}.body.{kind}": (width,) for n in ("norm1", "norm2") for kind in ("weight", "bias")}


def base_table(name, width):
    return {
        f"{name}.attn.scale": (8, 1, 1),
        f"{name}.attn.qkv1.weight": (3 * width, width, 1, 1),
        f"{name}.attn.qkv2.weight": (3 * width, 3 * width, 3, 3),
        f"{name}.attn.proj.weight": (width, width, 1, 1),
        f"{name}.mlp.project_in.weight": (2 * width, width, 1, 1),
        f"{name}.mlp.dwconv.weight": (2 * width, 2, 3, 3),
        f"{name}.mlp.project_out.weight": (width, width, 1, 1),
        **norm_table(name, width),
    }


def norm(s, name, x):
    """Over the channels."""
    weight, bias = (s[f"{name}.body.{kind}"][:, None, None] for kind in ("weight", "bias"))
    spread = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return (x - x.mean(1, keepdim=True)) / spread * weight + bias


def base_block(s, name, x, reflect):
    """The block with a full 3x3 convolution before its attention, and one of pairs in its MLP."""

    def conv(part, y, **options):
        return nnf.conv2d(y, s[f"{name}.{part}.weight"], **options)

    n, c, h, w = x.shape
    q, k, v = conv("attn.qkv2", conv("attn.qkv1", norm(s, f"{name}.norm1", x)), padding=1).chunk(3, 1)
    q, k, v = (y.view(n, 8, c // 8, h * w) for y in (q, k, v))
    scores = (q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).mT
    mixed = (scores * s[f"{name}.attn.scale"]).softmax(-1) @ v
    x = x + conv("attn.proj", mixed.view(n, c, h, w))
    y = conv("mlp.project_in", norm(s, f"{name}.norm2", x))
    y = nnf.pad(y, (1, 1, 1, 1), mode="reflect" if reflect else "constant")
    gate, value = conv("mlp.dwconv", y, groups=c).chunk(2, 1)
    return x + conv("mlp.project_out", nnf.gelu(gate) * value)
