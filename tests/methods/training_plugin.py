"""A learned method and a dataset small enough to train in a test; a plugin file like any user's."""

import os
import signal
from functools import partial

import numpy as np
import torch
from fusebench.methods.training import augment, losses
from fusebench.methods.training.recipe import Hyperparameters, Recipe
from torch import nn

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo
from fusebench.method import Method, MethodInfo


def _load(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 12, 14, 16), dtype=np.float32)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return Pair(Volume(a, affine), Volume(b, affine), a > 0.2)


class Noise(Dataset):
    info = DatasetInfo(name="toy-data", summary="noise volumes", splits=("train", "val"))

    def cases(self, split="test"):
        first = {"train": 0, "val": 100}[split]
        seeds = range(first, first + 4)
        return [Case(f"s{i}", "toy-data", f"s{i}", str(i), partial(_load, i)) for i in seeds]


AUGMENT = augment.compose(
    augment.flip(), augment.gamma(), augment.bias(), augment.noise(), augment.misalign(shift=4, warp=2)
)


class ToyRecipe(Recipe):
    defaults = Hyperparameters(steps=50, batch=2, lr=1e-2, val_every=10)
    margin = 2

    def __init__(self, *, dims=2, dropout=0.1, stale=False, broken=False):
        self.crop = (8,) * dims
        self.dims, self.dropout, self.stale, self.broken = dims, dropout, stale, broken
        self.calls = 0

    def model(self):
        conv = (nn.Conv2d, nn.Conv3d)[self.dims - 2]
        return nn.Sequential(
            conv(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout(self.dropout), conv(4, 1, 3, padding=1)
        )

    def augment(self, sample, rng):
        return AUGMENT(sample, rng)

    def loss(self, model, batch):
        if model.training:
            self.calls += 1
            # The process is ended from inside a step, as a scheduler or a power cut would.
            for name in ("SIGKILL", "SIGTERM"):
                if self.calls == int(os.environ.get(f"TOY_{name}", 0)):
                    os.kill(os.getpid(), getattr(signal, name))
        fused = model(torch.cat([batch["a"], batch["b"]], 1))
        l1 = losses.l1(fused, batch["a_clean"]).mean()
        if self.broken and self.calls == 3:
            l1 = l1 * float("nan")
        return l1 + 0.1 * losses.mse(fused, batch["b_clean"]).mean(), {"l1": l1}

    def validate(self, model, subjects):
        assert not model.training and not torch.is_grad_enabled()
        return {"val_loss": 1.0} if self.stale else super().validate(model, subjects)


class ToyMethod(Method):
    info = MethodInfo(name="toy-net", summary="a learned method for tests")
    recipes = {"default": ":ToyRecipe", "other": ":ToyRecipe"}


class ToyFixed(Method):
    info = MethodInfo(name="toy-fixed", summary="a method without recipes")
