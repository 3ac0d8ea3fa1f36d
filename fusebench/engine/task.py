"""One task, run inside a worker: load the case, fuse, check, score."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..case import Case
from ..errors import FuseBenchError, InputError, Undefined
from ..method import Method, SliceMethod
from ..metric import Metric, MetricId, Trial
from ..plugins import find_plugins
from ..scoring.protocol import PROTOCOLS, Scene, Truth
from ..store.rows import Row, Status
from .from_files import MISSING, fused_image
from .memory import PeakMemory
from .spec import Task
from .volumes import read_stored, save_findings, save_fused

RANGE_TOLERANCE = 1e-3
# Truth key under which task metrics find the fused counterfactual (see metrics of family "task").
TWIN = "fused_twin"
# And readers the case as they set it up, and what the method makes of the sources with findings.
TRIAL, FUSED_WITH = "trial", "fused_with"

Image = NDArray[np.float32]
Stage = Callable[[str], None]


class MethodFault(FuseBenchError):
    """A method broke its contract; the message says how."""


class TaskRunner:
    """Keeps what tasks share inside one worker: the methods set up so far, and the case as readers see it.

    Parameters
    ----------
    stage : callable
        Told the name of each stage ("load", "fuse", "score") as it begins; the parent times
        fusing by it.
    """

    def __init__(self, stage: Stage = lambda _: None) -> None:
        self.stage = stage
        self._methods: dict[str, Method] = {}
        self._given, self._given_with = Given(), Given()
        self._trial: tuple[str, Trial] | None = None
        self._background = ThreadPoolExecutor(1, "store")

    def run(self, task: Task, load_seconds: float | None = None) -> list[Row]:
        """Rows of a task; a failure is a row with its reason, never an exception.

        Parameters
        ----------
        load_seconds : float, optional
            What loading the case took, where that was done beforehand.
        """
        timing: dict[str, Any] = {}
        rows = [task.row(s, status="skip", reason=s.skip) for s in task.scores if s.skip]
        wanted = [s for s in task.scores if not s.skip]
        if not wanted:
            return rows
        try:
            if task.method.broken:
                raise MethodFault(task.method.broken)
            self.stage("load")
            begin = time.perf_counter()
            case = task.case
            _ = case.pair
            timing["load_seconds"] = load_seconds or time.perf_counter() - begin
            fused, method, stored = self._fused(task, timing)
            self.stage("score")
            scored: list[Row] = []
            try:
                for protocol in dict.fromkeys(s.protocol for s in wanted):
                    scores = [s for s in wanted if s.protocol == protocol]
                    scored += self._score(task, protocol, [s.metric for s in scores], fused, method, timing)
            finally:
                if stored is not None:
                    stored.result()  # a full disk is said in every row
                rows += scored
        # Whatever a plugin or a reader raises becomes rows; only the row says what went wrong.
        except Exception as error:
            done = {(row.protocol, row.metric) for row in rows}
            rows += [
                task.row(s, status=_status(error), reason=describe(error), **timing)
                for s in wanted
                if (s.protocol, s.metric) not in done
            ]
        return rows

    # -- fusing ----------------------------------------------------------------------------------

    def _fused(self, task: Task, timing: dict[str, Any]) -> tuple[Image, Method | None, Future[None] | None]:
        """Read the fused volume stored under the same key, else make it and begin to store it."""
        if task.image:
            fused = fused_image(task)
            kept = self._background.submit(save_fused, task, fused, task.case, {}) if task.save else None
            return fused, None, kept
        stored = read_stored(Path(task.fused_path), task.fuse_key) if task.reuse else None
        if stored is not None:
            fused, made = stored
            timing.update(made)
            return fused, None, None
        self.stage("fuse")
        method = self._method(task)
        case = task.case
        seconds = []
        with PeakMemory(task.device) as peak:
            for _ in range(max(1, task.repeats)):
                fused, elapsed = fuse(method, case.a.data, case.b.data, task.seed, self._given)
                seconds.append(elapsed)
        timing["fuse_seconds"] = statistics.median(seconds)
        if len(seconds) > 1:
            low, _, high = statistics.quantiles(seconds, n=4)
            timing["fuse_iqr"] = high - low
        timing["memory_mb"], timing["gpu_memory_mb"] = peak.memory_mb, peak.gpu_memory_mb
        if not task.save:
            return fused, method, None
        made = {k: v for k, v in timing.items() if k != "load_seconds"}
        # Packing takes as long as a fast method; it goes on while the volume is scored.
        return fused, method, self._background.submit(save_fused, task, fused, case, made)

    def _method(self, task: Task) -> Method:
        spec = task.method
        method = self._methods.get(spec.key)
        if method is None:
            method = find_plugins(task.plugins).methods.load(spec.plugin)(**spec.parameters)
            method.setup(task.device)
            if spec.info.params or task.device != "cpu":
                _warm_up(method, task.case)
            self._methods[spec.key] = method
        return method

    # -- scoring ---------------------------------------------------------------------------------

    def _score(
        self,
        task: Task,
        protocol: str,
        metrics: list[str],
        fused: Image,
        method: Method | None,
        timing: Mapping[str, Any],
    ) -> list[Row]:
        begin = time.perf_counter()
        plugins = find_plugins(task.plugins)
        truth = self._truth(
            task, [plugins.metrics.load(MetricId.parse(m).name) for m in metrics], fused, method
        )
        scene = Scene.of(task.case, fused, task.device)
        values = PROTOCOLS[protocol].score(scene, metrics, truth, plugins)
        seconds = time.perf_counter() - begin
        rows = []
        for score in task.scores:
            if score.protocol != protocol or score.metric not in values:
                continue
            value = values[score.metric]
            outcome: dict[str, Any] = {"value": value}
            if isinstance(value, Exception):
                status = "skip" if isinstance(value, Undefined) else _status(value)
                outcome = {"status": status, "reason": describe(value)}
            elif np.isnan(value):
                outcome = {"status": "skip", "reason": "not defined for this case"}
            rows.append(task.row(score, **outcome, **timing, score_seconds=seconds))
        return rows

    def _truth(self, task: Task, metrics: list[Metric], fused: Image, method: Method | None) -> Truth:
        """What metrics get besides the images: ground truth, the fused twin, findings."""
        infos = [metric.info for metric in metrics]
        readers = [metric for metric in metrics if metric.info.needs_trial]
        if readers:
            trial = self._set_up(readers[0], task.case)
            with_ = None
            if any(info.needs_findings for info in infos):
                with_ = self._fused_with(task, trial, fused, method)
            return {TRIAL: trial, FUSED_WITH: with_}
        if not any(info.needs_truth for info in infos):
            return None
        truth = dict(task.case.truth or {})
        lesion = truth.get("lesion")
        if any(info.needs_twin for info in infos) and lesion is not None and lesion.any():
            self.stage("fuse")  # --timeout is for every fuse
            truth[TWIN] = fuse_twin(method or self._method(task), task.case, truth, fused, task.seed)
            self.stage("score")
        return truth

    def _set_up(self, reader: Metric, case: Case) -> Trial:
        """The case as readers see it, once for all methods; the metrics of a protocol share one."""
        key = f"{case.dataset} {case.id} {case.fingerprint}"
        if self._trial is None or self._trial[0] != key:
            if reader.trial is None:
                raise InputError(
                    f"{reader.info.name} needs a trial and sets none up: @metric(..., trial=...)"
                )
            self._trial = key, reader.trial(case)
        return self._trial[1]

    def _fused_with(self, task: Task, trial: Trial, fused: Image, method: Method | None) -> Image | None:
        """What the method makes of the sources with findings; None where files do not have it."""
        if task.image:
            return None if task.image_with in ("", MISSING) else fused_image(task, findings=True)
        self.stage("fuse")
        pair = trial.a_with, trial.b_with
        with_ = fuse_again(method or self._method(task), task.case, pair, fused, task.seed, self._given_with)
        self.stage("score")
        if task.save:
            save_findings(task, trial, with_)
        return with_


class Given:
    """A pair as tensors on a method's device, kept from one method to the next while none writes to it."""

    def __init__(self) -> None:
        self._sources: tuple[Image, Image] | None = None
        self._tensors: tuple[Tensor, Tensor]

    def take(self, a: Image, b: Image, device: torch.device) -> tuple[Tensor, Tensor]:
        """Copies of `a` and `b`."""
        held = self._sources
        if held is None or held[0] is not a or held[1] is not b or self._tensors[0].device != device:
            ta, tb = (torch.from_numpy(np.array(x, dtype=np.float32)).to(device) for x in (a, b))
            self._sources, self._tensors = (a, b), (ta, tb)
        return self._tensors

    def forget(self) -> None:
        """Copy anew for the next method: this one may have written to the copies."""
        self._sources = None

    def check(self, method: str) -> None:
        """Raise `MethodFault` if a copy differs from its source."""
        assert self._sources is not None
        for tensor, source, label in zip(
            self._tensors, self._sources, ("a (structural)", "b (functional)"), strict=True
        ):
            # float32 on both sides: what rounding the source changed is not the method's doing.
            if not np.array_equal(tensor.cpu().numpy(), np.asarray(source, dtype=np.float32)):
                self.forget()
                raise MethodFault(f"{method} changed its input {label}; work on a copy")


def fuse(
    method: Method, a: Image, b: Image, seed: int = 0, given: Given | None = None
) -> tuple[Image, float]:
    """Fuse one pair and check the method's contract.

    Parameters
    ----------
    method : Method
        Set up.
    a, b : ndarray, shape (D, H, W), float32 in [0, 1]
    seed : int
        Seeds torch, numpy and random before fusing.
    given : Given, optional
        Spares copying the same pair for several methods.

    Returns
    -------
    fused : ndarray, shape (D, H, W), float32 in [0, 1]
    seconds : float
        Wall time of ``method.fuse``, device synchronised.

    Raises
    ------
    MethodFault
        Not a tensor, wrong shape, NaN, out of range, or an input was changed.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - plugins may use the global generator
    # torch.manual_seed also formats a stack trace for lazy CUDA calls: milliseconds, for nothing on a CPU.
    (torch.manual_seed if method.device.type != "cpu" else torch.default_generator.manual_seed)(seed)
    given = given or Given()
    ta, tb = given.take(a, b, method.device)
    _synchronise(method.device)
    begin = time.perf_counter()
    try:
        with torch.inference_mode():
            out = method.fuse(ta, tb)
        _synchronise(method.device)
    except BaseException:
        given.forget()
        raise
    seconds = time.perf_counter() - begin
    given.check(method.info.name)
    return _checked(method.info.name, out, a.shape), seconds


def fuse_twin(method: Method, case: Case, truth: Mapping[str, Image], fused: Image, seed: int = 0) -> Image:
    """Fuse a case without its lesion: ``truth["mri_twin"]`` and ``["pet_twin"]``; see `fuse_again`."""
    return fuse_again(method, case, (truth["mri_twin"], truth["pet_twin"]), fused, seed)


def fuse_again(
    method: Method,
    case: Case,
    pair: tuple[Image, Image],
    fused: Image,
    seed: int = 0,
    given: Given | None = None,
) -> Image:
    """Fuse a changed case; of a 2D method only the slices in which the inputs differ.

    Parameters
    ----------
    method : Method
        Set up.
    case : Case
        As it was fused before.
    pair : tuple of ndarray
        The changed sources.
    fused : ndarray, shape (D, H, W), float32 in [0, 1]
        What `method` made of `case`.
    seed, given
        As for `fuse`.

    Returns
    -------
    ndarray, shape (D, H, W), float32 in [0, 1]
    """
    a, b = pair
    if not (isinstance(method, SliceMethod) and method.by_axial_slice):
        return fuse(method, a, b, seed, given)[0]
    differs = ((a != case.a.data) | (b != case.b.data)).any((1, 2))
    out = fused.copy()
    if differs.any():
        out[differs] = fuse(method, a[differs], b[differs], seed)[0]
    return out


def _checked(name: str, out: Any, shape: tuple[int, ...]) -> Image:
    if not isinstance(out, Tensor):
        raise MethodFault(f"{name} returned {type(out).__name__}, not a tensor")
    if tuple(out.shape) != shape:
        raise MethodFault(f"{name} returned shape {tuple(out.shape)} for input shape {shape}")
    values = out.detach().to("cpu", torch.float32)
    low, high = (float(extreme) for extreme in torch.aminmax(values))  # NaN where there is one
    fused: Image = values.numpy()
    if not np.isfinite(high - low):
        bad = int(np.size(fused) - np.isfinite(fused).sum())
        raise MethodFault(f"{name} returned NaN or infinity in {bad} of {fused.size} voxels")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise MethodFault(f"{name} returned values in [{low:.4g}, {high:.4g}]; clip or scale to [0, 1]")
    return np.clip(fused, 0, 1)


def _warm_up(method: Method, case: Case) -> None:
    """Fuse a small corner once, so that the first timed case does not pay for lazy initialisation."""
    corner = tuple(slice(0, min(32, n)) for n in case.a.shape)
    try:
        fuse(method, case.a.data[corner].copy(), case.b.data[corner].copy())
    except Exception:
        return  # the real case will say it, with the right shape in the message


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _status(error: BaseException) -> Status:
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
    return "oom" if out_of_memory else "error"


def describe(error: BaseException) -> str:
    """One line for a row: our own errors as they are, others with their type and place."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, FuseBenchError):
        return text
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" ({Path(code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {text}{place}"
