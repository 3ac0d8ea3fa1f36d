"""DCFB: 3D deformable cross-attention fusion of MRI and PET; the published program as `compat`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo, Weights

from .._precision import full_precision
from .._weights import load_weights, read_state
from .alignment import prealign
from .compat import CompatNetwork
from .network import SWITCHES, Design, FusionNetwork, switch_off
from .tiles import fuse_tiles

# Voxels per axis, before smoothing by three: finer than in training, so that the errors to both sources are
# equal inside any mask.
BALANCE = 4


class DCFBFusion(Method):
    """The 3D deformable cross-attention network.

    Parameters
    ----------
    weights : str, optional
        A weights file; None is the shipped one.  With `compat`, a checkpoint of the authors' program.
    compat : bool
        Run the published program instead, quirk for quirk.  Its output is *not* bounded: with the published
        rule it grows with the volume (docs/dcfb.md).  It has no published weights, so `weights` is needed.
    rule : str
        Fusion rule of `compat`: L1NW (published default), AL1NW, FL1N, FER, addition or average.
    strength : float
        Of the network's departure from the plain average, which no image can beat in pooled PSNR: 0 is the
        average itself, 1 shows structure best.  The default keeps pooled PSNR within 0.001 dB of the best.
    alpha : float
        Share of the structural image in that average.
    balance : bool
        Keep the result equally far from both sources; False for weights of the recipe `paper`.
    without : str
        Switch a part of the trained network off, to see what it does: displacement, attention, convolution or
        context (what the blocks tell the head).
    clip : bool
        Clip what `compat` returns to [0, 1], as the board requires; by default it is what theirs returns.
    bf16 : bool
        Compute in bfloat16 where that is safe (autocast): faster on GPUs that have it, and on few CPUs.
    tile : int, optional
        Fuse in overlapping tiles of about this many voxels per axis, to bound memory; 0: never.  The default
        takes tiles of 192 for volumes above 8 million voxels.
    """

    info = MethodInfo(
        name="dcfb",
        summary="deformable cross-attention, alignment and a per-voxel weight map, 3D",
        dims=3,
        paper="after DC2Fusion, 'Three-Dimensional Medical Image Fusion with Deformable Cross-Attention'",
        licence="MIT",
        trained_on="phantom (64 train subjects)",
        weights=Weights(
            file="../weights/dcfb.safetensors",
            sha256="1f3123c1b9af25c5e8869568795ca7677fa1d3850abe0fbeff2643d1c5174e22",
        ),
        params=905193,
        notes="aligns the functional image itself; weights from a short training on a CPU",
    )
    recipes: ClassVar[dict[str, str]] = {
        "balanced": ".recipe:Balanced",
        "paper": ".recipe:Paper",
        "align": ".recipe:Align",
    }
    network: nn.Module

    def __init__(
        self,
        weights: str | None = None,
        compat: bool = False,
        rule: str = "L1NW",
        clip: bool = False,
        strength: float = 0.125,
        alpha: float = 0.5,
        balance: bool = True,
        without: str = "",
        bf16: bool = False,
        tile: int | None = None,
    ) -> None:
        if tile is not None and 0 < tile < 64:
            raise InputError(f"dcfb: tile={tile} is too small; take 64 or more, or 0 for none")
        if not 0 <= alpha <= 1 or not 0 <= strength <= 1:
            raise InputError(f"dcfb: alpha={alpha} and strength={strength} must lie in [0, 1]")
        if without and without not in SWITCHES:
            raise InputError(f"dcfb: without={without!r} is not one of {', '.join(SWITCHES)}")
        self.weights, self.compat, self.rule, self.clip = weights, compat, rule, clip
        self.strength, self.alpha, self.balance = strength, alpha, balance
        self.without, self.bf16, self.tile = without, bf16, tile

    def setup(self, device: torch.device | str = "cpu") -> None:
        """Load the weights and move them to `device`."""
        super().setup(device)
        if self.compat:
            if self.weights is None:
                raise InputError(
                    "dcfb compat=True runs a checkpoint of the authors' program, and they published none; "
                    "give a file with weights=FILE, or leave out compat"
                )
            self.network = CompatNetwork.from_state_dict(read_state(self.weights), self.rule)
        else:
            self.network = self._trained(self.weights or self._shipped())
        if self.weights is not None:
            self.info = replace(  # type: ignore[misc]
                type(self).info, trained_on=f"own weights ({Path(self.weights).name})", weights=None
            )
        self.network.to(self.device).eval().requires_grad_(False)

    def _trained(self, path: str | Path) -> FusionNetwork:
        network = FusionNetwork(Design.of(read_state(path)))
        load_weights(network, path)
        if self.without:
            switch_off(network, self.without)
        return network

    def _shipped(self) -> Path:
        if self.info.weights is None:
            raise InputError("dcfb ships no weights; give a file with --weights dcfb=FILE")
        return Path(__file__).parent / self.info.weights.file

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 3 or a.shape != b.shape or 0 in a.shape:
            raise InputError(
                f"dcfb: two volumes (D, H, W) are needed, got {tuple(a.shape)}, {tuple(b.shape)}"
            )
        a, b = (x.to(self.device, torch.float32) for x in (a, b))
        if not (a.isfinite().all() and b.isfinite().all()):
            raise InputError("dcfb: an input holds NaN or infinite values; clean the images first")
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
        with torch.inference_mode(), full_precision(), half:
            if self.compat:
                # The published program returns a larger volume for sizes that are no multiple of 4.
                d, h, w = a.shape
                fused: Tensor = self.network(a[None, None], b[None, None])[0, 0, :d, :h, :w]
                return fused.clamp(0, 1) if self.clip else fused
            tile = self.tile if self.tile is not None else (192 if a.numel() > 8_000_000 else 0)
            network = cast(FusionNetwork, self.network)
            x, y, moved = a[None, None], b[None, None], False
            if hasattr(getattr(network, "features", None), "coarse"):
                y, moved = prealign(network.features.coarse, x, y)
            step = partial(
                network,
                align=float(moved),
                strength=self.strength,
                alpha=self.alpha,
                balance=BALANCE if self.balance else 0,
            )
            if tile:
                return fuse_tiles(step, a, y[0, 0], tile)
            fused = step(x, y)[0, 0]
            return fused.float()
