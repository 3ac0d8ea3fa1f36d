"""Reading weights: plain tensors only, and one line that says what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learned_2d import module, random_state
from safetensors.torch import save_file

from fusebench import create_method
from fusebench.errors import InputError

weights = module("_weights")


class Boom:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"weights nowhere\.pth: no such file"):
        weights.read_state("nowhere.pth")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save({"w": torch.zeros(1), "x": Boom(mark)}, path)
    with pytest.raises(InputError, match="refused"):
        weights.read_state(path)
    assert not mark.exists()


def test_an_npz_with_objects_is_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
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
