"""``score``: score fused images that were made elsewhere, single files or folders."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..engine.manifest import read_manifest, same_again
from ..errors import FuseBenchError, InputError
from ..images.raw import EXTENSIONS, folder_images, image_files, stem
from ..metric import ARROWS, MetricId
from ..parameters import user_path
from ..scoring.protocol import PROTOCOLS, READERS, ScoredImages, is_reading, require_scored
from ..scoring.select import select_metrics
from ..store.folder import RunFolder
from ..text import cell
from ._console import make_console
from ._options import (
    DATASET,
    add_data_options,
    add_plugin_option,
    add_radiological_option,
    at_least,
    data_of,
    plugins_of,
    refuse_sources,
    split_commas,
    write_named,
)
from .run import console_of, show

if TYPE_CHECKING:
    from ..plugins import Plugins

_log = logging.getLogger("fusebench")


@dataclass(frozen=True)
class Item:
    """One fused image with its sources."""

    method: str
    case: str
    mri: Path
    pet: Path
    fused: Path | None
    mask: Path | None


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "score",
        help="score fused images made elsewhere",
        description="Score fused images against their sources. Files or folders; in folders, files of one "
        "name belong together, and every sub-folder of a fused folder is one method.",
    )
    parser.add_argument("--mri", type=Path, metavar="PATH", help="structural image(s)")
    parser.add_argument("--pet", type=Path, metavar="PATH", help="functional image(s)")
    parser.add_argument(
        "--fused",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="fused image(s), one folder a method",
    )
    parser.add_argument(
        "--mask",
        default="auto",
        metavar="PATH",
        help="foreground: image(s), 'none' for everything, or 'auto' (default): of the structural image for "
        "volumes, 'none' for pictures; protocol volume scores inside it, slices takes the slices that hold "
        "some of it, paper does without",
    )
    parser.add_argument(
        "--register",
        action="store_true",
        help="align the functional image to the structural one first, as `fuse --register` does",
    )
    parser.add_argument(
        "--metrics",
        default="",
        metavar="LIST",
        help="comma-separated ids and wildcards, or all (default: the ranking set; see `list metrics`)",
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="as in a run. volume: in 3D inside the mask (default); slices: mean of the unmasked 2D scores "
        "of the axial slices with foreground; paper: the central slice, with metrics of its own; readers "
        "(a default, too, of --results-dir): what can still be seen",
    )
    parser.add_argument(
        "--fused-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="what 0 and 1 are in the fused images (default: header of FuseBench, else 0..255 and 0..65535 "
        "of unsigned 8 and 16 bits, else 0..1; images with other values are refused)",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores there")
    add_plugin_option(parser)
    board = parser.add_argument_group("entries of a leaderboard")
    board.add_argument(
        "--results-dir",
        type=Path,
        metavar="DIR",
        help="folder of fused images named as the cases of --dataset, one sub-folder per entry; they join "
        "the board of --out, marked as scored from files. Dataset, its options, split, protocols and metrics "
        "that are not given are those of --out, where it holds a run",
    )
    board.add_argument("--name", default="", help="name of the entry, where DIR holds the images itself")
    board.add_argument("--out", type=Path, metavar="DIR", help="run folder (default runs/<dataset>-<split>)")
    board.add_argument("--jobs", type=at_least(0), metavar="N", help="worker processes, as for run")
    add_radiological_option(board)
    add_data_options(parser)
    parser.set_defaults(split=None)  # so that it is known whether it was given
    parser.set_defaults(run=run, again="the same command starts anew, or resumes where it has --results-dir")


def run(args: argparse.Namespace) -> int:
    if args.results_dir is not None:
        return score_results(args)
    if args.name:
        raise InputError(
            "--name is of an entry in --results-dir; leave it out, files are named by their names"
        )
    if args.jobs is not None:
        raise InputError("--jobs is of --results-dir; leave it out, files are scored one after the other")
    if not (args.mri and args.pet and args.fused):
        raise InputError("give --mri, --pet and --fused; or --results-dir with --dataset")
    plugins = plugins_of(args)
    named = split_commas([args.metrics])
    chosen = select_metrics(plugins.metrics, named, with_truth=False)
    protocol = PROTOCOLS[args.protocol or "volume"]
    readings = [f"metric {name}" for name in named if is_reading(name)]
    if protocol.name == READERS or readings:
        raise InputError(
            f"{readings[0] if readings else f'--protocol {READERS}'} reads a second image, made of sources "
            "with findings; use --results-dir with --dataset, which takes <case>+findings beside <case>"
        )
    require_scored([protocol.name], named)
    ids = protocol.metrics(chosen)
    items = list(_items(args))
    refuse_sources("--csv", args.csv, _read_by(args, items))
    console = make_console()
    rows: list[tuple[Item, dict[str, Any]]] = []
    failures: list[str] = []
    for item in items:
        try:
            values = _score(item, ids, args, plugins)
        except FuseBenchError as error:
            if len(items) == 1:
                raise
            values = dict.fromkeys(ids, error)
        bad = {k: v for k, v in values.items() if isinstance(v, Exception)}
        for reason in dict.fromkeys(str(e) for e in bad.values()):
            names = [k for k, v in bad.items() if str(v) == reason]
            what = "" if len(names) == len(ids) else f" {', '.join(names)}"
            failures.append(f"{item.method} {item.case}{what}: {reason}")
        rows.append((item, values))
    _print(console, rows, ids, plugins)
    for line in failures:
        console.print(f"failed: {line}", markup=False, highlight=False, soft_wrap=True)
    if args.csv is not None:
        _write(args.csv, rows, ids)
        console.print(f"{args.csv}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failures else 0


def score_results(args: argparse.Namespace) -> int:
    """Score a folder of fused images against a dataset: rows, board and files as of a run."""
    from ..api import run_request
    from ..engine.request import Request
    from ._progress import Shown

    if args.mri or args.pet or args.fused or args.register or args.mask != "auto":
        raise InputError(
            "--results-dir takes sources and mask from --dataset; leave out --mri, --pet, "
            "--fused, --mask and --register"
        )
    console = console_of()
    given = {
        "protocols": (args.protocol,) if args.protocol else (),
        "metrics": split_commas([args.metrics]),
    }
    asked = Request(
        **_as_in_the_run(args, given, console),
        results_dir=args.results_dir,
        entry=args.name,
        fused_range=_fused_range(args),
        device="cpu",
        jobs=args.jobs,
        out=args.out,
        radiological=args.radiological,
        command=sys.argv,
    )
    return show(run_request(asked, Shown(console)), console)


def _as_in_the_run(args: argparse.Namespace, given: dict[str, Any], console: Console) -> dict[str, Any]:
    """What to score and on which data: as given, else as of the run in ``--out``, else the defaults."""
    folder = args.out or Path("runs") / f"{args.dataset or DATASET}-{args.split or 'test'}"
    stored = same_again(read_manifest(folder)) if RunFolder(folder).manifest.exists() else {}
    if args.dataset not in (None, stored.get("dataset")) or args.data_dir is not None:
        stored = {name: stored[name] for name in ("protocols", "metrics") if name in stored}
    else:
        args.dataset = stored.get("dataset")
    found = data_of(args) | given
    taken = {k: v for k, v in stored.items() if not found[k] and k != "dataset"}
    if taken:
        said = "; ".join(f"{k.replace('_', ' ')} {_listed(v)}" for k, v in taken.items())
        console.print(
            f"as of the run in {folder}: {said}", markup=False, highlight=False, soft_wrap=True, style="dim"
        )
    return {**found, **taken, "split": taken.get("split") or found["split"] or "test"}


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}={text}" for key, text in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _fused_range(args: argparse.Namespace) -> tuple[float, float] | None:
    return (args.fused_range[0], args.fused_range[1]) if args.fused_range else None


# -- finding files -------------------------------------------------------------------------------


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """A method's name for each: the name without extension, or as much of the path as tells them apart."""
    full = [Path(path) for path in dict.fromkeys(os.path.abspath(path) for path in paths)]
    names = [path.name if path.is_dir() else stem(path) for path in full]
    depth = 0
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in full]
    return dict(zip(names, full, strict=True))


def _items(args: argparse.Namespace) -> Iterator[Item]:
    mask = None if args.mask in ("auto", "none") else user_path(args.mask)
    for path in (args.mri, args.pet, *args.fused, *([mask] if mask else [])):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    if args.mri.is_file():
        for path in args.fused:
            if path.is_dir():
                raise InputError(f"{path}: a folder, but --mri is one file; give folders for all, or files")
        for name, path in _names(args.fused).items():
            yield Item(name, stem(args.mri), args.mri, args.pet, path, mask)
        return
    yield from _items_of_folders(args, mask)


def _items_of_folders(args: argparse.Namespace, mask: Path | None) -> Iterator[Item]:
    from ..engine.from_files import entry_folders, some

    mri, pet = folder_images(args.mri), folder_images(args.pet) if args.pet.is_dir() else {}
    if not pet:
        raise InputError(
            f"{args.pet}: no images; --mri is a folder, so --pet must be one with the same names"
        )
    masks = folder_images(mask) if mask and mask.is_dir() else {}
    for path in args.fused:
        if path.is_file():
            raise InputError(f"{path}: a file, but --mri is a folder; give the folder of the fused images")
    folders = _names([below for path in args.fused for below in entry_folders(path, mri)])
    fused = {method: folder_images(folder) for method, folder in folders.items()}
    cases = sorted({case for images in fused.values() for case in images})
    if not cases:
        raise InputError(f"{args.fused[0]}: no images; known are {', '.join(EXTENSIONS)}")
    left = (mri.keys() & pet.keys()).difference(cases)
    if left:
        _log.warning("%s: %s not scored; no fused image has this name", args.mri, some(left))
    for method, images in fused.items():
        for case in cases:
            path = images.get(case, folders[method] / case)
            if case not in mri or case not in pet:
                where = args.mri if case not in mri else args.pet
                raise InputError(
                    f"{path}: {where} has no image of the name {case}; rename it to its source's name"
                )
            if masks and case not in masks:
                raise InputError(f"{path}: {mask} has no mask of the name {case}")
            yield Item(method, case, mri[case], pet[case], images.get(case), masks.get(case, mask))


def _read_by(args: argparse.Namespace, items: Sequence[Item]) -> list[Path]:
    """The files and folders that scoring reads."""
    images = {path for i in items for path in (i.mri, i.pet, i.fused, i.mask) if path is not None}
    files = [file for path in images if path.is_file() for file in image_files(path)]
    return [args.mri, args.pet, *args.fused, *map(Path, args.plugin), *files]


# -- scoring -------------------------------------------------------------------------------------


def _score(item: Item, ids: Sequence[str], args: argparse.Namespace, plugins: Plugins) -> dict[str, Any]:
    import torch

    from ..engine.from_files import read_result
    from ..images.foreground import foreground
    from ..images.read_write import check_grid, read_image, read_mask

    if item.fused is None:
        raise InputError("no fused image of this name, while another method has one; add it")
    if args.register:
        from .fuse import aligned_pair

        pair = aligned_pair(item.mri, item.pet)
        a, b = pair.a, pair.b
    else:
        a, b = read_image(item.mri), read_image(item.pet)
        check_grid(a, b, item.mri, item.pet)
    fused = read_result(item.fused, a, item.mri, _fused_range(args))
    mask = None
    if item.mask is not None:
        mask = read_mask(item.mask, a)
    elif args.mask == "auto" and a.shape[0] > 1:
        mask = foreground(a.data)
    ta, tb, tf = (torch.from_numpy(image.data) for image in (a, b, fused))
    scene = ScoredImages(ta, tb, tf, None if mask is None else torch.from_numpy(mask), a.spacing)
    return PROTOCOLS[args.protocol or "volume"].score(scene, ids, None, plugins)


# -- output --------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, Exception):
        return "failed"
    return "not defined" if math.isnan(value) else f"{value:.4f}"


def _mean(values: Sequence[Any]) -> Any:
    kept = [v for v in values if not isinstance(v, Exception)]
    return math.fsum(kept) / len(kept) if len(kept) == len(values) else ValueError("some images failed")


def _print(
    console: Console, rows: Sequence[tuple[Item, dict[str, Any]]], ids: Sequence[str], plugins: Plugins
) -> None:
    arrow = {i: ARROWS[plugins.metrics.load(MetricId.parse(i).name).info.direction] for i in ids}
    methods = list(dict.fromkeys(item.method for item, _ in rows))
    table = Table()
    table.add_column("metric")
    for method in methods:
        table.add_column(escape(method), justify="right")
    for i in ids:
        means = [_mean([v[i] for item, v in rows if item.method == m]) for m in methods]
        table.add_row(f"{i} {arrow[i]}".strip(), *(_text(m) for m in means))
    cases = len({item.case for item, _ in rows})
    console.print(table)
    if cases > 1:
        console.print(f"mean over {cases} images", highlight=False)


def _write(path: Path, rows: Sequence[tuple[Item, dict[str, Any]]], ids: Sequence[str]) -> None:
    text = io.StringIO(newline="")
    out = csv.writer(text)
    out.writerow(["method", "case", *ids])
    for item, values in rows:
        cells = ["" if isinstance(values[i], Exception) else repr(float(values[i])) for i in ids]
        out.writerow([cell(item.method), cell(item.case), *cells])
    write_named(path, text.getvalue())
