"""Tasks and cases on their way to other processes: only a child opens a case that a plugin loads."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Pair, Volume
from ..errors import InputError
from ..loading import module_from_path, module_name
from ..text import describe
from .facts import plain_values
from .shared_arrays import can_be_shared

if TYPE_CHECKING:
    from .spec import Task

Parcel = tuple[tuple[str, ...], bytes]

TRUTH = "truth."  # and a name: an array of ground truth


def pack(task: Task, upcoming: Case | None = None) -> Parcel:
    """Pickle for another process, with the plugin files that its objects may come from."""
    return task.plugins, pickle.dumps((task, upcoming))


def unpack(parcel: Parcel) -> tuple[Task, Case | None]:
    """Undo `pack`."""
    task, upcoming = _Unpickler(*parcel).load()
    return task, upcoming


_SEALED = "a sealed case is loaded in a child (fusebench.engine.apart)"


@dataclass(frozen=True)
class Sealed:
    """Loader of a plugin's case, as bytes: no code of the plugin runs where it is not `unsealed`.

    Attributes
    ----------
    content : bytes
        Pickle of the case.
    fault : str
        The reason where it cannot be sent.
    """

    content: bytes
    fault: str = ""

    def __call__(self) -> Pair:
        raise InputError(self.fault or _SEALED)


def seal(case: Case) -> Case:
    """The case for a worker: of a plugin's, what the engine has to know, of types without code."""
    if not case.is_foreign:
        return case
    try:
        loader = Sealed(pickle.dumps(case))
    except Exception as error:
        reason = f"cannot be sent to a worker: {describe(error)}; loaders are functions of a module"
        loader = Sealed(b"", f"the case {reason}")
    return Case(
        id=_text(case.id),
        dataset=_text(case.dataset),
        group=_text(case.group),
        fingerprint=_text(case.fingerprint),
        loader=loader,
        truth_loader=None if case.truth_loader is None else _sealed_truth,
        meta=plain_values(case.meta),
        voxels=None if case.voxels is None else int(case.voxels),
        origin=_text(case.origin),
    )


def _sealed_truth() -> Mapping[str, NDArray[Any]]:
    raise InputError(_SEALED)


def unsealed(plugins: Sequence[str], content: bytes) -> Case:
    """The plugin's case; its code runs."""
    case: Case = _Unpickler(plugins, content).load()
    return case


def described(case: Case) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts of a loaded case, from which `opened` makes it anew."""
    pair, facts = case.pair, dict[str, Any]()
    arrays: dict[str, NDArray[Any]] = {"mask": pair.mask}
    for name, volume in (("a", pair.a), ("b", pair.b), ("reference", pair.reference)):
        if volume is not None:
            arrays[name] = volume.data
            arrays[f"{name}.affine"] = np.asarray(volume.affine, np.float64)
            facts[name] = [float(value) for value in volume.intensity]
            if volume.chroma is not None:
                arrays[f"{name}.chroma"] = volume.chroma
    try:
        for name, value in (case.truth or {}).items():
            array = _as_array(value)
            if array is not None:  # objects are of no use to a metric that scores images
                arrays[f"{TRUTH}{name}"] = array
    except Exception as error:  # whoever asks for it is told
        facts["no truth"] = describe(error)
    return arrays, facts


def _as_array(value: Any) -> NDArray[Any] | None:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    return array if can_be_shared(array) else None


def opened(case: Case, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Case:
    """A sealed case with the images that a child has loaded.

    Raises
    ------
    KeyError, TypeError, ValueError
        The facts are none of `described`.
    InputError
        The images are none to be fused.
    """
    volumes = {name: _volume(name, facts, arrays) for name in ("a", "b", "reference") if name in facts}
    pair = Pair(volumes["a"], volumes["b"], arrays["mask"], volumes.get("reference"))
    truth = {name.removeprefix(TRUTH): array for name, array in arrays.items() if name.startswith(TRUTH)}
    reads = None if case.truth_loader is None else partial(_truth, truth, str(facts.get("no truth", "")))
    found = replace(case, loader=partial(_itself, pair), truth_loader=reads)
    found.load()
    return found


def _volume(name: str, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Volume:
    low, high = (float(value) for value in facts[name])
    affine = arrays[f"{name}.affine"].reshape(4, 4)
    return Volume(arrays[name], affine, (low, high), arrays.get(f"{name}.chroma"))


def _itself(pair: Pair) -> Pair:
    return pair


def _truth(truth: Mapping[str, NDArray[Any]], fault: str) -> Mapping[str, NDArray[Any]]:
    if fault:
        raise InputError(f"the ground truth cannot be read: {fault[:300]}")
    return truth


def _text(value: str) -> str:
    """Without what a type of a plugin's own may add to it."""
    return str.__str__(value)


class _Unpickler(pickle.Unpickler):
    """Imports a plugin file when an object of it comes along; what is not needed cannot get in the way."""

    def __init__(self, plugins: Iterable[str], content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._files = {module_name(Path(path)): Path(path) for path in plugins}

    def find_class(self, module: str, name: str) -> Any:
        if module in self._files:
            module_from_path(self._files[module])
        return super().find_class(module, name)
