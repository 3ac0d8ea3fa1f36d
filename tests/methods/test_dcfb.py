"""The DCFB block, the network for likeness, sizes, tiles and recipes; and every shipped entry."""

import hashlib
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fusebench
from fusebench.errors import InputError

alignment = importlib.import_module("fusebench.methods.dcfb.alignment")
block = importlib.import_module("fusebench.methods.dcfb.block")
net = importlib.import_module("fusebench.methods.dcfb.network")
recipe = importlib.import_module("fusebench.methods.dcfb.recipe")
tiles = importlib.import_module("fusebench.methods.dcfb.tiles")
samples = importlib.import_module("fusebench.methods.training.samples")
Subjects, collate = samples.Subjects, samples.collate
plugin = importlib.import_module("fusebench.methods.dcfb.dcfb")


def lively(network, seed=0):
    """Random values where training starts from zero, so that every part takes effect."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() == 0 or parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return network.eval().requires_grad_(False)


def pair(*shape, seed=0):
    """A smooth head-like pair with a black background."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(2):
        coarse = torch.rand(1, 1, *[max(2, n // 6) for n in shape], generator=generator)
        out.append(torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0])
    axes = torch.meshgrid(*[(torch.arange(n) + 0.5) * 2 / n - 1 for n in shape], indexing="ij")
    head = sum(x**2 for x in axes) < 0.8
    return out[0] * head, out[1] * head


@pytest.fixture(scope="module", params=["dcfb", "dcfb@paper"])
def shipped(request):
    method = fusebench.create_method(request.param)
    method.setup("cpu")
    return method


# -- block ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 6, 3), (1, 9, 2)])
def test_swapping_the_streams_swaps_the_results(shape, shift):
    one = lively(block.DCFB(24, 2, shift=shift))
    x, field = torch.randn(2, *shape, 24), torch.randn(2, *shape, 3)
    y, moved = one(x, field)
    y_swapped, moved_swapped = one(x.flip(0), field.flip(0))
    torch.testing.assert_close(y_swapped.flip(0), y)
    torch.testing.assert_close(moved_swapped.flip(0), moved)


def test_each_sample_stands_alone():
    one = lively(block.DCFB(24, 2))
    x, field = torch.randn(4, 4, 5, 6, 24), torch.zeros(4, 4, 5, 6, 3)
    y, _ = one(x, field)
    alone, _ = one(x[[1, 3]], field[[1, 3]])  # sample 1 of both streams
    torch.testing.assert_close(y[[1, 3]], alone)


def test_keys_and_values_come_from_where_the_field_points():
    """Values of the other stream outside the reach of field, window and kernel change nothing."""
    one = lively(block.DCFB(24, 2, reach=0.0))
    x, field = torch.randn(2, 16, 16, 16, 24), torch.zeros(2, 16, 16, 16, 3)
    base, _ = one(x, field)
    changed = x.clone()
    changed[1, 10:] = torch.randn(
        6, 16, 16, 24
    )  # stream b, far from the window of tokens 0..3 along the first axis
    near, _ = one(changed, field)
    torch.testing.assert_close(near[0, :4], base[0, :4])
    field[0, ..., 0] = 10  # now stream a looks ten tokens further
    base, _ = one(x, field)
    far, _ = one(changed, field)
    assert (far[0, :4] - base[0, :4]).abs().max() > 0.01


def test_attention_is_a_softmax_over_the_window():
    """Equal keys give the mean of the values; three channels per head then tell the mean position."""
    one = block.DCFB(24, 2, parts=block.Parts(deform=False, conv=False)).eval()
    torch.nn.init.zeros_(one.k.weight)
    own, other = torch.randn(1, 4, 4, 4, 24), torch.randn(1, 4, 4, 4, 24)
    one.attention_norm = torch.nn.Identity()
    out = one._attend(own, other, torch.zeros(1, 4, 4, 4, 3), None).view(64, 2, 12)
    values = one.v(other).view(64, 2, 9).mean(0)
    torch.testing.assert_close(out[..., :9], values.expand(64, -1, -1))
    place = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).view(64, 3)
    torch.testing.assert_close(out[:, 0, 9:], 1.5 - place)


def test_offsets_start_at_zero_and_stay_in_reach():
    one = block.DCFB(24, 2, reach=1.5)
    x, field = torch.randn(2, 4, 4, 4, 24), torch.zeros(2, 4, 4, 4, 3)
    assert one(x, field)[1].abs().max() == 0
    torch.nn.init.normal_(one.offset_out.weight, std=100)
    assert 1.4 < one(x, field)[1].abs().max() <= 1.5


# -- network -------------------------------------------------------------------------------------------


def test_training_starts_at_the_average():
    a, b = pair(20, 24, 17)
    fused = net.FusionNetwork()(a[None, None], b[None, None])[0, 0]
    torch.testing.assert_close(fused, (a + b) / 2)


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 47, 61), (1, 40, 23), (5, 1, 1), (2, 65, 31)])
def test_any_size_bounded_and_black_stays_black(shape):
    network = lively(net.FusionNetwork())
    a, b = pair(*shape)
    out = network.explain(a[None, None], b[None, None], align=1.0)
    fused, moved = out["fused"][0, 0], out["aligned"][0, 0]
    assert fused.shape == a.shape
    assert out["residual"].abs().max() > 0.001
    lit = torch.maximum(a, b) > 0.01
    plain = (a + moved) / 2
    assert ((fused - plain).abs() <= 1.1 * (a - moved).abs() + 0.1 + 1e-6)[lit].all()
    assert fused.min() >= 0 and fused.max() <= 1
    assert fused[(a == 0) & (b == 0)].abs().sum() == 0
    black = torch.zeros_like(a)
    assert network(black[None, None], black[None, None]).abs().max() == 0


def test_warp_moves_by_voxels():
    image = torch.rand(1, 1, 8, 12, 16)
    field = torch.zeros(1, 2, 3, 4, 3)
    field[..., 1] = 2.0
    moved = net.warp(image, field)
    torch.testing.assert_close(moved[..., :10, :], image[..., 2:, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        moved[..., 10:, :], image[..., -1:, :].expand(-1, -1, -1, 2, -1), atol=1e-5, rtol=0
    )


def test_displacement_points_to_the_counterpart():
    """One offset layer forced to a constant: the aligned image is the functional one, moved by it."""
    network = net.FusionNetwork().eval()
    last = network.features.decoder[1]
    with torch.no_grad():
        last.offset_out.bias.copy_(torch.tensor([0.0, 0.0, 0.5]).atanh())
    b = torch.rand(1, 1, 16, 16, 32)
    moved = network.explain(torch.zeros_like(b), b, align=1.0)["aligned"]
    torch.testing.assert_close(moved[..., 2:28], b[..., 4:30], atol=1e-4, rtol=0)  # 0.5 tokens: 2 voxels


@pytest.mark.parametrize("without", recipe.ABLATIONS)
def test_ablations_are_told_from_their_weights(without, tmp_path):
    network = lively(net.FusionNetwork(recipe.ABLATIONS[without]))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert net.Design.of(network.state_dict()) == network.design
    method = fusebench.create_method("dcfb", weights=str(tmp_path / "w.safetensors"))
    method.setup("cpu")
    a, b = pair(17, 20, 9)
    x, y, moved = a[None, None], b[None, None], False
    if network.design.features and network.design.parts.deform:
        y, moved = alignment.prealign(network.features.coarse, x, y)
    expected = network(x, y, align=float(moved), strength=method.strength, balance=plugin.BALANCE)[0, 0]
    torch.testing.assert_close(method.fuse(a, b), expected)
    assert method.info.weights is None
    assert "w.safetensors" in method.describe().trained_on


def test_parts_switched_off():
    a, b = (x[None, None] for x in pair(32, 32, 32))
    whole = lively(net.FusionNetwork())
    base = whole.explain(a, b, align=1.0)
    assert (base["aligned"] - b).abs().max() > 0.01
    for part in net.SWITCHES:
        network = lively(net.FusionNetwork())
        network.load_state_dict(whole.state_dict())
        net.switch_off(network, part)
        out = network.explain(a, b, align=1.0)
        assert (out["fused"] - base["fused"]).abs().max() > 1e-4, part
        if part == "displacement":
            torch.testing.assert_close(out["aligned"], b)
        if part == "context":
            torch.testing.assert_close(out["aligned"], base["aligned"])
    with pytest.raises(InputError, match="without='nose'"):
        fusebench.create_method("dcfb", without="nose")


def test_the_coarse_displacement_is_trusted_where_it_helps():
    """A forced shift of two voxels: taken where it undoes one, left where there is none to undo."""
    coarse = net.FusionNetwork().eval().requires_grad_(False).features.coarse
    coarse.out.bias.copy_(torch.tensor([0.0, 0.0, 0.25]))  # times 4, twice: two voxels
    a, _ = pair(48, 48, 47, seed=3)
    b = 1 - a
    left, moved = alignment.prealign(coarse, a[None, None], b[None, None])
    assert not moved
    assert torch.equal(left[0, 0], b)
    found, moved = alignment.prealign(coarse, a[None, None], b.roll(2, 2)[None, None])
    assert moved
    torch.testing.assert_close(found[0, 0, ..., :40], b[..., :40], atol=1e-4, rtol=0)
    assert not alignment.prealign(coarse, a[None, None, :1], b[None, None, :1])[1]


def test_equally_far_from_both_sources():
    """The change adds the same squared error to either source, everywhere; its scale is `strength`."""
    network = lively(net.FusionNetwork())
    a, b = (0.2 + 0.6 * x[None, None] for x in pair(64, 64, 64))
    out = network.explain(a, b)
    change = out["fused"] - (a + b) / 2
    assert change.abs().mean() > 0.005
    for part in (slice(None), slice(0, 32), slice(32, 64)):
        to_a, to_b = (((out["fused"] - x) ** 2)[:, :, part].mean() for x in (a, b))
        raw = ((out["weight"] - 0.5).abs() * (a - b) ** 2)[:, :, part].mean()
        assert abs(to_a - to_b) < 0.2 * raw
    free = network.explain(a, b, balance=0)["fused"] - (a + b) / 2
    assert abs((free * (a - b)).mean()) > 10 * abs((change * (a - b)).mean())
    half = network.explain(a, b, strength=0.5)["fused"] - (a + b) / 2
    torch.testing.assert_close(half, change / 2, atol=1e-5, rtol=0)
    assert torch.equal(network(a, b, strength=0.0), (b + 0.5 * (a - b)).clamp(0, 1))
    leaning = network.explain(a, b, strength=0.0, alpha=1.0)["fused"]
    torch.testing.assert_close(leaning, a)


def test_bfloat16_is_near_float32(shipped):
    half = fusebench.create_method("dcfb", **{**shipped.parameters(), "bf16": True})
    half.setup("cpu")
    a, b = pair(32, 32, 32)
    out = half.fuse(a, b)
    assert out.dtype == torch.float32
    assert 0 < (out - shipped.fuse(a, b)).abs().max() < 0.02


def test_constant_images_and_equal_images():
    """Of the network for likeness, between the plain average and its own lean."""
    method = fusebench.create_method("dcfb", target="likeness", strength=0.125)
    method.setup("cpu")
    a, _ = pair(32, 32, 32)
    for x, y in ((a, torch.full_like(a, 0.5)), (a, torch.zeros_like(a)), (a, a)):
        fused = method.fuse(x, y)
        assert (fused - (x + y) / 2)[torch.maximum(x, y) > 0.01].abs().max() < 0.05
    torch.testing.assert_close(method.fuse(a, a), a, atol=0.02, rtol=0)


def test_strength_and_alpha_out_of_range_are_refused():
    for wrong in ({"strength": 2.0}, {"alpha": -0.1}):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            fusebench.create_method("dcfb", **wrong)


def test_flat_design_treats_slices_alone():
    network = lively(net.FusionNetwork(recipe.ABLATIONS["flat"]))
    a, b = (x[None, None] for x in pair(5, 32, 30))
    whole = network(a, b)
    torch.testing.assert_close(network(a[:, :, 2:3], b[:, :, 2:3]), whole[:, :, 2:3], atol=1e-5, rtol=0)


def test_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = recipe.Balanced(checkpointing=checkpointing).model()
        torch.nn.init.normal_(network.out.weight, generator=torch.Generator().manual_seed(1))
        a, b = pair(32, 32, 32)
        network(a[None, None], b[None, None]).square().mean().backward()
        grads.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 100
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


# -- tiles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(130, 20, 300), (193, 128, 129), (64, 64, 500)])
def test_tiles_cover_and_blend(shape):
    a, b = torch.rand(shape), torch.rand(shape)
    seen = []

    def local(x, y):
        seen.append(x.shape[2:])
        return x * 0.25 + y * 0.75

    told = []
    out = tiles.fuse_tiles(local, a, b, tile=128, progress=lambda *at: told.append(at))[0]
    assert told == [(n, len(seen)) for n in range(1, len(seen) + 1)]
    torch.testing.assert_close(out, a * 0.25 + b * 0.75)
    assert len(seen) > 1
    assert max(max(s) for s in seen) <= 128


def test_tile_borders_are_thrown_away():
    """The outermost 16 voxels of a tile towards its neighbour count for nothing."""
    a = torch.zeros(16, 16, 256)

    def spoiled(x, y):
        out = torch.ones_like(x)
        out[..., :16] = out[..., -16:] = 9
        return out

    out = tiles.fuse_tiles(spoiled, a, a, tile=128)[0]
    assert (out[..., 16:-16] == 1).all()


# -- recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [recipe.Balanced, recipe.Paper])
def test_recipes_learn(cls):
    rec = cls(patch=32, without="features")  # alignment is exact here, and could only be lost
    a, b = (x[None, None] for x in pair(32, 32, 32))
    batch = {"a": a, "b": b, "a_clean": a, "b_clean": b, "mask": (a > 0).float(), "spacing": torch.ones(1, 3)}
    torch.manual_seed(0)
    network = rec.model()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    history = []
    for _ in range(5):
        loss, logs = rec.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0]
    assert all(v.ndim == 0 for v in logs.values())


def test_every_parameter_learns():
    rec = recipe.Balanced(patch=32)
    a, b = (0.2 + 0.6 * x[None, None] for x in pair(32, 32, 32))
    batch = {
        "moved": torch.ones(1),
        "a": a,
        "b": b.roll(2, 2),
        "a_clean": a,
        "b_clean": b,
        "mask": (a > 0).float(),
        "spacing": torch.ones(1, 3),
    }
    network = lively(rec.model()).requires_grad_(True)
    rec.loss(network, batch)[0].backward()
    asleep = {n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert asleep == {n for n, _ in network.named_parameters() if "coarse" in n}  # `align` trains it


def test_align_trains_the_coarse_displacement_alone():
    network = recipe.Align().model()
    subjects = Subjects(fusebench.create_dataset("phantom", size=64, subjects=1).cases("val"))
    batch = collate([recipe.Align().sample(subjects, 0, np.random.default_rng(0))])
    recipe.Align().loss(network, batch)[0].backward()
    assert {n.split(".")[1] for n, p in network.named_parameters() if p.grad is not None} == {"coarse"}
    with pytest.raises(InputError, match="has not"):
        recipe.Align(without="deform").model()


def test_align_target_undoes_the_displacement():
    subjects = Subjects(fusebench.create_dataset("phantom", size=64, subjects=1).cases("val"))
    rec = recipe.Align()
    rec._disturb = lambda sample, rng: sample
    before = after = 0.0
    for seed in range(4):
        sample = rec.sample(subjects, 0, np.random.default_rng(seed))
        b, clean, field = (
            sample["b"][None],
            sample["b_clean"][None],
            sample["field"].permute(1, 2, 3, 0)[None],
        )
        before += float((b - clean).abs().mean())
        after += float((net.warp(b, field) - clean).abs().mean())
    assert after < 0.5 * before


def test_balanced_loss_treats_the_sources_alike():
    rec = recipe.Balanced(align=0.0)
    a, b = (x[None, None] for x in pair(32, 32, 32))
    ones = torch.ones_like(a)

    class Given(torch.nn.Module):
        def explain(self, x, y, align, balance):
            return {"fused": self.fused, "aligned": y}

    model = Given()
    losses = []
    for x, y in ((a, b), (b, a)):
        model.fused = 0.3 * a + 0.7 * b
        batch = {"a": x, "b": y, "a_clean": x, "b_clean": y, "mask": ones}
        losses.append(float(rec.loss(model, batch)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_augmentation_leaves_the_targets_clean():
    rec = recipe.Balanced(patch=32)
    a, b = pair(48, 48, 48)
    sample = {"a": a[None], "b": b[None], "mask": (a > 0).float()[None], "spacing": torch.ones(3)}
    sample |= {"a_clean": sample["a"].clone(), "b_clean": sample["b"].clone()}
    moved = lesions = 0
    for seed in range(12):
        out = rec.augment(dict(sample), np.random.default_rng(seed))
        straight = torch.equal(out["a_clean"], sample["a_clean"])
        mirrored = torch.equal(out["a_clean"], sample["a_clean"].flip(-1))
        assert straight or mirrored
        target = sample["b_clean"] if straight else sample["b_clean"].flip(-1)
        healthy = out["lesion"] < 1e-3
        # A synthetic lesion is in the target too.
        torch.testing.assert_close(out["b_clean"][healthy], target[healthy], rtol=1e-3, atol=1e-6)
        lesions += int((out["b_clean"] - target).abs().max() > 0.05)
        moved += int((out["b"] - out["b_clean"]).abs().max() > 0.1)
    assert 2 <= moved <= 11
    assert 2 <= lesions <= 11


def test_recipe_options_are_checked():
    from fusebench.methods.training.recipe import find_recipe

    with pytest.raises(InputError, match="without='nothing'"):
        find_recipe(plugin.DCFBFusion, None, without="nothing")
    with pytest.raises(InputError, match="patch=40"):
        find_recipe(plugin.DCFBFusion, "paper", patch=40)


# -- method --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", plugin.SHIPPED)
def test_shipped_file_is_the_one_named(target):
    weights = fusebench.create_method("dcfb", target=target).describe().weights
    path = Path(plugin.__file__).parent / weights.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.sha256
    assert path.stat().st_size <= 24 * 2**20
    assert path.with_suffix(".md").is_file()


def test_shipped_network_has_the_stated_parameters(shipped):
    assert sum(p.numel() for p in shipped.network.parameters()) == shipped.info.params


@pytest.mark.parametrize("shape", [(33, 47, 61), (1, 64, 48), (1, 1, 1)])
def test_shipped_fuses_any_size(shipped, shape):
    a, b = pair(*shape)
    before = a.clone(), b.clone()
    fused = shipped.fuse(a, b)
    assert fused.shape == a.shape and fused.dtype == torch.float32
    assert fused.min() >= 0 and fused.max() <= 1
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    assert torch.equal(fused, shipped.fuse(a, b))


def test_degenerate_pairs(shipped):
    a, b = pair(32, 40, 36)
    same = shipped.fuse(a, a)
    want = shipped.shade * a**shipped.contrast if shipped.target == "readers" else a
    assert (same - want).abs().mean() < 0.05
    flat = shipped.fuse(a, torch.full_like(a, 0.5))
    assert torch.isfinite(flat).all() and flat.std() > 0
    assert shipped.fuse(a * 0, b * 0).abs().max() == 0


def test_tiles_agree_with_the_whole_volume(shipped):
    """The tolerance stated in docs/dcfb.md."""
    a, b = pair(32, 48, 200)
    whole = shipped.fuse(a, b)
    method = fusebench.create_method("dcfb", **{**shipped.parameters(), "tile": 128})
    method.setup("cpu")
    difference = (method.fuse(a, b) - whole).abs()
    assert 0 < difference.max() < 0.02
    assert difference.mean() < 1e-3


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(4, 4, 4), torch.zeros(4, 4, 5), "two volumes"),
        (torch.zeros(4, 4), torch.zeros(4, 4), "two volumes"),
        (torch.zeros(0, 4, 4), torch.zeros(0, 4, 4), "two volumes"),
        (torch.full((4, 4, 4), float("nan")), torch.zeros(4, 4, 4), "NaN"),
    ],
)
def test_bad_input(shipped, a, b, message):
    with pytest.raises(InputError, match=message):
        shipped.fuse(a, b)


def test_bad_parameters():
    with pytest.raises(InputError, match="tile=10"):
        fusebench.create_method("dcfb", tile=10)
