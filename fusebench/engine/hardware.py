"""The machine: which device to compute on, and what the manifest says of it."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import InputError
from ..limits import usable_cores, usable_memory_mb


def checked_device(text: str) -> str:
    """The device that ``--device`` asks for.

    Raises
    ------
    InputError
        Another device, or CUDA where torch cannot use it or has no such GPU.
    """
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", text):
        raise InputError(f"--device {text}: give auto, cpu, cuda or cuda:N")
    if text != "cpu":
        if not torch.cuda.is_available():
            raise InputError(f"--device {text}: this machine has no CUDA device that torch can use; try cpu")
        count = torch.cuda.device_count()
        if int(text.partition(":")[2] or 0) >= count:
            raise InputError(f"--device {text}: this machine has {count} GPU; the last is cuda:{count - 1}")
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
        "usable_cores": usable_cores(),
        "usable_memory_gb": round(usable_memory_mb() / 2**10, 1),
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
