"""The training loop: equal seeds give equal runs, however they are cut, killed or shared."""

import csv
import hashlib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

import fusebench.plugins
from fusebench.case import Case, Pair, Volume
from fusebench.cli import main
from fusebench.cli._options import weights_path
from fusebench.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).with_name("training_plugin.py")

augment, checkpoint, losses, recipe, samples = (
    importlib.import_module(f"fusebench.methods.training.{name}")
    for name in ("augment", "checkpoint", "losses", "recipe", "samples")
)


@pytest.fixture(scope="module", autouse=True)
def _plugin():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEBENCH_PLUGINS", str(PLUGIN))
        fusebench.plugins.find_plugins.cache_clear()
        yield
    fusebench.plugins.find_plugins.cache_clear()


def command(out, *options):
    fixed = ["--dataset", "toy-data", "--device", "cpu", "--no-tensorboard", "--workers", "0"]
    return ["train", "toy-net", *fixed, "--out", str(out), *map(str, options)]


def train(out, *options):
    assert main(command(out, *options)) == 0
    return pd.read_csv(out / "log.csv")


def in_process_of_its_own(out, *options, **environment):
    threads = {"OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), *command(out, *options)],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        timeout=300,
    )


def weights(out, name="toy-net"):
    return hashlib.sha256((out / f"{name}.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, _plugin):
    """A run of 50 steps, never stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(out)
    return out


# -- equal runs --------------------------------------------------------------------------------------


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    ended = in_process_of_its_own(tmp_path, "--checkpoint-every", 6, TOY_SIGKILL="24")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "toy-net.safetensors").exists()
    log = train(tmp_path, "--resume", "--checkpoint-every", 6)
    assert len(log) == 50
    assert weights(tmp_path) == weights(whole)
    assert (tmp_path / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()


def test_terminated_run_saves_and_resumes_to_the_same_weights(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOY_SIGTERM", "24")
    assert main(command(tmp_path)) == 130
    assert "--resume" in capsys.readouterr().out
    monkeypatch.delenv("TOY_SIGTERM")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 25
    train(tmp_path, "--resume")
    assert weights(tmp_path) == weights(whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_second_interrupt_ends_at_once():
    process = importlib.import_module("fusebench.methods.training.process")
    with process.signals() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_first_losses_are_reproduced_in_a_shorter_run(whole, tmp_path):
    full = pd.read_csv(whole / "toy-net_curve.csv")
    again = train(tmp_path, "--stop-after", 13)
    pd.testing.assert_frame_equal(again, full.head(13), rtol=0, atol=0)
    other = train(tmp_path / "seed", "--stop-after", 13, "--seed", 1)
    assert not np.allclose(other.loss, again.loss, atol=1e-3)


def test_threads_that_prepare_samples_change_nothing(whole, tmp_path):
    train(tmp_path, "--workers", 3)
    assert weights(tmp_path) == weights(whole)


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    options = ["--steps", 20, "--set", "dropout=0", "--set", "dims=3"]
    one = train(tmp_path / "one", *options, "--batch", 2)
    ended = in_process_of_its_own(tmp_path / "two", *options, "--batch", 1, "--devices", 2)
    assert ended.returncode == 0, ended.stderr
    two = pd.read_csv(tmp_path / "two" / "log.csv")
    assert len(one) == len(two) == 20
    assert one.loss.iloc[0] > one.loss.iloc[-1]
    np.testing.assert_allclose(two.loss, one.loss, rtol=0, atol=1e-4)
    np.testing.assert_allclose(two.val_loss, one.val_loss, rtol=0, atol=1e-4)


# -- what a run leaves -------------------------------------------------------------------------------


def test_card_holds_what_a_reader_needs(whole):
    card = (whole / "toy-net.md").read_text()
    for fact in ("toy-data", "val_loss", "--seed 0", weights(whole), "CPU", torch.__version__, "MIT"):
        assert fact in card
    assert (whole / "toy-net_curve.png").stat().st_size > 1000
    best = pd.read_csv(whole / "log.csv").set_index("step").val_loss.idxmin()
    assert f"Weights of step {best}," in card


def test_documented_command_repeats_the_run(whole, tmp_path):
    card = (whole / "toy-net.md").read_text()
    words = next(line for line in card.splitlines() if line.startswith("| command |")).split("|")[2].split()
    assert main([*words[2:], "--out", str(tmp_path), "--no-tensorboard"]) == 0
    assert weights(tmp_path) == weights(whole)


def test_average_is_written_and_the_last_weights_on_request(whole, tmp_path):
    train(tmp_path, "--ema", 0, "--keep", "last")
    written = load_file(tmp_path / "toy-net.safetensors")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(written[k], v) for k, v in state["net"].items())
    averaged = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(averaged["net"][k], v) for k, v in state["net"].items())
    assert any(not torch.equal(averaged["best"][k], v) for k, v in state["net"].items())


def test_moving_average_follows_its_formula():
    update = importlib.import_module("fusebench.methods.training.fit")._averaging(0.9)
    average, expected = torch.zeros(3), 0.0
    for n in range(1, 200):
        update([average], [torch.full((3,), float(n))], n)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5)


def test_early_stopping(tmp_path, capsys):
    log = train(tmp_path, "--set", "stale=True", "--patience", 2, "--val-every", 5)
    assert "early at step 15 of 50" in capsys.readouterr().out
    assert len(log) == 15  # the first validation is the best, two more bring nothing
    assert len(train(tmp_path, "--set", "stale=True", "--patience", 2, "--val-every", 5, "--resume")) == 15


def test_starts_from_given_weights(whole, tmp_path):
    given = whole / "toy-net.safetensors"
    train(tmp_path, "--weights", given, "--lr", 1e-12, "--steps", 1, "--ema", 0)
    before, after = (load_file(f) for f in (given, tmp_path / "toy-net.safetensors"))
    assert all(torch.allclose(before[k], v, atol=1e-9) for k, v in after.items())
    assert weights(whole) in (tmp_path / "toy-net.md").read_text()


def test_bfloat16_and_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    assert main([*command(tmp_path, "--precision", "bf16", "--steps", 4, "--recipe", "other")]) == 0
    assert (tmp_path / "toy-net_other.safetensors").exists()
    arguments = command(tmp_path / "events", "--steps", 2)
    arguments.remove("--no-tensorboard")
    assert main(arguments) == 0
    assert list((tmp_path / "events" / "tensorboard").glob("events*"))


def test_what_a_killed_write_left_is_overwritten(tmp_path):
    script = (
        "import importlib, os, signal\n"
        "from pathlib import Path\n"
        "checkpoint = importlib.import_module('fusebench.methods.training.checkpoint')\n"
        "def write(path):\n    path.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"checkpoint.write_atomically(Path({str(tmp_path / 'log.csv')!r}), write)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    checkpoint.write_atomically(tmp_path / "log.csv", lambda path: path.write_text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert (tmp_path / "log.csv").read_text() == "whole"


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, half)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert path.read_text() == "old"


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy-nett"], "did you mean toy-net"),
        (["toy-fixed"], "offers no recipes"),
        (["toy-net", "--recipe", "none"], "it has default, other"),
        (["toy-net", "--set", "depth=3"], "depth"),
        (["toy-net", "--set", "depth"], "NAME=VALUE"),
        (["toy-net", "--dataset", "toy-date"], "did you mean toy-data"),
        (
            ["toy-net", "--dataset", "toy-data", "--data-option", "size=3"],
            "toy-data has no parameter 'size'; it has none",
        ),
        (["toy-net", "--dataset", "toy-data", "--split", "test"], "train, val"),
        (["toy-net", "--dataset", "toy-data", "--val-split", "test"], "train, val"),
        (["toy-net", "--dataset", "toy-data", "--val-split", "", "--patience", "2"], "needs a val split"),
        (["toy-net", "--dataset", "toy-data", "--lr", "-1"], "--lr -1"),
        (["toy-net", "--dataset", "toy-data", "--lr", "nan"], "--lr nan"),
        (["toy-net", "--dataset", "toy-data", "--clip", "-1"], "--clip -1 must be 0 or more"),
        (["toy-net", "--dataset", "toy-data", "--clip", "nan"], "--clip nan"),
        (["toy-net", "--dataset", "toy-data", "--weight-decay", "-1"], "--weight-decay -1"),
        (["toy-net", "--dataset", "toy-data", "--warmup", "-3"], "--warmup -3"),
        (["toy-net", "--dataset", "toy-data", "--patience", "-2"], "--patience -2"),
        (["toy-net", "--dataset", "toy-data", "--workers", "-1"], "--workers -1"),
        (["toy-net", "--dataset", "toy-data", "--seed", "-1"], "--seed -1"),
        (["toy-net", "--dataset", "toy-data", "--seed", str(2**63)], "less than 2^63"),
        (
            ["toy-net", "--dataset", "toy-data", "--weights", "no.safetensors"],
            "no such file; leave it out to start",
        ),
        (["toy-net", "--dataset", "toy-data", "--device", "cpu", "--precision", "16"], "bf16"),
        (["toy-net", "--dataset", "toy-data", "--device", "abacus"], "abacus"),
        (["toy-net", "--dataset", "toy-data", "--device", "cpu", "--devices", "1000"], "give fewer"),
        (
            ["toy-net", "--dataset", "toy-data", "--device", "cpu", "--set", "broken=True"],
            "loss is nan at step 3",
        ),
    ],
)
def test_error_is_one_line(arguments, message, tmp_path, capfd):
    assert main(["train", *arguments, "--out", str(tmp_path / "run"), "--no-tensorboard"]) == 2
    line = [text for text in capfd.readouterr().err.splitlines() if not text.startswith("step ")]
    assert len(line) == 1
    assert message in line[0]


def test_checkpoint_in_the_way_or_of_another_run(tmp_path, capsys):
    train(tmp_path, "--steps", 2)
    for options, message in [
        (["--steps", 2], "--resume to go on"),
        (["--steps", 1, "--resume"], "steps=2 (now 1)"),
        (["--steps", 2, "--resume", "--seed", 5], "seed=0 (now 5)"),
        (["--steps", 2, "--resume", "--threads", 3], "(now 3)"),
    ]:
        assert main(command(tmp_path, *options)) == 2
        assert message in capsys.readouterr().err
    assert main(command(tmp_path, "--steps", 3, "--force")) == 0


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"format": 2},
        {"config": [1]},
        {"config": {"steps": "2"}},
        {"step": "x"},
        {"step": -1},
        {"history": [{"step": "x"}]},
        {"history": [1]},
        {"best": {"a": 1}},
        {"net": {}},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": [{"lr": "x"}]}},
        {"grown": [1]},
    ],
)
def test_a_checkpoint_with_a_part_that_is_none_is_a_line(change, whole, tmp_path, capsys):
    state = torch.load(whole / "checkpoint.pt", weights_only=True)
    if change is None:
        (tmp_path / "checkpoint.pt").write_bytes(b"PK\3\4 not one")
    else:
        torch.save({**state, **change}, tmp_path / "checkpoint.pt")
    assert main(command(tmp_path, "--resume")) == 2
    error = capsys.readouterr().err
    assert (
        "checkpoint.pt is no checkpoint of this training (" in error or "checkpoint.pt was made with" in error
    )
    assert "use another --out" in error and error.count("\n") == 1


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "checkpoint.pt")
    assert main(command(tmp_path, "--resume")) == 2
    assert "is a folder, a pipe or a device" in capsys.readouterr().err


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    def full(temporary):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(OSError, match="PytorchStreamWriter") as caught:
        checkpoint.write_atomically(tmp_path / "checkpoint.pt", full)
    assert caught.value.filename == str(tmp_path / "checkpoint.pt")


def test_steps_may_grow_on_resume(tmp_path):
    """The run goes on from where it was, on the schedule of the new number, and the card says so."""
    train(tmp_path, "--steps", 10)
    train(tmp_path, "--steps", 16, "--resume")
    with (tmp_path / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == list(range(1, 17))
    assert float(log[9]["lr"]) < float(log[10]["lr"]) > float(log[15]["lr"])
    assert "10 to 16 at 10" in (tmp_path / "toy-net.md").read_text()


def test_interrupted_before_it_began_it_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fusebench.cli.train.open_dataset", interrupted)
    assert main(command(tmp_path)) == 130
    assert "--resume" in capsys.readouterr().err


def test_wrong_weights_are_refused(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    checkpoint.save_weights(path, {"x": torch.zeros(2)}, {})
    assert main(command(tmp_path, "--weights", path)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "do not fit" in error


def test_weights_are_a_file_or_named_for_the_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy-net=1").touch()
    for text, path in [
        ("w.pth", "w.pth"),
        ("toy-net=w.pth", "w.pth"),
        ("toy-net=lr=1.pth", "lr=1.pth"),
        ("toy-net=1", "toy-net=1"),  # a file of that very name
        ("runs/lr=1/w.pth", "runs/lr=1/w.pth"),
    ]:
        assert weights_path(text, "toy-net") == Path(path)
    for text in ("matr=w.pth", "toy-net="):
        with pytest.raises(InputError, match=f"--weights {text}: .*FILE or toy-net=FILE"):
            weights_path(text, "toy-net")


def test_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    monkeypatch.delitem(sys.modules, "fusebench.methods.training.fit")
    monkeypatch.delattr("fusebench.methods.training.fit")
    assert main(command(tmp_path)) == 2
    assert "pip install 'fusebench[train]'" in capsys.readouterr().err


# -- samples -----------------------------------------------------------------------------------------


def make_case(i, shape=(12, 14, 16), spacing=(3.0, 2.0, 1.0)):
    def load():
        rng = np.random.default_rng(i)
        d, h, w = spacing
        affine = np.diag([w, h, d, 1.0])
        mask = np.zeros(shape, bool)
        mask[tuple(n // 2 for n in shape)] = True
        a, b = (Volume(rng.random(shape, dtype=np.float32), affine) for _ in "ab")
        return Pair(a, b, mask)

    return Case(str(i), "made", str(i), str(i), load)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (40, 40), (4, 6, 8), (12, 14, 16), (20, 9, 17)])
def test_crop_holds_the_foreground_voxel(size):
    subject = samples.Subjects([make_case(0)])[0]
    for seed in range(20):
        cut = samples.crop(subject, size, np.random.default_rng(seed), margin=3)
        assert cut["a"].shape == (1, *(n + 6 for n in size))
        cut = samples.trim(cut, 3)
        assert cut["a"].shape == cut["b_clean"].shape == (1, *size)
        assert cut["mask"].sum() == 1
        centre = subject.a[6, 7, 8].float()
        assert cut["a"][cut["mask"] > 0] == centre


def test_margin_does_not_move_the_crop():
    subject = samples.Subjects([make_case(0)])[0]
    plain = samples.crop(subject, (6, 6), np.random.default_rng(3))
    wide = samples.trim(samples.crop(subject, (6, 6), np.random.default_rng(3), margin=5), 5)
    assert all(torch.equal(plain[k], wide[k]) for k in plain)


def test_slice_spacing_and_planes():
    subject = samples.Subjects([make_case(0)])[0]
    for plane, spacing in [(0, [2, 1]), (1, [3, 1]), (2, [3, 2])]:
        cut = samples.crop(subject, (4, 4), np.random.default_rng(0), planes=(plane,))
        assert cut["spacing"].tolist() == spacing
    flat = samples.Subjects([make_case(0, (1, 20, 20))])[0]
    assert samples.crop(flat, (20, 20), np.random.default_rng(0))["a"].shape == (1, 20, 20)


def test_empty_mask_gives_a_central_crop():
    case = make_case(0)
    pair = case.loader()
    case = Case("e", "made", "e", "e", lambda: Pair(pair.a, pair.b, np.zeros_like(pair.mask)))
    assert samples.crop(samples.Subjects([case])[0], (4, 4, 4), np.random.default_rng(0))["a"].shape == (
        1,
        4,
        4,
        4,
    )


def test_pool_is_a_moving_window_and_bounds_memory():
    loads = []

    def make(i):
        case = make_case(i)
        return Case(case.id, "made", case.group, case.fingerprint, lambda: loads.append(i) or case.loader())

    subjects = samples.Subjects([make(i) for i in range(10)], pool=3, turn=5)
    seen = [
        subjects.pick(step, np.random.default_rng([step, j])).case.id for step in range(50) for j in range(2)
    ]
    assert len(subjects._held) <= 5
    assert set(seen) == {str(i) for i in range(10)}
    assert len(set(seen[:10])) <= 3
    assert len(loads) <= 20  # each of the 13 places of the window about once, not once per sample
    again = samples.Subjects([make(i) for i in range(10)], pool=3, turn=5)
    assert again.pick(37, np.random.default_rng([37, 1])).case.id == seen[75]


def test_no_cases_is_refused():
    with pytest.raises(InputError, match="no case"):
        samples.Subjects([])


# -- augmentation ------------------------------------------------------------------------------------


@pytest.fixture
def blob():
    at = np.stack(np.meshgrid(*[np.arange(32.0)] * 3, indexing="ij"))
    ball = torch.from_numpy(np.exp(-((at - 15.5) ** 2).sum(0) / 18)).float()[None]
    image = {k: ball.clone() for k in ("a", "b", "a_clean", "b_clean", "mask")}
    return {**image, "spacing": torch.tensor([3.0, 2.0, 1.0])}


def centroid(x):
    return np.array(ndimage.center_of_mass(x[0].numpy()))


def test_misalignment_moves_the_functional_input_only(blob):
    lengths = []
    for seed in range(8):
        moved = augment.misalign(shift=4, warp=0, p=1)(blob, np.random.default_rng(seed))
        assert all(moved[k] is blob[k] for k in blob if k != "b")
        rng = np.random.default_rng(seed)
        rng.random()
        direction = rng.standard_normal(3)
        length = rng.uniform(0, 4)
        # The sampled point moves by +offset, so the picture moves by -offset.
        step = (centroid(moved["b"]) - centroid(blob["b"])) * [3, 2, 1]
        np.testing.assert_allclose(step, -direction / np.linalg.norm(direction) * length, atol=0.15)
        lengths.append(length)
    assert max(lengths) > 2


def test_warp_is_smooth_and_bounded(blob):
    ramp = torch.arange(32.0).expand(1, 32, 32, 32) / 32
    moved = augment.misalign(shift=0, warp=3, p=1)({**blob, "b": ramp}, np.random.default_rng(0))["b"]
    displacement = (moved - ramp)[0, 4:-4, 4:-4, 4:-4] * 32  # mm along w, where spacing is 1
    assert 0.3 < displacement.abs().max() <= 3.01
    assert displacement.diff(dim=2).abs().max() < 0.9  # no folding


def test_intensity_changes_spare_the_targets(blob):
    for step in (augment.gamma(p=1), augment.noise(p=1), augment.bias(p=1, keys=("a", "b"))):
        changed = step(blob, np.random.default_rng(1))
        for key in ("a", "b"):
            assert not torch.equal(changed[key], blob[key])
            assert 0 <= changed[key].min() <= changed[key].max() <= 1
        for key in ("a_clean", "b_clean", "mask", "spacing"):
            assert torch.equal(changed[key], blob[key])


def test_flip_takes_everything_along(blob):
    sample = {**blob, **{k: torch.rand(1, 4, 5, 6) for k in ("a", "b", "a_clean", "b_clean", "mask")}}
    flipped = augment.flip(p=1, axes=(-1, -3))(sample, np.random.default_rng(0))
    for key in ("a", "b", "a_clean", "b_clean", "mask"):
        assert torch.equal(flipped[key], sample[key].flip(-1, -3))


# -- losses ------------------------------------------------------------------------------------------


@pytest.fixture(params=[(2, 1, 26, 31), (2, 1, 15, 18, 13)], ids=["2D", "3D"])
def pair(request):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(request.param, generator=rng)
    return x, (x + 0.2 * torch.randn(request.param, generator=rng)).clamp(0, 1)


def test_ssim_is_its_definition_on_the_valid_region(pair):
    x, y = (t.double().numpy() for t in pair)

    def one(a, b):
        blur = lambda z: ndimage.gaussian_filter(z, 1.5, truncate=5 / 1.5)[(slice(5, -5),) * z.ndim]  # noqa: E731
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        c1, c2 = 1e-4, 9e-4
        return ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()

    expected = [one(a[0], b[0]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(losses.ssim(*pair), expected, atol=2e-6)


def test_lncc_is_its_definition(pair):
    x, y = (t.double().numpy() for t in pair)

    def one(a, b):
        n = 3**a.ndim
        total = lambda z: ndimage.uniform_filter(z, 3, mode="constant") * n  # noqa: E731
        va, vb = (np.maximum(total(z * z) - total(z) ** 2 / n, 1e-5) for z in (a, b))
        return ((total(a * b) - total(a) * total(b) / n) ** 2 / (va * vb)).mean()

    expected = [one(a[0], b[0]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(losses.lncc(*pair), expected, atol=1e-5)


def test_agrees_with_monai(pair):
    monai = pytest.importorskip("monai.losses")
    x, y = pair
    dims = x.ndim - 2
    assert 1 - losses.ssim(x, y).mean().item() == pytest.approx(monai.SSIMLoss(dims)(x, y).item(), abs=1e-5)
    reference = monai.LocalNormalizedCrossCorrelationLoss(dims)(x, y).item()
    assert -losses.lncc(x, y).mean().item() == pytest.approx(reference, abs=1e-5)


def test_ms_ssim_agrees_with_pytorch_msssim():
    reference = pytest.importorskip("pytorch_msssim")
    x = torch.rand(2, 1, 192, 176, generator=torch.Generator().manual_seed(0))
    y = (x + 0.1).clamp(0, 1) * 0.9
    expected = reference.ms_ssim(x, y, data_range=1.0, size_average=False)
    torch.testing.assert_close(losses.ms_ssim(x, y), expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="at least 161"):
        losses.ms_ssim(x[..., :100], y[..., :100])


@pytest.mark.parametrize("name", ["l1", "mse", "ssim", "lncc", "gradient"])
def test_gradients_and_masks(name, pair):
    loss = getattr(losses, name)
    x, y = (t[:1].double() for t in pair)
    full = torch.ones_like(x)
    torch.testing.assert_close(loss(x, y, full), loss(x, y))
    half = full.clone()
    half[..., : x.shape[-1] // 2] = 0
    assert not torch.allclose(loss(x, y, half), loss(x, y))
    assert torch.isfinite(loss(x, y, 0 * full)).all()
    small = (x[..., :12, :12].clone().requires_grad_(), y[..., :12, :12])
    assert torch.autograd.gradcheck(lambda a: loss(a, small[1]), (small[0],), fast_mode=True)


def test_losses_stay_in_float32_under_autocast(pair):
    x, y = pair
    expected = losses.ssim(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.ssim(x, y), expected)


def test_gradient_losses_by_hand():
    x = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    zero = torch.zeros_like(x)
    # Differences of x: along h -0 and -1, along w 1 and 0.
    assert losses.gradient(x, zero).item() == pytest.approx(0.5)
    assert losses.max_gradient(x, x, zero).item() == 0
    assert losses.max_gradient(zero, x, zero).item() == pytest.approx(0.5)


def test_region_mutual_information_orders_dependence():
    rng = torch.Generator().manual_seed(0)
    x, unrelated = torch.rand(2, 2, 1, 48, 48, generator=rng)
    near = (x + 0.1 * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    same, close, none = (losses.rmi(x, y).mean() for y in (x, near, unrelated))
    assert same < close < none
    grad = torch.autograd.grad(losses.rmi(x.requires_grad_(), near).sum(), x)[0]
    assert torch.isfinite(grad).all() and grad.abs().max() > 0


# -- hyperparameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_learning_rate(schedule):
    hyper = recipe.Hyperparameters(steps=100, lr=0.1, warmup=10, schedule=schedule)
    rates = [hyper.lr_at(k) for k in range(100)]
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(1, 11) / 10)
    assert rates[10] == pytest.approx(0.1)
    assert (np.diff(rates[10:]) <= 0).all()
    assert rates[-1] == pytest.approx(0.1) if schedule == "constant" else rates[-1] < 0.002
