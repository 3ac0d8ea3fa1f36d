"""Reading weights: plain tensors only, and one line that says what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fusebench import create_method
from fusebench.errors import InputError, OutOfMemory

from .learned_2d import images, module, random_state, with_random_weights

weights, recipes = module("_weights"), module("_recipes_2d")


class Boom:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"weights nowhere\.pth: no such file"):
        weights.read_state("nowhere.pth")


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        weights.read_state(tmp_path)
    with pytest.raises(InputError, match="weights=3 is not text"):
        create_method("densefuse", weights=3)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
        torch.tensor([1, float("nan")]),
    ],
    ids=["sparse", "meta", "complex", "nan"],
)
def test_only_dense_finite_real_tensors_are_taken(tmp_path, tensor):
    path = tmp_path / "odd.pth"
    torch.save({"weight": torch.ones(2, 3), "bias": tensor}, path)
    with pytest.raises(InputError, match=r"\(fusebench names\): bias is not a dense tensor of finite real"):
        weights.load_weights(torch.nn.Linear(3, 2), path)


def test_an_npz_keeps_scalars(tmp_path):
    network = torch.nn.BatchNorm2d(2)  # counts its batches in a tensor without axes
    state = {k: v + 1 for k, v in network.state_dict().items()}
    np.savez(tmp_path / "w.npz", **state)
    assert weights.load_weights(network, tmp_path / "w.npz") == "fusebench"
    assert network.num_batches_tracked == 1


@pytest.mark.parametrize(("method", "form"), [("matr", {"compat": True}), ("u2fusion", {"variant": "port"})])
def test_own_weights_of_another_form_are_refused(method, form, tmp_path):
    """The network has the same parameters in both forms, so that only the header tells."""
    option, value = next(iter(form.items()))
    shipped = Path(module(method).__file__).parent / "weights" / f"{method}.safetensors"
    with pytest.raises(InputError, match=rf"asked is {option}={value} \(--set\)"):
        create_method(method, weights=str(shipped), **form)
    recipe = {"matr": recipes.MATRRecipe, "u2fusion": recipes.U2FusionRecipe}[method]
    loaded = recipe(**form)
    network = loaded.model()
    with pytest.raises(InputError, match=f"asked is {option}={value}"):
        loaded.load(network, shipped)

    path = tmp_path / "other.safetensors"
    checkpoint = module("training.checkpoint")
    checkpoint.save_weights(path, loaded.model().state_dict(), {"method": method, "options": form})
    assert loaded.load(loaded.model(), path) == "fusebench"
    assert create_method(method, weights=str(path), **form).weights == str(path)
    with pytest.raises(InputError, match=f"trained with {option}={value}"):
        create_method(method, weights=str(path))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save({"w": torch.zeros(1), "x": Boom(mark)}, path)
    with pytest.raises(InputError, match=r"refused.*save the network's state_dict\(\) alone"):
        weights.read_state(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_an_empty_file_says_so_and_what_to_do(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.touch()
    with pytest.raises(InputError, match=r"an empty file; download or write it again"):
        weights.read_state(path)


def test_an_npz_with_objects_is_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read .*; download or write it again, in \.safetensors"):
        weights.read_state(path)


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_a_file_of_other_bytes_is_one_line(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(InputError) as error:
        weights.read_state(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_without_tensors_says_so(tmp_path):
    path = tmp_path / "empty.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="holds no tensors"):
        weights.read_state(path)


def test_wrapped_files_with_a_loss_history_of_numpy_scalars(tmp_path):
    path = tmp_path / "wrapped.pth"
    history = [np.float64(0.5), np.float32(0.25)]
    torch.save({"model": {"module.w": torch.ones(2)}, "train_loss": history, "lr": 1e-5}, path)
    assert torch.equal(weights.read_state(path)["w"], torch.ones(2))


def test_everything_that_does_not_fit_is_listed(tmp_path):
    network = torch.nn.Linear(3, 2)
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}, path)
    with pytest.raises(InputError) as error:
        weights.load_weights(network, path)
    text = str(error.value)
    assert "bias is missing" in text
    assert "weight has shape (2, 4), not that of (2, 3)" in text
    assert "extra is not expected" in text


def test_a_file_of_quite_another_network_shows_both_kinds_of_names(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"stem.weight": torch.zeros(2), "head.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r" (stem|head)\.weight, .* and not fusebench \(\w") as caught:
        create_method("densefuse", weights=str(path))  # before anything is run
    assert "\n" not in str(caught.value)


def test_own_names_load_bit_for_bit(tmp_path):
    network = torch.nn.Linear(3, 2)
    state = random_state(network.state_dict())
    save_file(state, tmp_path / "w.safetensors")
    assert weights.load_weights(network, tmp_path / "w.safetensors") == "fusebench"
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("name", ["densefuse", "u2fusion", "matr", "dilran", "swinfuse"])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_half_precision_checkpoints_load_in_every_2d_method(name, form, tmp_path):
    """Computed in single precision, near what the whole numbers give."""
    whole = with_random_weights(name, tmp_path)
    half = {k: v.half() if v.is_floating_point() else v for k, v in whole.network.state_dict().items()}
    path = tmp_path / f"half.{form}"
    (torch.save if form == "pth" else save_file)(half, path)
    method = create_method(name, weights=str(path))
    method.setup("cpu")
    assert all(p.dtype == torch.float32 for p in method.network.parameters())
    a, b = images(1, 40, 40)
    difference = (method.fuse_slices(a, b) - whole.fuse_slices(a, b)).abs()
    assert difference.mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_on_reading(dtype, tmp_path):
    save_file({"weight": torch.ones(3, 2, dtype=dtype), "count": torch.tensor(3)}, tmp_path / "w.safetensors")
    state = weights.read_state(tmp_path / "w.safetensors")
    assert state["weight"].dtype == torch.float32 and state["count"].dtype == torch.int64


def test_small_weights_come_back_to_a_four_hundredth(tmp_path):
    torch.manual_seed(0)
    state = {"w": torch.randn(6, 5, 3), "zero": torch.zeros(4, 4), "b": torch.randn(6), "n": torch.tensor(7)}
    save_file(weights.small(state), tmp_path / "w.safetensors")
    back = weights.read_state(tmp_path / "w.safetensors")
    assert back.keys() == state.keys()
    assert (back["w"] - state["w"]).abs().amax((1, 2)).le(state["w"].abs().amax((1, 2)) / 250).all()
    assert torch.equal(back["zero"], state["zero"]) and back["n"] == 7


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, r"a has shape \(1000000, 1000000\) and fewer values"),
        ({"a": torch.zeros(1, dtype=torch.float16).expand(10**11)}, "a has shape .* and fewer values"),
        ({"a": torch.zeros(2, 2, dtype=torch.int8), "a.scale": torch.ones(5)}, r"a\.scale is not one number"),
    ],
)
def test_tensors_that_do_not_hold_what_they_declare_are_refused(state, said, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=said):
        weights.read_state(tmp_path / "w.pt")


def test_tensors_that_share_their_values_are_counted_each(tmp_path, monkeypatch):
    one = torch.zeros(2**20, dtype=torch.float16)
    torch.save({f"a{i}": one for i in range(64)}, tmp_path / "w.pt")
    monkeypatch.setattr("fusebench.limits.spare_memory", lambda: 200 << 20)
    with pytest.raises(OutOfMemory, match=r"takes about 0\.2 GiB"):
        weights.read_state(tmp_path / "w.pt")
