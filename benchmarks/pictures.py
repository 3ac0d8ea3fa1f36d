"""Pictures of README and docs, from one run on phantoms: ``PYTHONPATH=. python benchmarks/pictures.py``.

Needs the ``test`` extra and Chromium, for pages as they look.  Only phantoms: no person's image belongs here.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import fusebench
from fusebench.cli import main as command
from fusebench.images.colour import DEFAULT_MAP, chroma_of
from fusebench.images.sheet import View, sheet

METHODS = "dcfb,conditional@1,max,laplacian,dwt,average,blend@0.35,source-mri,source-pet,noise"
SHOWN = "dcfb"
LIMIT = 240_000  # bytes of a picture


def small(path: Path, out: Path, width: int = 1200) -> None:
    """Store a picture of 256 colours, at most so wide, narrower while it is large: git keeps it for ever."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    width = min(width, whole.width)
    while True:
        size = (width, round(whole.height * width / whole.width))
        image = whole.resize(size, Image.Resampling.LANCZOS) if width < whole.width else whole
        image.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
        if out.stat().st_size <= LIMIT:
            break
        width = round(0.9 * width)
    print(f"{out}: {width} pixels wide, {out.stat().st_size / 1000:.0f} kB")


def lesion_case(data: Any) -> tuple[Any, tuple[int, int, int]]:
    """The first phantom with a lesion, and the voxel where it takes most."""
    case = next(c for c in data.cases("test") if c.meta["lesion"])
    depth = case.truth["lesion_depth"] * case.truth["gm"]
    d, h, w = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return case, (int(d), int(h), int(w))


def colour_sheet(case: Any, at: tuple[int, int, int], out: Path) -> None:
    """MRI, PET and two fused images through the lesion, in grey and in colour."""
    images = [("MRI", case.a), ("PET", case.b)]
    images += [(name, fusebench.fuse(case, method=name)) for name in ("average", SHOWN)]
    sheet(images, out, chroma_of(case.b), View(case.a.spacing, at=at, map=DEFAULT_MAP))
    small(out, out, 900)


def protocols(case: Any, out: Path) -> None:
    """What each protocol scores: foreground in 3D, every slice that holds some, the central slice."""
    a, mask = case.a.data, case.mask
    fused = fusebench.fuse(case, method=SHOWN)
    middle = len(a) // 2
    holding = np.flatnonzero(mask.any(axis=(1, 2)))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    volume, slices, paper = figure.subplots(1, 3)
    side = fused.shape[2] // 2
    volume.imshow(fused[:, :, side], cmap="gray", vmin=0, vmax=1, origin="lower")
    volume.contour(mask[:, :, side], levels=[0.5], colors="#e69f00")
    volume.set_title("volume: all voxels inside the mask")
    slices.imshow(fused[:, :, side], cmap="gray", vmin=0, vmax=1, origin="lower")
    slices.hlines(holding[::4], 0, fused.shape[1] - 1, colors="#56b4e9", linewidth=0.8)
    slices.set_title(f"slices: {len(holding)} of {len(a)}, each whole")
    paper.imshow(fused[middle], cmap="gray", vmin=0, vmax=1, origin="lower")
    paper.set_title(f"paper: slice {middle + 1} alone")
    for axes in (volume, slices, paper):
        axes.set_axis_off()
    figure.savefig(out, dpi=100)
    small(out, out, 900)


def pages(report: Path, case: str, at: tuple[int, int, int], out: Path) -> None:
    """The board and the viewer of a report, as Chromium shows them."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    (page_of_case,) = (p for p in (report / "cases").glob(f"*{case}*.html") if not p.stem.endswith("-study"))
    view = f"large=method:{SHOWN}&colour=true&outline=true&at={','.join(map(str, at))}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1240, "height": 830})
        page.goto((report / "index.html").as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=out / "board.png")
        page.set_viewport_size({"width": 1240, "height": 980})
        page.goto(f"{page_of_case.as_uri()}#{view}")
        page.wait_for_selector("#viewer[data-ready=yes]")
        page.wait_for_timeout(1500)
        page.screenshot(path=out / "viewer.png")
        browser.close()
    for name in ("board.png", "viewer.png"):
        small(out / name, out / name, 1240)


def main() -> None:
    """Run, report, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/pictures"), help="run folder; it resumes")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = fusebench.run(
        METHODS.split(","),
        cases=options.cases,
        data_options={"size": options.size},
        out=options.run,
        save="all",
        jobs=options.jobs,
        progress=print,
    )
    assert command(["report", str(run.folder), "--no-figures"]) == 0
    report = run.folder / "report"
    small(next((run.folder / "figures").glob("*.png")), options.out / "contact-sheet.png", 1100)
    case, at = lesion_case(fusebench.create_dataset("phantom", size=options.size))
    pages(report, case.id, at, options.out)
    case, at = lesion_case(fusebench.create_dataset("phantom"))
    colour_sheet(case, at, options.out / "colour.png")
    protocols(case, options.out / "protocols.png")


if __name__ == "__main__":
    main()
