"""The deformable cross-attention fusion block (DCFB), with the published one's defects mended.

Both streams (structural and functional) share the weights and are updated in parallel from their old values,
stacked along the batch.  Each looks at the *other* stream through a displacement field: the block adds an
offset to the field it is handed, samples the other stream there, takes keys **and** values from the samples
for a windowed softmax attention, and runs a depthwise convolution over both.  The two branches gate each
other, as published.  The displacement goes on to the next block, so that the offsets of all blocks add up to
one alignment of the two images, which the network also uses at full resolution.

Tensors are channels-last tokens, (2B, D, H, W, C): first the B structural, then the B functional ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sampling import sample


@dataclass(frozen=True)
class Parts:
    """The parts of a block; the ablations take some away.

    Parameters
    ----------
    deform : bool
        Offsets; without them the other stream is read in place.
    attention : bool
        Windowed cross-attention.
    conv : bool
        Depthwise convolution of both streams.
    flat : bool
        2D: windows and kernels of one token along the first axis.
    """

    deform: bool = True
    attention: bool = True
    conv: bool = True
    flat: bool = False


class DCFB(nn.Module):
    """One block.

    Parameters
    ----------
    dim, heads : int
        Channels, attention heads; ``dim / heads`` is at least 4, three of them carry positions.
    shift : bool
        Windows moved by half their size, so that no two blocks in a row have borders in the same place.
    reach : float
        Largest offset in tokens.
    """

    WINDOW = 4
    KERNEL = 5
    _relative: Tensor
    _place: Tensor

    def __init__(
        self, dim: int, heads: int, *, shift: bool = False, reach: float = 1.0, parts: Parts | None = None
    ) -> None:
        super().__init__()
        self.parts = parts = parts or Parts()
        self.heads, self.reach = heads, reach
        self.window = (1 if parts.flat else self.WINDOW, self.WINDOW, self.WINDOW)
        self.shift = tuple(w // 2 if shift else 0 for w in self.window)
        gate = max(8, dim // 8)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if parts.deform:
            self.offset_in = nn.Linear(2 * dim, dim)
            self.offset_conv = self._depthwise(dim, 3)
            self.offset_norm = nn.LayerNorm(dim)
            self.offset_out = nn.Linear(dim, 3)
            nn.init.zeros_(self.offset_out.weight)
            nn.init.zeros_(self.offset_out.bias)
        if parts.conv:
            self.conv_own, self.conv_other = (
                self._depthwise(dim, self.KERNEL),
                self._depthwise(dim, self.KERNEL),
            )
            self.conv_norm = nn.LayerNorm(dim)
        if parts.attention:
            self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.v = nn.Linear(dim, dim - 3 * heads)
            self.bias = nn.Parameter(torch.zeros(heads, *[2 * w - 1 for w in self.window]))
            self.attention_norm = nn.LayerNorm(dim)
            self.register_buffer("_relative", _relative_index(self.window), persistent=False)
            self.register_buffer("_place", _positions(self.window) - _centre(self.window), persistent=False)
        if parts.conv and parts.attention:
            self.channel_gate = nn.Sequential(
                nn.Linear(dim, gate), nn.GELU(), nn.Linear(gate, dim - 3 * heads)
            )
            self.spatial_gate = nn.Sequential(nn.Linear(dim, gate), nn.GELU(), nn.Linear(gate, 1))
        self.join = nn.Linear((int(parts.conv) + int(parts.attention)) * dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def _depthwise(self, dim: int, size: int) -> nn.Conv3d:
        kernel = (1 if self.parts.flat else size, size, size)
        return nn.Conv3d(dim, dim, kernel, padding=(kernel[0] // 2, size // 2, size // 2), groups=dim)

    def forward(self, x: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
        """Update both streams and the displacement.

        Parameters
        ----------
        x : Tensor, shape (2B, D, H, W, C)
        field : Tensor, shape (2B, D, H, W, 3)
            Where each token's counterpart lies in the other stream, relative to the token: tokens, (z, y, x).

        Returns
        -------
        tuple of Tensor
            Both in the shapes they came in.
        """
        own = self.norm1(x)
        other = own.roll(own.shape[0] // 2, 0)
        if self.parts.deform:
            place = _positions(own.shape[1:4], own.device)
            near = sample(other, place + field, outside="border")
            u = _channels_last(self.offset_conv, self.offset_in(torch.cat([own, near], -1)))
            offset = self.offset_out(F.gelu(self.offset_norm(u))).tanh() * self.reach
            if self.parts.flat:
                offset = offset * offset.new_tensor([0.0, 1.0, 1.0])
            field = field + offset
            other = sample(other, place + field, outside="border")

        branches: list[Tensor] = []
        conv = None
        if self.parts.conv:
            conv = _channels_last(self.conv_own, own) + _channels_last(self.conv_other, other)
            conv = F.gelu(self.conv_norm(conv))
        if self.parts.attention:
            attended = self._attend(own, other, field, conv)
            if conv is not None:
                conv = conv * torch.sigmoid(self.spatial_gate(attended))
            branches.append(attended)
        if conv is not None:
            branches.append(conv)
        if branches:
            x = x + self.join(torch.cat(branches, -1))
        return x + self.mlp(self.norm2(x)), field

    def _attend(self, own: Tensor, other: Tensor, field: Tensor, conv: Tensor | None) -> Tensor:
        """Softmax cross-attention in windows; three channels per head tell where the match was found."""
        shape = own.shape
        pads = [(s, -(n + s) % w) for n, s, w in zip(shape[1:4], self.shift, self.window, strict=True)]

        def windows(t: Tensor) -> Tensor:
            # Replicated tokens at the border are sound keys; queries there are cut off again.
            return _split(_pad(t, pads), self.window)

        own, other, found = windows(own), windows(other), windows(field) + self._place.view(-1, 3)
        n, tokens, dim = own.shape
        q, k = (f(t).view(n, tokens, self.heads, -1) for f, t in ((self.q, own), (self.k, other)))
        v = self.v(other)
        if conv is not None:
            v = v * torch.sigmoid(self.channel_gate(windows(conv).mean(1, keepdim=True)))
        v = torch.cat(
            [v.view(n, tokens, self.heads, -1), found[:, :, None].expand(-1, -1, self.heads, -1)], -1
        )
        bias = self.bias.flatten(1)[:, self._relative]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias.to(q.dtype)
        ).transpose(1, 2)
        out = torch.cat([out[..., :-3], out[..., -3:] - self._place.view(1, -1, 1, 3)], -1)
        padded = [m + a + b for m, (a, b) in zip(shape[1:4], pads, strict=True)]
        out = _merge(out.reshape(n, tokens, dim), self.window, (shape[0], *padded))
        (a, _), (b, _), (c, _) = pads
        out = out[:, a : a + shape[1], b : b + shape[2], c : c + shape[3]]
        normed: Tensor = self.attention_norm(out)
        return normed


def _channels_last(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A depthwise convolution on channels-last tokens: no transposition, and oneDNN's fast path."""
    out: Tensor = conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    return out.contiguous()


def _positions(shape: tuple[int, ...] | torch.Size, device: torch.device | None = None) -> Tensor:
    """Indices (D, H, W, 3) of the tokens."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def _centre(shape: tuple[int, ...]) -> Tensor:
    return torch.tensor([(n - 1) / 2 for n in shape])


def _relative_index(window: tuple[int, ...]) -> Tensor:
    """For each pair of tokens of a window, where its bias lies in a flattened table."""
    place = _positions(window).view(-1, 3).long()
    i, j, k = (place[:, None] - place[None] + torch.tensor(window) - 1).unbind(-1)
    return (i * (2 * window[1] - 1) + j) * (2 * window[2] - 1) + k


def _pad(x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
    """Repeat the border tokens; `pads` are (near, far) per axis."""
    if not any(a or b for a, b in pads):
        return x
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x.permute(0, 4, 1, 2, 3), flat, mode="replicate").permute(0, 2, 3, 4, 1)


def _split(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """(B, D, H, W, C) to (windows, tokens per window, C)."""
    b, d, h, w, c = x.shape
    i, j, k = window
    x = x.reshape(b, d // i, i, h // j, j, w // k, k, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, i * j * k, c)


def _merge(x: Tensor, window: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Inverse of `_split`; `shape` is (B, D, H, W)."""
    b, d, h, w = shape
    i, j, k = window
    x = x.view(b, d // i, h // j, w // k, i, j, k, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, d, h, w, -1)
