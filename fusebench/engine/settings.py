"""Settings that are one for the whole process, those of numpy and torch included."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .plain_settings import PLAIN, Table, attribute
from .torch_state import (
    dispatch_modes,
    function_modes,
    operators,
    precision,
    put_dispatch_modes,
    put_function_modes,
    put_operators,
    put_precision,
)

_DENORMAL = 5e-324


def _random() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def _put_random(kept: tuple[Any, ...]) -> None:
    (kind, keys, *rest), tensors = kept
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(tensors), dtype=torch.uint8))


def _flushes() -> bool:
    return _DENORMAL * 1.0 == 0  # not by torch, whose modes may be another's


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


SETTINGS: Table = {
    **PLAIN,
    # First of torch: what is read behind them would go through them.
    "dispatch modes": (dispatch_modes, put_dispatch_modes),
    "default device and function modes": (function_modes, put_function_modes),
    "operators of torch": (operators, put_operators),
    "random numbers of numpy and torch": (_random, _put_random),
    "numpy.seterrcall": (np.geterrcall, np.seterrcall),
    "numpy.bufsize": (np.getbufsize, np.setbufsize),
    "numpy.seterr": (np.geterr, lambda kept: np.seterr(**kept)),
    "numpy.printoptions": (np.get_printoptions, lambda kept: np.set_printoptions(**kept)),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.printoptions": (
        lambda: vars(torch._tensor_str.PRINT_OPTS).copy(),
        lambda kept: vars(torch._tensor_str.PRINT_OPTS).update(kept),
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch warnings": (torch.is_warn_always_enabled, torch.set_warn_always),
    "autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda kept: torch.set_autocast_enabled("cpu", kept),
    ),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        _deterministic,
        lambda kept: torch.use_deterministic_algorithms(kept[0], warn_only=kept[1]),
    ),
    "denormal numbers": (_flushes, torch.set_flush_denormal),
    "precision of products": (precision, put_precision),
    "torch.backends.cudnn.enabled": attribute(torch.backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": attribute(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": attribute(torch.backends.cudnn, "deterministic"),
    "torch.backends.mkldnn.enabled": attribute(torch.backends.mkldnn, "enabled"),
}
