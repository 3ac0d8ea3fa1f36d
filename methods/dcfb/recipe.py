"""How `dcfb` is trained: the recipe `balanced` (shipped) and `paper` (the published loss).

Targets are the clean, aligned sources themselves; the inputs are changed.  The functional input is moved
a little against the structural one, so the blocks learn to undo what the coarse displacement, which the
recipe `align` trains on whole heads, leaves behind.  No ground truth of the phantom is in any loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fusebench.errors import InputError

from .._weights import small
from ..training import augment, losses
from ..training.recipe import Batch, Hyperparameters, Recipe
from ..training.samples import Sample, Subjects, collate
from .alignment import STRIDE, Coarse, warp
from .block import Parts
from .compat import CompatNetwork
from .network import Design, FusionNetwork

ABLATIONS: dict[str, Design] = {
    "none": Design(),
    "features": Design(features=False),
    "deform": Design(parts=Parts(deform=False)),
    "attention": Design(parts=Parts(attention=False)),
    "conv": Design(parts=Parts(conv=False)),
    "flat": Design(parts=Parts(flat=True)),
}


class _DCFBRecipe(Recipe):
    """The common part of both recipes.

    Parameters
    ----------
    without : str
        Leave a part out: features (no DCFB at all), deform, attention, conv; flat is the same net in 2D.
    misalign, chance : float
        Largest shift of the functional input in mm (half of it is the largest smooth warp); how often.
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
    balance: int

    def __init__(
        self,
        *,
        without: str = "none",
        misalign: float = 4.0,
        chance: float = 0.4,
        patch: int = 48,
        checkpointing: bool = False,
    ) -> None:
        if without not in ABLATIONS:
            raise InputError(f"dcfb: without={without!r} is not one of {', '.join(ABLATIONS)}")
        if patch < 32 or patch % STRIDE:
            raise InputError(f"dcfb: patch={patch} is not a multiple of {STRIDE} from 32 on")
        self.without, self.misalign, self.chance, self.patch = without, misalign, chance, patch
        self.checkpointing = checkpointing
        self.crop = (patch,) * 3
        self._disturb = augment.compose(
            augment.gamma(0.8, 1.25, p=0.3, keys=("a",)), augment.bias(0.2, p=0.3), augment.noise(0.03, p=0.3)
        )
        self._change = augment.compose(augment.flip(), augment.lesion(), self._disturb)
        self._move = augment.misalign(shift=misalign, warp=misalign / 2, p=chance if misalign else 0.0)

    def model(self) -> FusionNetwork:
        network = FusionNetwork(ABLATIONS[self.without])
        if network.design.features:
            network.features.checkpointing = self.checkpointing
            if hasattr(network.features, "coarse"):
                # It needs whole heads, which patches are not; `align` trains it.
                network.features.coarse.requires_grad_(False)
        return network

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = self._change(sample, rng)
        moved = self._move(sample, rng)
        # As in use, the functional image is resampled only if it has been moved.
        return {**moved, "moved": torch.tensor(float(moved["b"] is not sample["b"]))}

    def fuse(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the network on a batch."""
        out: dict[str, Tensor] = model.explain(  # type: ignore[operator]
            batch["a"], batch["b"], align=batch.get("moved", 0.0), balance=self.balance
        )
        return out


class Balanced(_DCFBRecipe):
    """Both sources alike: SSIM and squared error to each, stronger edges, lesions, and the alignment.

    Parameters
    ----------
    mse, worst, edges, lesion, align : float
        Weights beside the two SSIM terms: squared errors, the smaller SSIM once more, the stronger of the
        sources' edges, the squared error to the functional image in lesions (put there by the augmentation,
        relative to `mse`), and the error of the aligned image.
    balance : int
        Of the network, in training.
    """

    notes = (
        "loss: (1-SSIM_a) + (1-SSIM_b) + worst (1 - min SSIM) + mse (MSE_a + MSE_b) + edges max-gradient "
        "+ mse lesion MSE_b(synthetic lesions) + align MSE(aligned input, clean source), "
        "half of the weight inside the foreground; no ground truth"
    )

    def __init__(
        self,
        *,
        mse: float = 60.0,
        worst: float = 1.0,
        edges: float = 4.0,
        lesion: float = 6.0,
        align: float = 20.0,
        balance: int = 8,
        without: str = "none",
        misalign: float = 4.0,
        chance: float = 0.4,
        patch: int = 48,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            without=without,
            misalign=misalign,
            chance=chance,
            patch=patch,
            checkpointing=checkpointing,
        )
        self.mse, self.worst, self.edges, self.lesion, self.align = mse, worst, edges, lesion, align
        self.balance = balance

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        out = self.fuse(model, batch)
        fused, a, b, mask = out["fused"], batch["a_clean"], batch["b_clean"], batch["mask"]
        weight = (1 + mask / mask.mean((1, 2, 3, 4), keepdim=True).clamp_min(0.05)) / 2
        lesion = batch.get("lesion", torch.zeros(()))
        parts = {
            "ssim_a": losses.ssim(fused, a, weight),
            "ssim_b": losses.ssim(fused, b, weight),
            "mse_a": losses.mse(fused, a, weight),
            "mse_b": losses.mse(fused, b, weight),
            "edges": losses.max_gradient(fused, a, b, weight),
            "lesion": (weight * lesion * (fused - b) ** 2).flatten(1).mean(1),
            "align": losses.mse(out["aligned"], b, weight),
        }
        total = (
            (2 - parts["ssim_a"] - parts["ssim_b"])
            + self.worst * (1 - torch.minimum(parts["ssim_a"], parts["ssim_b"]))
            + self.mse * (parts["mse_a"] + parts["mse_b"])
            + self.edges * parts["edges"]
            + self.mse * self.lesion * parts["lesion"]
            + self.align * parts["align"]
        )
        return total.mean(), {k: v.detach().mean() for k, v in parts.items()}


class Align(_DCFBRecipe):
    """The coarse displacement alone, from whole heads at half the resolution; a start for the other recipes.

    The target is the displacement that the augmentation itself has put on the functional image.
    """

    defaults = replace(_DCFBRecipe.defaults, steps=4000, batch=4, lr=1e-3)
    unused_parameters = True
    notes = "loss: mean length of the error of the coarse displacement inside the foreground, in voxels"
    rigid, turn, warp = 14.0, 5.0, 4.0  # largest shift in mm, rotation in degrees, smooth warp in mm

    def model(self) -> FusionNetwork:
        network = super().model()
        if not network.design.features or not network.design.parts.deform:
            raise InputError("recipe 'align' trains the coarse displacement, which this ablation has not")
        network.features.coarse.requires_grad_(True)
        return network

    def sample(self, subjects: Subjects, step: int, rng: np.random.Generator) -> Sample:
        subject = subjects.pick(step, rng)
        far = [p for n in reversed(subject.a.shape) for p in (0, -n % (2 * STRIDE))]
        a, b, mask = (
            nnf.avg_pool3d(nnf.pad(x.float(), far)[None], 2) for x in (subject.a, subject.b, subject.mask)
        )
        voxel = torch.tensor(subject.spacing) * 2
        shape = a.shape[1:]
        place = torch.stack(
            torch.meshgrid(*[torch.arange(n) - n / 2 for n in shape], indexing="ij"), -1
        ).float()
        angles = torch.from_numpy(np.radians(rng.uniform(-self.turn, self.turn, 3)).astype(np.float32))
        amount = float(rng.uniform(0, 1))
        direction = rng.standard_normal(3)
        direction *= self.rigid * amount / np.linalg.norm(direction)
        shift = torch.from_numpy(direction.astype(np.float32))
        smooth = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 6, 6, 6)).astype(np.float32)) * self.warp * amount
        smooth = nnf.interpolate(smooth, size=shape, mode="trilinear", align_corners=True)[0]
        # A small rotation about the centre is its cross product with the position.
        turn = torch.linalg.cross(angles.expand_as(place) * amount, place)
        moved = turn + (shift + smooth.permute(1, 2, 3, 0)) / voxel
        # It is undone at x by minus the displacement at the point it leads to: two fixed-point steps, on a
        # coarser grid, as the displacement is smooth.
        rough = nnf.avg_pool3d(moved.permute(3, 0, 1, 2), 2)[:, None]
        field = -rough
        for _ in range(2):
            steps = field[:, 0].permute(1, 2, 3, 0) / 2
            field = -warp(rough, steps.expand(3, *steps.shape))
        out = {"a": a, "b": warp(b[None], moved[None])[0], "a_clean": a, "b_clean": b, "mask": mask}
        out |= {"spacing": voxel, "field": field[:, 0]}
        return self._disturb(out, rng)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        coarse: Coarse = model.features.coarse  # type: ignore[union-attr, assignment]
        found = coarse(*(coarse.pool(batch[k], coarse.POOL // 2) for k in ("a", "b")))
        target, mask = nnf.avg_pool3d(batch["field"], 2), nnf.avg_pool3d(batch["mask"], 4)
        # The network counts in voxels of the volume, the samples have half as many.
        error = (found / 2 - target).square().sum(1, keepdim=True).add(1e-6).sqrt()
        weight = mask + 0.02
        loss = ((error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()
        return loss, {"error_mm": loss.detach() * batch["spacing"].mean()}

    def validate(self, model: nn.Module, subjects: Subjects) -> Mapping[str, float]:
        rngs = [np.random.default_rng([3, i]) for i in range(8)]
        batch = collate([self.sample(subjects, i, rng) for i, rng in enumerate(rngs)])
        device = next(model.parameters()).device
        loss, logs = self.loss(model, {k: v.to(device) for k, v in batch.items()})
        return {"val_loss": float(loss), "val_error_mm": float(logs["error_mm"])}


def published_loss(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """LNCC (squared, 3^3 box), SSIM and L1 to both sources, 2:1 in favour of the MRI; whole image."""
    total = fused.new_zeros(fused.shape[0])
    logs: dict[str, Tensor] = {}
    for weight, name, source in ((2.0, "a", a), (1.0, "b", b)):
        parts = {
            "lncc": -losses.lncc(fused, source),
            "ssim": 1 - losses.ssim(fused, source),
            "l1": losses.l1(fused, source),
        }
        total = total + weight * sum(parts.values())
        logs |= {f"{k}_{name}": v.detach().mean() for k, v in parts.items()}
    return total.mean(), logs


class Paper(_DCFBRecipe):
    """The published loss on the network for likeness."""

    balance = 0  # it asks for twice as much likeness to the MRI

    notes = "loss: sum over sources, MRI weighted 2 and PET 1, of -LNCC + (1 - SSIM) + L1"

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return published_loss(self.fuse(model, batch)["fused"], batch["a_clean"], batch["b_clean"])


class Published(Recipe):
    """The authors' network by the authors' loss, smaller and far shorter than theirs.

    Theirs: 96 channels, whole volumes of 128^3, 500 epochs.  The fusion rule is the one of theirs that does
    not grow with the size of the volume (FL1N), since training sees patches.

    Parameters
    ----------
    embed : int
        Channels, a multiple of 3 from 24 on.
    rule : str
        Fusion rule.
    patch : int
        Voxels per axis.
    """

    defaults = Hyperparameters(
        steps=1500, batch=1, lr=5e-4, schedule="poly", clip=1.0, ema=0.0, val_every=250, keep="last"
    )
    unused_parameters = True  # two layers of theirs lead nowhere
    notes = Paper.notes + "; published network, published loss, flips only; shipped in 8 bits"
    val_batches = 4

    def __init__(self, *, embed: int = 24, rule: str = "FL1N", patch: int = 48) -> None:
        if embed < 24 or embed % 3:
            raise InputError(f"dcfb: embed={embed} is not a multiple of 3 from 24 on")
        self.embed, self.rule, self.patch = embed, rule, patch
        self.crop = (patch,) * 3

    def model(self) -> CompatNetwork:
        return CompatNetwork(self.embed, self.rule)

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return augment.flip()(sample, rng)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return published_loss(model(batch["a"], batch["b"]), batch["a_clean"], batch["b_clean"])

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return small(model.state_dict())
