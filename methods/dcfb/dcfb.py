"""DCFB: 3D deformable cross-attention fusion of MRI and PET; the published program as `compat`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo, Weights

from .._expected import DARK
from .._precision import full_precision
from .._weights import load_weights, read_state
from .alignment import prealign
from .compat import CompatNetwork
from .network import SWITCHES, Design, FusionNetwork, switch_off
from .reader import Look, ReaderDesign, ReaderNetwork, show
from .tiles import fuse_tiles

# Voxels per axis, before smoothing by three: finer than in training, so that the errors to both sources are
# equal inside any mask.
BALANCE = 4
# Voxels of air kept around the head.
MARGIN = 2
# Facts of the shipped weights for the board, by target.
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    "readers": {},
    "likeness": {
        "summary": "deformable cross-attention, alignment and a per-voxel weight map, 3D",
        "weights": Weights(
            file="../weights/dcfb_paper.safetensors",
            sha256="1f3123c1b9af25c5e8869568795ca7677fa1d3850abe0fbeff2643d1c5174e22",
        ),
        "params": 905193,
        "cost": 0.67,
        "notes": "for likeness to both sources; aligns the functional image itself; trained on a CPU",
    },
    "published": {
        "summary": "the published DC2Fusion network and loss, 24 channels, trained here for minutes, 3D",
        "trained_on": "phantom (64 train subjects, 170 steps)",
        "weights": Weights(
            file="../weights/dcfb_published.safetensors",
            sha256="ef9e8d7fa1a9816b8f6627f6ad81e2825dcc12a05f6882f9c3bc1d1be0972986",
        ),
        "params": 7453634,
        "cost": 0.33,
        "notes": "rule FL1N, clipped; far shorter and smaller than the authors' training; 8-bit weights",
    },
}


class DCFBFusion(Method):
    """The 3D deformable cross-attention network.

    Parameters
    ----------
    weights : str, optional
        A weights file; None is the one shipped for `target`.  The file says which network it is of.  With
        `compat`, a checkpoint of the authors' program.
    target : {"readers", "likeness", "published"}
        Whose shipped weights: for what a reader can see (the default network), for likeness to both sources
        (the variant `paper`), or those of the authors' program trained here (the variant `published`).
    gain, broad : float
        Of the network for readers: how strongly a focal change of uptake is shown, and a wide one.
    strict : float
        Of the same: what the learned threshold is multiplied by that a difference must pass to be shown.
    contrast, shade : float
        Of the same: exponent on the structural image, and its brightest level, which leaves room for findings
        that are brighter.
    strength : float
        Of the network for likeness: of its departure from the plain average, which no image can beat in
        pooled PSNR.  0 is the average itself, 1 shows structure best.
    alpha : float
        Of the same: share of the structural image in that average.
    balance : bool
        Of the same: keep the result equally far from both sources; False for weights of the recipe `paper`.
    compat : bool
        Run the published program instead, quirk for quirk.  Its output is *not* bounded: with the published
        rule it grows with the volume (docs/dcfb.md).
    rule : str
        Fusion rule of `compat`: L1NW (published default), AL1NW, FL1N, FER, addition or average.
    clip : bool
        Clip what `compat` returns to [0, 1], as the board requires; by default it is what theirs returns.
    without : str
        Switch a part of the trained network off, to see what it does: displacement, attention, convolution or
        context (what the blocks tell the head).
    bf16 : bool
        Compute in bfloat16 where that is safe (autocast): faster on GPUs that have it, and on few CPUs.
    tile : int, optional
        Fuse in overlapping tiles of about this many voxels per axis, to bound memory; 0: never.  The default
        takes tiles of 192 for volumes above 8 million voxels.
    """

    info = MethodInfo(
        name="dcfb",
        summary="structural image with what is unexpected in the functional one; deformable cross-attention",
        dims=3,
        paper="after DC2Fusion: Liu et al., Three-Dimensional Medical Image Fusion with Deformable "
        "Cross-Attention, arXiv 2310.06291, 2023",
        licence="MIT",
        trained_on="phantom (64 train subjects)",
        weights=Weights(
            file="../weights/dcfb.safetensors",
            sha256="d0f32adaab6df1bc1610ec92b4626be71cc705f813bf6692fd26f2ab453b0650",
        ),
        params=933554,
        notes="for readers, not for likeness; aligns the functional image itself; trained on a CPU",
        cost=0.73,
        tolerance=5e-5,
    )
    expected_failed_checks: ClassVar[Mapping[str, str]] = {
        "identical_inputs": "the structural image is shown darker, so that findings can be brighter"
    }
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"target": "likeness", "alpha": 0.68, "strength": 1.0},
        "published": {"target": "published", "compat": True, "rule": "FL1N", "clip": True},
    }
    variant_facts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": SHIPPED["likeness"],
        "published": SHIPPED["published"],
    }
    recipes: ClassVar[dict[str, str]] = {
        "readers": ".reader_recipe:Readers",
        "balanced": ".recipe:Balanced",
        "paper": ".recipe:Paper",
        "align": ".recipe:Align",
        "published": ".recipe:Published",
    }
    network: nn.Module

    def __init__(
        self,
        weights: str | None = None,
        target: str = "readers",
        gain: float = Look.gain,
        strict: float = Look.strict,
        broad: float = Look.broad,
        contrast: float = Look.contrast,
        shade: float = Look.shade,
        strength: float = 1.0,
        alpha: float = 0.5,
        balance: bool = True,
        compat: bool = False,
        rule: str = "L1NW",
        clip: bool = False,
        without: str = "",
        bf16: bool = False,
        tile: int | None = None,
    ) -> None:
        if tile is not None and 0 < tile < 64:
            raise InputError(f"dcfb: tile={tile} is too small; take 64 or more, or 0 for none")
        if target not in SHIPPED:
            raise InputError(f"dcfb: target={target!r} is not one of {', '.join(SHIPPED)}")
        if not 0 <= alpha <= 1 or not 0 <= strength <= 1:
            raise InputError(f"dcfb: alpha={alpha} and strength={strength} must lie in [0, 1]")
        if min(gain, strict, broad) < 0 or contrast <= 0 or not 0 < shade <= 1:
            raise InputError(
                f"dcfb: gain={gain}, strict={strict} and broad={broad} must be 0 or more, "
                f"contrast={contrast} above 0, shade={shade} in (0, 1]"
            )
        if without and without not in SWITCHES:
            raise InputError(f"dcfb: without={without!r} is not one of {', '.join(SWITCHES)}")
        self.weights, self.target = weights, target
        self.gain, self.strict, self.broad, self.contrast, self.shade = gain, strict, broad, contrast, shade
        self.strength, self.alpha, self.balance = strength, alpha, balance
        self.compat, self.rule, self.clip = compat, rule, clip
        self.without, self.bf16, self.tile = without, bf16, tile

    def describe(self) -> MethodInfo:
        """Facts with the weights that are used: those given, or the ones shipped for `target`."""
        if self.weights is not None:
            return replace(self.info, trained_on=f"own weights ({Path(self.weights).name})", weights=None)
        return replace(self.info, **SHIPPED[self.target])

    def setup(self, device: torch.device | str = "cpu") -> None:
        """Load the weights and move them to `device`."""
        super().setup(device)
        if self.compat:
            if self.weights is None and self.target != "published":
                raise InputError(
                    "dcfb compat=True runs the authors' program: give a file with weights=FILE, "
                    "or take dcfb@published, which was trained here"
                )
            state = read_state(self.weights or self._shipped())
            self.network = CompatNetwork.from_state_dict(state, self.rule)
        else:
            self.network = self._trained(self.weights or self._shipped())
        self.info = self.describe()  # type: ignore[misc]
        self.network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def of(cls, network: nn.Module, **parameters: Any) -> DCFBFusion:
        """The method with a network at hand, set up where the network is; its mode is left as it is."""
        method = cls(**parameters)
        Method.setup(method, next(network.parameters()).device)
        method.network = network
        return method

    def _trained(self, path: str | Path) -> FusionNetwork | ReaderNetwork:
        state = read_state(path)
        network = (
            ReaderNetwork(ReaderDesign.of(state))
            if "stem.weight" in state
            else FusionNetwork(Design.of(state))
        )
        load_weights(network, path)
        if self.without:
            switch_off(network, self.without)
        return network

    def _shipped(self) -> Path:
        weights = self.describe().weights
        if weights is None:
            raise InputError("dcfb ships no weights; give a file with --weights dcfb=FILE")
        return Path(__file__).parent / weights.file

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
            x, y, moved = a[None, None], b[None, None], False
            coarse = getattr(getattr(self.network, "features", None), "coarse", None)
            if coarse is not None:
                y, moved = prealign(coarse, x, y)
            if isinstance(self.network, ReaderNetwork):
                return self._for_readers(self.network, x, y, float(moved))
            step = partial(
                cast(FusionNetwork, self.network),
                align=float(moved),
                strength=self.strength,
                alpha=self.alpha,
                balance=BALANCE if self.balance else 0,
            )
            return self._tiled(step, x, y)[0, 0].float()

    def _for_readers(self, network: ReaderNetwork, a: Tensor, b: Tensor, align: float) -> Tensor:
        """The structural image with what is unexpected in the functional one."""
        # Air around the head costs time and changes nothing.
        fused = torch.zeros_like(a)
        box = _content(torch.maximum(a, b)[0, 0])
        if box is None:
            return fused[0, 0]
        a, b = a[:, :, *box], b[:, :, *box]
        uptake, level, sigma = network.start_of(a[0, 0], b[0, 0])
        step = partial(network, sigma=sigma, align=align, strict=self.strict)
        level = level[None, None]
        found = self._tiled(step, a, b, uptake[None, None], level).float()
        finding, aligned = found.chunk(2, 1)
        carrier = a if network.design.expectation else (a + aligned) / 2
        look = Look(self.gain, self.strict, self.broad, self.contrast, self.shade)
        fused[:, :, *box] = show(carrier, finding, level, look)
        return fused[0, 0]

    def _tiled(self, network: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """`network` on volumes (1, 1, D, H, W), in tiles where they are large or the user asks for it."""
        tile = self.tile if self.tile is not None else (192 if volumes[0].numel() > 8_000_000 else 0)
        if not tile:
            return network(*volumes)
        return fuse_tiles(network, *[v[0, 0] for v in volumes], tile=tile, progress=self.progress)[None]


def _content(image: Tensor) -> tuple[slice, ...] | None:
    """Box around what is not air, with a margin; None where all is."""
    places = torch.nonzero(image > DARK)
    if not len(places):
        return None
    low, high = places.amin(0).tolist(), places.amax(0).tolist()
    return tuple(slice(max(i - MARGIN, 0), j + 1 + MARGIN) for i, j in zip(low, high, strict=True))
