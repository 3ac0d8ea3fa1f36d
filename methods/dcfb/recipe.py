"""How `dcfb` is trained: the recipe `balanced` (shipped) and `paper` (the published loss).

Targets are the clean, aligned sources themselves; the inputs are changed.  The functional input is moved
against the structural one, so the network learns to find and undo a displacement.  No ground truth of the
phantom is in any loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from ..training import augment, losses
from ..training.recipe import Batch, Hyperparameters, Recipe
from ..training.samples import Sample
from .block import Parts
from .network import STRIDE, Design, FusionNetwork

ABLATIONS: dict[str, Design] = {
    "none": Design(),
    "features": Design(features=False),
    "deform": Design(parts=Parts(deform=False)),
    "attention": Design(parts=Parts(attention=False)),
    "conv": Design(parts=Parts(conv=False)),
    "flat": Design(parts=Parts(flat=True)),
}


class _DCFBRecipe(Recipe):
    """What both recipes share.

    Parameters
    ----------
    without : str
        Leave a part out: features (no DCFB at all), deform, attention, conv; flat is the same net in 2D.
    misalign : float
        Largest shift of the functional input in mm; a third of it is the largest smooth warp.
    patch : int
        Voxels per axis of a training patch, a multiple of 16.
    checkpointing : bool
        Less memory, more time.
    """

    defaults = Hyperparameters(
        steps=20000,
        batch=1,
        lr=1.5e-3,
        warmup=50,
        schedule="cosine",
        clip=1.0,
        ema=0.99,
        val_every=200,
        keep="last",
    )
    margin = 8
    val_batches = 8

    def __init__(
        self, *, without: str = "none", misalign: float = 8.0, patch: int = 48, checkpointing: bool = False
    ) -> None:
        if without not in ABLATIONS:
            raise TypeError(f"without={without!r} is not one of {', '.join(ABLATIONS)}")
        if patch < 32 or patch % STRIDE:
            raise TypeError(f"patch={patch} is not a multiple of {STRIDE} from 32 on")
        self.without, self.misalign, self.patch, self.checkpointing = without, misalign, patch, checkpointing
        self.crop = (patch,) * 3
        self._change = augment.compose(
            augment.flip(),
            augment.gamma(0.8, 1.25, p=0.3, keys=("a",)),
            augment.bias(0.2, p=0.3),
            augment.noise(0.03, p=0.3),
            augment.misalign(shift=misalign, warp=misalign / 3, p=0.5 if misalign else 0.0),
        )

    def model(self) -> nn.Module:
        network = FusionNetwork(ABLATIONS[self.without])
        if network.design.features:
            network.features.checkpointing = self.checkpointing
        return network

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self._change(sample, rng)


class Balanced(_DCFBRecipe):
    """Both sources alike: SSIM and squared error to each, the stronger edges, and the alignment itself.

    Parameters
    ----------
    mse, edges, align : float
        Weights beside the two SSIM terms.
    """

    notes = (
        "loss: (1-SSIM_a) + (1-SSIM_b) + mse (MSE_a + MSE_b) + edges max-gradient + align MSE(aligned input, "
        "clean source), half of the weight inside the foreground; no ground truth"
    )

    def __init__(
        self,
        *,
        mse: float = 20.0,
        edges: float = 3.0,
        align: float = 20.0,
        without: str = "none",
        misalign: float = 8.0,
        patch: int = 48,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(without=without, misalign=misalign, patch=patch, checkpointing=checkpointing)
        self.mse, self.edges, self.align = mse, edges, align

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        out: dict[str, Tensor] = model.explain(batch["a"], batch["b"])  # type: ignore[operator]
        fused, a, b, mask = out["fused"], batch["a_clean"], batch["b_clean"], batch["mask"]
        weight = (1 + mask / mask.mean((1, 2, 3, 4), keepdim=True).clamp_min(0.05)) / 2
        parts = {
            "ssim_a": losses.ssim(fused, a, weight),
            "ssim_b": losses.ssim(fused, b, weight),
            "mse_a": losses.mse(fused, a, weight),
            "mse_b": losses.mse(fused, b, weight),
            "edges": losses.max_gradient(fused, a, b, weight),
            "align": losses.mse(out["aligned"], b, weight),
        }
        total = (
            (2 - parts["ssim_a"] - parts["ssim_b"])
            + self.mse * (parts["mse_a"] + parts["mse_b"])
            + self.edges * parts["edges"]
            + self.align * parts["align"]
        )
        return total.mean(), {k: v.detach().mean() for k, v in parts.items()}


class Paper(_DCFBRecipe):
    """The published loss, 2:1 in favour of the MRI: squared LNCC (3^3 box), SSIM and L1, whole patch."""

    notes = "loss: sum over sources, MRI weighted 2 and PET 1, of -LNCC + (1 - SSIM) + L1"

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        fused: Tensor = model(batch["a"], batch["b"])
        total = fused.new_zeros(fused.shape[0])
        logs: dict[str, Tensor] = {}
        for weight, name in ((2.0, "a"), (1.0, "b")):
            source = batch[f"{name}_clean"]
            parts = {
                "lncc": -losses.lncc(fused, source),
                "ssim": 1 - losses.ssim(fused, source),
                "l1": losses.l1(fused, source),
            }
            total = total + weight * sum(parts.values())
            logs |= {f"{k}_{name}": v.detach().mean() for k, v in parts.items()}
        return total.mean(), logs
