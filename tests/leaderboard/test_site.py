"""The HTML site in headless Chromium, served and opened from disk."""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fusebench.cli import main
from fusebench.errors import InputError
from fusebench.images.colour import tint, to_rgb

from .conftest import EFFECTS, make_run, write_run

report = importlib.import_module("fusebench.leaderboard.report")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
EVIL = "<script>alert(1)</script>"
SHAPE = (10, 14, 12)


def store_volumes(run: Path, case: str, names: list[str], shape: tuple[int, int, int] = SHAPE) -> None:
    """Sources and fused volumes of a case; each volume is a ramp along another axis."""
    d, h, w = np.indices(shape) / np.maximum(np.array(shape)[:, None, None, None] - 1, 1)
    folder = run / "fused" / "phantom" / case
    affine = np.diag([2.0, -2.0 if shape[0] == 1 else 2.0, 3.0, 1.0])

    def put(data: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(data, np.float32).T, affine), path)

    put(w, folder / "sources" / "mri.nii.gz")
    put(h, folder / "sources" / "pet.nii.gz")
    if shape[0] == 1:
        put(np.stack([np.full(shape, 90), np.full(shape, 200)]), folder / "sources" / "chroma.nii.gz")
    for i, name in enumerate(names):
        put((w + h + d * i) / (2 + i), folder / f"{name}.nii.gz")
    if shape == SHAPE:
        where = np.zeros(shape)
        where[4:7, 6:9, 3:5] = 1  # slices 4 to 6; 3 rows of 2 columns
        put(where, folder / "sources" / "lesion.nii.gz")
    put(np.ones((3, 4, 5)), folder / "of-another-grid.nii.gz")


# Kind, sign, voxel; standard deviation 2.6 or 5.6 mm, voxels of (3, 2, 2) mm.
FINDINGS = [("a", 1, (5, 7, 6)), ("a", -1, (5, 3, 2)), ("b", 1, (2, 9, 9)), ("b", -1, (8, 4, 8))]


def store_findings(run: Path, case: str, names: list[str]) -> None:
    """The findings of a case: of the volumes with them, the value is the number of the volume over ten."""
    folder = run / "fused" / "phantom" / case / "findings"
    folder.mkdir(parents=True)
    for i, name in enumerate(["mri", "pet", *names]):
        data = np.full(SHAPE, (i + 1) / 10, np.float32)
        nib.save(nib.Nifti1Image(data.T, np.diag([2.0, 2.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    lines = ["kind,sign,depth,sigma,d,h,w"]
    lines += [f"{k},{s},.2,{2.6 if k == 'a' else 5.6},{d},{h},{w}" for k, s, (d, h, w) in FINDINGS]
    (folder / "findings.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    rows, manifest = make_run(
        {**EFFECTS, EVIL: 0.5, "dead": 0.0},
        controls=("source-mri", "noise"),
        fail={"net": [1, 2], "dead": list(range(8))},
        protocols=("volume", "paper"),
        metrics=["psnr", "ssim", "nabf", "en"],
    )
    manifest["methods"][EVIL]["summary"] = f"{EVIL} & <b>bold</b>"
    run = write_run(folder / "run", rows, manifest)
    store_volumes(run, "case-000", ["good", "net"])
    store_findings(run, "case-000", ["net"])  # a run that was stopped: one method lacks them
    store_volumes(run, "case-001", ["good"], (1, 14, 12))
    return report.write(run, folder / "report", figures=False)[0].parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # The gate sets this where it can install a browser: a skip there would hide what it is to find.
    missing = pytest.fail if os.environ.get("FUSEBENCH_REQUIRE_BROWSER") else pytest.skip
    if importlib.util.find_spec("playwright") is None:
        missing("the playwright package is not installed")
    if CHROMIUM is None:
        missing("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
        httpd.shutdown()


@contextmanager
def watched_page(browser: Any, root: str) -> Iterator[Any]:
    """A page whose errors, dialogs and requests beyond `root` fail the test at its end."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(120_000)  # a loaded machine is slow, not wrong
    problems: list[str] = []

    def request(r: Any) -> None:
        if not r.url.startswith((root, "data:", "blob:")):
            problems.append(r.url)

    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("dialog", lambda d: (problems.append(f"dialog {d.message}"), d.dismiss()))
    page.on("request", request)
    page.root = root
    yield page
    page.close()
    assert problems == []


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    with watched_page(browser, site.as_uri() + "/") as page:
        yield page


@pytest.fixture(params=["disk", "served"])
def both(request: pytest.FixtureRequest, browser: Any, site: Path, server: str) -> Iterator[Any]:
    with watched_page(browser, server if request.param == "served" else site.as_uri() + "/") as page:
        yield page


def until(page: Any, expression: str) -> None:
    """Wait for a JavaScript expression; Playwright's own way takes eval, which the pages forbid."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def names(page: Any, table: str = "table-phantom-volume") -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden]) td.name", "cells => cells.map(c => c.dataset.value)"
    )


@pytest.mark.browser
def test_table_sorts_both_ways_and_keeps_empty_last(both: Any) -> None:
    page = both
    page.goto(page.root + "index.html")
    assert names(page)[0] == "good"
    head = page.locator("#table-phantom-volume th", has_text="nabf")
    head.locator("button").click()
    up = names(page)
    assert head.get_attribute("aria-sort") == "ascending"
    assert up[0] == "source-mri" and up[-1] == "dead"
    head.locator("button").click()
    down = names(page)
    assert down[:-1] == up[:-1][::-1] and down[-1] == "dead"


@pytest.mark.browser
def test_table_filters_by_text_and_kind(page: Any) -> None:
    page.goto(page.root + "index.html")
    tools = page.locator('.tools[data-for="table-phantom-volume"]')
    tools.locator("input[type=search]").fill("poor")
    assert names(page) == ["poor"]
    tools.locator("input[type=search]").fill("")
    tools.locator("input[data-hide=control]").check()
    tools.locator("input[data-hide=incomplete]").check()
    assert set(names(page)) == {"good", "fair2d", "poor", EVIL}
    assert tools.locator(".count").inner_text() == "4 of 8 shown"


@pytest.mark.browser
def test_markup_in_a_name_is_text(page: Any) -> None:
    page.goto(page.root + "index.html")
    page.get_by_role("link", name=EVIL).first.click()
    assert page.inner_text("h1").strip() == EVIL
    assert "<b>bold</b>" in page.inner_text("main")


@pytest.mark.browser
def test_crosshair_moves_all_panes(both: Any) -> None:
    page = both
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-000", exact=True).click()
    page.wait_for_selector("#viewer[data-ready=yes]")
    until(page, "document.querySelector('#viewer canvas').dataset.slice")
    slices = "[...document.querySelectorAll('#viewer canvas')].map(c => c.dataset.plane + c.dataset.slice)"
    before = page.evaluate(slices)
    assert len(before) == 4 * 3
    picture = "[...document.querySelectorAll('#viewer canvas')].map(c => c.toDataURL())"
    drawn = page.evaluate(picture)
    canvas = page.locator('#viewer .pane[data-id="pet"] canvas[data-plane="axial"]')
    box = canvas.bounding_box()
    # Top left of an axial slice is left and anterior: low w, high h.
    canvas.click(position={"x": box["width"] * 0.5 / SHAPE[2], "y": box["height"] * 0.5 / SHAPE[1]})
    page.wait_for_selector(f'#viewer[data-cursor="{SHAPE[0] // 2},{SHAPE[1] - 1},0"]')
    after = page.evaluate(slices)
    assert [s for s in after if s.startswith("coronal")] == [f"coronal{SHAPE[1] - 1}"] * 4
    assert [s for s in after if s.startswith("sagittal")] == ["sagittal0"] * 4
    assert all(x != y for x, y in zip(drawn, page.evaluate(picture), strict=True))
    # MRI is a ramp along w, PET along h: the read-outs say which voxel is under the crosshair.
    values = "panes => panes.map(p => [p.dataset.id, p.querySelector('h3 span:last-child').textContent])"
    read = dict(page.eval_on_selector_all("#viewer .pane", values))
    assert read["mri"] == "0.00" and read["pet"] == "1.00"
    assert "0.0, 26.0, 15.0 mm" in page.inner_text("#where")
    for mode, mri, pet in (("minus-mri", "0.00", "+1.00"), ("minus-pet", "-1.00", "0.00"),
                           ("overlay", "0.00, PET 1.00", "1.00")):  # fmt: skip
        page.select_option("#mode", mode)
        page.wait_for_timeout(200)
        read = dict(page.eval_on_selector_all("#viewer .pane", values))
        assert (read["mri"], read["pet"]) == (mri, pet)


@pytest.mark.browser
def test_difference_overlay_and_colour_maps_change_the_picture(page: Any) -> None:
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-000", exact=True).click()
    page.wait_for_selector("#viewer[data-ready=yes]")
    shot = "document.querySelector('.pane[data-id=\"method:good\"] canvas').toDataURL()"
    until(page, "document.querySelector('#viewer canvas').dataset.slice")
    seen = {page.evaluate(shot)}
    for mode in ("minus-mri", "minus-pet", "overlay"):
        page.select_option("#mode", mode)
        page.wait_for_timeout(100)
        seen.add(page.evaluate(shot))
    page.select_option("#mode", "image")
    for name in ("hot", "viridis", "inverted"):
        page.select_option("#map", name)
        page.wait_for_timeout(100)
        seen.add(page.evaluate(shot))
    assert len(seen) == 7
    page.fill("#only", "net")
    assert page.locator("#viewer .pane:visible").count() == 3


@pytest.mark.browser
def test_findings_and_rings_are_shown_when_asked_for(both: Any) -> None:
    page = both
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-000", exact=True).click()
    page.wait_for_selector("#viewer[data-ready=yes]")
    until(page, "document.querySelector('#viewer canvas').dataset.slice")
    pane = '.pane[data-id="method:net"]'
    rings = f"[...document.querySelectorAll('{pane} canvas')].map(c => Number(c.dataset.rings))"
    value = "document.querySelector('.pane[data-id=\"method:net\"] h3 span:last-child').textContent"
    assert page.evaluate(rings) == [0, 0, 0]
    before = page.evaluate(value)
    page.check("#with")
    page.wait_for_selector("#viewer[data-findings=yes]")
    until(page, f"{value} === '0.30'")
    page.check("#rings")
    until(page, f"{rings}[0] === 4")
    # The cursor is in the middle, (5, 7, 6): a ball of 5.2 or 11.2 mm is cut by a plane so far off, or not.
    size = {"a": 2.6, "b": 5.6}
    for axis, (step, at) in enumerate(zip((3.0, 2.0, 2.0), (5, 7, 6), strict=True)):
        cut = [abs(place[axis] - at) * step < 2 * size[kind] for kind, _, place in FINDINGS]
        assert page.evaluate(rings)[axis] == sum(cut)
    page.uncheck("#with")
    until(page, f"{value} === '{before}'")


@pytest.mark.browser
def test_two_picture_test_asks_saves_and_scores(both: Any, tmp_path: Path) -> None:
    page = both
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-000", exact=True).click()
    page.get_by_role("link", name="Two-picture test").click()
    page.select_option("#study-method", "method:net")
    page.fill("#study-count", "6")
    page.fill("#study-reader", "=A,B")
    page.click("#study-start")
    level = """() => [...document.querySelectorAll('#study canvas')].map(
        c => c.getContext('2d').getImageData(180, 150, 1, 1).data[0])"""
    for pair in range(1, 7):
        page.wait_for_selector(f'#study[data-pair="{pair}"]')
        until(page, "document.getElementById('study').hidden === false")
        page.wait_for_timeout(100)
        # The picture with the finding is flat at .3; a ramp of the other is told from it, but at one voxel.
        with_ = [abs(v - 76) <= 1 for v in page.evaluate(level)]
        assert any(with_)
        assert page.locator("#study-table tbody tr").count() == 0  # nothing is told before the end
        page.keyboard.press("ArrowLeft" if with_[0] else "ArrowRight")
    page.wait_for_selector("#study-table tbody tr")
    rows = page.eval_on_selector_all(
        "#study-table tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert {r[1] for r in rows} <= {"both kinds", "in the MRI", "in the PET"} and len(rows) > 1
    both_kinds = next(r for r in rows if r[1] == "both kinds")
    assert both_kinds[0] == "net" and both_kinds[2] == "6" and int(both_kinds[3]) >= 4
    right = int(both_kinds[3])
    low, high = stats.binomtest(right, 6).proportion_ci(0.95, "wilson")
    assert both_kinds[5] == f"{low:.2f} to {high:.2f}"
    page.click("#study-start")
    assert "not saved" in page.text_content("#study-status")
    assert page.locator("#study-table tbody tr").count() == len(rows)
    with page.expect_download() as download:
        page.click("#study-save")
    path = tmp_path / "answers.csv"
    download.value.save_as(path)
    table = pd.read_csv(path)
    assert len(table) == 6 and table["right"].sum() == right and set(table["image"]) == {"net"}
    assert set(table["reader"]) == {"'=A,B"}  # no formula, one cell
    assert (table["with"] != table["without"]).all()
    page.set_input_files("#study-add", path)
    until(
        page,
        "[...document.querySelectorAll('#study-table tbody tr')].some(r => r.cells[2].textContent === '12')",
    )


def test_a_damaged_table_of_findings_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", *make_run({"good": 1.0, "net": 0.0}, cases=2, metrics=["psnr"]))
    store_volumes(run, "case-000", ["good", "net"])
    store_findings(run, "case-000", ["good"])
    table = run / "fused" / "phantom" / "case-000" / "findings" / "findings.csv"
    table.write_text("kind,sign\na,1\n")
    assert main(["report", str(run), "--no-figures"]) == 0
    assert f"note: no images of phantom/case-000: {table}: no table of findings" in capsys.readouterr().err
    assert len(list((run / "report").glob("cases/*case-000*.html"))) == 1
    assert not list((run / "report").glob("data/*")) and not list((run / "report").glob("pictures/*"))


@pytest.mark.browser
def test_picture_is_shown_in_colour_and_upright(page: Any) -> None:
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-001", exact=True).click()
    page.wait_for_selector("#viewer[data-ready=yes]")
    page.uncheck("#cross")
    page.wait_for_timeout(200)
    corner = """id => { const c = document.querySelector(`.pane[data-id="${id}"] canvas`);
        const at = (x, y) => [...c.getContext('2d').getImageData(x, y, 1, 1).data];
        return [at(1, 1), at(1, c.height >> 1), at(1, c.height - 2)]; }"""
    top, middle, bottom = page.evaluate(corner, "pet")
    # Row 0 of a picture is its top; PET rises with the row; Cr = 200 is red; black and white have no colour.
    assert top[:3] == [0, 0, 0] and bottom[:3] == [255, 255, 255]
    assert middle[0] > middle[1] + 50
    _, middle, _ = page.evaluate(corner, "mri")
    assert middle[0] == middle[1] == middle[2]
    assert page.locator("#open-niivue").count() == 0


@pytest.mark.browser
def test_niivue_follows_the_crosshair(page: Any) -> None:
    page.set_viewport_size({"width": 600, "height": 400})  # WebGL is emulated: few pixels
    page.goto(page.root + "index.html")
    page.get_by_role("link", name="case-000", exact=True).click()
    page.wait_for_selector("#viewer[data-ready=yes]")
    if not page.evaluate("Boolean(document.createElement('canvas').getContext('webgl2'))"):
        pytest.skip("this Chromium offers no WebGL2")
    page.click("#open-niivue")
    page.wait_for_selector('#niivue-box[data-shown="mri+pet"][data-cursor]')
    page.locator('.pane[data-id="mri"] canvas[data-plane="axial"]').press("ArrowLeft")
    page.wait_for_selector(f'#niivue-box[data-cursor="{SHAPE[0] // 2},{SHAPE[1] // 2},{SHAPE[2] // 2 - 1}"]')
    page.select_option("#niivue-base", "method:good")
    page.select_option("#niivue-over", "")
    page.wait_for_selector('#niivue-box[data-shown="method:good"]')


def case_page(site: Path, case: str = "case-000") -> str:
    """Address of a case's page, from the site's root."""
    (page,) = (p for p in (site / "cases").glob(f"*{case}*.html") if not p.stem.endswith("-study"))
    return f"cases/{page.name}"


@pytest.mark.browser
def test_front_page_has_pictures_that_lead_to_the_viewer(both: Any) -> None:
    page = both
    page.goto(page.root + "index.html")
    page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    until(page, "[...document.images].every(i => i.complete)")
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    captions = page.eval_on_selector_all(".strip figcaption", "all => all.map(c => c.textContent.trim())")
    assert captions == ["MRI", "PET", "good", "net"]  # sources, then best first; no volume of another grid
    rows = (
        "rows => rows.map(r => [r.querySelector('td.name').dataset.value, Boolean(r.querySelector('img'))])"
    )
    thumbs = dict(page.eval_on_selector_all("#table-phantom-volume tbody tr", rows))
    assert {name for name, there in thumbs.items() if there} == {"good", "net"}
    page.locator(".strip a").nth(3).click()
    page.wait_for_selector("#viewer[data-ready=yes] .pane.large")
    assert page.get_attribute(".pane.large", "data-id") == "method:net"


@pytest.mark.browser
def test_rows_of_the_board_are_one_line_high(page: Any) -> None:
    page.goto(page.root + "index.html")
    heights = page.eval_on_selector_all(
        "#table-phantom-volume tbody tr", "rows => rows.map(r => r.getBoundingClientRect().height)"
    )
    assert len(heights) == 8 and max(heights) < 42
    reason = page.locator("#table-phantom-volume tr", has_text="dead").locator("td.text").last
    assert "planted failure" in (reason.get_attribute("title") or "")


@pytest.mark.browser
def test_groups_of_columns_show_and_hide(page: Any) -> None:
    page.goto(page.root + "index.html")
    tools = page.locator('.tools[data-for="table-phantom-volume"]')
    head = page.locator("#table-phantom-volume thead")
    assert head.get_by_text("psnr").is_visible() and not head.get_by_text("en [bit]").is_visible()
    tools.locator("input[data-group='further metrics']").check()
    tools.locator("input[data-group=similarity]").uncheck()
    assert head.get_by_text("en [bit]").is_visible() and not head.get_by_text("psnr").is_visible()
    assert (
        not page.locator("#table-phantom-volume tbody tr").first.locator(".g-similarity").first.is_visible()
    )


@pytest.mark.browser
def test_address_of_a_board_keeps_sorting_filter_and_columns(both: Any, browser: Any) -> None:
    page = both
    page.goto(page.root + "index.html#phantom-paper")
    tools = page.locator('.tools[data-for="table-phantom-volume"]')
    page.locator("#table-phantom-volume th", has_text="nabf").locator("button").click()
    tools.locator("input[type=search]").fill("o")
    tools.locator("input[data-hide=control]").check()
    tools.locator("input[data-group=cost]").uncheck()
    until(page, "location.hash.includes('columns')")
    before, address = names(page), page.url
    assert address.endswith(".columns=similarity,about") and "#phantom-paper&" in address
    with watched_page(browser, page.root) as other:
        other.goto(address)
        assert names(other) == before and set(before) == {"good", "net", "poor"}  # net: of "phantom/train"
        until(other, "document.getElementById('phantom-paper').getBoundingClientRect().top < 450")
        assert not other.locator("#table-phantom-volume th", has_text="s/case").is_visible()
        # The address is changed by hand, or somebody goes back.
        other.evaluate("location.hash = ''")
        until(other, "!document.querySelector('#table-phantom-volume th[aria-sort]')")
        assert len(names(other)) == 8 and names(other)[0] == "good"


@pytest.mark.browser
def test_address_of_a_case_keeps_the_view(both: Any, browser: Any, site: Path) -> None:
    page = both
    page.goto(page.root + case_page(site))
    page.wait_for_selector("#viewer[data-ready=yes]")
    until(page, "document.querySelector('#viewer canvas').dataset.slice")
    page.locator('.pane[data-id="method:net"] h3 button').click()
    page.check("#radiological")
    page.fill("#window", "0.5")
    page.locator('.pane[data-id="method:net"] canvas[data-plane="axial"]').press("PageUp")
    until(page, "location.hash.includes('at=')")
    shot = "document.querySelector('.pane.large canvas').toDataURL()"
    page.wait_for_timeout(200)
    with watched_page(browser, page.root) as other:
        other.goto(page.url)
        other.wait_for_selector("#viewer[data-ready=yes] .pane.large")
        until(other, f"document.querySelector('#viewer').dataset.cursor === '{SHAPE[0] // 2 + 1},7,6'")
        assert other.is_checked("#radiological") and other.input_value("#window") == "0.5"
        assert other.evaluate(shot) == page.evaluate(shot)
        other.keyboard.press("Escape")
        until(other, "!location.hash.includes('large')")
        assert other.locator(".pane.large").count() == 0


@pytest.mark.browser
def test_enlarged_panel_has_its_own_pixels_and_the_crosshair_stays(page: Any, site: Path) -> None:
    page.goto(page.root + case_page(site))
    page.wait_for_selector("#viewer[data-ready=yes]")
    pane = '.pane[data-id="method:good"]'
    # Of the middle row and column of what is on the screen: how many pixels are the crosshair's green.
    green = f"""() => {{ const c = document.querySelector('{pane} canvas'), b = c.getContext('2d');
        const one = (d) => d.filter((v, i) => i % 4 === 1 && v > d[i - 1] + 40).length;
        return [one(b.getImageData(0, 0, c.width, 1).data), one(b.getImageData(0, 0, 1, c.height).data),
            c.width === Math.round(c.clientWidth * devicePixelRatio)]; }}"""
    page.fill("#window", "2")  # nothing is white
    page.wait_for_timeout(200)
    small = page.evaluate(f"document.querySelector('{pane} canvas').clientWidth")
    assert small < 150
    down, along, fits = page.evaluate(green)
    assert down >= 1 and along >= 1 and fits
    page.locator(f"{pane} h3 button").click()
    until(page, f"document.querySelector('{pane} canvas').width > 2.5 * {small}")
    assert page.evaluate(green)[2]


@pytest.mark.browser
def test_window_level_sides_and_lesion_are_drawn(page: Any, site: Path) -> None:
    page.goto(page.root + case_page(site))
    page.wait_for_selector("#viewer[data-ready=yes]")
    page.uncheck("#cross")
    # MRI is a ramp along w: 0 at the patient's left, 1 at the right.
    level = """x => { const c = document.querySelector('.pane[data-id="mri"] canvas');
        return c.getContext('2d').getImageData(Math.floor(x * c.width), c.height >> 1, 1, 1).data[0]; }"""
    until(page, "document.querySelector('#viewer canvas').dataset.left === 'L'")
    assert abs(page.evaluate(level, 0.29) - 255 * 3 / 11) <= 1
    page.fill("#window", "0.5")  # black below .25, white above .75
    page.wait_for_timeout(200)
    assert abs(page.evaluate(level, 0.29) - 255 * (3 / 11 - 0.25) / 0.5) <= 2
    assert page.evaluate(level, 0.9) == 255
    page.fill("#level", "0.25")
    page.wait_for_timeout(200)
    assert abs(page.evaluate(level, 0.29) - 255 * (3 / 11) / 0.5) <= 2
    page.check("#radiological")
    until(page, "document.querySelector('#viewer canvas').dataset.left === 'R'")
    assert abs(page.evaluate(level, 0.71) - 255 * (3 / 11) / 0.5) <= 2
    page.check("#outline")
    until(page, "document.querySelector('#viewer canvas').dataset.outline")
    # The middle, (5, 7, 6), cuts the lesion in the axial and the coronal plane: 3x2 voxels have 10 edges.
    edges = (
        "c => [...document.querySelectorAll('.pane[data-id=mri] canvas')].map(c => Number(c.dataset.outline))"
    )
    assert page.evaluate(edges) == [10, 10, 0]


@pytest.mark.browser
def test_colour_in_the_viewer_is_that_of_the_files(page: Any, site: Path) -> None:
    page.goto(page.root + case_page(site) + "#colour=true&cross=false")
    page.wait_for_selector("#viewer[data-ready=yes]")
    page.wait_for_timeout(300)
    at = """([id, x, y]) => { const c = document.querySelector(`.pane[data-id="${id}"] canvas`);
        const [left, top] = [Math.floor(x * c.width), Math.floor(y * c.height)];
        return [...c.getContext('2d').getImageData(left, top, 1, 1).data].slice(0, 3); }"""
    _, h, w = np.indices(SHAPE) / (np.array(SHAPE)[:, None, None, None] - 1)
    expected = to_rgb((w + h) / 2, tint(h.astype(np.float32)))[SHAPE[0] // 2, ::-1]  # the front is up
    for x, y in ((3, 2), (9, 4), (6, 11)):
        place = ["method:good", (x + 0.5) / SHAPE[2], (y + 0.5) / SHAPE[1]]
        assert np.abs(np.array(page.evaluate(at, place)) - expected[y, x]).max() <= 2
    grey = page.evaluate(at, ["mri", 0.5, 0.5])
    assert grey[0] == grey[1] == grey[2]


@pytest.mark.browser
def test_without_javascript_there_are_tables_and_pictures(browser: Any, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(site.as_uri() + "/index.html")
    assert page.locator("#table-phantom-volume tbody tr:visible").count() == 8
    assert page.locator("#table-phantom-volume th:visible", has_text="en [bit]").count() == 1
    assert page.locator(".tools:visible").count() == 0
    page.locator(".strip a").nth(2).click()
    assert page.locator("#viewer img:visible").count() == 4
    assert page.locator("table:visible").count() == 2 and page.locator("#open-niivue:visible").count() == 0
    context.close()


@pytest.mark.browser
def test_print_has_every_column_within_the_page(page: Any, site: Path) -> None:
    page.set_viewport_size({"width": 1030, "height": 700})  # A4 across, less its margins
    page.emulate_media(media="print")
    everything = ["psnr", "en [bit]", "trained on", "GPU MB"]
    for path, wanted in (("index.html", everything), (case_page(site), ["en [bit]"])):
        page.goto(page.root + path)
        heads = page.locator("th:visible").all_inner_texts()
        assert all(any(text in head for head in heads) for text in wanted)
        assert page.locator("#table-phantom-volume:visible").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1030


@pytest.mark.browser
@pytest.mark.parametrize("path", ["index.html", "methods/good.html", "metrics/psnr.html", "case"])
def test_no_page_is_wider_than_a_phone(page: Any, site: Path, path: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    if path == "case":
        path = f"cases/{next((site / 'cases').glob('*case-000*')).name}"
    page.goto(page.root + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_pages_escape_names_and_link_nothing_foreign(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "<script>alert" not in text and "<b>bold" not in text
        assert "http://" not in text and "https://" not in text


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="(?!data:)([^"#]+)', path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_a_second_report_leaves_no_stale_pages(tmp_path: Path) -> None:
    for effects in ({"old": 1.0, "both": 0.0}, {"new": 1.0, "both": 0.0}):
        run = write_run(tmp_path / "run", *make_run(effects, cases=3, metrics=["psnr"]))
        report.write(run, tmp_path / "report", figures=False)
    assert {p.stem for p in (tmp_path / "report" / "methods").iterdir()} == {"new", "both"}


@pytest.mark.parametrize("name", ["data", "methods", "figures"])
def test_folders_that_no_report_made_are_left_alone(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", *make_run({"a": 1.0, "b": 0.0}, cases=3, metrics=["psnr"]))
    mine = tmp_path / "project" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=rf"project: holds {name}, .*--out"):
        report.write(run, tmp_path / "project", figures=False)
    assert [p.relative_to(tmp_path / "project") for p in (tmp_path / "project").rglob("*.txt")] == [
        Path(name) / "mine.txt"
    ]
    assert [p.name for p in (tmp_path / "project").iterdir()] == [name]


def test_an_interrupted_report_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", *make_run({"a": 1.0, "b": 0.0}, cases=3, metrics=["psnr"]))
    out = run / "report"

    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for made in (False, True):
        before = content()
        assert bool(before) == made
        with monkeypatch.context() as patch:
            patch.setattr(report.Pages, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                report.write(run, out, figures=False)
        assert content() == before
        assert report.write(run, out, figures=False)[0].is_file()


def test_a_full_disk_is_told_of_the_report_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", *make_run({"a": 1.0, "b": 0.0}, cases=3, metrics=["psnr"]))

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space", str(source), None, str(target))

    monkeypatch.setattr(report.shutil, "copyfile", full)
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path / 'out' / 'static'))}.*no space"):
        report.write(run, tmp_path / "out", figures=False)
    assert not (tmp_path / "out").exists()


def test_pages_sort_a_metric_that_is_best_at_zero_by_its_size(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 0.0, "b": 0.0}, cases=2, metrics=["q_sf"])
    rows["value"] = [-0.5, 0.5, -0.1, -0.1]
    out = report.write(
        write_run(tmp_path / "run", rows, manifest), tmp_path / "out", metrics=["q_sf"], figures=False
    )[0].parent
    for page in ("index.html", "metrics/q_sf.html"):
        text = (out / page).read_text(encoding="utf-8")
        assert 'data-value="0.5"' in text and 'data-value="0.1"' in text
    case = next((out / "cases").glob("*case-000*")).read_text(encoding="utf-8")
    assert '<td data-value="0.5">-0.5000</td>' in case and '<td data-value="0.1">-0.1000</td>' in case
    assert '<td data-value="0.5">-0.5000</td>' in (out / "methods" / "a.html").read_text(encoding="utf-8")


def test_a_skip_is_no_failure_and_hides_none(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=3, metrics=["psnr", "mi"], fail={"a": [0]})
    skipped = rows["metric"] == "mi"
    rows.loc[skipped, ["value", "status", "reason"]] = [None, "skip", "not defined for this case"]
    out = report.write(write_run(tmp_path / "run", rows, manifest), tmp_path / "out", figures=False)[0].parent
    table = pd.read_csv(out / "tables" / "phantom-volume-cases.csv").set_index(["method", "case"])
    assert table["status"].to_list() == ["error", "ok", "ok", "ok", "ok", "ok"]
    assert table.loc[("a", "case-000"), "reason"] == "RuntimeError: planted failure"
    index = (out / "index.html").read_text(encoding="utf-8")
    cases = index[index.index('id="table-cases"') :]
    assert re.findall(r'<td data-value="(\d+)">\1</td></tr>', cases) == ["1", "0", "0"]
    page = (out / "methods" / "a.html").read_text(encoding="utf-8")
    # Beside the name, where a wide table is not cut off.
    assert re.search(r'case-001</a></td><td class="text">ok</td><td data-value', page)
    assert page.count('<td class="text">error: RuntimeError: planted failure</td>') == 1
    assert page.count('<td class="text">ok</td>') == 2


def test_an_infinite_value_is_shown_as_on_the_board(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 0.0, "b": 0.0}, cases=2, metrics=["psnr"])
    rows["value"] = rows["value"].where(rows["method"] != "a", np.inf)
    out = report.write(write_run(tmp_path / "run", rows, manifest), tmp_path / "out", figures=False)[0].parent
    for page in out.rglob("*.html"):
        assert ">inf<" not in page.read_text(encoding="utf-8"), page.name
    assert "<td>∞</td>" in (out / "methods" / "a.html").read_text(encoding="utf-8")
    case = next((out / "cases").glob("*case-000*")).read_text(encoding="utf-8")
    assert '<td data-value="Infinity">∞</td>' in case


def test_pages_show_a_column_with_equal_decimals_and_the_data_in_words(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=2, metrics=["psnr"])
    rows["value"] = [14.1, 17.74, 15.0, 16.123]
    manifest["dataset"]["summary"] = "made-up heads"
    out = report.write(write_run(tmp_path / "run", rows, manifest), tmp_path / "out", figures=False)[0].parent
    case = next((out / "cases").glob("*case-000*")).read_text(encoding="utf-8")
    assert re.findall(r"""data-value="[^"]*">(1\d\.\d+)</td>""", case) == ["14.10", "15.00"]
    method = (out / "methods" / "a.html").read_text(encoding="utf-8")
    assert {len(x) for x in re.findall(r"1\d\.\d+(?=</td>| to )", method)} == {5}
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "Dataset phantom, test split. Made-up heads. Licence MIT. Fingerprint abcd." in text


@pytest.mark.parametrize(
    ("metric", "message"),
    [("nosuch", "no metric is called 'nosuch'"), ("fsim", "this run has no fsim; it has psnr")],
)
def test_a_metric_that_the_run_lacks_is_an_error(
    metric: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", *make_run({"a": 1.0}, cases=2, metrics=["psnr"]))
    assert main(["report", str(run), "--no-figures", "--metrics", f"psnr,{metric}"]) == 2
    assert message in capsys.readouterr().err and not (run / "report").exists()
    assert main(["report", str(run), "--no-figures", "--metrics", ""]) == 2  # an empty variable of a shell
    assert "--metrics names none; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "report {run} --no-figures --out {file}/x",
        "history add {run} --commit abcdef0 --store {file}/x",
        "history chart --store {store} --out {file}/x",
        "compare {run} {run} --markdown {file}/x.md",
        "compare {run} {run} --json {file}/x.json",
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", *make_run({"a": 1.0, "b": 0.0}, cases=2, metrics=["psnr"]))
    file, store = tmp_path / "file", tmp_path / "store"
    file.write_text("a file, no folder")
    assert main(["history", "add", str(run), "--commit", "abcdef0", "--store", str(store)]) == 0
    assert main([p.format(run=run, file=file, store=store) for p in command.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: {file}" in line and "cannot be written" in line
