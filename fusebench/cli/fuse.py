"""``fuse``: one method on two images; the result lies in the structural image's space."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..case import Pair
from ._console import make_console
from ._options import add_device_option, add_plugin_option, parameters_of, plugins_of, weights_path


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("fuse", help="fuse two images with one method")
    parser.add_argument("--method", required=True, metavar="NAME")
    parser.add_argument("--mri", required=True, type=Path, metavar="FILE", help="structural image (MRI, CT)")
    parser.add_argument(
        "--pet", required=True, type=Path, metavar="FILE", help="functional image (PET, SPECT)"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE")
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
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    add_plugin_option(parser)
    parser.set_defaults(run=run, again="nothing was written; the same command starts anew")


def run(args: argparse.Namespace) -> int:
    from ..engine.fusing import fuse
    from ..errors import InputError
    from ..images.raw import NIFTI, extension
    from ..images.read_write import read_pair, write_image
    from ..plugins import make_method
    from ._options import device_of

    for option in ("mri", "pet"):
        source = getattr(args, option)
        if args.output.exists() and source.exists() and args.output.samefile(source):
            raise InputError(f"-o {args.output}: is the --{option} file; give the fused image another name")
    plugins = plugins_of(args)
    parameters = parameters_of(args.set, "--set")
    if args.weights is not None:
        parameters["weights"] = str(weights_path(args.weights, args.method).resolve())
    method = make_method(plugins, args.method, parameters)
    pair = aligned_pair(args.mri, args.pet) if args.register else read_pair(args.mri, args.pet)
    method.setup(device_of(args))
    with slices_shown(method):
        fused, seconds = fuse(method, pair.a.data, pair.b.data, args.seed)
    # The file, not the volume: its orientation, header and voxel type are written back.
    like = args.mri if args.mri.is_file() and extension(args.mri) in NIFTI else pair.a
    write_image(
        args.output,
        fused,
        like=like,
        chroma=pair.b.chroma,
        intensity=pair.a.intensity,
        dtype=args.dtype,
    )
    make_console().print(
        f"{args.output}: {args.method}, {seconds:.2f} s", markup=False, highlight=False, soft_wrap=True
    )
    return 0


@contextmanager
def slices_shown(method: Any) -> Iterator[None]:
    """Show a bar while a 2D method goes through the slices of a volume."""
    console = make_console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slices, ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        slices = bar.add_task(method.info.name, total=None, visible=False)
        method.progress = lambda done, total: bar.update(
            slices, completed=done, total=total, visible=total > 1
        )
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
