"""EMMA against a reference that follows the published program, layer by layer in its names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, parameters, random_state
from .restormer_2d import base_block, base_table

WIDTHS = (8, 16, 32, 32)


def _table():
    def stage(name, inputs, width):
        table = {
            f"{name}.embed.weight": (width, inputs, 3, 3),
            f"{name}.FFN.weight": (width, 2 * width, 3, 3),
        }
        for i in range(2):
            for j in (0, 2):
                layer = f"{name}.LocalFeature.Extraction.{i}.conv.{j}"
                table |= {f"{layer}.weight": (width, width, 3, 3), f"{layer}.bias": (width,)}
        return table | base_table(f"{name}.GlobalFeature", width)

    table = {"last.0.weight": (1, 8, 3, 3), "last.0.bias": (1,)}
    for i, (inputs, width) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False), 1):
        table |= stage(f"V_en_{i}", inputs, width) | stage(f"I_en_{i}", inputs, width)
        table |= stage(f"f_{i}", 2 * width, width) | stage(f"de_{i}", 2 * width if i < 4 else width, width)
        if i < 4:
            table |= {f"{side}_down{i}.weight": (width, width, 3, 3) for side in "VI"}
            table[f"up{i + 1}.0.weight"] = (WIDTHS[i], width, 4, 4)
    return table


TABLE = _table()


def published(s, functional, structural):
    def conv(name, x, stride=1):
        x = nnf.pad(x, (1, 1, 1, 1), mode="reflect")
        return nnf.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), stride)

    def stage(name, x):
        x = conv(f"{name}.embed", x)
        y = x
        for i in range(2):
            layer = f"{name}.LocalFeature.Extraction.{i}.conv"
            y = conv(f"{layer}.2", conv(f"{layer}.0", y).relu()) + y
        return conv(f"{name}.FFN", torch.cat((base_block(s, f"{name}.GlobalFeature", x, reflect=True), y), 1))

    def tower(side, x):
        out = [stage(f"{side}_en_1", x)]
        for i in (1, 2, 3):
            out.append(stage(f"{side}_en_{i + 1}", conv(f"{side}_down{i}", out[-1], 2)))
        return out

    pairs = zip(tower("I", functional), tower("V", structural), strict=True)
    fused = [stage(f"f_{i}", torch.cat(pair, 1)) for i, pair in enumerate(pairs, 1)]
    x = stage("de_4", fused[3])
    for i in (3, 2, 1):
        up = nnf.conv_transpose2d(x, s[f"up{i + 1}.0.weight"], stride=2, padding=1).relu()
        x = stage(f"de_{i}", torch.cat((up, fused[i - 1]), 1))
    return conv("last.0", x).sigmoid()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("emma") / "EMMA.pth"
    torch.save(random_state(TABLE), path)
    return str(path)


def make(file, **params):
    method = fusebench.create_method("emma", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_parameters():
    assert parameters(TABLE) == fusebench.create_method("emma").info.params == 1_517_657


@pytest.mark.parametrize("fast", [True, False])
def test_the_published_program(file, fast):
    a, b = images(1, 40, 24)
    expected = published(random_state(TABLE), b, a)
    method = make(file, fast=fast)
    assert method.origin == "authors'"
    fused = method.fuse_slices(a, b)
    assert torch.allclose(fused, expected, atol=1e-5)
    assert 0.05 < fused.std() < 0.4


def test_other_sizes_are_the_repeated_ones_cropped(file):
    a, b = images(1, 13, 18)
    method = make(file)
    wide = method.fuse_slices(*(nnf.pad(x, (0, 6, 0, 3), mode="replicate") for x in (a, b)))
    assert torch.equal(method.fuse_slices(a, b), wide[..., :13, :18])


def test_compat_stretches_each_picture(file):
    a, b = images(2, 16, 11)
    plain, stretched = (make(file, compat=c).fuse_slices(a, b) for c in (False, True))
    for x, y in zip(plain, stretched, strict=True):
        assert torch.allclose(y, (x - x.min()) / (x.max() - x.min()), atol=1e-6)
