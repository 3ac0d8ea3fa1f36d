"""The first, coarse displacement between the two images, and how one is moved onto the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Sizes are padded to a multiple of this: three levels of tokens, the finest of four voxels.
STRIDE = 16
# How often the coarse displacement is looked for, each time from where the last has led.
PASSES = 2
# Least gain of mutual information worth resampling for.  Aligned phantoms gained 0.01 % at most, those that
# were 2 mm off 2 % at least (val and train split).
GAIN = 0.005


class Coarse(nn.Module):
    """A first displacement from both images at a quarter of the resolution, by plain convolutions.

    The blocks see a few tokens around each other; a shift of the whole head is easier to see from afar.
    """

    POOL = 4

    def __init__(self, flat: bool, width: int = 24) -> None:
        super().__init__()
        self.flat = flat
        kernel, pad = ((1, 3, 3), (0, 1, 1)) if flat else ((3, 3, 3), (1, 1, 1))
        half = (1, 2, 2) if flat else (2, 2, 2)
        w = width
        self.fine = nn.Conv3d(2, w, kernel, padding=pad)
        self.middle = nn.Conv3d(w, 2 * w, kernel, half, pad)
        self.deep = nn.ModuleList(
            [nn.Conv3d(2 * w, 3 * w, kernel, half, pad), nn.Conv3d(3 * w, 3 * w, kernel, padding=pad)]
        )
        self.join = nn.Conv3d(5 * w, 2 * w, kernel, padding=pad)
        self.out = nn.Conv3d(2 * w, 3, kernel, padding=pad)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def pool(self, image: Tensor, factor: int) -> Tensor:
        """Average `factor` voxels per axis."""
        return F.avg_pool3d(image, (1, factor, factor) if self.flat else factor)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pooled images (B, 1, d, h, w) to a displacement (B, 3, d/2, h/2, w/2) in voxels before pooling."""
        fine = act(self.fine(torch.cat([a, b], 1)))
        middle = act(self.middle(fine))
        deep = middle
        for layer in self.deep:
            deep = act(layer(deep))
        deep = F.interpolate(deep, size=middle.shape[2:], mode="trilinear", align_corners=False)
        field: Tensor = self.out(act(self.join(torch.cat([middle, deep], 1)))) * self.POOL
        return field


def prealign(coarse: Coarse, a: Tensor, b: Tensor) -> tuple[Tensor, bool]:
    """Undo a displacement of the whole functional image; the blocks see only what is near.

    Heads unlike those it was trained on (with skull, other voxels) can mislead the coarse displacement.
    None, half or all of it is applied: the share that gives the functional image the most mutual information
    with the structural one, if that is a gain at all.

    Parameters
    ----------
    a, b : Tensor, shape (1, 1, D, H, W)
        Whole volumes.

    Returns
    -------
    b : Tensor, shape (1, 1, D, H, W)
    moved : bool
        Whether it is another image than it was: then the blocks' displacement is of use too.
    """
    size = a.shape[2:]
    if coarse.flat or min(size) < STRIDE:
        return b, False
    far = [p for n in size[::-1] for p in (0, -n % STRIDE)]
    x, y = (F.pad(t, far, mode="replicate") for t in (a, b))
    field = torch.zeros(1, 1, 1, 1, 3, device=a.device)
    for _ in range(PASSES):
        moved = warp(y, field) if field.any() else y
        found = coarse(*(coarse.pool(t, coarse.POOL) for t in (x, moved)))
        field = found.permute(0, 2, 3, 4, 1) + field
    half_x, half_y = (F.avg_pool3d(t, 2) for t in (x, y))
    shares = (0.0, 0.5, 1.0)
    information = [
        _mutual_information(half_x, warp(half_y, field * (share / 2)) if share else half_y)
        for share in shares
    ]
    share = shares[information.index(max(information))]
    if not share or max(information) < (1 + GAIN) * information[0]:
        return b, False
    return warp(y, field * share)[..., : size[0], : size[1], : size[2]], True


def _mutual_information(a: Tensor, b: Tensor, bins: int = 32) -> float:
    """Mutual information of two images in [0, 1], in nats, from a joint histogram."""
    i, j = ((x.flatten() * bins).long().clamp(0, bins - 1) for x in (a, b))
    joint = torch.bincount(i * bins + j, minlength=bins * bins).view(bins, bins).double()
    joint = joint / joint.sum()
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / apart[seen]).log()).sum())


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Sample `image` (B, 1, D, H, W) at voxel + displacement, given in voxels on any grid (B, d, h, w, 3)."""
    size = image.shape[2:]
    field = field.permute(0, 4, 1, 2, 3)
    if field.shape[2:] != size:
        field = F.interpolate(field, size=size, mode="trilinear", align_corners=False)
    axes = [(2 * torch.arange(n, device=image.device, dtype=image.dtype) + 1) / n - 1 for n in size]
    grid = [
        f * (2 / n) + axis.view([-1 if j == i else 1 for j in range(3)])
        for i, (f, n, axis) in enumerate(zip(field.unbind(1), size, axes, strict=True))
    ]
    return F.grid_sample(image, torch.stack(grid[::-1], -1), padding_mode="border", align_corners=False)


def act(x: Tensor) -> Tensor:
    """The activation outside the blocks."""
    # At full resolution the exact GELU's backward pass would cost as much as a convolution.
    return F.leaky_relu(x, 0.1)
