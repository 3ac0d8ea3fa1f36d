"""The process that trains: its devices, deterministic kernels, and how it is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from fusebench.errors import InputError
from fusebench.limits import usable_cores


def launch(
    device: str, devices: int = 1, precision: str = "32", threads: int = 0, *, unused_parameters: bool = False
) -> Fabric:
    """Start Fabric, with as many processes as devices; parameters as of `fit.Job` and `Recipe`.

    Raises
    ------
    InputError
        A device is not there, or cannot compute in that precision.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    named = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]
    _check_devices(kind, devices)
    if kind == "cpu" and precision == "16":
        raise InputError("--precision 16 needs a GPU; use bf16 or 32 on the CPU")
    strategy = DDPStrategy(find_unused_parameters=unused_parameters) if devices > 1 else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fabric = Fabric(
                accelerator=kind,
                devices=[int(number)] if number else devices,
                precision=named,  # type: ignore[arg-type]
                strategy=strategy,
            )
            fabric.launch()
        # Fabric has no common base class for "you asked for what is not there".
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"--device {device} --devices {devices}: {str(error).splitlines()[0]}"
            ) from error
    # Said once per run of every network with depthwise convolutions; it costs a copy, nothing else.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if threads:
        torch.set_num_threads(threads)
    return fabric


def _check_devices(kind: str, asked: int) -> None:
    """Refuse more processes than there are devices for, each of which would be started."""
    there = torch.cuda.device_count() if kind == "cuda" else max(2, usable_cores())
    if asked > there:
        what = "devices" if kind == "cuda" else "processes at most, for the cores that may be used"
        raise InputError(f"--devices {asked}: there are {there} {what}; give fewer")


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels where torch has them, a warning elsewhere."""
    fill: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    fill.fill_uninitialized_memory = False  # slow, and nothing reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=only_warn)
        fill.fill_uninitialized_memory = filled


@contextmanager
def signals() -> Iterator[threading.Event]:
    """Set when the process is asked to end: the step is finished first.  Asked twice, it ends at once."""
    asked = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
