"""Promises of every learned 2D method: shapes, ranges, batches, refusals."""

from __future__ import annotations

import hashlib
import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fusebench
from fusebench.errors import InputError

from .learned_2d import NAMES, images, module, random_state, with_random_weights

SLOW = ("swinfuse", "gesenet", "cddfuse", "gifnet", "swinfusion")  # seconds for a picture
SIZES = [(1, 1), (1, 9), (2, 3), (7, 7), (8, 15), (33, 50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(params=NAMES)
def method(request, folder):
    return with_random_weights(request.param, folder)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_a_finite_image_in_range_and_leaves_the_inputs_alone(method, size):
    a, b = images(2, *size)
    kept = a.clone(), b.clone()
    fused = method.fuse_slices(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == torch.float32
    assert fused.isfinite().all()
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES]
)
def test_large_odd_size(name, folder):
    # A dear network has to be asked for several windows in each direction, and for no more.
    a, b = images(1, 131, 227) if name in SLOW else images(1, 300, 517)
    fused = with_random_weights(name, folder).fuse_slices(a, b)
    assert fused.shape == a.shape
    assert fused.isfinite().all()
    assert fused.std() > 0


def test_a_batch_of_37_is_37_single_slices(method):
    a, b = images(37, 9, 14, seed=3)
    batch = method.fuse_slices(a, b)
    assert batch.shape == a.shape
    for i in (0, 1, 17, 36):
        single = method.fuse_slices(a[i : i + 1], b[i : i + 1])
        # DILRAN divides by the spread of 126 pixels, which magnifies rounding.
        assert torch.allclose(batch[i : i + 1], single, atol=2e-5)


def test_same_input_same_output(method):
    a, b = images(1, 20, 22)
    assert torch.equal(method.fuse_slices(a, b), method.fuse_slices(a, b))


def test_constant_and_identical_images(method):
    a, _ = images(1, 12, 16)
    for x, y in ((a, a), (torch.zeros_like(a), torch.zeros_like(a)), (torch.ones_like(a), a * 0)):
        assert method.fuse_slices(x, y).isfinite().all()


def test_double_precision_is_taken(method):
    a, b = images(1, 11, 12)
    assert torch.equal(method.fuse_slices(a.double(), b.double()), method.fuse_slices(a, b))


def test_nan_and_wrong_shapes_are_one_clear_error(method):
    a, b = images(1, 8, 8)
    broken = a.clone()
    broken[0, 0, 2, 2] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        method.fuse_slices(broken, b)
    with pytest.raises(InputError, match="N, 1, H, W"):
        method.fuse_slices(a[0], b[0])
    with pytest.raises(InputError, match="N, 1, H, W"):
        method.fuse_slices(a, b[..., :-1])
    for empty in (a[:0], a[..., :0]):
        with pytest.raises(InputError, match="nothing to fuse"):
            method.fuse_slices(empty, empty)
    for x, y in ((a[0], torch.rand(2, 8, 8)), (a[0, 0], b[0, 0]), (a[0, :0], b[0, :0])):
        with pytest.raises(InputError, match=r"two volumes \(D, H, W\) of one shape are needed"):
            method.fuse(x, y)


def test_volumes_in_double_precision_give_float32(method):
    a, b = (x[:, 0] for x in images(1, 9, 8))
    fused = method.fuse(a, b)
    assert fused.dtype == torch.float32
    assert torch.equal(method.fuse(a.double(), b.double()), fused)


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "dilran", "ifcnn"])  # with a CPU form
def test_threads_may_share_a_method(name, folder):
    method = with_random_weights(name, folder)
    stacks = [images(1, 24, 24, seed) for seed in range(8)]
    alone = [method.fuse_slices(a, b) for a, b in stacks]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            together = list(pool.map(lambda pair: method.fuse_slices(*pair), stacks))
            assert all(torch.equal(x, y) for x, y in zip(alone, together, strict=True))


def test_volumes_in_three_planes(folder):
    method = with_random_weights("matr", folder, planes="tri")
    a, b = (torch.rand(5, 9, 12) for _ in range(2))
    fused = method.fuse(a, b)
    assert fused.shape == a.shape
    planes = [
        with_random_weights("matr", folder, planes=p).fuse(a, b) for p in ("axial", "coronal", "sagittal")
    ]
    assert torch.allclose(fused, torch.stack(planes).mean(0), atol=1e-6)


def test_the_number_of_parameters_is_the_published_one_in_use(method):
    assert sum(p.numel() for p in method.network.parameters()) == type(method).info.params


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("densefuse", {"strategy": "max"}),
        ("u2fusion", {"variant": "tf"}),
        ("dilran", {"rule": "sum"}),
        ("matr", {"planes": "oblique"}),
        ("dilran", {"compat": "no"}),
        ("densefuse", {"average3x3": 2}),
    ],
)
def test_unknown_options_are_refused_with_the_known_ones(name, params):
    with pytest.raises(InputError, match=r"choose one of|is not true or false"):
        fusebench.create_method(name, **params)


def test_a_file_of_another_method_is_refused_in_one_line(method, folder, tmp_path):
    other = "matr" if type(method).info.name != "matr" else "densefuse"
    wrong = tmp_path / "wrong.safetensors"
    save_file(random_state(fusebench.create_method(other).build().state_dict()), wrong)
    with pytest.raises(InputError, match=r"do not fit ") as error:
        fusebench.create_method(type(method).info.name, weights=str(wrong))  # before the run
    assert "\n" not in str(error.value)
    assert str(wrong) in str(error.value)


def test_given_weights_are_named_on_the_board(method):
    assert method.describe().trained_on.startswith("own weights (")
    assert method.info.name == type(method).info.name
    plan = importlib.import_module("fusebench.engine.spec")
    plugins = importlib.import_module("fusebench.plugins").find_plugins()
    name = method.info.name
    (spec,) = plan.method_specs(plugins, [plan.Choice(name, name, {"weights": method.weights})])
    assert spec.info.trained_on == method.describe().trained_on


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights(name):
    info = fusebench.create_method(name).info
    if info.weights is None:
        with pytest.raises(InputError, match="ships no weights"):
            fusebench.create_method(name).setup("cpu")
        return
    path = Path(module(name).__file__).parent / info.weights.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == info.weights.sha256
    assert info.weights.sha256 in path.with_suffix(".md").read_text()
    method = fusebench.create_method(name)
    method.setup("cpu")
    assert method.origin == "fusebench"
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 56), torch.linspace(-1, 1, 56), indexing="ij")
    disc = ((xx**2 + yy**2) < 0.7).float()
    a, b = 0.4 * disc, 0.9 * ((xx - 0.3) ** 2 + yy**2 < 0.1).float()
    fused = method.fuse_slices(a[None, None], b[None, None])[0, 0]
    assert fused[b > 0].mean() > fused[(a > 0) & (b == 0)].mean() > fused[disc == 0].mean()
    assert fused[:8, :8].max() < 0.12


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "ifcnn"])
def test_only_the_box_that_content_reaches_is_computed_and_nothing_changes(name, folder):
    method = with_random_weights(name, folder)
    a, b = torch.zeros(2, 3, 1, 61, 70)
    inner = (slice(None), slice(None), slice(20, 31), slice(30, 45))
    a[inner], b[inner] = images(3, 11, 15)
    b[1, 0, 0, 3] = 1.0  # at the very border
    a[2], b[2] = 0, 0
    reach, method.reach = method.reach, 0
    whole = torch.cat([method.fuse_slices(x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])
    method.reach = reach
    assert torch.allclose(method.fuse_slices(a, b), whole, atol=2e-6)
    assert whole[0].std() > 0.01
    box = module("_learned").content_box(a[0, 0], b[0, 0], reach)
    assert box == (slice(22 - reach, 31 + reach), slice(30 - reach, 45 + reach))  # two rows are black
    method.reach = 4  # too little is seen, so that the test could fail
    assert not torch.allclose(method.fuse_slices(a, b), whole, atol=2e-6)


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "swinfuse", "matr", "ifcnn"])
@pytest.mark.parametrize("size", [*SIZES, (66, 131)])
def test_the_faster_form_gives_what_the_network_gives(name, size, folder):
    quick, plain = (with_random_weights(name, folder, fast=fast) for fast in (True, False))
    assert quick.quick is not None and plain.quick is None
    x, y = images(1, *size, seed=5)
    with torch.no_grad():
        fast, slow = quick.run(x, y), plain.run(x, y)
    # IFCNN's outermost pixels are done the long way.
    assert not torch.equal(fast, slow) or min(size) < (3 if name == "ifcnn" else 2)
    assert torch.allclose(fast, slow, atol=1e-5 * max(1.0, float(slow.abs().max())))


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "dilran", "swinfuse", "matr", "ifcnn"])
def test_one_switch_turns_all_shortcuts_off_and_says_so(name, folder, monkeypatch):
    plain = with_random_weights(name, folder, fast=False)
    assert "fast=False" in plain.describe().notes and "plain network" in plain.describe().notes
    assert "faster form" in with_random_weights(name, folder).describe().notes
    assert plain.parameters()["fast"] is False  # so that keys differ
    a, b = images(3, 14, 16)
    a[1:], b[1:] = 0, 0
    ran, run = [], plain.run
    monkeypatch.setattr(plain, "run", lambda a, b: (ran.append(tuple(a.shape)), run(a, b))[1])
    whole = plain.fuse_slices(a, b)
    assert ran == [(3, 1, 14, 16)]
    quick = with_random_weights(name, folder).fuse_slices(a, b)
    assert torch.allclose(quick, whole, atol=2e-5)


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "dilran", "ifcnn"])
@pytest.mark.parametrize("size", [(4, 4), (23, 34)])
def test_memory_that_shortcuts_keep_does_not_show(name, size, folder):
    run = with_random_weights(name, folder).run
    with torch.no_grad():
        first = run(*images(1, *size, seed=5))
        kept = first.clone()
        run(*images(1, 50, 41, seed=6))
        assert torch.equal(first, kept)
        assert torch.equal(run(*images(1, *size, seed=5)), kept)
    assert kept.std() > 0


@pytest.mark.parametrize("name", ["matr", "dilran", "swinfuse", "gesenet"])
def test_black_slices_are_fused_once(name, folder, monkeypatch):
    method = with_random_weights(name, folder)
    a, b = images(5, 14, 16)
    for slices in (a, b):
        slices[[0, 2, 4]] = 0
    with torch.inference_mode():
        wanted = torch.cat([method.run(x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])
    ran, run = [], method.run
    monkeypatch.setattr(method, "run", lambda a, b: (ran.append(len(a)), run(a, b))[1])
    assert torch.allclose(method.fuse_slices(a, b), wanted.clamp(0, 1), atol=1e-5)
    assert ran == [3]
