"""Entries from files: fused images made elsewhere become entries of a board.

A folder holds one sub-folder per method, named as the entry, and in it one image per case, named by the
case's id; any format that `fusebench.imageio` reads.  ``<case>+findings`` is what the method makes of the
sources with findings (``run --save-fused`` writes these), for the protocol ``readers``.  Rows are those of a
run: same protocols, same metrics, same store.  A case without a usable image is a row that says why.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arrays import OVERSHOOT
from ..case import Case, Volume
from ..errors import InputError
from ..images.raw import EXTENSIONS, RawImage, extension, folder_images, image_files
from ..images.read_write import check_grid, read_raw, scale
from ..method_info import MethodInfo
from ..metric import MetricId, MetricInfo
from ..names import check_file_name
from ..plugins import Plugins
from ..store.contents import remembered_sha256
from ..store.keys import digest
from .spec import MethodSpec, Task

# `Task.image` of a case without an image.
MISSING = ":"
# Follows the case's id in the name of an image that was made of the sources with findings.
WITH_FINDINGS = "+findings"

# Entry -> case id -> image.
Results = Mapping[str, Mapping[str, Path]]
Range = tuple[float, float]


def find_results(folder: Path, cases: Sequence[Case], plugins: Plugins, name: str = "") -> Results:
    """Images of a results folder by entry and case.

    Parameters
    ----------
    folder : Path
        Sub-folders of images, each one entry; or images of one entry, called `name` or as the folder.
    cases : sequence of Case
    name : str
        Of the entry where `folder` itself holds the images.

    Raises
    ------
    InputError
        No image is named after a case, two images of one case, an entry has a method's name, or `name` is a
        path.
    """
    if not folder.is_dir():
        raise InputError(f"--results-dir {folder}: no such folder")
    if name:
        check_file_name(name, "--name")
    wanted = {case.id for case in cases}
    named = wanted | {case + WITH_FINDINGS for case in wanted}
    folders = entry_folders(folder, wanted)
    results = {
        (name or folder.resolve().name) if path == folder else path.name: folder_images(path, named)
        for path in folders
    }
    for entry in results:
        check_file_name(entry, f"{folder}: the entry")
        if entry in plugins.methods:
            raise InputError(
                f"{folder}: a method is called {entry!r} as well; rename the folder (say {entry}-authors), "
                "so that the board keeps both apart"
            )
    if not any(results.values()):
        images = (p for f in (folder, *folders) for p in sorted(f.iterdir()) if extension(p) in EXTENSIONS)
        seen = next((p.name for p in images), "no images")
        raise InputError(
            f"{folder}: no image is named after a case; found {seen}, the cases are {some(wanted)}. Name "
            f"each image as its case ({', '.join(EXTENSIONS)})"
        )
    return results


def entry_folders(folder: Path, wanted: Container[str]) -> list[Path]:
    """The folder itself where it holds images of `wanted` names, else its sub-folders, empty ones too.

    Only what is named after a case counts: a figure beside the entries is not an entry of its own.
    """
    below = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    if not folder_images(folder, wanted):
        return below or [folder]
    mixed = [p.name for p in below if folder_images(p, wanted)]
    if mixed:
        raise InputError(
            f"{folder}: holds images and folders of images ({some(mixed)}); "
            "move its own images to a folder beside them"
        )
    return [folder]


def some(names: Iterable[str], count: int = 3) -> str:
    """The first names in order, and how many more there are."""
    listed = sorted(names)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")


def file_specs(results: Results, folder: Path, wanted: Range | None) -> list[MethodSpec]:
    """Entries as the plan wants them: like methods, marked as scored from files."""
    return [
        MethodSpec(
            name=entry,
            parameters={"fused_range": wanted} if wanted else {},
            key=digest("scored from files", entry, wanted),
            info=MethodInfo(
                name=entry,
                summary="scored from files",
                licence="not stated",
                trained_on="not stated",
                notes="Scored from image files; how they were made, at what cost, is not known here.",
            ),
            origin=f"files: {folder.name}",
        )
        for entry in results
    ]


def file_tasks(
    tasks: Iterable[Task], results: Results, infos: Mapping[str, MetricInfo], wanted: Range | None
) -> list[Task]:
    """Tasks that read an image in place of fusing.

    Their keys hold the image's hash; metrics that need the method itself are skipped.
    """
    found = []
    for task in tasks:
        path = results[task.method.name].get(task.case.id)
        second = results[task.method.name].get(task.case.id + WITH_FINDINGS)
        scores = []
        for score in task.scores:
            info = infos[MetricId.parse(score.metric).name]
            skip, key = score.skip, image_key(score.key, path, second, info.needs_findings)
            if not skip and info.needs_twin:
                skip = "needs the method itself, not only its images"
            elif not skip and info.needs_findings and path and not second:
                skip = (
                    f"needs {task.case.id}{WITH_FINDINGS}.nii.gz, made of the sources with findings; `run "
                    "--save-fused` writes these to fused/.../findings"
                )
            scores.append(replace(score, key=key, skip=skip))
        found.append(
            replace(
                task,
                scores=tuple(scores),
                fuse_key=digest(task.fuse_key, image_content(path)),
                image=str(path.resolve()) if path else MISSING,
                image_with=str(second.resolve()) if second else MISSING,
                image_range=wanted,
            )
        )
    return found


def image_key(score: str, path: Path | None, second: Path | None, needs_findings: bool) -> str:
    """Key of a score of an image: `score` is that of the plan, `second` the image with findings."""
    key = digest(score, image_content(path))
    return digest(key, image_content(second)) if needs_findings else key


def image_content(path: Path | None) -> str:
    """Hash of an image with its detached data; "missing" where there is none."""
    return "".join(map(remembered_sha256, image_files(path))) if path else "missing"


def folders_of(results: Results, folder: Path) -> dict[str, str]:
    """Folder of each entry, in full."""
    # The images of one entry may lie in `folder` itself, under a name that is not its own.
    found = {entry: next(iter(i.values())).parent if i else folder / entry for entry, i in results.items()}
    return {entry: str(path.resolve()) for entry, path in found.items()}


def fused_image(task: Task, *, findings: bool = False) -> NDArray[np.float32]:
    """The image of a task that reads one: (D, H, W) in [0, 1] on the grid of the case.

    Parameters
    ----------
    findings : bool
        The one made of the sources with findings.

    Raises
    ------
    InputError
        There is none for this case, or it does not fit.
    """
    if task.image == MISSING:
        raise InputError(f"no image of this case; add {task.case.id}.nii.gz (or .png, .tif)")
    path = Path(task.image_with if findings else task.image)
    return read_result(path, task.case.a, f"case {task.case.id}", task.image_range).data


def read_result(path: Path, like: Volume, source: object, wanted: Range | None = None) -> Volume:
    """Read a fused image on the grid of `like`, called `source` in messages, without stretching it.

    Unsigned 8-bit files span 0..255, 16-bit ones 0..65535, other values [0, 1], and images of FuseBench what
    their header says.  Anything else needs `wanted`: guessing a range from the extremes would raise contrast.

    Raises
    ------
    InputError
        Another shape, NaN, or a range that has to be told.
    """
    raw = read_raw(path)
    volume = scale(raw, wanted or _range(raw))
    check_grid(like, volume, source, path, "resample it to that grid")
    return volume


def _range(raw: RawImage) -> Range:
    known = raw.stored_range or raw.type_range
    if known is not None:
        return known
    low, high = float(raw.data.min()), float(raw.data.max())
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return 0.0, 1.0
    raise InputError(
        f"{raw.path}: values from {low:g} to {high:g}; say what 0 and 1 are, "
        f"e.g. --fused-range 0 {255 if high > 2 else 1}"
    )
