"""Checks of what a method says of itself: its facts, parameters, weights and their number."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from ..files import file_sha256
from ..method import MethodInfo
from ..store.keys import path_of
from ._kit import SAFE_NAME, Check, CheckFailed, check
from .method_subject import MethodSubject


@check()
def info_declared(s: MethodSubject) -> None:
    """`info` is complete: name, summary, dims, licence, colour, what it was trained on."""
    info = getattr(s.cls, "info", None)
    if not isinstance(info, MethodInfo):
        raise CheckFailed("the class has no `info`; add  info = MethodInfo(name=..., summary=...)")
    if not SAFE_NAME.fullmatch(info.name):
        raise CheckFailed(f"info.name is {info.name!r}; use letters, digits, - _ and . only (it names files)")
    for field in ("summary", "licence", "colour"):
        text = getattr(info, field)
        if not text.strip() or "\n" in text:
            raise CheckFailed(f"info.{field} is {text!r}; give one line")
    if info.dims not in (2, 3):
        raise CheckFailed(f"info.dims is {info.dims!r}; 2 (slice-wise) or 3 (volumes)")
    if (info.dims == 2) != s.sliced:
        base = "SliceMethod" if info.dims == 2 else "Method"
        raise CheckFailed(
            f"info.dims is {info.dims} but the class does not derive from {base}; make them agree"
        )
    if info.weights is not None and not info.trained_on:
        raise CheckFailed("weights are shipped but info.trained_on is empty; name dataset and split")


@check()
def parameters_kept(s: MethodSubject) -> None:
    """Every constructor argument has a default and is stored under its own name."""
    arguments = [p for n, p in inspect.signature(s.cls.__init__).parameters.items() if n != "self"]
    for p in arguments:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.default is p.empty and p.name not in s.parameters:
            raise CheckFailed(
                f"argument {p.name!r} has no default; give it one, so that --methods all can run it"
            )
    method = s.cls(**s.parameters)
    lost = [p.name for p in arguments if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    lost = [n for n in lost if not hasattr(method, n)]
    if lost:
        raise CheckFailed(
            f"{', '.join(lost)} not stored: set self.{lost[0]} = {lost[0]} in __init__; the content key and "
            "the manifest read parameters there"
        )
    try:
        json.dumps(dict(method.parameters()), default=str)
    except (TypeError, ValueError) as error:
        raise CheckFailed(
            f"parameters cannot be written as JSON ({error}); use numbers, text and lists"
        ) from error


@check("parameters_kept")
def weights_safe(s: MethodSubject) -> None:
    """Weights are safetensors with the declared sha256; setup unpickles nothing, needs no network."""
    weights, source = s.info.weights, path_of(s.cls)
    if weights is not None and source is not None and not s.parameters.get("weights"):
        path = source.parent / weights.file
        if path.suffix != ".safetensors":
            raise CheckFailed(
                f"{weights.file} is not .safetensors; convert it with safetensors.torch.save_file"
            )
        if not path.is_file():
            raise CheckFailed(f"{weights.file} is missing beside {source.name}; ship the file")
        if (found := file_sha256(path)) != weights.sha256:
            raise CheckFailed(f"{weights.file} has sha256 {found}; write that into info.weights.sha256")
    with _guarded():
        s.ready  # noqa: B018 - made here, under guard


@contextmanager
def _guarded() -> Iterator[None]:
    """Refuse unsafe unpickling and network connections."""
    load = torch.load

    def checked_load(*args: Any, **options: Any) -> Any:
        if options.get("weights_only") is False:
            raise CheckFailed(
                "setup calls torch.load(weights_only=False), which runs code from the file; use "
                "safetensors.torch.load_file, or weights_only=True for foreign files"
            )
        # torch itself calls pickle for safe files.
        with mock.patch.multiple(pickle, load=_pickle_load, loads=_pickle_loads):
            return load(*args, **options)

    def refuse(what: str) -> Callable[..., Any]:
        def refused(*args: Any, **options: Any) -> Any:
            raise CheckFailed(f"setup {what}")

        return refused

    unpickles = refuse("unpickles a file, which runs code from it; use safetensors.torch.load_file")
    connects = refuse("opens a network connection; ship the weights, or take their path as weights=FILE")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "load", checked_load))
        stack.enter_context(mock.patch.multiple(pickle, load=unpickles, loads=unpickles))
        stack.enter_context(mock.patch("socket.socket.connect", connects))
        yield


_pickle_load, _pickle_loads = pickle.load, pickle.loads


@check("weights_safe")
def params_counted(s: MethodSubject) -> None:
    """`info.params` is the number of learned parameters in use."""
    counted = {
        id(p): p.numel() for value in vars(s.ready).values() for m in _modules(value) for p in m.parameters()
    }
    total = sum(counted.values())
    if total != s.info.params:
        raise CheckFailed(
            f"info.params is {s.info.params:,}, but its networks have {total:,}; write that number"
        )


def _modules(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _modules(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _modules(item)


FACTS: tuple[Check, ...] = (info_declared, parameters_kept, weights_safe, params_counted)
