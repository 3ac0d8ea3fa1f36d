"""Training of the learned 2D networks: from published files, with VGG-16 on request."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from safetensors.torch import save_file

from .learned_2d import NAMES, images, module, random_state
from .test_cddfuse import TABLE as CDDFUSE
from .test_densefuse import TABLE as DENSEFUSE
from .test_dilran import TABLE as DILRAN
from .test_emma import TABLE as EMMA
from .test_gesenet import TABLE as GESENET
from .test_gifnet import TABLE as GIFNET
from .test_ifcnn import TABLE as IFCNN
from .test_matr import TABLE as MATR
from .test_swinfuse import TABLE as SWINFUSE
from .test_swinfusion import TABLE as SWINFUSION
from .test_u2fusion import PORT, TF, kernels

pytest.importorskip("lightning_fabric", reason="the extra `train` is not installed")

import fusebench
from fusebench.cli import main
from fusebench.errors import InputError

PLUGIN = Path(__file__).with_name("training_plugin.py")
PUBLISHED = {
    "densefuse": DENSEFUSE,
    "matr": MATR,
    "dilran": DILRAN,
    "swinfuse": SWINFUSE,
    "ifcnn": IFCNN,
    "cddfuse": CDDFUSE,
    "emma": EMMA,
    "gifnet": GIFNET,
    "swinfusion": SWINFUSION,
    "gesenet": GESENET,
}
SINGLE = ("densefuse", "dilran", "swinfuse")  # networks of one image
HALVED = ("swinfuse", "cddfuse", "emma", "gifnet", "swinfusion")  # stored in half precision
CASES = [
    ("densefuse", {}),
    ("dilran", {}),
    ("swinfuse", {}),
    ("cddfuse", {}),
    ("emma", {}),
    ("gifnet", {}),
    ("swinfusion", {}),
    ("matr", {"compat": True}),
    ("u2fusion", {}),
    ("u2fusion", {"variant": "port"}),
    ("ifcnn", {}),
    ("gesenet", {}),
]


def published(name, folder, variant="authors", **_):
    """A file of random weights as the authors publish it."""
    if name != "u2fusion":
        path = folder / f"{name}.pth"
        torch.save(random_state(PUBLISHED[name]), path)
    elif variant == "port":
        path = folder / "port.pth"
        pairs = zip(PORT, kernels(), strict=True)
        torch.save({"model": {f"{k}.{n}": v for k, p in pairs for n, v in zip(NAMED, p, strict=True)}}, path)
    else:
        path = folder / "tf.npz"
        arrays = {f"{k}/kernel": w.permute(2, 3, 1, 0) for k, (w, _) in zip(TF, kernels(), strict=True)}
        arrays |= {f"{k}/bias": b for k, (_, b) in zip(TF, kernels(), strict=True)}
        np.savez(path, **{k: v.numpy() for k, v in arrays.items()})
    return path


NAMED = ("weight", "bias")


def recipe_of(name, **options):
    find = importlib.import_module("fusebench.methods.training.recipe").find_recipe
    return find(type(fusebench.create_method(name)), **options)[1]


def train(out, name, *options):
    fixed = ["--dataset", "toy-data", "--plugin", str(PLUGIN), "--device", "cpu", "--no-tensorboard"]
    short = ["--steps", "1", "--batch", "1", "--val-split", "", "--ema", "0", "--workers", "0"]
    return main(["train", name, *fixed, *short, "--out", str(out), *map(str, options)])


# -- published files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES)
def test_training_starts_from_the_network_that_a_published_file_gives(name, options, tmp_path):
    path = published(name, tmp_path, **options)
    method = fusebench.create_method(name, weights=str(path), **options)
    method.setup("cpu")
    recipe = recipe_of(name, **options)
    net = recipe.model().eval()
    assert recipe.load(net, path) in ("authors'", "port's")
    given = images(1, 16, 16)[: 1 if name in SINGLE else 2]
    given = [x[:, 0] for x in given] if name == "swinfuse" else given
    with torch.no_grad():
        expected, got = method.network(*given), net(*given)
    assert expected.std() > 1e-3
    # Equal but for rounding: some methods run their network in a faster form.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_train_writes_what_the_method_runs(name, options, tmp_path):
    path = published(name, tmp_path, **options)
    words = [w for k, v in options.items() for w in ("--set", f"{k}={v}")]
    assert train(tmp_path, name, "--weights", f"{name}={path}", "--lr", 1e-12, *words) == 0
    card = (tmp_path / f"{name}.md").read_text()
    origin = "port's" if "variant" in options else "authors'"
    assert f"Started from the {origin} weights." in card
    assert f"| licence of the weights | that of the {origin} weights they started from |" in card
    assert str(tmp_path) not in card
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    a, b = images(1, 32, 32)
    first, then = (
        fusebench.create_method(name, weights=str(w), **options)
        for w in (path, tmp_path / f"{name}.safetensors")
    )
    first.setup("cpu")
    then.setup("cpu")
    tolerance = 1e-2 if name in HALVED else 1e-4
    assert torch.allclose(first.fuse_slices(a, b), then.fuse_slices(a, b), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("matr", [], "the authors' file, its tokens are not pixels; it wants compat=True"),
        ("u2fusion", ["--set", "variant=port"], "the authors' file; it wants variant=authors"),
        ("u2fusion", ["--set", "variant=none"], "variant='none' is not known"),
        ("u2fusion", ["--set", "c=0"], "c=0 must be positive"),
        ("matr", ["--set", "compat=no"], "matr: compat='no' is not true or false"),
        ("u2fusion", ["--set", "vgg=no.pth"], "VGG-16 weights no.pth: no such file"),
        ("densefuse", ["--weights", "matr=w.pth"], "FILE or densefuse=FILE"),
    ],
)
def test_what_does_not_fit_is_one_line(name, options, message, tmp_path, capsys):
    given = ["--weights", published(name, tmp_path)]
    assert train(tmp_path / "run", name, *given, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_the_port_is_refused_by_the_authors_variant(tmp_path):
    path = published("u2fusion", tmp_path, variant="port")
    recipe = recipe_of("u2fusion")
    with pytest.raises(InputError, match="the port's file; it wants variant=port"):
        recipe.load(recipe.model(), path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_network_is_refused(name, tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    save_file({"first.weight": torch.zeros(2, 2), "x": torch.zeros(2)}, path)
    assert train(tmp_path / "run", name, "--weights", path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"weights {path} do not fit" in error


# -- information -------------------------------------------------------------------------------------

VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


@pytest.fixture(scope="module")
def vgg():
    """Random weights of VGG-16 in torchvision's names, fully connected part (in small) included."""
    shapes, place, width = {}, 0, 3
    for layer in VGG:
        if layer != "M":
            shapes |= {f"features.{place}.weight": (layer, width, 3, 3), f"features.{place}.bias": (layer,)}
            width = layer
        place += 1 if layer == "M" else 2
    return random_state(shapes | {"classifier.0.weight": (4, 4), "classifier.0.bias": (4,)})


def information(state, x):
    """The definition, layer by layer."""
    x = x.repeat_interleave(224 // x.shape[-2], -2).repeat_interleave(224 // x.shape[-1], -1)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    x, place, found = (x.repeat(1, 3, 1, 1) - mean) / std, 0, []
    kernel = torch.full((1, 1, 3, 3), 1 / 8)
    kernel[..., 1, 1] = -1
    for layer in [*VGG, "M"]:
        if layer == "M":
            flat = x.flatten(0, 1)[:, None].double()
            response = nnf.conv2d(flat, kernel.double()).square().mean((1, 2, 3))
            found.append(response.view(x.shape[:2]).mean(1))
            x = nnf.max_pool2d(x, 2)
            place += 1
        else:
            x = nnf.conv2d(x, *(state[f"features.{place}.{k}"] for k in NAMED), padding=1).clamp_min(0)
            place += 2
    return torch.stack(found).mean(0)


def needs_timm():
    try:
        module("training.vgg")._timm()
    except InputError:
        pytest.skip("the extra `vgg` is not installed")


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize("kind", ["torchvision.pth", "timm.safetensors"])
def test_information_on_features(vgg, kind, tmp_path):
    needs_timm()
    names = {"classifier.0": "pre_logits.fc1"} if "timm" in kind else {}
    renamed = {
        names.get(k.rpartition(".")[0], k.rpartition(".")[0]) + "." + k.split(".")[-1]: v
        for k, v in vgg.items()
    }
    save(renamed, tmp_path / kind)
    x = images(2, 56, 56)[0]
    x[1] = nnf.avg_pool2d(x[1], 5, 1, 2)
    got = module("training.vgg").Information(tmp_path / kind)(x)
    expected = information(vgg, x)
    assert torch.allclose(got.double(), expected, rtol=1e-4)
    assert got[0] > 1.1 * got[1]  # the blurred one shows less


def test_training_with_features_says_so_on_the_card(vgg, tmp_path):
    needs_timm()
    path = tmp_path / "vgg16.pth"
    save(vgg, path)
    logs = {}
    for name, options in {"images": [], "features": ["--set", f"vgg={path}"]}.items():
        assert train(tmp_path / name, "u2fusion", *options) == 0
        logs[name] = (tmp_path / name / "log.csv").read_text()
    assert logs["images"] != logs["features"]
    card = (tmp_path / "features" / "u2fusion.md").read_text()
    assert "VGG-16 features, as in the paper" in card
    assert "U2Fusion-style" not in card
    assert f"vgg16.pth, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in card
    assert "--set vgg=vgg16.pth" in card
    assert str(tmp_path) not in card
    assert "U2Fusion-style" in (tmp_path / "images" / "u2fusion.md").read_text()


def test_a_file_that_is_not_vgg_16_is_refused(tmp_path):
    needs_timm()
    save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=r"vgg\.pth do not fit .*features\.0\.bias is missing"):
        recipe_of("u2fusion", vgg=str(tmp_path / "vgg.pth"))


def test_without_timm_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", torch)  # whatever is installed
    (tmp_path / "vgg.pth").touch()
    assert train(tmp_path, "u2fusion", "--set", f"vgg={tmp_path / 'vgg.pth'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "VGG-16 features need timm: pip install 'fusebench[vgg]'" in error


def test_the_guard_is_lifted_again():
    before = torch.library.register_fake
    needs_timm()
    assert torch.library.register_fake is before
