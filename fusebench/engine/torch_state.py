"""State of torch that takes more than a getter and a setter: modes, replaced operators, precision."""

from __future__ import annotations

import contextlib
import gc
from functools import cache
from typing import Any

import torch
from torch.library import Library
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from .plain_settings import UNREADABLE, Entry, attempt, attribute

# Kernels for shapes alone, and for tracing: modules that are imported late register them, for good.
_NO_NUMBERS = ("/Meta", "/Python")


def function_modes() -> tuple[torch.device, int]:
    """The default device, and how many modes there are; it is one, if it is set."""
    return torch.get_default_device(), int(torch._C._len_torch_function_stack())


def put_function_modes(kept: tuple[torch.device, int]) -> None:
    """Leave the modes above `kept`, and set the device; unset it for the CPU: one slows every call down."""
    device, count = kept
    is_set = device.type != "cpu"
    torch.set_default_device(None)
    while torch._C._len_torch_function_stack() > count - is_set:
        torch._C._pop_torch_function_stack()
    if is_set:
        torch.set_default_device(device)


def dispatch_modes() -> int:
    """How many there are."""
    return int(torch._C._len_torch_dispatch_stack())


def put_dispatch_modes(kept: int) -> None:
    """Leave those above `kept`, past what their own class does there."""
    leave: Any = TorchDispatchMode.__exit__
    for _ in range(dispatch_modes() - kept):
        leave(_python_dispatch._get_current_dispatch_mode(), None, None, None)


def operators() -> frozenset[str]:
    """Operators of torch that Python code has replaced, as ``aten/maximum/CPU``."""
    return _replaced(len(torch.library._impls))


@cache
def _replaced(count: int) -> frozenset[str]:
    """`operators`, looked for where their number is another: there are thousands of kernels."""
    return frozenset(k for k in torch.library._impls if k.startswith("aten/") and not k.endswith(_NO_NUMBERS))


def put_operators(kept: frozenset[str]) -> None:
    """Take back what has been replaced beyond `kept`."""
    destroy: Any = Library._destroy
    new = operators() - kept
    for library in [x for x in gc.get_objects() if issubclass(type(x), Library)] if new else ():
        if new & library._op_impls:
            destroy(library)
    _replaced.cache_clear()


# Older switches first: torch refuses to read them while a newer one contradicts, and setting them sets newer
# ones.  Of the newer ones, the wider first, which the others follow.
_PRECISION: list[Entry] = [
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    attribute(torch.backends.cudnn, "allow_tf32"),
]
if hasattr(torch.backends, "fp32_precision"):
    _backends: Any = torch.backends
    _wider = (_backends, _backends.cudnn, _backends.mkldnn)
    _cuda = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
    _cpu = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn)
    _PRECISION += [attribute(owner, "fp32_precision") for owner in (*_wider, *_cuda, *_cpu)]


def precision() -> tuple[Any, ...]:
    """Every switch of the precision of products."""
    return tuple(attempt(get) for get, _ in _PRECISION)


def put_precision(kept: tuple[Any, ...]) -> None:
    """Set the switches that differ, each as those before it have left it."""
    for (get, put), value in zip(_PRECISION, kept, strict=True):
        if value is not UNREADABLE and attempt(get) != value:
            with contextlib.suppress(Exception):
                put(value)
