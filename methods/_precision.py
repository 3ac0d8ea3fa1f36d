"""Single precision as it says: GPUs may otherwise round convolutions to the ten bits of TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 in convolutions and matrix products on CUDA; the settings from before return afterwards."""
    conv, matmul = getattr(torch.backends.cudnn, "conv", None), torch.backends.cuda.matmul
    switches: list[tuple[object, str, object]]
    if conv is None:  # torch before 2.9, where a mix of these settings with the others is no error
        switches = [(torch.backends.cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    else:
        switches = [(conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    before = [getattr(of, name) for of, name, _ in switches]
    try:
        for of, name, value in switches:
            setattr(of, name, value)
        yield
    finally:
        for (of, name, _), value in zip(switches, before, strict=True):
            setattr(of, name, value)
