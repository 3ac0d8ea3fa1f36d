"""The machine: which device to compute on, and what the manifest says of it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from .errors import InputError


def checked_device(text: str) -> str:
    """The device that ``--device`` asks for.

    Raises
    ------
    InputError
        No device name, or CUDA where torch cannot use it.
    """
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise InputError(f"--device {text}: give auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {text}: this machine has no CUDA device that torch can use; try cpu")
    return text


def describe_hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
