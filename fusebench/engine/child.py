"""A child of the nursery: answers a question, fuses, loads a case or scores; what it changes ends with it.

Messages to it are pickles of ``(job, arguments)``; its own are JSON, which runs no code where it is read,
except the answer to a question, which is passed on unopened.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import FuseBenchError, Undefined
from ..files import is_installed
from ..metric import MetricId
from ..plugins import find_plugins
from ..scoring.protocol import PROTOCOLS, ScoredImages
from ..store.data_keys import Loading, check_loading
from ..text import describe
from .fusing import CopiedPair, Here, Image, seed_by, status_of, warm_up
from .link import Link
from .parcel import TRUTH, described, unsealed
from .plan import metric_source
from .shared_arrays import Layout, put, views, write_at
from .spec import MethodSpec, check_source

# By a method: nobody else interrupts a child, which ignores Ctrl-C.
_RAISED = (Exception, KeyboardInterrupt, GeneratorExit)


def live(link: Link) -> None:
    """Do the jobs that come, until the other end closes."""
    session = _Session(link)
    while True:
        job, *given = pickle.loads(link.receive() or b"")
        getattr(session, job)(*given)
        sys.stdout.flush()  # the end comes without warning


class _Session:
    """State of one child."""

    def __init__(self, link: Link) -> None:
        self._link, self._mine = link, os.getpid()
        self._here: Here
        self._given = _PrivatePair()
        self._warm = True

    def _say(self, fds: Sequence[int] = (), **message: Any) -> None:
        if os.getpid() != self._mine:  # a plugin has forked and let its child return
            os._exit(0)
        try:
            self._link.send(json.dumps(message).encode(), fds)
        except OSError:  # somebody has closed it
            os._exit(1)

    def ask(self, question: bytes) -> None:
        """Answer with what a pickled callable returns, or the error that the user is to read."""
        known = set(sys.modules)
        try:
            answer = pickle.loads(question)()
        except FuseBenchError as error:
            answer = error
        content = pickle.dumps(answer)
        self._say(answer=len(content), modules=_libraries(set(sys.modules) - known))
        self._link.send(content)

    def make(self, plugins: Sequence[str], spec: MethodSpec, device: str, threads: int) -> None:
        """Make a method and set it up."""
        cold = bool(spec.info.params)
        try:
            torch.set_num_threads(threads)
            cls = find_plugins(tuple(plugins)).methods.load(spec.plugin or spec.name)
            self._say(stage="setup")
            method = cls(**spec.parameters)
            check_source(spec, method)
            method.setup(device)
            self._here, self._warm = Here(method, self._given, alone=True), not cold
            by_slice = bool(self._here.by_axial_slice)
        except _RAISED as error:
            self._fail(error)
        else:
            self._say(by_slice=by_slice)

    def fuse(self, shape: Sequence[int], seed: int, repeats: int) -> None:
        """Fuse the pair in the first two descriptors that came along, into the third."""
        into, fds = self._link.fds[2], self._link.fds[:2]
        del self._link.fds[:3]
        try:
            a, b = (_mapped(fd, shape, mmap.ACCESS_READ) for fd in fds)
            self._given.files = {id(a): fds[0], id(b): fds[1]}
            if not self._warm:
                warm_up(self._here, a, b)
                self._warm = True
            fused, cost = self._here.fuse(a, b, seed, repeats)
            write_at(into, np.ascontiguousarray(fused))
        except _RAISED as error:
            self._fail(error)
        else:
            self._say(seconds=list(cost.seconds), memory_mb=cost.memory_mb, gpu_memory_mb=cost.gpu_memory_mb)
        finally:
            for fd in (into, *fds):
                os.close(fd)

    def load(self, plugins: Sequence[str], content: bytes, loading: Loading, threads: int) -> None:
        """Load a sealed case with the code of the plan."""
        try:
            torch.set_num_threads(threads)
            case = unsealed(plugins, content)
            check_loading(loading, case.dataset)
            self._say(stage="load")
            seed_by(case)
            case.load()
            arrays, facts = described(case)
            fd, layout = put(arrays)
        except (*_RAISED, SystemExit) as error:
            self._fail(error)
        else:
            self._say([fd], layout=layout, **facts)

    def score(
        self,
        plugins: Sequence[str],
        protocol: str,
        metric: str,
        threads: int,
        layouts: Sequence[Layout],
        spacing: tuple[float, float, float],
    ) -> None:
        """Score with one metric the images, and ground truth, in the descriptors that came along."""
        source = ""
        try:
            torch.set_num_threads(threads)
            found, name = find_plugins(tuple(plugins)), MetricId.parse(metric).name
            found.metrics.load(name)
            source = metric_source(found, name)
            self._say(stage="score")
            arrays = dict[str, Any]()
            for layout in layouts:
                arrays |= views(self._link.fds.pop(0), layout)
            truth = {k.removeprefix(TRUTH): v for k, v in arrays.items() if k.startswith(TRUTH)}
            a, b, fused, mask = (torch.from_numpy(arrays[k]) for k in ("a", "b", "fused", "mask"))
            scene = ScoredImages(a, b, fused, mask, spacing)
            value = PROTOCOLS[protocol].score(scene, [metric], truth or None, found)[metric]
            if isinstance(value, Exception):
                raise value
            value = float(value)
        except Undefined as error:
            self._say(undefined=describe(error), source=source)
        except (*_RAISED, SystemExit) as error:
            self._fail(error)
        else:
            self._say(value=value, source=source)

    def _fail(self, error: BaseException) -> None:
        self._say(status=status_of(error), reason=describe(error))


class _PrivatePair(CopiedPair):
    """Copies of arrays in shared memory, made a page at a time where something is written."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[int, int] = {}  # descriptors, by the arrays' identities

    def copy(self, x: Image) -> Image:
        fd = self.files.get(id(x))  # a corner of one has none
        return super().copy(x) if fd is None else _mapped(fd, x.shape, mmap.ACCESS_COPY)


def _mapped(fd: int, shape: Sequence[int], access: int) -> Image:
    """One of the parent's `inputs`, which this process can only read, or change for itself alone."""
    return views(fd, [("", np.dtype(np.float32).str, list(shape))], access)[""]


def _libraries(names: set[str]) -> list[str]:
    """Those modules that are installed libraries, in the order in which they were imported.

    Packages that offer plugins are plugins, not libraries.
    """
    from importlib.metadata import entry_points

    offering = {
        ep.module.partition(".")[0]
        for group in ("methods", "metrics", "datasets")
        for ep in entry_points(group=f"fusebench.{group}")
    } | {"fusebench"}
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in names or name.partition(".")[0] in offering or not isinstance(file, str):
            continue
        if is_installed(file):
            found.append(name)
    return found
