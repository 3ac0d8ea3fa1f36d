"""Write a new plugin: one commented file, its card and its test, that run at once."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ..errors import InputError
from ..files import ROOT, atomic_path, file_sha256, write_text
from ..plugins import Plugins

Kind = Literal["method", "metric", "dataset"]

_NAMES = {
    "method": (r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", "small letters, digits and -, as in wavelet-max"),
    "metric": (r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*", "small letters, digits and _, as in edge_loss"),
    "dataset": (r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", "small letters, digits and -, as in my-hospital"),
}
_ELSEWHERE = "make room, or give another folder with --out"


@dataclass(frozen=True)
class Scaffold:
    """The files that were written.

    Attributes
    ----------
    plugin, card, test : Path
    weights : Path or None
        Initial weights of a learned method.
    dropped_in : bool
        Whether the plugin lies in the checkout's folder, where it is found without ``--plugin``.
    """

    plugin: Path
    card: Path
    test: Path
    weights: Path | None
    dropped_in: bool


def write_plugin(
    kind: Kind,
    name: str,
    plugins: Plugins,
    *,
    out: Path | None = None,
    dims: Literal[2, 3] = 3,
    learned: bool = False,
) -> Scaffold:
    """Write the files of a new plugin.

    Parameters
    ----------
    kind : {"method", "metric", "dataset"}
    name : str
        Public name.
    plugins : Plugins
        What is registered, so that the name is new.
    out : Path, optional
        Folder for all files.  Default: the plugin folder and the tests of the checkout, else here.
    dims, learned
        Of a method.

    Raises
    ------
    InputError
        The name is malformed or taken, or a file is in the way.
    """
    pattern, advice = _NAMES[kind]
    if not re.fullmatch(pattern, name):
        raise InputError(f"{name!r} cannot name a {kind}; use {advice}")
    registry = getattr(plugins, f"{kind}s")
    if name in registry:
        raise InputError(
            f"a {kind} called {name!r} exists ({registry.entry(name).origin}); choose another name"
        )
    module = name.replace("-", "_")
    root = None if out else _checkout()
    folder = root / f"{kind}s" if root else (out or Path.cwd())
    tests = root / "tests" / f"{kind}s" if root else folder
    in_weights = "weights/" if root else ""
    result = Scaffold(
        folder / f"{module}.py",
        folder / f"{module}.md",
        tests / f"test_{module}.py",
        folder / f"{in_weights}{module}.safetensors" if learned else None,
        root is not None,
    )
    files_made = [result.plugin, result.card, result.test, *([result.weights] if result.weights else [])]
    for path in files_made:
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists; choose another name or delete it")
    facts = {
        "name": name,
        "module": module,
        "cls": "".join(word.capitalize() for word in module.split("_")),
        "title": module.replace("_", " ").capitalize(),
        "dims": dims,
        "axes": "H, W" if dims == 2 else "D, H, W",
        "base": "SliceMethod" if dims == 2 else "Method",
        "imports": "MethodInfo, SliceMethod" if dims == 2 else "Method, MethodInfo",
        "learned": learned,
        "plugin": root is None,
        "training": ".training" if root else "fusebench.methods.training",
        "weights": f"{in_weights}{module}.safetensors",
        "sha256": "",
        "params": 0,
    }
    try:
        if result.weights is not None:
            facts |= _initial_weights(result, facts)
        for path, template in (
            (result.plugin, f"{kind}.py"),
            (result.card, f"{kind}.md"),
            (result.test, f"{kind}_test.py"),
        ):
            _write(path, template, facts)
    except BaseException:  # a part of them would be in the way of the same command
        for path in files_made:
            path.unlink(missing_ok=True)
        raise
    return result


def _checkout() -> Path | None:
    """The root of the checkout, None for an installed package."""
    root = ROOT
    return root if (root / "run_bench.py").exists() else None


def _write(path: Path, template: str, facts: Mapping[str, Any]) -> None:
    from jinja2 import Environment, StrictUndefined

    text = files("fusebench").joinpath("templates", f"{template}.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    try:
        write_text(path, environment.from_string(text).render(facts).rstrip() + "\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {_ELSEWHERE}") from None


def _initial_weights(result: Scaffold, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Save the new network's weights; their hash and number belong into the plugin's literal."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert result.weights is not None
    _write(result.plugin, "method.py", facts)
    network = _load(result.plugin).Network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = network().state_dict()
    try:
        with atomic_path(result.weights) as temporary:
            save_file(state, temporary)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{result.weights}: cannot be written ({error}); {_ELSEWHERE}") from None
    return {"sha256": file_sha256(result.weights), "params": sum(t.numel() for t in state.values())}


def _load(path: Path) -> ModuleType:
    # In the methods folder its relative imports need that package.
    package = "fusebench.methods" if path.parent == (_checkout() or path) / "methods" else ""
    name = f"{package}.{path.stem}" if package else f"_fusebench_new_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
