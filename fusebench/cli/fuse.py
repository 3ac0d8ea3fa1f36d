"""``fuse``: one method on two images; the result lies in the structural image's space."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..case import Pair
from ..parameters import check_seed
from ._console import make_console
from ._options import (
    add_device_option,
    add_plugin_option,
    add_radiological_option,
    parameters_of,
    plugins_of,
    weights_path,
    writing,
)


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("fuse", help="fuse two images with one method")
    parser.add_argument("--method", required=True, metavar="NAME")
    parser.add_argument("--mri", required=True, type=Path, metavar="FILE", help="structural image (MRI, CT)")
    parser.add_argument(
        "--pet", required=True, type=Path, metavar="FILE", help="functional image (PET, SPECT)"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help=".nii.gz, .nii, .mha, .nrrd; of one slice .png, .tif; .png of a volume is a sheet of planes",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PARAM=VALUE", help="a parameter of the method"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights of a learned method")
    parser.add_argument(
        "--register",
        action="store_true",
        help="align the functional image to the structural one first (rigid); any grids, 4D PET averaged",
    )
    parser.add_argument(
        "--dtype",
        choices=["original", "float32"],
        default="original",
        help="voxels of a written NIfTI: as the structural image's (default), or float32",
    )
    parser.add_argument(
        "--colour",
        nargs="?",
        type=colour_map,
        const="",
        metavar="MAP",
        help="also in colour: light as the fused image, hue by the functional one; map coldwarm (default) or "
        "heat. Beside OUTPUT: OUTPUT-colour.nii.gz (RGB) and OUTPUT-colour.png (a sheet)",
    )
    add_radiological_option(parser)
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    add_plugin_option(parser)
    parser.set_defaults(run=run, again="nothing was written; the same command starts anew")


def run(args: argparse.Namespace) -> int:
    from ..engine.fusing import fuse
    from ..errors import InputError
    from ..images.colour import chroma_of
    from ..images.raw import NIFTI, extension
    from ..images.read_write import read_pair, write_colour, write_image
    from ..images.sheet import View, sheet
    from ..plugins import make_method
    from ._options import device_of

    outputs = [args.output, *(beside(args.output) if args.colour is not None else ())]
    for option in ("mri", "pet"):
        source = getattr(args, option)
        for path in outputs:
            if path.exists() and source.exists() and path.samefile(source):
                raise InputError(f"-o {path}: is the --{option} file; give the fused image another name")
    check_seed(args.seed, "--seed")
    plugins = plugins_of(args)
    parameters = parameters_of(args.set, "--set")
    if args.weights is not None:
        parameters["weights"] = str(weights_path(args.weights, args.method).resolve())
    method = make_method(plugins, args.method, parameters)
    pair = aligned_pair(args.mri, args.pet) if args.register else read_pair(args.mri, args.pet)
    method.setup(device_of(args))
    with parts_shown(method):
        fused, seconds = fuse(method, pair.a.data, pair.b.data, args.seed)
    # The file, not the volume: its orientation, header and voxel type are written back.
    like = args.mri if args.mri.is_file() and extension(args.mri) in NIFTI else pair.a
    chroma = pair.b.chroma if args.colour is None else chroma_of(pair.b, args.colour)
    sheet_only = extension(args.output) == ".png" and len(fused) > 1
    if not sheet_only:
        write_image(
            args.output, fused, like=like, chroma=chroma, intensity=pair.a.intensity, dtype=args.dtype
        )
    drawn = [args.output]
    if args.colour is not None and extension(args.output) != ".png":
        assert chroma is not None
        volume, picture = beside(args.output)
        write_colour(volume, fused, chroma, like=like)
        drawn += [volume, picture]
    if sheet_only or len(drawn) > 1:
        view = View(
            pair.a.spacing,
            radiological=args.radiological,
            map="" if pair.b.chroma is not None else args.colour or "",
        )
        images = [("MRI", pair.a), ("PET", pair.b), (args.method, fused)]
        with writing(drawn[-1]):
            sheet(images, drawn[-1], None if args.colour is None else chroma, view)
    console = make_console()
    console.print(
        f"{args.output}: {args.method}, {seconds:.2f} s", markup=False, highlight=False, soft_wrap=True
    )
    for path in drawn[1:]:
        console.print(f"{path}: in colour", markup=False, highlight=False, soft_wrap=True)
    return 0


def colour_map(text: str) -> str:
    """The `type` of ``--colour``."""
    from ..images.colour import DEFAULT_MAP, MAPS

    if not text:  # the option alone
        return DEFAULT_MAP
    if text not in MAPS:
        raise argparse.ArgumentTypeError(f"{text!r} is no colour map; there are {', '.join(MAPS)}")
    return text


def beside(output: Path) -> tuple[Path, Path]:
    """Where the fused image in colour goes: a volume and a sheet."""
    from ..images.raw import stem

    name = stem(output)
    return output.with_name(f"{name}-colour.nii.gz"), output.with_name(f"{name}-colour.png")


@contextmanager
def parts_shown(method: Any) -> Iterator[None]:
    """Show on a terminal how long a method fuses, and how far it is where it tells of slices or tiles."""
    from ..method import SliceMethod

    console = make_console(stderr=True)
    parts = "slices" if isinstance(method, SliceMethod) else "tiles"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[at]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(method.info.name, total=None, at="", left="")  # the bar moves to and fro

        def told(done: int, total: int) -> None:
            if total > 1:
                bar.update(task, completed=done, total=total, at=f"{done}/{total} {parts}", left="ETA")

        method.progress = told
        yield


def aligned_pair(mri: Path, pet: Path) -> Pair:
    """Both images on the structural one's grid, the functional one registered; says how it went."""
    from ..datasets.preprocessing import pipeline

    pair, state = pipeline.align_files(mri, pet)
    console = make_console(stderr=True)
    figures = state.numbers
    console.print(
        f"registered: moved by {figures['moved_mm']:.1f} mm, mutual information "
        f"{figures['information_before']:.2f} to {figures['information_after']:.2f} bits",
        highlight=False,
    )
    for note in state.notes:
        console.print(f"warning: {note}", markup=False, highlight=False, soft_wrap=True)
    result: Pair = pair
    return result
