"""One run, from what was asked for to stored rows: plan, execute, resume.

`plan_run` and `execute` are the whole way; `fusebench.run` and the command line both go it.  Fused images
come from methods, or from files made elsewhere (`Request.results_dir`); everything else is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..case import Case
from ..dataset import Dataset
from ..errors import FuseBenchError, InputError, WorkerDied
from ..names import check_name
from ..plugins import Plugins, find_plugins, require_plugins
from ..scoring.protocol import PROTOCOLS, default_protocols, require_scored
from ..store.data_keys import Loading, case_keys
from ..store.folder import RunFolder
from ..store.read_rows import read_log
from ..store.rows import IDENTITY, OUTDATED, Row, as_table
from ..store.run_store import RunStore
from ..text import printable
from .current import Outdated
from .data import check_split, dataset_facts, dataset_loading, left_out, open_dataset, split_cases
from .deadline import asking_dataset, listing_seconds
from .made_of import method_files, method_source, metric_files
from .manifest import (
    add_to_manifest,
    describe_run,
    git_state,
    other_options,
    read_manifest,
    write_manifest,
)
from .order import in_tiers
from .pace import Pace
from .parcel import seal
from .plan import Options, make_plan, pending, restated
from .pool import LocalPool, Result, default_jobs, default_memory_mb, may_have_gpu, run_here
from .request import Observer, Request
from .spec import Choice, Task
from .survey import Question, Survey, survey, survey_apart, survey_seconds

if TYPE_CHECKING:
    import pandas as pd

Execute = Callable[[Sequence[Task]], Iterator[Result]]


@dataclass(frozen=True, eq=False)
class Planned:
    """A run that is ready to be executed.

    Attributes
    ----------
    request : Request
    plugins : Plugins
    dataset : Dataset
    listed : list of Case
        The whole split, of which the run takes the first `Request.cases`.
    found : Survey
    options : Options
    tasks : list of Task
    folder : RunFolder
    jobs : int
    notes : tuple of str
        Lines for the board.
    manifest : dict
    pace : Pace
        What the tasks take.
    loading : Loading
        The code that loads the cases.
    """

    request: Request
    plugins: Plugins
    dataset: Dataset
    listed: list[Case]
    found: Survey
    options: Options
    tasks: list[Task]
    folder: RunFolder
    jobs: int
    notes: tuple[str, ...]
    manifest: dict[str, Any]
    pace: Pace
    loading: Loading

    @property
    def cases(self) -> list[Case]:
        """The cases of the run."""
        return self.listed[: self.request.cases]

    def stored_rows(self) -> list[Row]:
        """Rows of earlier runs into the folder."""
        return read_log(self.folder.path) if self.folder.rows.exists() else []


@dataclass(frozen=True, eq=False)
class Outcome:
    """A run that has ended: the newest rows as a table, notes for its boards, and what was planned.

    `unfinished` is the number of tasks that were left when it was interrupted.
    """

    planned: Planned
    table: pd.DataFrame
    notes: tuple[str, ...]
    unfinished: int = 0

    def failures(self) -> pd.DataFrame:
        """Rows that were planned and have no value through a failure, or are not there; a skip is none.

        Of a run that only collects, what is not there is no failure.
        """
        import pandas as pd

        columns = (self.table[c] for c in IDENTITY)
        status = dict(zip(zip(*columns, strict=True), self.table["status"], strict=True))
        planned = {
            task.identity(score): (task, score) for task in self.planned.tasks for score in task.scores
        }
        failed = [i in planned and state not in ("ok", "skip") for i, state in status.items()]
        lost = [
            task.row(score, status="error", reason="it was planned and has no row")
            for identity, (task, score) in planned.items()
            if identity not in status and self.planned.request.reuse != "collect"
        ]
        found = self.table[failed]
        return pd.concat([found, as_table(lost)], ignore_index=True) if lost else found


def first_workers(request: Request) -> int:
    """Workers to start before anything is known; how many it takes is known when one has looked for a GPU."""
    if request.jobs == 0:
        return 0
    if request.executor == "dask" or request.scheduler or request.reuse == "collect":
        return 1
    if request.jobs is not None:
        return request.jobs
    return default_jobs("cuda" if request.device == "auto" and may_have_gpu() else request.device)


def plan_run(request: Request, pool: LocalPool, observer: Observer | None = None) -> Planned:
    """Find out what is to be run; imports no plugin of methods or metrics into this process.

    Parameters
    ----------
    pool : LocalPool
        Its workers are asked for what has to be imported to be known.

    Raises
    ------
    InputError
        Something that was asked for is not there or does not fit.
    """
    observer = observer or Observer()
    plugins = find_plugins(tuple(request.plugins))
    require_plugins(plugins, request.plugins)
    protocols = tuple(request.protocols) or default_protocols(request.metrics, plugins.metrics.names())
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"no protocol is called {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if not request.results_dir:  # metrics that a run had by default come with its protocols
        require_scored(protocols, request.metrics)
    choices = [] if request.results_dir else _choices(plugins, request)
    dataset, patience = request.dataset, listing_seconds(request.limit)
    if isinstance(dataset, str):
        dataset = open_dataset(plugins, dataset, request.data_dir, request.data_options, patience)
    check_split(dataset, request.split)
    with asking_dataset(dataset.info.name, "listing its cases", patience):
        listed = split_cases(dataset, request.split)
        lost = left_out(dataset)
        facts = dataset_facts(dataset, request.split, listed, lost, request.data_options)
    loading = dataset_loading(plugins, dataset)  # it may have made files of its own while listing
    if loading.bundled:
        facts["loading"] = loading.key
    cases = listed[: request.cases]
    if lost:
        observer.note(f"note: {lost}")
    folder = RunFolder(request.out or Path("runs") / f"{dataset.info.name}-{request.split}")
    if request.reuse == "collect" and not folder.rows.exists():
        raise InputError(f"{folder.path}: no stored rows; give the --out of a run, or leave out --collect")
    results = None
    if request.results_dir:
        from .from_files import find_results

        results = find_results(request.results_dir, cases, plugins, request.entry)
    question = Question(
        plugins.paths,
        tuple(choices),
        tuple(request.metrics),
        protocols,
        any(c.truth_loader for c in cases),
        request.device,
    )
    seconds = survey_seconds(request.limit)
    answer = pool.ask(partial(survey, question), seconds)
    git = git_state()
    try:
        found = answer()
    except WorkerDied:
        found = survey_apart(pool, question, seconds)
    options = Options(
        run=datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        metrics=found.metrics,
        protocols=protocols,
        seed=request.seed,
        device=found.device,
        threads=request.threads,
        repeats=request.repeats,
        timeout=request.limit,
        patient=request.timeout == "auto",
        save=request.save,
        split=request.split,
    )
    jobs = default_jobs(found.device) if request.jobs is None else request.jobs
    with asking_dataset(dataset.info.name, "reading what its cases are made of", patience):
        data = list(case_keys(cases, loading))
    if results is not None and request.results_dir:
        from .from_files import file_specs, file_tasks, folders_of

        found = replace(found, methods=file_specs(results, request.results_dir, request.fused_range))
        tasks = make_plan(plugins, cases, found.methods, found.infos, options, folder, loading, data)
        tasks = file_tasks(tasks, results, found.infos, request.fused_range)
    else:
        tasks = make_plan(plugins, cases, found.methods, found.infos, options, folder, loading, data)
    if jobs or _is_dask(request):  # tasks, and their keys, are made of the cases themselves
        with asking_dataset(dataset.info.name, "sending its cases to workers", patience):
            sent = {id(case): seal(case) for case in cases}
        tasks = [replace(task, case=sent[id(task.case)]) for task in tasks]
    manifest = describe_run(
        run=options.run,
        command=request.command,
        options={
            **asdict(options),
            "jobs": jobs,
            "cases": request.cases,
            "data_dir": str(request.data_dir.resolve()) if request.data_dir else None,
            "data_options": {
                k: str(v) if isinstance(v, Path) else v for k, v in request.data_options.items()
            },
        },
        methods=found.methods,
        metrics=found.infos,
        dataset={**facts, "cases": len(cases)},
        hardware=found.hardware,
        git=git,
    )
    for spec in found.methods:
        manifest["methods"][spec.name]["source"] = method_source(plugins, spec.plugin)
    manifest["method_files"] = method_files(plugins, found.methods)
    manifest["metric_files"] = metric_files(plugins, found.infos)
    if results is not None and request.results_dir:
        for entry, path in folders_of(results, request.results_dir).items():
            manifest["method_files"][entry]["folder"] = path
            manifest["methods"][entry]["dims"] = None  # slices or volumes: the images do not say
    notes = (lost,) if lost else ()
    pace = Pace(found.infos, jobs or 1)
    return Planned(
        request, plugins, dataset, listed, found, options, tasks, folder, jobs, notes, manifest, pace, loading
    )


def execute(
    planned: Planned,
    pool: LocalPool,
    observer: Observer | None = None,
    join: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run what has no valid row yet; rows are stored as they come.

    Ctrl-C ends it with the rows that are there.  `join` waits for what the caller does in another thread: a
    dataset that is asked meanwhile would be blamed for what changes in this process.

    Raises
    ------
    InputError
        The folder cannot be written or is in use; what was stored before stays.
    KeyboardInterrupt
        There are no rows yet.
    """
    observer = observer or Observer()
    request, folder = planned.request, planned.folder
    with RunStore(folder.path) as store:
        for note in store.notes:
            observer.note(f"note: {note}")
        if request.reuse == "force":
            todo = [replace(task, reuse=False) for task in planned.tasks]
        else:
            known = list(store.latest())
            todo = [task for task, _ in pending(planned.tasks, known)]
            store.append(restated(planned.tasks, known))
        stored = sum(len(t.scores) for t in planned.tasks) - sum(len(t.scores) for t in todo)
        if request.reuse == "collect":
            todo = []
        before = read_manifest(folder.path) if folder.manifest.exists() else {}
        if changed := other_options(before, planned.manifest):
            observer.note(f"note: {folder.path} holds a run with other options: {changed}")
        write_manifest(folder.path, planned.manifest)
        planned.pace.plan(todo)
        todo = in_tiers(todo, planned.pace)
        observer.begin(planned, todo, stored)
        missing = {id(task): task for task in todo}
        interrupted = False
        try:
            for task, rows in _executor(planned, pool)(todo) if todo else ():
                missing.pop(id(task), None)
                store.append(rows)
                observer.finished(task, rows)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            observer.end()
        for task in missing.values() if not interrupted else ():
            rows = task.failed("error", "the run ended without a result for it")
            store.append(rows)
            observer.finished(task, rows)
        join()
        outdated = Outdated(
            planned.plugins,
            planned.listed,
            planned.found.methods,
            planned.tasks,
            planned.options,
            before,
            read_manifest(folder.path),
            planned.loading,
        )
        table = store.consolidate(outdated)
        add_to_manifest(folder.path, **{OUTDATED: {"rows": store.outdated_marks}})
        if table.empty and interrupted:
            raise KeyboardInterrupt
        if table.empty:
            raise InputError(" ".join([f"{folder.path}: no stored rows of these data.", *store.outdated]))
        # Cases were loaded by now, so that their voxels have been looked at.
        doubts = [] if interrupted else _doubts(planned)
        add_to_manifest(folder.path, dataset={"doubts": doubts}, run={"ended": True})
        for doubt in doubts:
            observer.note(f"warning: {doubt}")
        notes = (*planned.notes, *store.outdated)
        return Outcome(planned, table, notes, len(missing) if interrupted else 0)


def _doubts(planned: Planned) -> list[str]:
    """What the dataset doubts of its cases; where it cannot say, that: the rows are there all the same."""
    request, name = planned.request, planned.dataset.info.name
    try:
        with asking_dataset(name, "looking at its cases", listing_seconds(request.limit)):
            return [printable(str(doubt)) for doubt in planned.dataset.doubts(planned.cases)]
    except (FuseBenchError, OSError) as error:
        return [str(error)]


def _choices(plugins: Plugins, request: Request) -> list[Choice]:
    """The entries that methods, exclusions, settings and labels of a request make."""
    names = plugins.methods.select(request.methods, request.exclude) if request.methods else []
    settings = {plugins.methods.entry(n).name: (n, dict(given)) for n, given in request.settings.items()}
    for name, (typed, given) in settings.items():
        if name not in names:
            parameter, value = next(iter(given.items()), ("", ""))
            option = f"--weights {typed}={value}" if parameter == "weights" else f"--set {typed}.{parameter}"
            raise InputError(f"{option}: {typed} is not among the methods to run")
    choices = [Choice(name, name, settings.get(name, ("", {}))[1]) for name in names]
    for choice in request.choices:
        check_name(choice.label, "--method-as")
        if choice.label in names or choice.label in plugins.methods:
            raise InputError(f"{choice.label}: the label is a method's name; give another")
        plugins.methods.entry(choice.method)
    choices += request.choices
    labels = [choice.label for choice in choices]
    twice = next((label for label in labels if labels.count(label) > 1), "")
    if twice:
        raise InputError(f"{twice}: two entries have this label; give each its own")
    if not choices:
        raise InputError("no method is left to run; see `list methods`")
    return choices


def _is_dask(request: Request) -> bool:
    return request.executor == "dask" or bool(request.scheduler)


def _executor(planned: Planned, pool: LocalPool) -> Execute:
    """The runner of tasks: this machine's cores, Dask, or this process."""
    request, jobs = planned.request, planned.jobs
    if _is_dask(request):
        from .dask import run_dask

        pool.stop()  # it has answered; Dask's workers do the rest
        return partial(
            run_dask,
            scheduler=request.scheduler or None,
            jobs=jobs or 1,
            threads=request.threads,
            memory_mb=request.memory,
            pace=planned.pace,
        )
    if not jobs:
        return partial(run_here, pace=planned.pace, threads=request.threads)
    memory_mb = request.memory or default_memory_mb(jobs)
    return partial(pool.run, jobs=jobs, memory_mb=memory_mb, pace=planned.pace)
