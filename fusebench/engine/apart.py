"""The work of plugins, in processes of their own: what one changes, another never sees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..case import Case
from ..errors import InputError, Undefined
from ..text import printable
from .child import live
from .fusing import Cost, Fuser, Image, Killed, TaskEnded, in_range
from .nursery import Nursery
from .parcel import TRUTH, Sealed, opened
from .shared_arrays import Layout, layout_of, memory, put, read_at, taken
from .watched import Child, Limits, rss_mb
from .worker import stage_seconds

if TYPE_CHECKING:
    from .spec import Task

Part = tuple[int, Layout]  # arrays in shared memory

_PAIRS = 3  # in shared memory


class Apart:
    """Makes children for the tasks of one worker.

    Parameters
    ----------
    inherited : sequence of int
        File descriptors that no child may have.
    threads : int
        Of every child.
    """

    def __init__(self, inherited: Sequence[int] = (), threads: int = 1) -> None:
        self._nursery = Nursery(live, inherited)
        self._threads = threads
        self._base_mb = rss_mb(self._nursery.pid)
        self._plugins: set[tuple[str, ...]] = set()
        self._modules: set[str] = set()
        self._inputs: list[tuple[Image, Image, tuple[int, int]]] = []

    def close(self) -> None:
        """End every process."""
        self._nursery.close()

    def ask(self, question: bytes, seconds: float | None = None) -> bytes:
        """Pickled answer to a pickled question, found out in a child.

        Raises
        ------
        TaskEnded
            The child died of it or took over `seconds`.
        """
        with self._child(Limits(other=seconds)) as child:
            found = child.do("import", ("ask", question))
            content = child.rest()
        new = [name for name in found["modules"] if name not in self._modules]
        if new:
            self._modules.update(new)
            self._nursery.prepare([], new)
        return content

    @contextlib.contextmanager
    def _child(self, limits: Limits) -> Iterator[Child]:
        child = Child(self._nursery, limits, self._base_mb)
        try:
            yield child
        finally:
            child.forget()

    @contextlib.contextmanager
    def _at_work(self, task: Task, memory_mb: float | None) -> Iterator[Child]:
        if task.plugins not in self._plugins:
            self._plugins.add(task.plugins)
            self._nursery.prepare(task.plugins)
        with self._child(Limits(task.timeout, stage_seconds(task.timeout), memory_mb)) as child:
            yield child

    @contextlib.contextmanager
    def method(self, task: Task, memory_mb: float | None = None) -> Iterator[Fuser]:
        """The task's method, set up in a child that ends with the context."""
        spec = task.method
        with self._at_work(task, memory_mb) as child:
            answer = child.do("import", ("make", task.plugins, spec, task.device, self._threads))
            with contextlib.closing(_Method(spec.name, child, bool(answer["by_slice"]), self)) as method:
                yield method

    def load(self, task: Task, memory_mb: float | None = None) -> Case:
        """The task's sealed case, loaded in a child.

        Raises
        ------
        TaskEnded
            The plugin could not load it, or the child died or was ended for what it took.
        InputError
            It cannot be sent to a child, or the images are none to be fused.
        """
        sealed = task.case.loader
        assert isinstance(sealed, Sealed)
        if sealed.fault:
            raise InputError(sealed.fault)
        with self._at_work(task, memory_mb) as child:
            job = ("load", task.plugins, sealed.content, task.loading, self._threads)
            said = child.do("import", job)
            fd = child.sent()
            try:
                return opened(task.case, said, taken(fd, said.get("layout")))
            except (KeyError, TypeError, ValueError, OverflowError):
                raise child.garbled("load") from None
            finally:
                os.close(fd)

    def score(
        self,
        task: Task,
        protocol: str,
        metric: str,
        scene: SharedScene,
        truth: Mapping[str, Any] | None = None,
        memory_mb: float | None = None,
    ) -> tuple[Any, str]:
        """A plugin's metric in a child: its value or an exception, and the hash of its source."""
        try:
            parts = [*scene.images, *([scene.of_truth(truth)] if truth else [])]
        except (TypeError, ValueError) as error:
            return TaskEnded("error", f"the ground truth cannot be sent to a metric: {error}"), ""
        layouts = [layout for _, layout in parts]
        job = ("score", task.plugins, protocol, metric, self._threads, layouts, scene.spacing)
        again = True
        while True:
            try:
                with self._at_work(task, memory_mb) as child:
                    return _value(child.do("import", job, [fd for fd, _ in parts]))
            except TaskEnded as death:
                if not (again and isinstance(death, Killed)):
                    return TaskEnded(death.status, str(death)), ""
                again = False  # by a method in another worker, say: once, it is run again

    def inputs(self, a: Image, b: Image) -> tuple[int, int]:
        """Descriptors of the pair in shared memory; the last pairs are kept, a case and its variants."""
        for held in self._inputs:
            if held[0] is a and held[1] is b:
                return held[2]
        while len(self._inputs) >= _PAIRS:
            for fd in self._inputs.pop(0)[2]:
                os.close(fd)
        self._inputs.append((a, b, (_shared(a), _shared(b))))
        return self._inputs[-1][2]


class _Method:
    """A `Fuser` in a child."""

    def __init__(self, name: str, child: Child, by_slice: bool, apart: Apart) -> None:
        self._name, self._child, self.by_axial_slice, self._apart = name, child, by_slice, apart
        self._into: dict[int, int] = {}  # descriptors of memory for answers, by its size

    def fuse(self, a: Image, b: Image, seed: int = 0, repeats: int = 1) -> tuple[Image, Cost]:
        size = 4 * a.size
        if size not in self._into:
            self._into[size] = memory(size)
        into = self._into[size]
        fds = [*self._apart.inputs(a, b), into]
        cost = _cost(self._child.do("fuse", ("fuse", a.shape, seed, repeats), fds, repeats))
        # Copied before it is looked at: who can still write to it may not change it behind the check.
        fused = np.empty(a.shape, np.float32)
        try:
            read_at(into, fused)
        except ValueError:
            raise TaskEnded("error", "fusing cut the engine's own memory short") from None
        return in_range(self._name, fused, out=fused), cost

    def close(self) -> None:
        """Give back the memory for answers."""
        for fd in self._into.values():
            os.close(fd)


def _cost(answer: dict[str, Any]) -> Cost:
    try:
        gpu = answer["gpu_memory_mb"]
        seconds = [float(s) for s in answer["seconds"]]
        return Cost(seconds, float(answer["memory_mb"]), None if gpu is None else float(gpu))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise TaskEnded("error", "fusing wrote to the engine's own connection") from None


def _shared(array: Image) -> int:
    return put({"": np.asarray(array, np.float32)})[0]


def _value(said: Mapping[str, Any]) -> tuple[Any, str]:
    """Value or exception, and the hash of its source, from what a child says of a score."""
    source = str(said.get("source"))
    if "undefined" in said:
        return Undefined(printable(str(said["undefined"]))[:300]), source
    try:
        return float(said["value"]), source
    except (KeyError, TypeError, ValueError, OverflowError):
        return TaskEnded("error", "scoring wrote to the engine's own connection"), source


class SharedScene:
    """A case, its fused image and ground truth in shared memory, for all metrics of plugins that score it."""

    def __init__(self, apart: Apart, case: Case, fused: Image) -> None:
        self.spacing = case.a.spacing
        sources = {"a": case.a.data, "b": case.reference.data}
        shared = zip(apart.inputs(*sources.values()), sources.items(), strict=True)
        self._fused = put({"fused": fused, "mask": case.mask})
        self.images: list[Part] = [*((fd, [layout_of(name, x)]) for fd, (name, x) in shared), self._fused]
        self._truths: list[tuple[Mapping[str, Any], Part]] = []

    def of_truth(self, truth: Mapping[str, Any]) -> Part:
        """Descriptor and layout of ground truth.

        Raises
        ------
        TypeError
            It holds other things than numbers.
        """
        for held, part in self._truths:
            if held is truth:
                return part
        part = put({f"{TRUTH}{name}": np.asarray(array) for name, array in truth.items()})
        self._truths.append((truth, part))
        return part

    def __enter__(self) -> SharedScene:
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _layout in [self._fused, *(part for _, part in self._truths)]:
            os.close(fd)
