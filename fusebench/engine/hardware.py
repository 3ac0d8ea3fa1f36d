"""The machine: which device to compute on, and what the manifest says of it."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ..errors import InputError
from ..limits import usable_cores, usable_memory_mb

# Variables by which someone may have chosen other kernels than the processor would have.
_FORCING = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)


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
    """Processor, cores, memory, accelerators, and which kernels compute: the last digits depend on them."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "threads": torch.get_num_threads(),
        "forced": {name: os.environ[name] for name in _FORCING if name in os.environ},
        "cores": psutil.cpu_count(logical=False),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "usable_cores": usable_cores(),
        "usable_memory_gb": round(usable_memory_mb() / 2**10, 1),
        "gpus": gpus,
    }


def _blas() -> dict[str, str]:
    """Name and version of the linear algebra of NumPy, with its kernel where it tells, and of torch."""
    built: Any = np.show_config(mode="dicts")
    built = built.get("Build Dependencies", {}).get("blas", {})
    found = {"numpy": f"{built.get('name', '')} {built.get('version', '')}".strip()}
    with suppress(ImportError):  # comes with scikit-learn, if at all
        from threadpoolctl import threadpool_info

        kernels = {i["architecture"] for i in threadpool_info() if i.get("architecture")}
        if kernels:
            found["numpy"] += f" ({', '.join(sorted(kernels))})"
    named = re.search(r"(?:Math Kernel Library|OpenBLAS|BLAS_INFO=)[^,\n]*", torch.__config__.show())
    found["torch"] = named[0].removeprefix("BLAS_INFO=").strip() if named else ""
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
