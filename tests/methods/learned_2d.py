"""Helpers for the tests of the learned 2D methods: random weights, images, author-named state dicts."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from safetensors.torch import save_file

import fusebench

NAMES = (
    "densefuse",
    "u2fusion",
    "matr",
    "dilran",
    "swinfuse",
    "ifcnn",
    "gesenet",
    "cddfuse",
    "emma",
    "gifnet",
    "swinfusion",
)
EMMA_LAST = (1, 8, 3, 3)


def module(name):
    return importlib.import_module(f"fusebench.methods.{name}")


def with_random_weights(name, folder: Path, seed=0, **params):
    """The method `name`, set up with a file of random weights in our names."""
    torch.manual_seed(seed)
    # No shipped weights are for compat=True of some.
    network = fusebench.create_method(name, **{k: v for k, v in params.items() if k != "compat"}).build()
    path = folder / f"{name}-{seed}.safetensors"
    if not path.exists():
        save_file(random_state(network.state_dict(), seed), path)
    method = fusebench.create_method(name, weights=str(path), **params)
    method.setup("cpu")
    return method


def random_state(shapes, seed=0):
    """Random values for a state dict: moderate gain, positive variances."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, like in shapes.items():
        shape = tuple(like.shape) if isinstance(like, torch.Tensor) else tuple(like)
        value = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked") or key.endswith("relative_position_index"):
            state[key] = torch.zeros(shape, dtype=torch.int64)
        elif key.endswith("running_var"):
            state[key] = value.abs() + 0.5
        elif (
            any(part in key for part in ("theta_rho", ".scale.", "output.2", "last.2")) or shape == EMMA_LAST
        ):
            state[key] = value * (
                0.002 if shape == EMMA_LAST else 0.03
            )  # an exponential or a sigmoid follows
        elif len(shape) > 1:
            state[key] = value * (1.5 / torch.Size(shape[1:]).numel()) ** 0.5
        else:
            state[key] = value * 0.1 + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
    return state


def images(n, h, w, seed=0):
    """Two stacks of smooth-ish random slices in [0, 1] with some black."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, n, 1, h, w, generator=generator)
    a[..., : h // 4, :] = 0
    b[..., : h // 4, :] = 0
    return a, b


def parameters(table):
    """Number of learned values in a published table (buffers excluded)."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    return sum(torch.Size(shape).numel() for key, shape in table.items() if not key.endswith(buffers))
