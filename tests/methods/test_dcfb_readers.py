"""The default dcfb network, for readers: its start, its bounds, its ablations, and its recipe."""

import importlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fusebench
from fusebench.errors import InputError

from .test_conditional import head
from .test_dcfb import lively

expected = importlib.import_module("fusebench.methods._expected")
findings = importlib.import_module("fusebench.methods.training.findings")
reader = importlib.import_module("fusebench.methods.dcfb.reader")
recipes = importlib.import_module("fusebench.methods.dcfb.reader_recipe")
net = importlib.import_module("fusebench.methods.dcfb.network")
samples = importlib.import_module("fusebench.methods.training.samples")


def method_of(network, folder, **parameters):
    path = folder / "reader.safetensors"
    save_file(network.state_dict(), path)
    method = fusebench.create_method("dcfb", weights=str(path), **parameters)
    method.setup("cpu")
    return method


def batch_of(recipe, subjects, index=0):
    return samples.collate([recipe.sample(subjects, 0, np.random.default_rng([0, index]))])


@pytest.fixture(scope="module")
def subjects():
    cases = fusebench.create_dataset("phantom", size=64).cases("val")[:2]
    return samples.Subjects(cases, pool=2)


def focal(b, place, change, sigma=3.0):
    """`b` with one Gaussian change."""
    grid = np.indices(b.shape)
    away = sum((g - c) ** 2 for g, c in zip(grid, place, strict=True))
    return b * (1 + change * torch.from_numpy(np.exp(-away / (2 * sigma**2))).float())


def test_training_starts_at_the_shrunk_conditional_residual():
    """Soft threshold of the regression's residual, but for its rounding; nothing learned."""
    a, b = head()
    b = focal(b, (20, 22, 24), -0.4)
    network = reader.ReaderNetwork().eval()
    uptake, level, sigma = network.start_of(a, b)
    with torch.inference_mode():
        out = network.explain(*[x[None, None] for x in (a, b, uptake, level)], sigma)
    fit = expected.fit(a, b, use=b > reader.LIT[0])
    want = expected.blur(fit.sharp(a, expected.foreground(a, b)).clamp_min(0), fit.sigma) * (1 + level)
    x = reader.difference(b, want)
    want = x.sign() * (x.abs() - reader.SHRINK).clamp_min(0) * reader.lit(b)
    torch.testing.assert_close(out["finding"][0, 0], want, atol=0.007, rtol=1e-4)
    assert out["finding"][0, 0, 20, 22, 24] < -0.1


@pytest.mark.parametrize("shape", [(40, 44, 48), (1, 96, 96)], ids=str)
def test_a_focal_change_shows_and_black_stays_black(shape, tmp_path):
    a, b = head(shape)
    method = method_of(reader.ReaderNetwork(), tmp_path)
    place = tuple(n // 2 for n in shape)
    up, down, plain = (method.fuse(a, x) for x in (focal(b, place, 0.4), focal(b, place, -0.4), b))
    assert up[place] - plain[place] > 0.05
    assert plain[place] - down[place] > 0.05
    assert plain[a == 0].abs().max() == 0
    assert (plain - method.shade * a**method.contrast).abs().mean() < 0.02
    assert up.min() >= 0 and up.max() <= 1


def test_gain_and_shade_do_what_they_say(tmp_path):
    a, b = head()
    b = focal(b, (20, 22, 24), 0.3)
    torch.manual_seed(0)
    network = reader.ReaderNetwork()
    quiet = method_of(network, tmp_path, gain=0.0, broad=0.0, contrast=1.0, shade=0.5).fuse(a, b)
    torch.testing.assert_close(quiet, 0.5 * a)
    one, two = (
        method_of(network, tmp_path, gain=g, broad=0.0, contrast=1.0, shade=0.5).fuse(a, b)
        for g in (1.0, 2.0)
    )
    assert (one - quiet).abs().max() > 0.02
    stretched = [reader.MOST * torch.atanh((f / quiet - 1)[a > 0] / reader.MOST) for f in (one, two)]
    torch.testing.assert_close(stretched[1], 2 * stretched[0], atol=1e-3, rtol=1e-2)
    for bad in ({"gain": -1.0}, {"shade": 0.0}, {"contrast": 0.0}, {"target": "nobody"}):
        with pytest.raises(InputError):
            fusebench.create_method("dcfb", **bad)


def test_nothing_is_read_where_the_functional_image_shows_nothing(tmp_path):
    """Scalp: bright in the structural image, black in the functional one."""
    a, b = head((48, 44, 48))
    a = a.clone()
    a[:4, 10:30, 10:30] = 0.8
    network = lively(reader.ReaderNetwork())
    fused = method_of(network, tmp_path, contrast=1.0).fuse(a, b)
    torch.testing.assert_close(fused[:2, 10:30, 10:30], 0.85 * a[:2, 10:30, 10:30], atol=0.01, rtol=0)


def test_the_expectation_is_blind_to_the_functional_image():
    """A finding that is put into it must not be explained away."""
    torch.manual_seed(0)
    network = lively(reader.ReaderNetwork())
    a, uptake = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    level = torch.zeros_like(a)
    found = [network.explain(a, torch.rand(1, 1, 16, 16, 16), uptake, level, 1.0)["expected"] for _ in "ab"]
    assert torch.equal(*found)


@pytest.mark.parametrize("without", recipes.ABLATIONS)
def test_ablations_are_told_from_their_weights_and_train(without, tmp_path, subjects):
    recipe = recipes.Readers(without=without, patch=32)
    network = recipe.model()
    design = reader.ReaderDesign.of(network.state_dict())
    assert design == network.design
    loss, logs = recipe.loss(network, batch_of(recipe, subjects))
    loss.backward()
    assert loss.isfinite() and set(logs) == {"shown", "missed", "shape", "noise", "expect", "align"}
    a, b = head((16, 20, 24))
    assert method_of(lively(network), tmp_path).fuse(a, b).isfinite().all()


def test_every_parameter_learns(subjects):
    recipe = recipes.Readers(patch=32, chance=1.0)
    torch.manual_seed(0)
    network = recipe.model()
    with torch.no_grad():
        for parameter in network.parameters():  # what starts at zero hides what lies before it
            if parameter.abs().max() == 0:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    batches = (batch_of(recipe, subjects, i) for i in range(20))
    batch = next(b for b in batches if b["mask"].mean() > 0.5 and b["finding"].abs().max() > 0.1)
    batch["moved"][:] = 1
    recipe.loss(network, batch)[0].backward()
    still = [
        k for k, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not still


def test_the_first_stage_leaves_the_blocks_as_they_are(subjects):
    recipe = recipes.Readers(patch=32, blocks=False)
    network = recipe.model()
    recipe.loss(network, batch_of(recipe, subjects))[0].backward()
    learned = {k.split(".")[0] for k, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"out", "uptake_out"}  # at the start, the rest sits behind zeros
    assert not any(p.requires_grad for p in network.features.parameters())


def test_a_sample_is_repeatable_and_its_finding_is_what_was_changed(subjects):
    recipe = recipes.Readers(patch=32, chance=0.0)
    one, two = (batch_of(recipe, subjects, 3) for _ in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)
    change = one["aligned"] / one["b_clean"].clamp_min(0.05) - 1
    where = (one["finding"].abs() > 0.1) & (one["b_clean"] > 0.2)
    assert where.any()
    assert (change[where].sign() == one["finding"][where].sign()).float().mean() > 0.95


def test_healthy_cases_are_those_that_the_data_set_names():
    cases = fusebench.create_dataset("phantom", size=32).cases("val")
    recipe = recipes.Readers()
    kept = recipe._normal(samples.Subjects(cases, pool=2)).cases
    assert 0 < len(kept) < len(cases) and all(c.meta["lesion"] is False for c in kept)
    assert len(recipes.Readers(controls=False)._normal(samples.Subjects(cases)).cases) == len(cases)


def test_blocks_and_alignment_of_the_network_for_likeness_are_taken(tmp_path):
    torch.manual_seed(1)
    other = net.FusionNetwork()
    save_file(other.state_dict(), tmp_path / "likeness.safetensors")
    network = recipes.Readers().model()
    recipes.Readers().load(network, tmp_path / "likeness.safetensors")
    ours, theirs = network.state_dict(), other.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs if k.startswith("features."))


@pytest.mark.parametrize("seed", range(4))
def test_findings_are_bounded_of_both_signs_and_where_they_may_be(seed):
    rng = np.random.default_rng(seed)
    inside = torch.zeros(40, 40, 40, dtype=torch.bool)
    inside[20, 20, 20] = True
    change = findings.draw_findings(inside, [1.75] * 3, rng, count=(1, 1), radius=(4, 8), depth=(0.3, 0.4))
    assert 0.02 < change.abs().max() <= 0.41
    assert change[:4].abs().max() < 1e-3
    many = [findings.draw_findings(inside, [1.75] * 3, rng, count=(1, 1)) for _ in range(12)]
    assert min(m.sum() for m in many) < 0 < max(m.sum() for m in many)
    assert not findings.draw_findings(inside & False, [1.75] * 3, rng).any()


def test_no_pattern_of_patches(subjects):
    """Nothing at the period of the tokens: power there is that of the neighbouring frequencies."""
    method = fusebench.create_method("dcfb", contrast=1.0)
    method.setup("cpu")
    case = fusebench.create_dataset("phantom").cases("val")[0]
    a, b = torch.from_numpy(case.a.data), torch.from_numpy(case.b.data)
    shown = method.fuse(a, b) - method.shade * a
    window = np.hanning(64)
    for axis in range(3):
        block = shown.numpy()[32:96, 32:96, 32:96] * window.reshape(
            [-1 if i == axis else 1 for i in range(3)]
        )
        power = (np.abs(np.fft.rfft(block, axis=axis)) ** 2).mean(tuple(i for i in range(3) if i != axis))
        for period in (4, 8, 16):
            k = 64 // period
            near = (power[k - 2] * power[k + 2]) ** 0.5
            assert 0.5 < power[k] / near < 2, (axis, period)


def test_a_validation_reads_whole_heads_and_training_goes_on(subjects):
    """As the board reads them; an untrained network is the conditional residual, which reads something."""
    recipe = recipes.Readers(patch=32)
    recipe.val_batches = 1
    network = recipe.model()
    with torch.no_grad():
        scores = recipe.validate(network, subjects)
    assert 0.2 < scores["val_reading"] < 1.5 and scores["val_cho_auc.b"] > 0.6
    recipe.loss(network, batch_of(recipe, subjects))[0].backward()
    assert "val_reading" not in recipes.Readers(read=0)._readings(network, subjects)
