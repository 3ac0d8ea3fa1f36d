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

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusebench.errors import InputError

from .fusion_rules import fusion_rule
from .sampling import sample

DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
PATCH = 4
WINDOW = 2
DROP_PATH = 0.2
# Tokens per step of the MLP: its hidden layer is the largest tensor of a block.
MLP_CHUNK = 8192


class _ChannelNorm(nn.Module):
    """Layer norm over channels; exists for its name in the state dict."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class _Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)  # never used, by the authors' program either


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)


def _pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution that sees each token by itself, as a linear map on channels-last tokens."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _stack(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run 1x1x1 convolutions, norms and activations on channels-last tokens."""
    for layer in layers:
        x = _pointwise(layer, x) if isinstance(layer, nn.Conv3d) else layer(x)
    return x


def _conv(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution on channels-last tokens (B, D, H, W, C), which it never transposes in memory."""
    out: Tensor = conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    return out.contiguous()


def _windows(x: Tensor, window: tuple[int, ...], heads: int) -> Tensor:
    """(B, D, H, W, C) to (windows, heads, tokens per window, C / heads)."""
    b, d, h, w, c = x.shape
    i, j, k = window
    x = x.view(b, d // i, i, h // j, j, w // k, k, heads, c // heads)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).reshape(-1, heads, i * j * k, c // heads)


def _unwindows(x: Tensor, window: tuple[int, ...], shape: torch.Size) -> Tensor:
    """Inverse of `_windows`; `shape` is (B, D, H, W, C)."""
    b, d, h, w, c = shape
    i, j, k = window
    x = x.view(b, d // i, h // j, w // k, -1, i, j, k, x.shape[-1])
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4, 8).reshape(b, d, h, w, c)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def reference_grid(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Sampling positions (D, H, W, 3) in the order (z, y, x), on the axes the authors divide by."""
    d, h, w = shape
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) + 0.5) / by * 2 - 1
        for n, by in zip((d, h, w), (h, w, d), strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


class Block(nn.Module):
    """One published DCFB block, ``x0, xa -> y``, on channels-last tokens (B, D, H, W, C).

    Parameters
    ----------
    dim, heads : int
        Channels C and attention heads.
    drop_path : float
        Chance that a sample skips a residual branch while training.
    """

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        gate = dim // 8
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = _Attention(dim)
        self.conv_offset = nn.Sequential(
            nn.Conv3d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim),
            _ChannelNorm(2 * dim),
            nn.GELU(),
            nn.Conv3d(2 * dim, 3, 1, bias=False),
        )
        self.proj_q = nn.Conv3d(2 * dim, 2 * dim, 1)
        self.dwconv3x3 = nn.Sequential(
            nn.Conv3d(2 * dim, dim, 7, padding=3, groups=dim),
            nn.BatchNorm3d(dim, eps=dim),
        )
        self.channel_interaction = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(dim, gate, 1),
            _ChannelNorm(gate),
            nn.GELU(),
            nn.Conv3d(gate, dim, 1),
        )
        self.spatial_interaction = nn.Sequential(
            nn.Conv3d(dim, gate, 1), _ChannelNorm(gate), nn.GELU(), nn.Conv3d(gate, 1, 1)
        )
        self.projection = nn.Conv3d(dim, dim, 1)
        self.proj = nn.Linear(2 * dim, dim)
        self.mlp = _MLP(dim)

    def forward(self, x0: Tensor, xa: Tensor) -> Tensor:
        shape = x0.shape
        window = tuple(min(WINDOW, n) for n in xa.shape[1:4])
        x = self.norm1(x0)
        pad = [-n % w for n, w in zip(shape[1:4], window, strict=True)]
        if any(pad):
            far = (0, 0, 0, pad[2], 0, pad[1], 0, pad[0])
            x, xa = F.pad(x, far), F.pad(xa, far)

        sampled = self._sample(x, xa)
        conv = self._convolve(x, sampled)
        gate = _stack(list(self.channel_interaction)[1:], conv.mean((1, 2, 3), keepdim=True))
        conv = _pointwise(self.projection, conv)

        attended = self._attend(x, sampled, gate, window)
        del sampled
        conv = torch.sigmoid(_stack(self.spatial_interaction, attended)) * conv

        mixed = self.proj(torch.cat([conv, self.norm1(attended)], -1))
        if any(pad):
            mixed = mixed[:, : shape[1], : shape[2], : shape[3]]
        x = x0 + self._drop(mixed)
        return x + self._drop(self._mlp(x))

    def _sample(self, x: Tensor, xa: Tensor) -> Tensor:
        """The other stream at the predicted positions, then re-read in memory as channels-last."""
        depth, height, width = xa.shape[1:4]
        u = _conv(cast(nn.Conv3d, self.conv_offset[0]), _pointwise(self.proj_q, torch.cat([x, xa], -1)))
        offset = _stack(list(self.conv_offset)[1:], u).tanh()
        offset = offset * offset.new_tensor([2 / depth, 2 / height, 2 / width])
        grid = reference_grid((depth, height, width), offset.device) + offset
        # Corners are token centres here (align_corners=True), which the grid is not made for.
        position = (grid + 1) / 2 * grid.new_tensor([depth - 1, height - 1, width - 1])
        sampled = sample(xa, position, outside="zero").flatten(1, 3)
        return sampled.transpose(1, 2).contiguous().view(xa.shape)

    def _convolve(self, x: Tensor, sampled: Tensor) -> Tensor:
        """GELU(BN(grouped 7^3 convolution of [x | sampled]))."""
        conv, norm = cast(nn.Conv3d, self.dwconv3x3[0]), cast(nn.BatchNorm3d, self.dwconv3x3[1])
        weight, bias = conv.weight, cast(Tensor, conv.bias)
        both = torch.cat([x, sampled], -1).permute(0, 4, 1, 2, 3)
        both = F.conv3d(both, weight.reshape(-1, 1, 7, 7, 7), padding=3, groups=both.shape[1])
        both = both.permute(0, 2, 3, 4, 1)
        out = both[..., 0::2] + both[..., 1::2]
        if self.training:
            return F.gelu(norm((out + bias).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return F.gelu(torch.addcmul((bias - norm.running_mean) * scale + norm.bias, out, scale))

    def _attend(self, x: Tensor, sampled: Tensor, gate: Tensor, window: tuple[int, ...]) -> Tensor:
        attn = self.cross_attn
        q = _windows(attn.q(x) * (x.shape[-1] // self.heads) ** -0.5, window, self.heads)
        k = _windows(attn.k(sampled), window, self.heads)
        v = _windows(attn.v(x) * torch.sigmoid(gate), window, self.heads)
        return _unwindows(q @ k.transpose(-2, -1) @ v, window, x.shape)

    def _mlp(self, x: Tensor) -> Tensor:
        tokens = self.norm1(x).flatten(0, 3)
        parts = [self.mlp.fc2(F.gelu(self.mlp.fc1(t))) for t in tokens.split(MLP_CHUNK)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(x.shape)

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return x
        kept = 1 - self.drop_path
        return x * torch.empty(x.shape[0], 1, 1, 1, 1, device=x.device).bernoulli_(kept) / kept


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
        out: Tensor = self.norm(_pointwise(self.down_conv, x))
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
