"""3D-CNN-Fusion against a small reference with the authors' names, and its weight map."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf

import fusebench
from fusebench.errors import InputError

from .learned_2d import module, random_state

STATISTICS = ("running_mean", "running_var")
WIDTHS = {
    "conv1.conv": (16, 1, 3),
    "conv2.conv": (16, 1, 3),
    **{
        f"{k}.{part}": shape
        for k, i, o in (
            *((f"conv{k}1", 16, 32) for k in (1, 2)),
            *((f"conv{k}2", 32, 32) for k in (1, 2)),
            *((f"res3D.conv{k}", 32, 32) for k in (1, 2)),
            ("conv3", 32, 1),
        )
        for part, shape in (("depth_conv", (i, 1, 3)), ("point_conv", (o, i, 1)))
    },
    **{f"fusion_block.conv{k}": (8, 32, 1) for k in (1, 5)},
    **{f"fusion_block.conv2.{i}.0": (32, 8, 1) for i in (0, 1)},
    **{f"fusion_block.conv4.{i}.0": (1, 8, 1) for i in (0, 1)},
}
NORMS = {
    **dict.fromkeys(("conv1.bn", "conv2.bn", "bn1", "bn2"), 16),
    **dict.fromkeys(("bn11", "bn12", "bn21", "bn22", "res3D.bn1", "res3D.bn2"), 32),
}
TABLE = (
    {f"module.{k}.weight": (o, i, n, n, n) for k, (o, i, n) in WIDTHS.items()}
    | {f"module.{k}.bias": (o,) for k, (o, _, _) in WIDTHS.items() if not k.endswith(".conv")}
    | {
        f"module.{k}.{n}": (c,)
        for k, c in NORMS.items()
        for n in ("weight", "bias", "running_mean", "running_var")
    }
    | {f"module.{k}.num_batches_tracked": () for k in NORMS}
)


def published():
    state = random_state(TABLE)
    for name in NORMS:
        state[f"module.{name}.weight"] += 1
    return state


def reference(state, x, y):
    """Weights of x (1, 1, D, H, W), as the program computes them: it never leaves training mode."""
    s = {k.removeprefix("module."): v for k, v in state.items()}

    def conv(name, x, **more):
        return nnf.conv3d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **more)

    def norm(name, x):
        return nnf.batch_norm(x, None, None, s[f"{name}.weight"], s[f"{name}.bias"], training=True)

    def separable(name, x):
        x = conv(f"{name}.depth_conv", x, padding=1, groups=x.shape[1])
        return conv(f"{name}.point_conv", x)

    def branch(k, x):
        x = norm(f"bn{k}", norm(f"conv{k}.bn", conv(f"conv{k}.conv", x, padding=1)).relu()).relu()
        for i in (1, 2):
            x = norm(f"bn{k}{i}", separable(f"conv{k}{i}", x)).relu()
        return x

    both = torch.stack((branch(1, x), branch(2, y)), 1)
    total = both.sum(1)
    code = conv("fusion_block.conv1", total.mean((2, 3, 4), keepdim=True)).relu()
    channel = torch.stack([conv(f"fusion_block.conv2.{i}.0", code) for i in (0, 1)], 1).softmax(1)
    code = conv("fusion_block.conv5", total).relu()
    voxel = torch.stack([conv(f"fusion_block.conv4.{i}.0", code) for i in (0, 1)], 1).softmax(1)
    x = (both * (channel * voxel).softmax(1)).sum(1)
    y = norm("res3D.bn1", separable("res3D.conv1", x)).relu()
    x = (norm("res3D.bn2", separable("res3D.conv2", y)) + x).relu()
    return separable("conv3", x).sigmoid()


def volumes(*shape, seed=0):
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def file(tmp_path):
    torch.save(published(), tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def make(file=None, **params):
    method = fusebench.create_method("cnn3d", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters(file):
    learned = {k: v for k, v in TABLE.items() if "running" not in k and "tracked" not in k}
    count = sum(torch.Size(shape).numel() for shape in learned.values())
    assert count == fusebench.create_method("cnn3d").info.params == 13_219
    assert sum(p.numel() for p in make(file).network.parameters()) == count


def test_the_published_program(file):
    a, b = volumes(7, 10, 9)
    weight = reference(published(), a[None, None], b[None, None])[0, 0]
    assert weight.std() > 0.02
    method = make(file)
    assert torch.allclose(method.weight_map(a, b), weight, atol=1e-5)
    assert torch.allclose(method.fuse(a, b), weight * a + (1 - weight) * b, atol=1e-5)
    assert method.describe().trained_on == "authors' weights (model.pth)"


def test_only_the_box_around_the_head_is_seen(file):
    a, b = volumes(6, 7, 8)
    wide = [nnf.pad(x, (2, 0, 1, 3, 0, 4)) for x in (a, b)]
    method = make(file)
    fused, weight = method.fuse(*wide), method.weight_map(*wide)
    inner = (slice(0, 6), slice(1, 8), slice(2, 10))
    assert torch.equal(fused[inner], method.fuse(a, b))
    for whole in (fused, weight):
        rest = whole.clone()
        rest[inner] = 0
        assert not rest.any()


def test_compat_cuts_the_last_planes_off_and_repeats(file):
    a, b = (nnf.pad(x, (1, 2, 0, 1, 3, 0)) for x in volumes(6, 7, 8))
    inner = tuple(slice(start, start + n - 1) for start, n in ((3, 6), (0, 7), (1, 8)))
    x, y = a[inner], b[inner]
    weight = reference(published(), x[None, None], y[None, None])[0, 0]
    expected = nnf.pad((weight * x + (1 - weight) * y)[None], (1, 3, 0, 2), mode="replicate")
    expected = torch.cat([expected[:, :1]] * 3 + [expected] + [expected[:, -1:]], 1)[0]
    method = make(file, compat=True)
    assert torch.allclose(method.fuse(a, b), expected, atol=1e-5)
    with pytest.raises(InputError, match="these images have one only; use compat=False"):
        method.fuse(a[:1] + 0.1, b[:1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 12, 9), (3, 2, 17)])
def test_any_size_and_constant_images(file, shape):
    a, b = volumes(*shape)
    method = make(file)
    for x, y in ((a, b), (torch.zeros_like(a), torch.ones_like(a)), (a * 0, b * 0)):
        fused = method.fuse(x, y)
        assert fused.shape == x.shape
        assert fused.isfinite().all()
        assert (fused <= torch.maximum(x, y)).all() and (fused >= torch.minimum(x, y)).all()


def test_nan_and_wrong_shapes_are_one_clear_error(file):
    a, b = volumes(4, 5, 6)
    method = make(file)
    with pytest.raises(InputError, match=r"two volumes \(D, H, W\) of one shape are needed"):
        method.fuse(a, b[1:])
    a[1, 1, 1] = float("nan")
    with pytest.raises(InputError, match="cnn3d: an input holds NaN"):
        method.fuse(a, b)


def test_shipped_weights():
    info = fusebench.create_method("cnn3d").info
    path = Path(module("cnn3d").__file__).parent / info.weights.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == info.weights.sha256
    assert info.weights.sha256 in path.with_suffix(".md").read_text()
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"))
    head = (grid.square().sum(0) < 0.7).float()
    a = head * (0.4 + 0.2 * torch.sin(20 * grid[2]))  # detail in the structural image
    b = 0.9 * head * ((grid - 0.3).square().sum(0) < 0.1)  # a spot in the functional one
    method = make()
    fused, weight = method.fuse(a, b), method.weight_map(a, b)
    assert fused[b > 0].mean() > fused[(a > 0) & (b == 0)].mean() > fused[head == 0].mean() == 0
    assert weight[head > 0].std() > 0.02


def test_training_starts_from_a_published_file(file):
    pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")
    recipe = module("_recipes_cnn3d").CNN3DRecipe()
    net = recipe.model()
    assert recipe.load(net, Path(file)) == "authors'"
    a, b = (x[None, None] for x in volumes(12, 12, 12))
    loss, parts = recipe.loss(net, {"a": a, "b": b})
    weight = reference(published(), a, b)
    fused = weight * a + (1 - weight) * b
    assert parts["rmse_mri"] == pytest.approx(float((fused - a).square().mean().sqrt()), rel=1e-3)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
