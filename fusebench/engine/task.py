"""One task, run inside a worker: load the case, fuse, check, score."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..case import Case
from ..errors import InputError
from ..metric import Metric, MetricId, Trial
from ..plugins import find_plugins
from ..scoring.protocol import PROTOCOLS, ScoredImages, Truth
from ..staying import is_ctrl_c
from ..store.data_keys import check_loading
from ..store.rows import Row
from ..text import describe
from .from_files import MISSING, fused_image
from .fusing import (
    CopiedPair,
    Cost,
    Fuser,
    Here,
    Image,
    Killed,
    MethodFault,
    fuse_again,
    fuse_twin,
    seed_by,
    status_of,
    warm_up,
)
from .keeper import Unrestored
from .plain_settings import Settings
from .plan import NEEDS, metric_source
from .plugin_scores import PluginScores, row_of
from .spec import Score, Task, check_source
from .volumes import read_stored, save_findings, save_fused, save_sources
from .world import World

if TYPE_CHECKING:
    from .apart import Apart

# Truth key under which task metrics find the fused counterfactual (see metrics of family "task").
TWIN = "fused_twin"
# And readers the case as they set it up, and what the method makes of the sources with findings.
TRIAL, FUSED_WITH = "trial", "fused_with"

Stage = Callable[[str], None]
GetFuser = Callable[[], Fuser]


class _Kept:
    """A method in this process: it finds the settings that its own setup has made, and leaves no others."""

    def __init__(self, here: Here, world: World, settings: Settings) -> None:
        self._here, self.world, self._settings = here, world, settings
        self.by_axial_slice = here.by_axial_slice

    def fuse(self, a: Image, b: Image, seed: int = 0, repeats: int = 1) -> tuple[Image, Cost]:
        with self.world.kept(self._settings):
            return self._here.fuse(a, b, seed, repeats)


class TaskRunner:
    """Keeps what tasks share inside one worker: methods set up in it, and the case as readers see it.

    Parameters
    ----------
    stage : callable
        Told the name of each stage as it begins; the parent times them.  They are "load", "apart" (a child
        fuses, which is timed here), "fuse", "score" and "store".
    apart : Apart, optional
        Runs methods in children.  Without it, and on a GPU, whose context no child can share, they run in
        this process, set up once.
    note : callable
        Told what is about to be scored, ``protocol metric``, for whoever looks after this process has died.
    """

    def __init__(
        self, stage: Stage = lambda _: None, apart: Apart | None = None, note: Stage = lambda _: None
    ) -> None:
        self.stage, self._apart, self._note = stage, apart, note
        self._methods: dict[str, Fuser] = {}
        self.world = World()
        self.spoilt = False  # by a method: no other may run here
        self._given = CopiedPair()
        self._trial: tuple[str, Trial] | None = None
        self._shared: tuple[str, dict[Any, Any]] = "", {}  # of the case that was scored last
        self._sources: dict[str, str] = {}  # of the metrics that are imported here
        self._loadings: set[str] = set()  # keys of the datasets that are imported here
        self._background = ThreadPoolExecutor(1, "store")
        self._storing: list[Future[None]] = []  # of the task at hand
        self._kept: set[tuple[Path, str]] = set()  # folders and contents of what stands beside fused volumes

    def run(self, task: Task, load_seconds: float | None = None, memory_mb: float | None = None) -> list[Row]:
        """Rows of a task; a failure is a row with its reason, never an exception.

        Parameters
        ----------
        load_seconds : float, optional
            What loading the case took, where that was done beforehand.
        memory_mb : float, optional
            Resident memory that this process and its child may have.
        """
        self._note("")
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
            self._check_loading(task)
            if case.is_foreign and not case.is_loaded:
                with self.world.kept():
                    seed_by(case)
                    case.load()
            case.load()
            timing["load_seconds"] = load_seconds or time.perf_counter() - begin
            scored: list[Row] = []
            try:
                self._fuse_and_score(task, wanted, timing, memory_mb, scored)
            except Killed:  # by a method in another worker, say: once, it is run again
                scored.clear()
                self._fuse_and_score(task, wanted, timing, memory_mb, scored)
            finally:
                rows += scored
        # Whatever a plugin or a reader raises becomes rows; only the row says what went wrong.
        except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            if is_ctrl_c(error):
                raise
            self.spoilt |= isinstance(error, Unrestored)
            done = {(row.protocol, row.metric) for row in rows}
            rows += [
                task.row(s, status=status_of(error), reason=describe(error), **timing)
                for s in wanted
                if (s.protocol, s.metric) not in done
            ]
        return rows

    def _check_loading(self, task: Task) -> None:
        """Once, of the code that was imported here with the first case."""
        if task.loading.key not in self._loadings:
            check_loading(task.loading, task.case.dataset)
            self._loadings.add(task.loading.key)

    def _fuse_and_score(
        self,
        task: Task,
        wanted: Sequence[Score],
        timing: dict[str, Any],
        memory_mb: float | None,
        rows: list[Row],
    ) -> None:
        """Fuse, store where that is asked for, and score; what is scored by then stands in `rows`.

        Metrics of plugins come last, when the method has ended.
        """
        metrics = find_plugins(task.plugins).metrics
        foreign = {s for s in wanted if not metrics.entry(MetricId.parse(s.metric).name).bundled}
        truths, failed = dict[str, Truth](), set[Score]()
        with self._lent(task, memory_mb) as fuser:
            self._storing = []
            fused = self._fused(task, fuser, timing)
            scored: list[Row] = []
            try:
                for protocol in dict.fromkeys(s.protocol for s in wanted):
                    self.stage("score")
                    some = [s for s in wanted if s.protocol == protocol]
                    truths[protocol], lost = self._extras(task, some, fused, fuser)
                    scored += [row_of(task, s, error, "", timing) for s, error in lost.items()]
                    failed |= set(lost)
                    ours = [s for s in some if s not in foreign | failed]
                    scored += self._score(task, ours, fused, truths[protocol], timing) if ours else []
            finally:
                if self._storing:
                    self.stage("store")
                for one in self._storing:
                    one.result()  # a full disk is said in every row
                rows += scored
        left = [s for s in wanted if s in foreign - failed]
        if left:
            self.stage("apart" if self._apart else "score")
            said = PluginScores(task, fused, truths, timing, self._note)
            rows += (
                said.apart(self._apart, left, memory_mb)
                if self._apart
                else said.here(self.world, left, self._sources)
            )

    # -- fusing ----------------------------------------------------------------------------------

    def _fused(self, task: Task, fuser: GetFuser, timing: dict[str, Any]) -> Image:
        """Read the fused volume that is there under the same key, else make it and begin to store it."""
        if task.image:
            fused = fused_image(task)
            if task.save:
                self._store(task, save_fused, fused, task.case, {})
            return fused
        found = read_stored(Path(task.fused_path), task.fuse_key) if task.reuse else None
        if found is not None:
            fused, made = found
            timing.update(made)
            if task.save:
                self._store(task, save_sources)
            return fused
        case = task.case
        fused, cost = fuser().fuse(case.a.data, case.b.data, task.seed, task.repeats)
        timing["fuse_seconds"] = statistics.median(cost.seconds)
        if len(cost.seconds) > 1:
            low, _, high = statistics.quantiles(cost.seconds, n=4)
            timing["fuse_iqr"] = high - low
        timing["memory_mb"], timing["gpu_memory_mb"] = cost.memory_mb, cost.gpu_memory_mb
        if task.save:
            made = {k: v for k, v in timing.items() if k != "load_seconds"}
            self._store(task, save_fused, fused, case, made)
        return fused

    def _store(self, task: Task, save: Callable[..., None], *images: object) -> None:
        """Begin to store: packing takes as long as a fast method, and goes on while something is scored.

        Sources are stored, or what is there is checked, once here for all methods.
        """
        beside = Path(task.fused_path).parent, f"{save.__name__} {_key_of(task.case)}"

        def run() -> None:
            save(task, *images, sources=beside not in self._kept)
            self._kept.add(beside)

        self._storing.append(self._background.submit(run))

    @contextlib.contextmanager
    def _lent(self, task: Task, memory_mb: float | None) -> Iterator[GetFuser]:
        """Gives the task's method, set up when first asked for and ended with the context."""
        with contextlib.ExitStack() as ending:
            made: list[Fuser] = []
            apart = self._apart if task.device == "cpu" else None

            def fuser() -> Fuser:
                self.stage("apart" if apart else "fuse")
                if not made:
                    made.append(
                        ending.enter_context(apart.method(task, memory_mb)) if apart else self._here(task)
                    )
                return made[0]

            yield fuser

    def _here(self, task: Task) -> Fuser:
        spec, methods = task.method, find_plugins(task.plugins).methods
        known = self._methods.get(spec.key)
        name = spec.plugin or spec.name
        if task.device == "cpu" and name in methods and not methods.entry(name).bundled:
            known = None  # it may keep something from case to case, as it cannot in a child
        if known is None:
            with self.world.kept() as settings:
                method = methods.load(name)(**spec.parameters)
                check_source(spec, method)
                method.setup(task.device)
            known = _Kept(Here(method, self._given), self.world, settings)
            if spec.info.params or task.device != "cpu":
                warm_up(known, task.case.a.data, task.case.b.data)
            self._methods[spec.key] = known
        return known

    # -- scoring ---------------------------------------------------------------------------------

    def _score(
        self, task: Task, scores: Sequence[Score], fused: Image, truth: Truth, timing: Mapping[str, Any]
    ) -> list[Row]:
        """Rows of our own metrics under one protocol, which share what they compute."""
        plugins, protocol = find_plugins(task.plugins), scores[0].protocol
        for name in {MetricId.parse(s.metric).name for s in scores} - set(self._sources):
            plugins.metrics.load(name)
            self._sources[name] = metric_source(plugins, name)  # as it was imported just now
        begin = time.perf_counter()  # fusing the twin is no part of scoring
        scene = ScoredImages.of(task.case, fused, task.device, self._shared_of(task.case))
        values = PROTOCOLS[protocol].score(
            scene,
            [s.metric for s in scores],
            truth,
            plugins,
            lambda metric: self._note(f"{protocol} {metric}"),
        )
        self._note("")
        seconds = time.perf_counter() - begin
        found = ((s, values[s.metric], self._sources[MetricId.parse(s.metric).name]) for s in scores)
        return [row_of(task, s, value, source, timing, seconds) for s, value, source in found]

    def _extras(
        self, task: Task, scores: Sequence[Score], fused: Image, fuser: GetFuser
    ) -> tuple[Truth, dict[Score, Exception]]:
        """Extras as of `_truth`, and the scores that have to do without because something in it fails."""
        left, lost = list(scores), dict[Score, Exception]()
        while True:
            try:
                return self._truth(task, left, fused, fuser), lost
            except (Killed, Unrestored):
                raise
            except Exception as error:
                need = next((n for n in NEEDS if any(n in s.needs for s in left)), None)
                if need is None:
                    raise
                lost |= {s: error for s in left if need in s.needs}
                left = [s for s in left if need not in s.needs]
                self.stage("score")

    def _truth(self, task: Task, scores: Sequence[Score], fused: Image, fuser: GetFuser) -> Truth:
        """Extras that metrics get besides the images: ground truth, the fused twin, findings."""
        needs = {need for s in scores for need in s.needs}
        if "trial" in needs:
            reader = next(s for s in scores if "trial" in s.needs)
            metric = find_plugins(task.plugins).metrics.load(MetricId.parse(reader.metric).name)
            trial = self._set_up(metric, task.case)
            with_ = self._fused_with(task, trial, fused, fuser) if "findings" in needs else None
            return {TRIAL: trial, FUSED_WITH: with_}
        if "truth" not in needs:
            return None
        truth: ChainMap[str, Any] = ChainMap({}, task.case.truth or {})  # type: ignore[arg-type]
        lesion = truth.get("lesion")
        if "twin" in needs and lesion is not None and lesion.any():
            truth[TWIN] = fuse_twin(fuser(), task.case, truth, fused, task.seed)
            self.stage("score")
        return truth

    def _shared_of(self, case: Case) -> dict[Any, Any]:
        """What metrics have made of the case's sources, once for all methods."""
        key = _key_of(case)
        if self._shared[0] != key:
            self._shared = key, {}
        return self._shared[1]

    def _set_up(self, reader: Metric, case: Case) -> Trial:
        """The case as readers see it, once for all methods; the metrics of a protocol share one."""
        key = _key_of(case)
        if self._trial is None or self._trial[0] != key:
            if reader.trial is None:
                raise InputError(
                    f"{reader.info.name} needs a trial and sets none up: @metric(..., trial=...)"
                )
            self._trial = key, reader.trial(case)
        return self._trial[1]

    def _fused_with(self, task: Task, trial: Trial, fused: Image, fuser: GetFuser) -> Image | None:
        """Fuse the sources with findings; None where files do not have it."""
        if task.image:
            return None if task.image_with in ("", MISSING) else fused_image(task, findings=True)
        with_ = fuse_again(fuser(), task.case, (trial.a_with, trial.b_with), fused, task.seed)
        self.stage("score")
        if task.save:
            self._store(task, save_findings, trial, with_)
        return with_


def _key_of(case: Case) -> str:
    return f"{case.dataset} {case.id} {case.fingerprint}"
