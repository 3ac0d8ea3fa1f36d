"""The CUDA paths of the learned methods, run here on a CPU and compared with the usual way."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as nnf

import fusebench
from fusebench.errors import InputError

from .learned_2d import NAMES, module

# -- whole batches -------------------------------------------------------------------------------


def slices():
    """Seven pairs: heads of different sizes and brightness, one without PET, two black, one of 5x6 pixels."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 7, 1, 45, 38, generator=generator)
    content = torch.zeros(7, 1, 45, 38)
    for i, (top, bottom, left, right) in enumerate([(2, 44, 3, 37), (9, 31, 5, 34), (0, 45, 0, 38)]):
        content[i, :, top:bottom, left:right] = 1 / (1 + i)
    content[4] = content[0]
    content[6, :, 20:25, 8:14] = 1
    a, b = a * content, 0.8 * b * content.roll(1, -1)
    b[4] = 0
    return a, b


# Network inputs, then images out of its last layer: all slices but one of the two black ones.  SwinFuse fuses
# those with content, the tiny one by itself.
CALLS = {
    "densefuse": ("first", [6, 6], "decoder.3", [6]),
    "u2fusion": ("first", [6], "decoder.3", [6]),
    "matr": ("first", [6], "last", [6]),
    "dilran": ("shallow", [6, 6], "decoder.2", [6]),
    "swinfuse": ("embed", [4, 4, 1, 1], "last", [4, 1]),
    "cddfuse": ("embed", [6, 6], "last.2", [6]),
    "emma": ("functional.0.embed", [6], "last", [6]),
    "gifnet": ("encoder.0", [6], "decoder.3", [6]),
    "swinfusion": ("shallow.0", [6, 6], "last.2", [6]),
    "ifcnn": ("encoder", [6, 6], "last", [6]),
    "gesenet": ("functional.first", [6], "last", [6]),
}


@pytest.mark.parametrize(
    ("name", "params"),
    [*((name, {}) for name in NAMES), *(("dilran", {"rule": rule}) for rule in ("fl1n", "fer", "average"))],
)
def test_a_batch_goes_through_the_network_at_once_and_nothing_changes(name, params, monkeypatch):
    method = fusebench.create_method(name, **params)
    method.setup("cpu")
    a, b = slices()
    usual = method.fuse_slices(a, b)
    for where in (module("_learned"), module(name)):
        if hasattr(where, "at_once"):
            monkeypatch.setattr(where, "at_once", lambda x: True)
    method.quick = None  # as `setup` leaves it on CUDA
    into, out_of = [], []
    first, entering, last, leaving = CALLS[name]
    method.network.get_submodule(first).register_forward_hook(lambda m, args, out: into.append(len(args[0])))
    method.network.get_submodule(last).register_forward_hook(lambda m, args, out: out_of.append(len(out)))
    together = method.fuse_slices(a, b)
    assert (into, out_of) == (entering, leaving)
    assert (together - usual).abs().max() <= 1e-5
    assert all(image.std() > 0.01 for image in together[[0, 1, 2, 6]])


# -- precision -----------------------------------------------------------------------------------


@pytest.fixture(params=["per operator", "before torch 2.9"])
def settings(request, monkeypatch):
    """A reader of the TF32 settings, all switched on by the user."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.conv.fp32_precision, matmul.fp32_precision
    cudnn.conv.fp32_precision = matmul.fp32_precision = "tf32"
    if request.param == "per operator":
        yield lambda: (cudnn.conv.fp32_precision, matmul.fp32_precision)
    else:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        conv = type(cudnn).conv
        monkeypatch.delattr(type(cudnn), "conv")
        yield lambda: (cudnn.allow_tf32, matmul.allow_tf32)
        type(cudnn).conv = conv
    cudnn.conv.fp32_precision, matmul.fp32_precision = before


@pytest.mark.parametrize("name", ["matr", "dcfb"])
def test_tf32_is_off_while_fusing_and_as_before_afterwards(name, settings, monkeypatch):
    method = fusebench.create_method(name)
    method.setup("cpu")
    on, seen = settings(), []
    network = type(method.network)
    run = network.forward
    monkeypatch.setattr(
        network, "forward", lambda *args, **kw: (seen.append(settings()), run(*args, **kw))[1]
    )
    x = torch.rand(1, 16, 16) if name == "matr" else torch.rand(16, 16, 16)
    method.fuse(x, x)
    assert seen
    assert set(seen) <= {("ieee", "ieee"), (False, False)}
    assert settings() == on
    assert on in {("tf32", "tf32"), (True, True)}


def test_tf32_is_as_before_after_an_error_too(settings):
    on = settings()
    full_precision = module("_precision").full_precision
    with pytest.raises(InputError, match="broken"), full_precision():  # noqa: PT012
        assert settings() != on
        raise InputError("broken")
    assert settings() == on


# -- gradients that are the same in every run ----------------------------------------------------


@pytest.fixture
def on_gpu(monkeypatch):
    """Calling it makes layers believe they are trained on CUDA."""

    def pretend():
        for name in ("_conv", "swinfuse"):
            monkeypatch.setattr(module(name), "trains_on_gpu", lambda x: x.requires_grad)

    return pretend


@pytest.mark.parametrize("layer", ["pad_reflect", "pool3x3"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (2, 2), (3, 3), (5, 16), (22, 13)])
def test_layers_with_deterministic_gradients_are_torchs(layer, size, on_gpu):
    def value_and_gradient():
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = getattr(module("_conv"), layer)(x)
        (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
        return y.detach(), x.grad

    usual = value_and_gradient()
    on_gpu()
    for mine, torchs in zip(value_and_gradient(), usual, strict=True):
        assert mine.shape == torchs.shape
        assert (mine - torchs).abs().max() <= 1e-6


# Layers that torch lists as without deterministic gradients on CUDA, as far as networks use them.
VARYING = (
    *("ReflectionPad", "AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool3D", "GridSampler", "Cumsum", "Median"),
    *("UpsampleLinear", "UpsampleBilinear", "UpsampleBicubic", "UpsampleTrilinear"),
)


def varying(loss):
    """Layers in the graph of `loss` whose gradients vary between runs on CUDA."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return {name for node in seen if (name := node.name()).startswith(VARYING)}


@pytest.mark.parametrize(
    ("recipe", "replaced"),
    [
        ("DenseFuseRecipe", {"ReflectionPad2DBackward0"}),
        ("U2FusionRecipe", {"ReflectionPad2DBackward0"}),
        ("MATRRecipe", {"AdaptiveAvgPool2DBackward0"}),
        ("DILRANRecipe", set()),
        ("SwinFuseRecipe", set()),  # but see below
    ],
)
def test_training_has_deterministic_gradients_only(recipe, replaced, on_gpu):
    recipe = getattr(importlib.import_module("fusebench.methods._recipes_2d"), recipe)()
    torch.manual_seed(0)
    network = recipe.model().train()
    images = torch.rand(2, 1, 1, 48, 48)

    def loss_and_gradients():
        network.zero_grad()
        loss, _ = recipe.loss(network, dict(zip("ab", images, strict=True)))
        loss.backward()
        parts = [
            loss.detach().flatten(),
            *(p.grad.flatten() for p in network.parameters() if p.grad is not None),
        ]
        return varying(loss), torch.cat(parts)

    layers, usual = loss_and_gradients()
    assert layers == replaced
    on_gpu()
    layers, mine = loss_and_gradients()
    assert layers == set()
    assert (mine - usual).abs().max() <= 1e-5 * usual.abs().max()


def test_attention_is_trained_without_the_kernels_whose_gradients_vary(on_gpu, monkeypatch):
    attend, allowed = nnf.scaled_dot_product_attention, []

    def observe(*args, **kw):
        kernels = torch.backends.cuda
        allowed.append((kernels.mem_efficient_sdp_enabled(), kernels.flash_sdp_enabled()))
        return attend(*args, **kw)

    monkeypatch.setattr(nnf, "scaled_dot_product_attention", observe)
    block, x = module("swinfuse").SwinBlock(2, 3), torch.rand(1, 7, 7, 96)
    usual = block(x)
    on_gpu()
    trained = block(x)
    with torch.no_grad():
        block(x)
    assert allowed == [(True, True), (False, False), (True, True)]
    assert torch.allclose(trained, usual, atol=1e-6)
