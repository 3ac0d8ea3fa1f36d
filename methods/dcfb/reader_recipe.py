"""The recipe `readers` of `dcfb`: to tell what is unexpected in the functional image, and be quiet elsewhere.

Findings of many forms are put into the functional image; the network has to give their relative change where
they are, in the frame of the structural image, and nothing elsewhere.  Changes of the structural image,
noise, displacements and other levels are no findings.  No ground truth of any data set is in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from fusebench.errors import InputError
from fusebench.plugins import create_metric, find_plugins
from fusebench.scoring.protocol import PROTOCOLS, READERS, ScoredImages

from .._expected import Fit, blur, fit, foreground
from .._weights import load_weights, read_state
from ..training import augment
from ..training.findings import draw_findings
from ..training.recipe import Batch, Hyperparameters, Recipe
from ..training.samples import Sample, Subjects, collate, crop, trim
from .alignment import STRIDE
from .block import Parts
from .reader import FLOOR, LIT, Look, ReaderDesign, ReaderNetwork, lit, regional, show, surroundings

ABLATIONS: dict[str, ReaderDesign] = {
    "none": ReaderDesign(),
    "features": ReaderDesign(features=False),
    "deform": ReaderDesign(parts=Parts(deform=False)),
    "attention": ReaderDesign(parts=Parts(attention=False)),
    "conv": ReaderDesign(parts=Parts(conv=False)),
    "flat": ReaderDesign(parts=Parts(flat=True)),
    "expectation": ReaderDesign(expectation=False),
}
# What is read at a validation.
READ = ("reading", "cho_auc.a", "cho_auc.b", "outline")
# Changes from this on are findings; the one that is noise of size 1.
PALE, QUIET = 0.05, 0.02


class Readers(Recipe):
    """Findings where they are, quiet elsewhere, and the alignment.

    Parameters
    ----------
    share : float
        Of a finding that is to be shown: what the threshold takes away the gain gives back, and less of the
        noise comes with it.
    tail : float
        Error at which the squared loss turns to an absolute one.
    missed, shape, noise, expect, align : float
        Weights: squared part of `share` that is not shown, Huber error in findings and elsewhere (squares of
        2 %), relative error of the expectation (in units of 2 %), squared error of the aligned image.
    without : str
        Leave a part out: features (no DCFB at all), deform, attention, conv, expectation; flat: the same net
        in 2D.
    misalign, chance : float
        Largest shift of the functional input in mm (half of it is the largest smooth warp); how often.
    blocks : bool
        False: the first stage of training, without the DCFB blocks; the second starts from its weights.
    patch : int
        Voxels per axis of a training patch, a multiple of 16.
    read : int
        Val subjects that the protocol `readers` reads at each validation, as whole volumes of the default
        look; nothing in training depends on it.
    controls : bool
        Draw from cases that their data set calls healthy (``lesion`` false, ``diagnosis`` CN), if there are
        any: what is normal cannot be learned from the ill.
    checkpointing : bool
        Less memory, more time.
    """

    defaults = Hyperparameters(
        steps=900,
        batch=1,
        lr=1.5e-3,
        warmup=50,
        schedule="cosine",
        clip=1.0,
        ema=0.98,
        val_every=150,
        keep="last",
    )
    margin = 16
    val_batches = 6
    notes = (
        "loss: missed (1 - share of findings that is shown / wanted)^2 + shape Huber error in them + noise "
        "Huber error elsewhere + expect |expectation - image before the findings| + align MSE(aligned input, "
        "aligned image); findings are ellipsoids, wedges, shells and smooth noise; no ground truth"
    )

    def __init__(
        self,
        *,
        share: float = 0.4,
        tail: float = 0.1,
        missed: float = 8.0,
        shape: float = 0.01,
        noise: float = 0.15,
        expect: float = 0.5,
        align: float = 20.0,
        without: str = "none",
        misalign: float = 4.0,
        chance: float = 0.4,
        blocks: bool = True,
        patch: int = 48,
        read: int = 1,
        controls: bool = True,
        checkpointing: bool = False,
    ) -> None:
        if without not in ABLATIONS:
            raise InputError(f"dcfb: without={without!r} is not one of {', '.join(ABLATIONS)}")
        if patch < 32 or patch % STRIDE:
            raise InputError(f"dcfb: patch={patch} is not a multiple of {STRIDE} from 32 on")
        self.share, self.tail = share, tail
        self.missed, self.shape, self.noise, self.expect, self.align = missed, shape, noise, expect, align
        self.without, self.misalign, self.chance, self.patch = without, misalign, chance, patch
        self.blocks, self.controls, self.checkpointing = blocks, controls, checkpointing
        self.read = read
        self._trials: dict[str, Any] = {}
        self.crop = (patch,) * 3
        self._disturb = augment.compose(
            augment.bias(0.1, p=0.3, keys=("a",)), augment.noise(0.02, p=0.3, keys=("a",))
        )
        self._move = augment.misalign(shift=misalign, warp=misalign / 2, p=chance if misalign else 0.0)
        self._fits: dict[str, Fit] = {}
        self._healthy: dict[int, Subjects] = {}

    def model(self) -> ReaderNetwork:
        network = ReaderNetwork(ABLATIONS[self.without])
        network.bare = not self.blocks
        if network.design.features:
            if not self.blocks:
                for part in (network.features, network.context, network.tell):
                    part.requires_grad_(False)
            network.features.checkpointing = self.checkpointing
            if hasattr(network.features, "coarse"):
                # It needs whole heads, which patches are not; `align` trains it.
                network.features.coarse.requires_grad_(False)
        return network

    def load(self, model: nn.Module, path: Path) -> str:
        """All weights of a network of this kind; of the one for likeness the blocks and the alignment."""
        state = read_state(path)
        if "stem_a.weight" not in state:
            return load_weights(model, path)
        ours = model.state_dict()
        kept = {
            k: v.float() for k, v in state.items() if k in ours and v.shape == ours[k].shape and k != "out"
        }
        kept = {k: v for k, v in kept.items() if k.startswith("features.")}
        if not kept:
            raise InputError(f"weights {path}: nothing in them is of use to this network")
        model.load_state_dict({**ours, **kept})
        self.notes = f"Blocks and alignment started from {path.name}. {self.notes}"
        return "fusebench"

    def sample(self, subjects: Subjects, step: int, rng: np.random.Generator) -> Sample:
        subject = self._normal(subjects).pick(step, rng)
        key = subject.case.fingerprint
        if key not in self._fits:
            a, b = subject.a.float(), subject.b.float()
            self._fits[key] = fit(a, b, use=b > LIT[0])
        drawn = crop(subject, self.crop, rng, margin=self.margin)
        return trim(self._change(drawn, self._fits[key], rng), self.margin)

    def _normal(self, subjects: Subjects) -> Subjects:
        """Those of the healthy, where the data set says who they are."""
        if not self.controls:
            return subjects
        if id(subjects) not in self._healthy:
            cases = [c for c in subjects.cases if _healthy(c.meta)]
            self._healthy[id(subjects)] = Subjects(cases, pool=subjects.pool) if cases else subjects
        return self._healthy[id(subjects)]

    def _change(self, sample: Sample, of: Fit, rng: np.random.Generator) -> Sample:
        sample = augment.flip()(sample, rng)
        mm = sample["spacing"].tolist()
        # A functional image is not always scaled to its own brightest spot.
        scale = float(rng.uniform(0.65, 1.0))
        a, b = sample["a"], sample["b"] * scale
        if rng.random() < 0.5:
            a = a * (
                1 + draw_findings(a[0] > 0.2, mm, rng, radius=(2, 10), depth=(0.04, 0.3), blur=(0.5, 1.5))
            )
        sample = self._disturb({**sample, "a": a.clamp(0, 1), "b": b, "b_clean": b}, rng)
        a = sample["a"]
        change = torch.zeros_like(b)
        if rng.random() < 0.9:
            change = draw_findings(
                (b[0] > 0.2 * scale) & (sample["mask"][0] > 0),
                mm,
                rng,
                count=(4, 10),
                radius=(4, 14),
                depth=(0.12, 0.5),
            )[None]
        aligned = b * (1 + change)
        moved = self._move({**sample, "b": aligned}, rng)
        b = moved["b"]
        displaced = b is not aligned
        if rng.random() < 0.5:
            grain = torch.from_numpy(rng.standard_normal(b.shape, dtype=np.float32))
            grain = blur(grain, float(rng.uniform(0.8, 1.6)))
            b = (b + float(rng.uniform(0, 0.04)) * grain / grain.std() * b.sqrt()).clamp_min(0)
        inside = foreground(a, b)
        if self.without == "expectation":
            uptake, sigma = surroundings(b), 0.0
        else:
            found = fit(a[0], b[0], use=b[0] > LIT[0]) if displaced else of
            uptake, sigma = found.sharp(a, inside).clamp_min(0), found.sigma
            uptake = uptake if displaced else uptake * scale
        expected = blur(uptake, sigma)
        level = regional(b, expected)
        # A wide difference is the business of the regional level, of findings too.
        focal = (
            change * lit(aligned) - regional(aligned, expected) + regional(aligned / (1 + change), expected)
        )
        sample |= {"b": b, "aligned": aligned, "uptake": uptake, "level": level, "finding": focal}
        sample |= {"sigma": torch.tensor(sigma), "moved": torch.tensor(float(displaced))}
        return augment.gamma(0.8, 1.25, p=0.3, keys=("a",))(sample, rng)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        out: dict[str, Tensor] = model.explain(  # type: ignore[operator]
            *[batch[k] for k in ("a", "b", "uptake", "level", "sigma")], align=batch["moved"]
        )
        weight = batch["mask"] + 0.02
        target, clean = batch["finding"], batch["b_clean"]
        there = weight * (target.abs() > PALE)
        # How much of the findings is shown: 1 is all of it.
        full = (there * target**2).flatten(1).sum(1)
        shown = (there * target * out["finding"]).flatten(1).sum(1) / full.clamp_min(1e-3)
        wrong = nnf.smooth_l1_loss(out["finding"], self.share * target, beta=self.tail, reduction="none")
        wrong = wrong * (2 * self.tail / QUIET**2)
        parts = {
            "shown": shown,
            "missed": torch.where(full > 0, (1 - shown / self.share) ** 2, 0.0),
            "shape": _mean(wrong, there),
            "noise": _mean(wrong, weight * (target.abs() <= PALE)),
            "expect": _mean((out["expected"] - clean).abs() / (clean + FLOOR), weight) / QUIET,
            "align": _mean((out["aligned"] - batch["aligned"]) ** 2, weight),
        }
        total = sum(getattr(self, k) * parts[k] for k in ("missed", "shape", "noise", "expect", "align"))
        return total.mean(), {k: v.detach().mean() for k, v in parts.items()}

    def validate(self, model: nn.Module, subjects: Subjects) -> Mapping[str, float]:
        device = next(model.parameters()).device
        total: dict[str, float] = {}
        for i in range(self.val_batches):
            batch = collate([self.sample(subjects, i, np.random.default_rng([11, i]))])
            batch = {k: v.to(device) for k, v in batch.items()}
            loss, logs = self.loss(model, batch)
            for key, value in {"loss": loss, **logs}.items():
                total[f"val_{key}"] = total.get(f"val_{key}", 0.0) + float(value.detach()) / self.val_batches
        return {**total, **self._readings(model, subjects)}

    def _readings(self, model: nn.Module, subjects: Subjects) -> dict[str, float]:
        """What observers read in whole fused volumes, mean over the first `read` subjects."""
        from .dcfb import DCFBFusion  # which names this module's recipes

        method = DCFBFusion.of(model)
        read: dict[str, list[float]] = {}
        for case in subjects.cases[: self.read]:
            key = case.fingerprint
            if key not in self._trials:
                self._trials[key] = create_metric("reading").trial(case)
            trial = self._trials[key]
            pairs = (case.a.data, case.b.data), (trial.a_with, trial.b_with)
            fused, with_ = (
                method.fuse(*(torch.from_numpy(np.array(x)) for x in pair)).cpu().numpy() for pair in pairs
            )
            scene = ScoredImages.of(case, fused, "cpu")
            truth = {"trial": trial, "fused_with": with_}
            scores = PROTOCOLS[READERS].score(scene, READ, truth, find_plugins())
            for name, value in scores.items():
                if not isinstance(value, Exception):
                    read.setdefault(f"val_{name}", []).append(float(value))
        return {name: float(np.mean(values)) for name, values in read.items()}

    def picture(self, model: nn.Module, subjects: Subjects) -> Tensor:
        """Structural, functional, what was put in, what was found, and the result; three val samples."""
        device = next(model.parameters()).device
        rows = []
        for i in range(3):
            batch = collate([self.sample(subjects, i, np.random.default_rng([11, i]))])
            batch = {k: v.to(device) for k, v in batch.items()}
            keys = ("a", "b", "uptake", "level", "sigma")
            out = model.explain(*[batch[k] for k in keys], align=batch["moved"])  # type: ignore[operator]
            fused = show(batch["a"], out["finding"], batch["level"], Look())
            signed = [0.5 + 2 * x for x in (batch["finding"], out["finding"])]
            images = [batch["a"], batch["b"], *signed, fused]
            rows.append(torch.cat([x[0, 0, x.shape[2] // 2].flip(0) for x in images], 1))
        return torch.cat(rows)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of each sample; 0 without weight."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1.0)


def _healthy(meta: Mapping[str, object]) -> bool:
    return meta.get("lesion") is False or meta.get("diagnosis") == "CN"
