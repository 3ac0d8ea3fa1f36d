"""The public interface: imports, errors, batches, sharing, the command line."""

from __future__ import annotations

import csv
import importlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusebench.cli import main
from fusebench.errors import InputError, UnknownNameError
from fusebench.metric import Metric, MetricInfo
from fusebench.metrics import evaluate, evaluate_slices, metric_registry, ranking_set
from fusebench.scoring.evaluate import score
from fusebench.triple import Triple

from .triples import every_id, names, triple

# Volumes of noise have no foreground.
pytestmark = pytest.mark.filterwarnings("ignore:no mask, so air counts:UserWarning")

LIGHT = """
import sys
from fusebench.metrics import psnr, ssim, evaluate, ranking_set
import fusebench.metrics.fidelity
ranking_set()
heavy = [m for m in sys.modules if m == "fusebench.method" or m.startswith(("fusebench.methods",
         "fusebench.dataset", "fusebench.engine", "fusebench.plugins", "fusebench.leaderboard", "monai",
         "timm", "torchvision", "pandas", "dask", "nibabel", "lightning"))]
print(heavy, psnr.info.name, ssim.info.name)
"""


def test_import_loads_no_method_dataset_or_runner() -> None:
    out = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "psnr", "ssim"]


def test_names_are_listed_and_unknown_ones_refused() -> None:
    import fusebench.metrics as library

    assert {"psnr", "viff", "evaluate"} <= set(dir(library))
    assert isinstance(library.psnr, Metric)
    with pytest.raises(AttributeError):
        _ = library.no_such_metric


def test_ranking_set_is_the_published_one() -> None:
    assert set(ranking_set()) == {
        *("psnr", "ssim", "q_mi", "qabf", "viff", "scd"),
        *("psnr.worst", "ssim.worst"),
    }


@pytest.mark.parametrize("name", metric_registry().names())
def test_facts(name: str) -> None:
    metric = metric_registry().load(name)
    info = metric.info
    assert info.title and info.paper and info.low < info.high and metric.__doc__
    assert info.direction in ("higher", "lower", "zero", "none")
    assert not (info.ranked and info.direction == "none")
    assert set(info.units) <= set(info.variants)
    # Degenerate images and other choices are stated with the metric.
    assert info.notes or name == "sd"


def test_a_metric_called_alone_is_evaluate() -> None:
    from fusebench.metrics import psnr, ssim

    a, b, f = triple()
    values = evaluate(a, b, f, ["psnr", "psnr.b", "psnr@tang", "ssim"])
    assert psnr(a, b, f) == values["psnr"]
    assert psnr(a, b, f, part="b") == values["psnr.b"]
    assert psnr(a, b, f, variant="tang") == values["psnr@tang"]
    assert ssim(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(f)) == values["ssim"]


A, B, F = triple((24, 24))
BAD = {
    "range": ((A.astype(float), B, F), "a has values from 0 to 255, expected [0, 1]"),
    "negative": ((A, B, F / 255.0 - 0.1), "fused has values from -0.1"),
    "dtype": ((A, B.astype(np.int16), F), "b is int16; give uint8"),
    "bool": ((A, B, F > 3), "fused is bool"),
    "shape": ((A, B, F[:-1]), "fused has shape (23, 24) but a has (24, 24)"),
    "axes": ((A[None, None], B[None, None], F[None, None]), "cannot be scored"),
    "empty": ((A[:0], B[:0], F[:0]), "cannot be scored"),
    "nan": ((A, B, np.full((24, 24), np.nan)), "fused has values that are not finite"),
    "inf": ((A, np.full((24, 24), np.inf), F), "b has values that are not finite"),
    "object": ((A, B, [["x"]]), "fused"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_wrong_images_are_refused_in_one_line(kind: str) -> None:
    images, message = BAD[kind]
    with pytest.raises(InputError) as caught:
        evaluate(*images, ["psnr"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": np.zeros((24, 24), bool)}, "mask is empty"),
        ({"mask": np.ones((24, 25), bool)}, "mask has shape (24, 25)"),
    ],
)
def test_wrong_masks_are_refused(options: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        evaluate(A, B, F, ["psnr"], **options)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, float("nan"), 1)])
def test_wrong_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    volume = np.zeros((4, 5, 6), np.uint8)
    with pytest.raises(InputError, match="spacing"):
        evaluate(volume, volume, volume, ["psnr"], spacing=spacing)


@pytest.mark.parametrize(
    ("key", "error"),
    [("pnsr", UnknownNameError), ("psnr.c", InputError), ("psnr@x", InputError), ("a b", InputError)],
)
def test_unknown_ids(key: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        evaluate(A, B, F, [key])
    kept = evaluate(A, B, F, ["psnr", key], on_error="keep")
    assert isinstance(kept["psnr"], float) and isinstance(kept[key], error)


def test_slight_overshoot_of_a_network_is_clipped() -> None:
    f = F.astype(np.float32) / 255
    f[0, 0], f[0, 1] = -5e-5, 1 + 5e-5
    clipped = np.clip(f, 0, 1)
    assert evaluate(A, B, f, ["psnr"]) == evaluate(A, B, clipped, ["psnr"])


def test_inputs_are_left_as_they_were() -> None:
    for images in (triple((40, 40)), triple((12, 14, 16))):
        for convert in (
            lambda x: x,
            lambda x: x.astype(np.float64) / 255,
            lambda x: x.astype(np.float32) / 255,
        ):
            given = [convert(x) for x in images]
            before = [x.copy() for x in given]
            evaluate(*given, names(), mask=images[0] > 0)
            assert all(np.array_equal(x, y) for x, y in zip(given, before, strict=True))


def test_read_only_and_turned_arrays() -> None:
    a, b, f = (x.copy() for x in triple((30, 30)))
    a.flags.writeable = False
    wanted = evaluate(a.copy(), b[::-1].copy(), f.T.copy(), ["psnr", "ssim"])
    assert evaluate(a, b[::-1], f.T, ["psnr", "ssim"]) == wanted


def test_slices_are_single_images() -> None:
    stack = [np.stack(x) for x in zip(*(triple((40, 36), seed) for seed in range(3)), strict=True)]
    mask = stack[0] > 0
    mask[1] = False
    ids = [i for i in every_id() if i != "q_cb@liu"]  # rounding noise, see its notes
    for given in (None, mask):
        batch = evaluate_slices(*stack, ids, mask=given)
        for n in range(3):
            if given is not None and n == 1:
                assert all(math.isnan(v[1]) for v in batch.values())
                continue
            single = evaluate(*(x[n] for x in stack), ids, mask=None if given is None else given[n])
            for key in ids:
                assert batch[key][n] == pytest.approx(single[key], rel=1e-7, abs=1e-7), key


def test_2d_metrics_on_a_volume_are_the_mean_of_its_slices() -> None:
    a, b, f = triple((6, 36, 36), 4)
    mask = a > 0
    ids = names(dims=(2,))
    volume = evaluate(a, b, f, ids, mask=mask)
    slices = evaluate_slices(a, b, f, ids, mask=mask)
    for key in ids:
        assert volume[key] == pytest.approx(np.nanmean(slices[key]), abs=1e-7), key


def test_a_metric_takes_only_the_arguments_that_it_has_a_use_for() -> None:
    facts = {"title": "x", "family": "fidelity", "direction": "higher", "low": 0, "high": 9}

    def value(t: Triple) -> torch.Tensor:
        return torch.full((len(t),), 1.0)

    def of_part(t: Triple, part: str) -> torch.Tensor:
        return torch.full((len(t),), 2.0 if part else 1.0)

    assert Metric(MetricInfo(name="x", **facts), value)(A, B, F) == 1
    parted = Metric(MetricInfo(name="x", parts=("a",), **facts), of_part)
    assert parted(A, B, F) == 1 and parted(A, B, F, part="a") == 2
    with pytest.raises(InputError, match="but its function takes no variant"):
        Metric(MetricInfo(name="x", variants={"tool": "other"}, **facts), value)


def test_a_metric_of_volumes_says_so_of_an_image() -> None:
    values = evaluate(A, B, F, ["psnr", "ssim_plane"], on_error="keep")
    assert isinstance(values["psnr"], float)
    assert str(values["ssim_plane"]) == "ssim_plane is defined in volumes only"


def test_one_failing_metric_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(t: object, part: str, variant: str) -> torch.Tensor:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(metric_registry().load("ssim"), "core", broken)
    values = evaluate(A, B, F, ["psnr", "ssim"], on_error="keep")
    assert isinstance(values["psnr"], float) and isinstance(values["ssim"], ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        evaluate(A, B, F, ["ssim"])
    kept = evaluate_slices(A[None], B[None], F[None], ["psnr", "ssim"], on_error="keep")
    assert isinstance(kept["ssim"], ZeroDivisionError) and kept["psnr"].shape == (1,)


def test_shared_intermediates_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    filters = import_module("fusebench.metrics._moments")
    calls = []
    real = filters.separable
    monkeypatch.setattr(filters, "separable", lambda *args: calls.append(1) or real(*args))
    evaluate(A, B, F, ["ssim"])
    alone = len(calls)
    evaluate(A, B, F, ["ssim", "ssim.a", "ssim.worst", "q_s", "q_w"])
    assert len(calls) == 2 * alone


@pytest.mark.parametrize("shape", [(64, 60), (24, 40, 36)])
def test_what_is_kept_of_the_sources_changes_no_value_of_other_fused_images(shape: tuple[int, ...]) -> None:
    a, b, f = triple(shape)
    mask, spacing = a > 30, (2.0, 1.0, 1.0)
    shared: dict[object, object] = {}
    for fused in (f, f / np.float32(300), b, f):  # bytes, no whole levels
        images = (a, b, fused) if fused.dtype == np.uint8 else (a / 255, b / 255, fused)
        alone = score(*images, every_id(), mask=mask, spacing=spacing)
        beside = score(*images, every_id(), mask=mask, spacing=spacing, sources=shared)
        assert {k: str(v) for k, v in beside.items()} == {k: str(v) for k, v in alone.items()}
    assert shared


def test_what_is_kept_of_the_sources_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, f = triple((24, 40, 36))
    made = []
    module = importlib.import_module("fusebench.metrics._moments")
    real = module.separable
    monkeypatch.setattr(module, "separable", lambda *args: made.append(0) or real(*args))
    shared: dict[object, object] = {}
    for _ in range(2):
        made.clear()
        score(a, b, f, ["ssim"], mask=a > 30, sources=shared)
    assert len(made) == 4  # mean and variance of F, two covariances


def test_large_images_keep_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusebench import triple as module

    images = triple((20, 24, 28), 5)
    ids = names(dims=(2, 3))
    wanted = evaluate(*images, ids)
    sizes: list[int] = []
    trim = module.Triple.trim

    def watched(self: module.Triple) -> None:
        trim(self)
        sizes.append(sum(module._size(x, set()) for x in self._cache.values()))

    monkeypatch.setattr(module.Triple, "trim", watched)
    evaluate(*images, ids)
    kept = max(sizes)
    for name, value in (("_SMALL", 0), ("_KEPT_BYTES", 0), ("_KEPT_MAPS", 6)):
        monkeypatch.setattr(module, name, value)
    sizes.clear()
    assert evaluate(*images, ids) == wanted
    assert max(sizes) < kept / 2 and len(sizes) == len(ids)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (5, 5), (9, 30), (2, 2, 2), (3, 20, 20)])
def test_small_images_have_values(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(3)]
    ids = [i for i in names() if not i.startswith("fmi") or min(shape[-2:]) >= 3]
    for key, value in evaluate(*images, ids).items():
        assert not math.isnan(value), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(96, 96), (24, 32, 32)])
def test_gpu_gives_the_same_numbers(shape: tuple[int, ...]) -> None:
    images = triple(shape, 3)
    wanted = evaluate(*images, names())
    got = evaluate(*(torch.from_numpy(x).cuda() for x in images), names())
    for key, value in wanted.items():
        assert got[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


# -- score ---------------------------------------------------------------------------------------


def _save(path: Path, x: np.ndarray) -> Path:
    from skimage.io import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, x, check_contrast=False)
    return path


def test_score_single_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, f = triple((40, 40))
    paths = [_save(tmp_path / n, x) for n, x in (("a.png", a), ("b.tif", b), ("f.png", f))]
    out = tmp_path / "scores.csv"
    where = ["--mri", str(paths[0]), "--pet", str(paths[1]), "--fused", str(paths[2])]
    code = main(["score", *where, "--metrics", "psnr,ssim.worst,mi@tang", "--csv", str(out)])
    assert code == 0 and "ssim.worst" in capsys.readouterr().out
    (row,) = csv.DictReader(out.open(encoding="utf-8"))
    wanted = evaluate(a, b, f, ["psnr", "ssim.worst", "mi@tang"])
    assert {k: float(row[k]) for k in wanted} == pytest.approx(wanted, abs=1e-9)


def test_score_folders(tmp_path: Path) -> None:
    ids = "psnr,qabf"
    for case in ("one", "two"):
        a, b, f = triple((32, 32), len(case) + ord(case[0]))
        for folder, x in (("mri", a), ("pet", b), ("fused/mean", f), ("fused/copy", a)):
            _save(tmp_path / folder / f"{case}.png", x)
    out = tmp_path / "scores.csv"
    where = [arg for n in ("mri", "pet", "fused") for arg in (f"--{n}", str(tmp_path / n))]
    assert main(["score", *where, "--metrics", ids, "--csv", str(out)]) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(r["method"], r["case"]) for r in rows] == [
        (m, c) for m in ("copy", "mean") for c in ("one", "two")
    ]
    for name in ("overview.png", "mean/._one.png", ".cache/one.png"):  # none of them a fused image
        _save(tmp_path / "fused" / name, a)
    assert main(["score", *where, "--metrics", ids, "--csv", str(out)]) == 0
    assert list(csv.DictReader(out.open(encoding="utf-8"))) == rows
    (tmp_path / "fused" / "mean" / "two.png").write_bytes(b"no picture")
    assert main(["score", *where, "--metrics", ids, "--csv", str(out)]) == 1
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert len(rows) == 4 and rows[-1]["psnr"] == ""


def test_score_a_volume_inside_its_foreground(tmp_path: Path) -> None:
    import nibabel as nib

    from fusebench.images.foreground import foreground
    from fusebench.images.read_write import read_image

    images = triple((20, 24, 28), 2)
    affine = np.diag([1.5, 1.5, 1.5, 1])
    paths = []
    for name, x in zip(("a", "b", "f"), images, strict=True):
        paths.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(x.transpose(2, 1, 0).astype(np.float32) / 255, affine), paths[-1])
    out = tmp_path / "scores.csv"
    where = [arg for n, p in zip(("--mri", "--pet", "--fused"), paths, strict=True) for arg in (n, str(p))]
    assert main(["score", *where, "--metrics", "psnr,ssim", "--csv", str(out)]) == 0
    (row,) = csv.DictReader(out.open(encoding="utf-8"))
    a, b = (read_image(p).data for p in paths[:2])
    # The fused values lie in [0, 1]: they are taken as they are, not stretched.
    f = images[2].astype(np.float32) / 255
    wanted = evaluate(a, b, f, ["psnr", "ssim"], mask=foreground(a))
    assert {k: float(row[k]) for k in wanted} == pytest.approx(wanted, abs=1e-4)


def test_score_slices_takes_those_with_foreground_and_hides_no_undefined_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import nibabel as nib

    a, b, f = (x.astype(np.float32) / 255 for x in triple((6, 24, 28), 2))
    for source in (a, b):
        source[:, 0, :2] = 0, 1  # is read as it is, not stretched
    mask = np.zeros(a.shape, np.float32)
    mask[1:5, 4:20, 4:20] = 1
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import torch\n"
        "from fusebench.metric import MetricInfo, metric\n\n\n"
        "@metric(MetricInfo(name='dark', title='x', family='structure', direction='higher', low=0, high=1,"
        " ranked=True))\n"
        "def dark(t, part='', variant=''):\n"
        "    lowest = t.fused.flatten(1).amin(1).double()\n"
        "    return torch.where(lowest > 0, lowest, torch.nan)\n"
    )
    f += 0.001
    f[2, 0, 0] = 0
    arguments = []
    for name, x in (("mri", a), ("pet", b), ("fused", f.clip(0, 1)), ("mask", mask)):
        nib.save(nib.Nifti1Image(x.transpose(2, 1, 0), np.eye(4)), tmp_path / f"{name}.nii")
        arguments += [f"--{name}", str(tmp_path / f"{name}.nii")]
    options = ["--protocol", "slices", "--plugin", str(plugin), "--csv", str(tmp_path / "scores.csv")]
    # Without --metrics the ranking set counts, ranked metrics of plugins with it.
    assert main(["score", *arguments, *options]) == 0
    (row,) = csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8"))
    assert row["dark"] == "nan" and "not defined" in capsys.readouterr().out
    each = [evaluate(a[d], b[d], f[d].clip(0, 1), ["psnr"])["psnr"] for d in range(6)]
    assert float(row["psnr"]) == pytest.approx(np.mean(each[1:5]), abs=1e-4)
    assert main(["score", *arguments, *options[:4], "--csv", options[5], "--mask", "none"]) == 0
    (row,) = csv.DictReader((tmp_path / "scores.csv").open(encoding="utf-8"))
    assert float(row["psnr"]) == pytest.approx(np.mean(each), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fused", "nothing.png"], "nothing.png: no such file"),
        (["--fused", "f.png", "--metrics", "pnsr"], "did you mean psnr"),
        (["--fused", "f.png", "--mask", "m.png"], "m.png: no such file"),
        (["--fused", "folder"], "a folder, but --mri is one file"),
        (["--fused", "small.png"], "small.png: shape"),
    ],
)
def test_score_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b, f = triple((33, 33))
    for name, x in (("a", a), ("b", b), ("f", f), ("small", f[:20])):
        _save(tmp_path / f"{name}.png", x)
    (tmp_path / "folder").mkdir()
    assert main(["score", "--mri", "a.png", "--pet", "b.png", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
