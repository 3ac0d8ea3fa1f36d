"""`Recipe`: the network, the samples, the loss, the validation.  `fit` does the rest.

A learned method names its recipes without importing them::

    class MyMethod(Method):
        recipes = {"default": ".my_recipes:Default"}      # the first one is the default
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import Method
from fusebench.parameters import create

from .._weights import Layout, load_weights
from .samples import Sample, Subjects, collate, crop, trim

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Defaults of a recipe; every field is also an option of ``train``.

    Parameters
    ----------
    steps, batch : int
        Optimiser steps; samples per step *and device*.
    lr : float
        Peak learning rate.
    schedule : {"cosine", "poly", "constant"}
        Decay to zero after `warmup` steps; "poly" is ``(1 - t)**0.9``.
    weight_decay, clip : float
        AdamW's decay; largest gradient norm, 0 for no clipping.
    ema : float
        Decay of the moving average of the weights, 0 for none.  The average is what is validated and kept.
    val_every, patience : int
        Steps between validations; validations without gain before stopping, 0 for never.
    keep : {"best", "last"}
        Which weights are written at the end.
    """

    steps: int = 2000
    batch: int = 4
    lr: float = 1e-3
    warmup: int = 0
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.99
    val_every: int = 200
    patience: int = 0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0 and 0 <= self.ema < 1):
            raise InputError(f"--lr {self.lr:g} must be positive and --ema {self.ema:g} in [0, 1)")
        for name in ("warmup", "weight_decay", "clip", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name):g} must be 0 or more")

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step `step` (from 0), a pure function, so nothing is to be resumed."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        t = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "cosine":
            return self.lr * 0.5 * float(1 + np.cos(np.pi * t))
        return self.lr * (max(0.0, 1 - t) ** 0.9 if self.schedule == "poly" else 1.0)


class Recipe(ABC):
    """How one network is trained.  Subclasses set the class attributes and override the two abstract methods.

    Keyword arguments of a subclass's ``__init__`` are its options (``train --set NAME=VALUE``).

    Attributes
    ----------
    layouts : sequence of Layout
        Published files that `load` reads besides our own.
    licence, notes : str
        Of the weights, and what to know about them; for the card.
    crop : tuple of int
        Two numbers: slices (H, W); three: patches (D, H, W), in voxels.
    margin : int
        Voxels taken around the crop and cut off after `augment`, so that warps have no border.
    planes : tuple of int
        Slicing axes for 2D samples.
    monitor, mode : str
        Key of `validate` that decides what is best, and "min" or "max".
    unused_parameters : bool
        True where some parameters get no gradient (distributed training must know).
    """

    defaults: ClassVar[Hyperparameters] = Hyperparameters()
    layouts: ClassVar[Sequence[Layout]] = ()
    licence: str = "MIT"
    notes: str = ""
    crop: tuple[int, ...] = (128, 128)
    margin: int = 0
    planes: tuple[int, ...] = (0, 1, 2)
    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    val_batches: int = 8
    unused_parameters: bool = False

    @abstractmethod
    def model(self) -> nn.Module:
        """A fresh network, on the CPU.  Called with torch's generator seeded."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of one batch, and its parts by name for the log.

        Parameters
        ----------
        model : nn.Module
            What `model` returned, in training mode; any of its methods may be called.
        batch : dict of Tensor
            ``a``, ``b`` inputs; ``a_clean``, ``b_clean`` the same before intensity and warp augmentation;
            ``mask`` (float); each (B, 1, *crop) float32; ``spacing`` (B, len(crop)) in mm.

        Returns
        -------
        loss : Tensor, scalar
            A mean over the batch, so that devices can share the work.
        logs : mapping of Tensor, scalar
        """

    def setup(self, device: torch.device) -> None:
        """Bring frozen helpers (a feature network) to `device`.  Called once, before the first loss."""
        return

    def sample(self, subjects: Subjects, step: int, rng: np.random.Generator) -> Sample:
        """One training sample; a pure function of its arguments."""
        drawn = crop(subjects.pick(step, rng), self.crop, rng, planes=self.planes, margin=self.margin)
        return trim(self.augment(drawn, rng), self.margin)

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change the inputs, leave the targets clean; see `augment`."""
        return sample

    def fixed_batches(self, subjects: Subjects, count: int, batch: int) -> Iterator[Batch]:
        """The same `count` batches on every call: subjects in turn, no augmentation, foreground crops."""
        for i in range(count):
            drawn = []
            for j in range(batch):
                subject = subjects[(i * batch + j) % len(subjects)]
                drawn.append(crop(subject, self.crop, np.random.default_rng([i, j]), planes=self.planes))
            yield collate(drawn)

    def validate(self, model: nn.Module, subjects: Subjects) -> Mapping[str, float]:
        """Scores of `model` (evaluation mode, no gradients, averaged weights) on the val split.

        The default is the loss and its parts on fixed batches, named ``val_loss``, ``val_...``.
        """
        device = next(model.parameters()).device
        total: dict[str, float] = {}
        for batch in self.fixed_batches(subjects, self.val_batches, self.defaults.batch):
            loss, logs = self.loss(model, {k: v.to(device) for k, v in batch.items()})
            for key, value in {"loss": loss, **logs}.items():
                total[f"val_{key}"] = total.get(f"val_{key}", 0.0) + float(value) / self.val_batches
        return total

    def picture(self, model: nn.Module, subjects: Subjects) -> Tensor | None:
        """A grey picture (H, W) in [0, 1] of what `model` makes of the val split, kept at each validation."""
        return None

    def optimizer(self, model: nn.Module, hyper: Hyperparameters) -> torch.optim.Optimizer:
        """AdamW on everything; the loop sets the learning rate of every group."""
        return torch.optim.AdamW(model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay)

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Tensors for the safetensors file."""
        return model.state_dict()

    def load(self, model: nn.Module, path: Path) -> str:
        """Start from a file of weights (``--weights``), and return whose it is, "fusebench" for ours.

        Raises
        ------
        InputError
            One line that lists what does not fit.
        """
        origin = load_weights(model, path, self.layouts)
        if origin != "fusebench":
            self.notes = f"Started from the {origin} weights. {self.notes}"
            self.licence = f"that of the {origin} weights they started from"
        return origin


def find_recipe(cls: type[Method], name: str | None = None, **options: Any) -> tuple[str, Recipe, bool]:
    """The recipe called `name` (None: the first) of a method, its name, and whether it is the first.

    Raises
    ------
    InputError
        The method has no recipes, none of that name, or the recipe refuses an option.
    """
    method, known = cls.info.name, getattr(cls, "recipes", {})
    if not known:
        raise InputError(f"method {method!r} has nothing to train (it offers no recipes)")
    first = next(iter(known))
    name = name or first
    if name not in known:
        raise InputError(f"method {method!r} has no recipe {name!r}; it has {', '.join(known)}")
    module_name, _, attribute = known[name].partition(":")
    module = importlib.import_module(
        module_name or cls.__module__, package=cls.__module__.rpartition(".")[0] or None
    )
    recipe: Recipe = create(f"recipe {name!r} of {method}", getattr(module, attribute), options)
    return name, recipe, name == first
