"""Settings that are one for the whole process, those of numpy and torch included."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .plain_settings import PLAIN, Table, attribute


def _random() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def _put_random(kept: tuple[Any, ...]) -> None:
    (kind, keys, *rest), tensors = kept
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(tensors), dtype=torch.uint8))


def _modes() -> int:
    return int(torch._C._len_torch_function_stack())


def _put_modes(kept: int) -> None:
    while _modes() > kept:
        torch._C._pop_torch_function_stack()


def _flushes() -> bool:
    return bool((torch.tensor([1e-40]) * 1).item() == 0)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


SETTINGS: Table = {
    **PLAIN,
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
    "function modes": (_modes, _put_modes),
    "autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda kept: torch.set_autocast_enabled("cpu", kept),
    ),
    "default device": (torch.get_default_device, lambda kept: torch.set_default_device(_plain(kept))),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        _deterministic,
        lambda kept: torch.use_deterministic_algorithms(kept[0], warn_only=kept[1]),
    ),
    "denormal numbers": (_flushes, torch.set_flush_denormal),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.backends.cudnn.enabled": attribute(torch.backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": attribute(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": attribute(torch.backends.cudnn, "deterministic"),
    "torch.backends.mkldnn.enabled": attribute(torch.backends.mkldnn, "enabled"),
}
# torch refuses to read the older switch of TF32 where anybody has set the newer one.
if hasattr(torch.backends.cudnn, "conv"):
    SETTINGS["TF32 of convolutions"] = attribute(torch.backends.cudnn.conv, "fp32_precision")
else:
    SETTINGS["TF32 of convolutions"] = attribute(torch.backends.cudnn, "allow_tf32")


def _plain(device: torch.device) -> torch.device | None:
    """Unset, where it is the CPU: a default that is set slows every call down."""
    return None if device.type == "cpu" else device
