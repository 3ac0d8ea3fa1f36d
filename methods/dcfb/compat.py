"""The DC2Fusion network as its authors published it, quirk for quirk and fast.

State-dict names, shapes and arithmetic are those of the authors' program, so any checkpoint of theirs
runs; the code is ours.  Every quirk below changes the output by a third or more when it is "corrected",
so none is (the corrected design is in `block` and `network`):

- the sampled features are *re-read* in memory as (D, H, W, C), not permuted;
- the attention that is used has no softmax; its values come from the query stream;
- the reference grid divides z by H, y by W and x by D, and mixes both corner conventions;
- the batch norm's epsilon is its channel count;
- one layer norm serves three places, and the other stream is not normalised;
- the second stream is updated from the already updated first one.

Where the time goes, and what is done about it: the grouped 7x7x7 convolution (two input channels per
group, three quarters of the published program's CPU time) runs as a depthwise one and a sum of channel
pairs; the two linear layers at the end collapse into one; nothing that is thrown away is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusebench.errors import InputError

from .compat_block import Block, pointwise
from .fusion_rules import fusion_rule

DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
PATCH = 4
DROP_PATH = 0.2


class _Down(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down_conv = nn.Conv3d(dim, 2 * dim, 2, stride=2)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        pad = [n % 2 for n in x.shape[1:4]]
        x = F.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        b, d, h, w, c = x.shape
        x = x.view(b, d // 2, 2, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
        x = x.reshape(b, d // 2, h // 2, w // 2, 8 * c)
        out: Tensor = self.norm(pointwise(self.down_conv, x))
        return out


class _Up(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(dim, dim // 2, 2, stride=2)
        self.norm = nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        b, d, h, w, _ = x.shape
        bias = cast(Tensor, self.up_conv.bias)
        y = (x @ self.up_conv.weight.flatten(1)).view(b, d, h, w, -1, 2, 2, 2) + bias.view(-1, 1, 1, 1)
        y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, 2 * d, 2 * h, 2 * w, -1)
        out: Tensor = self.norm(y)
        return out


class _Stage(nn.Module):
    def __init__(self, dim: int, level: int, resample: nn.Module | None) -> None:
        super().__init__()
        # Rates rise evenly along the encoder; a decoder stage reuses those of its encoder stage.
        first, step = sum(DEPTHS[:level]), DROP_PATH / (sum(DEPTHS) - 1)
        self.blocks = nn.ModuleList(
            Block(dim, HEADS[level], step * (first + i)) for i in range(DEPTHS[level])
        )
        if resample is not None:
            self.downsample = resample  # the authors' name, on the way up too

    def forward(self, x: Tensor, xa: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, xa)
            xa = block(xa, x)
        return x, xa

    def resample(self, x: Tensor) -> Tensor:
        """To the next stage's size; the last stage each way keeps its own."""
        return cast(Tensor, self.downsample(x)) if hasattr(self, "downsample") else x


class _PatchEmbed(nn.Module):
    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, embed_dim, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        pad = [-n % PATCH for n in x.shape[2:]]
        x = F.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]))
        out: Tensor = self.proj(x).permute(0, 2, 3, 4, 1).contiguous()
        return out


class _Backbone(nn.Module):
    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        dims = [embed_dim * 2**i for i in range(len(DEPTHS))]
        last = len(dims) - 1
        self.patch_embed = _PatchEmbed(embed_dim)
        self.layers = nn.ModuleList(
            _Stage(dim, i, _Down(dim) if i < last else None) for i, dim in enumerate(dims)
        )
        self.up_layers = nn.ModuleList(
            _Stage(dims[i], i, _Up(dims[i]) if i else None) for i in reversed(range(last + 1))
        )
        # The first of these is never used, by the authors' program either.
        self.concat_back_dim = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in reversed(dims))
        self.norm = nn.LayerNorm(dims[-1])
        self.norm2 = nn.LayerNorm(2 * embed_dim)
        self.reverse_patch_embedding = nn.ConvTranspose3d(2 * embed_dim, embed_dim // 2, PATCH, stride=PATCH)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        x, xa = self.patch_embed(moving), self.patch_embed(fixed)
        skips = []
        for stage in self.layers:
            x, xa = stage(x, xa)
            skips.append((x, xa))
            x, xa = cast(_Stage, stage).resample(x), cast(_Stage, stage).resample(xa)
        x, xa = self.norm(x), self.norm(xa)
        del skips[-1]
        for j, stage in enumerate(self.up_layers):
            if j:
                x, xa = (
                    self.concat_back_dim[j](torch.cat([_resize(t, skip), skip], -1))
                    for t, skip in zip((x, xa), skips.pop(), strict=True)
                )
            x, xa = stage(x, xa)
            x, xa = cast(_Stage, stage).resample(x), cast(_Stage, stage).resample(xa)
        out: Tensor = self.norm2(torch.cat([x, xa], -1))
        return out


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[1:4] == like.shape[1:4]:
        return x
    x = F.interpolate(x.permute(0, 4, 1, 2, 3), size=like.shape[1:4], mode="trilinear", align_corners=True)
    return x.permute(0, 2, 3, 4, 1).contiguous()


class CompatNetwork(nn.Module):
    """The published network.

    Parameters
    ----------
    embed_dim : int
        A multiple of 3, at least 24 (channel counts below make the gates degenerate); the authors train 96.
    rule : str
        Name in `fusion_rules.RULES`.
    """

    def __init__(self, embed_dim: int = 96, rule: str = "L1NW") -> None:
        super().__init__()
        self.rule = fusion_rule(rule)
        self.swin = _Backbone(embed_dim)
        self.out_conv = nn.Conv3d(embed_dim // 2, 2, 3, padding=1)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], rule: str = "L1NW") -> CompatNetwork:
        """Build the network a state dict of the authors' program belongs to, ready for inference.

        Raises
        ------
        InputError
            Names or shapes are not those of a DC2Fusion state dict.
        """
        embed = state.get("swin.patch_embed.proj.bias")
        if embed is None:
            raise InputError(
                "not a DC2Fusion state dict: no 'swin.patch_embed.proj.bias'; for weights trained here "
                "leave out compat=True"
            )
        with torch.device("meta"):
            network = cls(embed.numel(), rule)
        try:
            network.load_state_dict(dict(state), assign=True)
        except RuntimeError as error:
            raise InputError(f"not a DC2Fusion state dict: {str(error).splitlines()[-1].strip()}") from None
        return network.eval()

    def features(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The two feature volumes before the fusion rule.

        Parameters
        ----------
        moving, fixed : Tensor, shape (B, 1, D, H, W)
            MRI and PET.

        Returns
        -------
        Tensor, shape (B, 2, D', H', W')
            Each size rounded up to a multiple of 4, as the authors' program leaves it.
        """
        return self._head(self.swin(moving, fixed))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        f = self.features(moving, fixed)
        return self.rule(f[:, :1], f[:, 1:])

    def _head(self, tokens: Tensor) -> Tensor:
        """Transposed convolution (k4 s4) and 3^3 convolution as one linear map and an overlap-add.

        Between the two there is no activation, so together they map a token to 6^3 voxels of each
        channel.  The first one's bias meets the second one's zero padding: exact at the border.
        """
        up, out = self.swin.reverse_patch_embedding, self.out_conv
        kernel = _joint_kernel(up.weight, out.weight)
        b, d, h, w, c = tokens.shape
        x = tokens.reshape(-1, c) @ kernel.reshape(c, -1)
        x = x.view(b, d, h, w, 2, 6, 6, 6)
        for axis in (1, 2, 3):
            x = _overlap(x, axis, axis + 4)
        x = x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, 2, 4 * d, 4 * h, 4 * w)

        block = cast(Tensor, up.bias).view(1, -1, 1, 1, 1).expand(1, -1, PATCH, PATCH, PATCH)
        border = F.conv3d(block, out.weight, out.bias, padding=1)
        for axis, size in zip((2, 3, 4), x.shape[2:], strict=True):
            index = torch.ones(size, dtype=torch.long, device=x.device)
            index[0], index[-1] = 0, PATCH - 1
            border = border.index_select(axis, index)
        return x.add_(border) if not x.requires_grad else x + border


def _joint_kernel(up: Tensor, out: Tensor) -> Tensor:
    """Kernels (C, M, 4, 4, 4) of the transposed and (2, M, 3, 3, 3) of the plain one to (C, 2, 6, 6, 6)."""
    paths = torch.einsum("cmijk,omxyz->xyzcoijk", up, out)
    joint = up.new_zeros(up.shape[0], out.shape[0], 6, 6, 6)
    for x in range(3):
        for y in range(3):
            for z in range(3):
                part = joint[:, :, 2 - x : 6 - x, 2 - y : 6 - y, 2 - z : 6 - z]
                part += paths[x, y, z]
    return joint


def _overlap(x: Tensor, tokens: int, voxels: int) -> Tensor:
    """Add the outer two of a token's six voxels along one axis to its neighbours' inner four."""
    n = x.shape[tokens]
    out = x.narrow(voxels, 1, 4).clone()
    if n > 1:
        first = out.narrow(voxels, 0, 1).narrow(tokens, 1, n - 1)
        first += x.narrow(voxels, 5, 1).narrow(tokens, 0, n - 1)
        last = out.narrow(voxels, 3, 1).narrow(tokens, 0, n - 1)
        last += x.narrow(voxels, 0, 1).narrow(tokens, 1, n - 1)
    return out
