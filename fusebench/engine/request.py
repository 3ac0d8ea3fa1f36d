"""`Request`, everything that a user can ask of a run, and `Observer`, who is told how it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..dataset import Dataset
from ..errors import InputError
from ..method_info import DEFAULT_SET
from ..parameters import check_seed
from ..store.rows import Row
from .spec import Choice, Task

if TYPE_CHECKING:
    from .run import Planned


DEFAULT_TIMEOUT = 900.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """The order for a run; the fields are the options of ``run_bench.py run``.

    Attributes
    ----------
    methods, exclude : sequence of str
        Names, ``name@variant``, shell wildcards or ``all``.
    choices : sequence of Choice
        Further entries: a method under a label of the user's, with parameters (``--method-as``).
    settings : mapping
        Method name to constructor arguments.
    dataset : str or Dataset
    data_dir : Path, optional
    data_options : mapping
    split : str
    cases : int, optional
        The first so many only.
    protocols : sequence of str
        None: `scoring.protocol.default_protocols`.
    metrics : sequence of str
        Ids and wildcards; none for the default ones.
    plugins : sequence of str
        Plugin files and folders.
    device : str
    jobs : int, optional
        Worker processes; 0 runs in this process, None takes one per core.
    threads : int
        Per worker.
    executor : {"local", "dask"}
    scheduler : str
        Address of a running Dask scheduler.
    timeout : float or "auto" or None
        Seconds for one fuse; None for no limit; "auto" for `DEFAULT_TIMEOUT`, and more where this machine is
        slow or busy.
    memory : float, optional
        Limit per worker in MB.
    repeats, seed : int
    out : Path, optional
        Run folder; None: ``runs/<dataset>-<split>``.
    save : {"first", "all", "none"}
        Fused volumes to keep.
    reuse : {"resume", "force", "collect"}
        Run what is missing or changed, everything, or nothing.
    results_dir : Path, optional
        Fused images in place of methods: one sub-folder per entry, one image per case.
    entry : str
        Name of the entry where `results_dir` holds the images itself.
    fused_range : (float, float), optional
        Values for 0 and 1 in those images; None: as the files say.
    rank_by : {"", "reading", "similarity", "all"}
        What gives the places on the boards; "": the readings where there are some, else the similarity.
    radiological : bool
        Pictures have the patient's right on the left.
    command : sequence of str
        For the manifest.
    """

    methods: Sequence[str] = (DEFAULT_SET,)
    exclude: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dataset: str | Dataset = "phantom"
    data_dir: Path | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    cases: int | None = None
    protocols: Sequence[str] = ()
    metrics: Sequence[str] = ()
    plugins: Sequence[str] = ()
    device: str = "auto"
    jobs: int | None = None
    threads: int = 1
    executor: Literal["local", "dask"] = "local"
    scheduler: str = ""
    timeout: float | Literal["auto"] | None = "auto"
    memory: float | None = None
    repeats: int = 1
    seed: int = 0
    out: Path | None = None
    save: Literal["first", "all", "none"] = "first"
    reuse: Literal["resume", "force", "collect"] = "resume"
    results_dir: Path | None = None
    entry: str = ""
    fused_range: tuple[float, float] | None = None
    rank_by: Literal["", "reading", "similarity", "all"] = ""
    radiological: bool = False
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, least in (("cases", 1), ("jobs", 0), ("threads", 1), ("repeats", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value}: it must be {least} or more")
        check_seed(self.seed)

    @property
    def limit(self) -> float | None:
        """Seconds for one fuse on a machine like the reference; None for no limit."""
        return DEFAULT_TIMEOUT if self.timeout == "auto" else self.timeout or None


class Observer:
    """Told how a run goes; this one says nothing.  The command line's draws a bar."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def begin(self, planned: Planned, todo: Sequence[Task], stored: int) -> None:
        """`todo` is about to be executed; `stored` results stand already."""

    def finished(self, task: Task, rows: Sequence[Row]) -> None:
        """A task's rows are stored."""

    def end(self) -> None:
        """Nothing more is executed."""
