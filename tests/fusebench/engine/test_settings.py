"""Settings that are put back where methods share a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fusebench.methods._precision import full_precision
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fusebench.engine.keeper import Unrestored
from fusebench.engine.plain_settings import UNREADABLE, Table, read, write
from fusebench.engine.settings import SETTINGS
from fusebench.engine.world import World

LIBRARIES: list[Any] = []


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("it does not want to be left")


class Function(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("nothing works under it")


def replaces_an_operator() -> None:
    LIBRARIES.append(torch.library.Library("aten", "IMPL"))
    LIBRARIES[-1].impl("maximum", lambda x, y: x.clone(), "CPU")


def hooks_every_module() -> None:
    register_module_forward_hook(lambda module, given, found: found * 2)


def sets_a_meta_device_below_a_mode() -> None:
    torch.set_default_device("meta")
    Function().__enter__()


def sets_precision(where: str, value: str) -> Callable[[], None]:
    owner = torch.backends
    for name in where.split(".") if where else ():
        owner = getattr(owner, name)
    return lambda: setattr(owner, "fp32_precision", value)


def old_and_new_precision() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = False
    sets_precision("cuda.matmul", "ieee")()


NEWER = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9")


@pytest.mark.parametrize(
    "harm",
    [
        lambda: torch.set_default_device("meta"),
        lambda: [torch.device("meta").__enter__() for _ in range(2)],
        sets_a_meta_device_below_a_mode,
        lambda: Dispatch().__enter__(),
        replaces_an_operator,
        hooks_every_module,
        lambda: torch.set_float32_matmul_precision("medium"),
        pytest.param(sets_precision("", "tf32"), marks=NEWER),
        pytest.param(sets_precision("cuda.matmul", "tf32"), marks=NEWER),
        pytest.param(sets_precision("cudnn.rnn", "ieee"), marks=NEWER),
        pytest.param(sets_precision("mkldnn.matmul", "bf16"), marks=NEWER),
        pytest.param(old_and_new_precision, marks=NEWER),
    ],
)
@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
def test_what_a_method_sets_in_torch_is_put_back(harm: Callable[[], object]) -> None:
    before = read(SETTINGS)
    with World().kept():
        harm()
    assert read(SETTINGS) == before and UNREADABLE not in before.values()
    one = torch.ones(2)
    assert torch.maximum(one, 2 * one).tolist() == torch.nn.Identity()(2 * one).tolist() == [2, 2]
    assert isinstance(torch.get_float32_matmul_precision(), str) and torch.backends.cudnn.allow_tf32


def test_a_setting_that_cannot_be_read_or_set_keeps_no_other_from_being_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setitem(SETTINGS, "umask", (fails, fails))
    with World().kept():
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32
    said = [1]
    monkeypatch.setitem(SETTINGS, "umask", (said.pop, fails))
    with pytest.raises(Unrestored, match="for good: umask"), World().kept():
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32


def test_what_another_thread_changes_meanwhile_is_not_lost() -> None:
    held = {"first": 2, "second": 2}
    table: Table = {
        "first": (lambda: held["first"], lambda value: held.update(first=value)),
        "second": (lambda: held["second"], lambda value: held.update(second=value, first=3)),
    }
    assert write(table, {"first": 1, "second": 1}) == ({"first": 2, "second": 2}, [])


def test_settings_can_be_read_after_a_learned_method() -> None:
    """torch refuses some of them where two ways of setting one were mixed."""
    with full_precision():
        pass
    for get, put in SETTINGS.values():
        put(get())
