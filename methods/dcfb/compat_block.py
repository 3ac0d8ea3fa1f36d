"""The block of the published DC2Fusion network, with the quirks that `compat` lists."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sampling import sample

WINDOW = 2
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


def pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution that sees each token by itself, as a linear map on channels-last tokens."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _stack(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run 1x1x1 convolutions, norms and activations on channels-last tokens."""
    for layer in layers:
        x = pointwise(layer, x) if isinstance(layer, nn.Conv3d) else layer(x)
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
        conv = pointwise(self.projection, conv)

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
        u = _conv(cast(nn.Conv3d, self.conv_offset[0]), pointwise(self.proj_q, torch.cat([x, xa], -1)))
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
