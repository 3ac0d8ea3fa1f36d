"""One task, run inside a worker: load the case, fuse, check, score."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Volume
from ..errors import FuseBenchError
from ..files import atomic_path
from ..metric import MetricId
from ..plugins import find_plugins
from ..scoring.protocol import PROTOCOLS, Scene
from ..store.rows import Row
from .from_files import fused_image
from .fusing import Fuser, Given, Here, Image, MethodFault, describe, fuse_twin, status_of, warm_up
from .spec import Task

if TYPE_CHECKING:
    from .apart import Apart

# Truth key under which task metrics find the fused counterfactual (see metrics of family "task").
TWIN = "fused_twin"

Stage = Callable[[str], None]


class TaskRunner:
    """Keeps what tasks share inside one worker.

    Parameters
    ----------
    stage : callable
        Told the name of each stage as it begins; the parent times them.  They are "load", "apart" (a child
        fuses, which is timed here), "fuse", "score" and "store".
    apart : Apart, optional
        Runs methods in children.  Without it, and on a GPU, whose context no child can share, they run in
        this process, set up once.
    """

    def __init__(self, stage: Stage = lambda _: None, apart: Apart | None = None) -> None:
        self.stage, self._apart = stage, apart
        self._methods: dict[str, Here] = {}
        self._given = Given()
        self._background = ThreadPoolExecutor(1, "store")

    def run(
        self, task: Task, load_seconds: float | None = None, memory_mb: float | None = None
    ) -> list[Row]:
        """Rows of a task; a failure is a row with its reason, never an exception.

        Parameters
        ----------
        load_seconds : float, optional
            What loading the case took, where that was done beforehand.
        memory_mb : float, optional
            Resident memory that this process and its child may have.
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
            with contextlib.ExitStack() as ending:
                made: list[Fuser] = []

                def fuser() -> Fuser:
                    self.stage("apart" if self._in_child(task) else "fuse")
                    if not made:
                        made.append(self._fuser(task, ending, memory_mb))
                    return made[0]

                fused, stored = self._fused(task, fuser, timing)
                scored: list[Row] = []
                try:
                    for protocol in dict.fromkeys(s.protocol for s in wanted):
                        self.stage("score")
                        scores = [s for s in wanted if s.protocol == protocol]
                        scored += self._score(task, protocol, [s.metric for s in scores], fused, fuser, timing)
                finally:
                    if stored is not None:
                        self.stage("store")
                        stored.result()  # a full disk is said in every row
                    rows += scored
        # Whatever a plugin or a reader raises becomes rows; only the row says what went wrong.
        except Exception as error:
            done = {(row.protocol, row.metric) for row in rows}
            rows += [
                task.row(s, status=status_of(error), reason=describe(error), **timing)
                for s in wanted
                if (s.protocol, s.metric) not in done
            ]
        return rows

    # -- fusing ----------------------------------------------------------------------------------

    def _fused(
        self, task: Task, fuser: Callable[[], Fuser], timing: dict[str, Any]
    ) -> tuple[Image, Future[None] | None]:
        """Read the fused volume stored under the same key, else make it and begin to store it."""
        if task.image:
            fused = fused_image(task)
            kept = self._background.submit(_save, task, fused, task.case, {}) if task.save else None
            return fused, kept
        stored = _read_stored(Path(task.fused_path), task.fuse_key) if task.reuse else None
        if stored is not None:
            fused, made = stored
            timing.update(made)
            return fused, None
        case = task.case
        fused, cost = fuser().fuse(case.a.data, case.b.data, task.seed, task.repeats)
        timing["fuse_seconds"] = statistics.median(cost.seconds)
        if len(cost.seconds) > 1:
            low, _, high = statistics.quantiles(cost.seconds, n=4)
            timing["fuse_iqr"] = high - low
        timing["memory_mb"], timing["gpu_memory_mb"] = cost.memory_mb, cost.gpu_memory_mb
        if not task.save:
            return fused, None
        made = {k: v for k, v in timing.items() if k != "load_seconds"}
        # Packing takes as long as a fast method; it goes on while the volume is scored.
        return fused, self._background.submit(_save, task, fused, case, made)

    def _in_child(self, task: Task) -> bool:
        return self._apart is not None and task.device == "cpu"

    def _fuser(self, task: Task, ending: contextlib.ExitStack, memory_mb: float | None) -> Fuser:
        """The task's method, set up; in a child of its own until `ending`."""
        if self._apart is not None and self._in_child(task):
            from .apart import Limits
            from .worker import stage_seconds

            limits = Limits(task.timeout, stage_seconds(task.timeout), memory_mb)
            return ending.enter_context(self._apart.method(task, limits))
        spec = task.method
        here = self._methods.get(spec.key)
        if here is None:
            method = find_plugins(task.plugins).methods.load(spec.plugin)(**spec.parameters)
            method.setup(task.device)
            here = Here(method, self._given)
            if spec.info.params or task.device != "cpu":
                warm_up(here, task.case.a.data, task.case.b.data)
            self._methods[spec.key] = here
        return here

    # -- scoring ---------------------------------------------------------------------------------

    def _score(
        self,
        task: Task,
        protocol: str,
        metrics: list[str],
        fused: Image,
        fuser: Callable[[], Fuser],
        timing: Mapping[str, Any],
    ) -> list[Row]:
        plugins = find_plugins(task.plugins)
        infos = [plugins.metrics.load(MetricId.parse(m).name).info for m in metrics]
        begin = time.perf_counter()
        truth = None
        if any(info.needs_truth for info in infos):
            truth = dict(task.case.truth or {})
            lesion = truth.get("lesion")
            if any(info.needs_twin for info in infos) and lesion is not None and lesion.any():
                truth[TWIN] = fuse_twin(fuser(), task.case, truth, fused, task.seed)
                self.stage("score")
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
                outcome = {"status": status_of(value), "reason": describe(value)}
            elif np.isnan(value):
                outcome = {"status": "skip", "reason": "not defined for this case"}
            rows.append(task.row(score, **outcome, **timing, score_seconds=seconds))
        return rows


# -- stored volumes ------------------------------------------------------------------------------


def _save(task: Task, fused: Image, case: Case, made: Mapping[str, Any]) -> None:
    path = Path(task.fused_path)
    try:
        _store(path, fused, case.a, task.fuse_key, made)
        if fused.shape[0] == 1:  # a picture, in the colours of its functional source
            from ..images.read_write import write_image

            write_image(path.with_name(path.name.removesuffix(".nii.gz") + ".png"), fused, like=case.b)
        _store_sources(path.parent, case)
    except OSError as error:
        # The folder of all volumes: the same words for every task, so that they are said once.
        raise FuseBenchError(
            f"{path.parents[2]}: {error.strerror}; what was stored is kept: "
            "make room and run the same command"
        ) from None


def _store(
    path: Path, data: NDArray[Any], like: Volume, key: str, made: Mapping[str, Any] | None = None
) -> None:
    """Write NIfTI with the content key, and what making it took, in its header."""
    import nibabel as nib  # half a second, for runs that keep volumes

    image = nib.Nifti1Image(np.ascontiguousarray(data.T), like.affine)
    image.header["descrip"] = f"fusebench {key}".encode()
    note = nib.nifti1.Nifti1Extension("comment", json.dumps(made or {}).encode())
    image.header.extensions.append(note)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_gzip(image.to_bytes()))


def _gzip(content: bytes) -> bytes:
    """Gzip by run lengths: files as small as at level 1 (air packs, noise does not) in half the time."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def _store_sources(folder: Path, case: Case) -> None:
    for name, volume in (("mri", case.a), ("pet", case.b)):
        path = folder / "sources" / f"{name}.nii.gz"
        if _read_stored(path, case.fingerprint) is None:
            _store(path, volume.data, volume, case.fingerprint)
            if volume.chroma is not None:  # for showing results in colour
                _store(path.with_name("chroma.nii.gz"), volume.chroma, volume, case.fingerprint)


def _read_stored(path: Path, key: str) -> tuple[Image, dict[str, Any]] | None:
    """Voxels, and what making them took, of a volume stored under `key`."""
    if not path.is_file():
        return None
    import nibabel as nib

    try:
        image = nib.Nifti1Image.from_filename(path)
        if image.header["descrip"].item().decode(errors="replace") != f"fusebench {key}":
            return None
        made = json.loads(image.header.extensions[0].get_content())
        return np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0), made
    # A damaged file is not an answer; the volume is simply made again.
    except (OSError, EOFError, ValueError, IndexError, nib.filebasedimages.ImageFileError):
        return None
