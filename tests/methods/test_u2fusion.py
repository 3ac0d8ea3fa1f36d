"""U2Fusion against small references: the TensorFlow graph in its own axis order, and the port."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

import fusebench
from fusebench.errors import InputError

from .learned_2d import images, parameters, random_state

WIDTHS = [(2, 44), *((44 * k, 44) for k in range(1, 6)), (264, 128), (128, 64), (64, 32), (32, 1)]
ENCODER = ["conv1_1", *(f"dense_block_conv{i}" for i in range(1, 6))]
TF = [f"Generator/encoder/{k}" for k in ENCODER] + [f"Generator_1/decoder/conv2_{i}" for i in range(1, 5)]
PORT = ["conv_1.0", *(f"dense_layers.{i}.conv.0" for i in range(5)), "sub.0.0", "sub.1.0", "sub.2.0", "sub.3"]


def kernels(seed=0):
    """Ten (out, in, 3, 3) kernels and biases."""
    table = {f"{i}.weight": (o, n, 3, 3) for i, (n, o) in enumerate(WIDTHS)}
    state = random_state(table | {f"{i}.bias": (o,) for i, (_, o) in enumerate(WIDTHS)}, seed)
    return [(state[f"{i}.weight"], state[f"{i}.bias"]) for i in range(10)]


def reference(layers, x, *, new_first, mode):
    def conv(i, x):
        return nnf.conv2d(nnf.pad(x, (1, 1, 1, 1), mode=mode), *layers[i])

    x = nnf.leaky_relu(conv(0, x), 0.2)
    for i in range(1, 6):
        new = nnf.leaky_relu(conv(i, x), 0.2)
        x = torch.cat([new, x] if new_first else [x, new], 1)
    for i in range(6, 9):
        x = nnf.leaky_relu(conv(i, x), 0.2)
    return conv(9, x).tanh()


def make(**params):
    method = fusebench.create_method("u2fusion", **params)
    method.setup("cpu")
    return method


@pytest.fixture
def files(tmp_path):
    layers = kernels()
    arrays, port = {}, {}
    for (weight, bias), tf, name in zip(layers, TF, PORT, strict=True):
        arrays |= {f"{tf}/kernel": weight.permute(2, 3, 1, 0).numpy(), f"{tf}/bias": bias.numpy()}
        port |= {f"{name}.weight": weight, f"{name}.bias": bias}
    np.savez(tmp_path / "tf.npz", **arrays)
    torch.save({"model": port, "lr": 1e-4, "train_loss_1": [np.float64(1.0)]}, tmp_path / "port.pth")
    return str(tmp_path / "tf.npz"), str(tmp_path / "port.pth")


def test_the_table_has_the_published_number_of_parameters():
    table = {f"{i}.weight": (o, n, 3, 3) for i, (n, o) in enumerate(WIDTHS)}
    assert parameters(table | {f"{i}.bias": (o,) for i, (_, o) in enumerate(WIDTHS)}) == 659_217


def test_the_authors_network(files):
    a, b = images(2, 19, 24)
    expected = reference(kernels(), torch.cat([b, a], 1), new_first=True, mode="reflect") / 2 + 0.5
    method = make(weights=files[0])
    assert torch.allclose(method.fuse_slices(a, b), expected, atol=2e-6)
    assert expected.std() > 0.05
    assert method.describe().trained_on == "authors' weights (tf.npz)"


def test_the_port(files):
    a, b = images(2, 19, 24)
    expected = reference(kernels(), torch.cat([2 * b - 1, 2 * a - 1], 1), new_first=False, mode="constant")
    method = make(weights=files[1], variant="port")
    assert torch.allclose(method.fuse_slices(a, b), (expected + 1) / 2, atol=2e-6)
    assert method.describe().trained_on == "port's weights (port.pth)"


def test_a_file_of_the_other_variant_is_refused(files):
    for file, variant, other in ((files[0], "port", "authors"), (files[1], "authors", "port")):
        with pytest.raises(InputError, match=f"the {other}.* file; it wants variant={other}"):
            make(weights=file, variant=variant)


def test_the_shipped_weights_are_not_for_the_port():
    with pytest.raises(InputError, match="shipped weights are for variant=authors"):
        make(variant="port")


def test_the_functional_image_goes_first(files):
    a, b = images(1, 16, 16)
    method = make(weights=files[0])
    assert not torch.allclose(method.fuse_slices(a, b), method.fuse_slices(b, a), atol=1e-3)
