"""GeSeNet against a small reference with the authors' names: masks as training mode draws them, and hard."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

import fusebench

from .learned_2d import images, random_state

BRANCH = {
    "_conv.conv": (16, 1, 3, 3),
    "_eem.dense.conv1.conv": (16, 16, 3, 3),
    "_eem.dense.conv2.conv": (16, 32, 3, 3),
    "_eem.convdown.conv": (32, 48, 1, 1),
    "_eem.convup.conv": (32, 16, 1, 1),
    "_rmm.spa_mask.0": (8, 32, 3, 3),
    "_rmm.spa_mask.3": (8, 8, 3, 3),
    "_rmm.spa_mask.5": (8, 2, 3, 3),
    "_rmm.body.collect": (32, 128, 1, 1),
    "_rmm.ca.conv_du.0": (2, 32, 1, 1),
    "_rmm.ca.conv_du.2": (32, 2, 1, 1),
}
BARE = {
    "_eem.sobelconv.convx.weight": (16, 1, 3, 3),
    "_eem.sobelconv.convy.weight": (16, 1, 3, 3),
    "_rmm.body.ch_mask": (1, 32, 4, 2),
    **{f"_rmm.body.body.{i}.weight": (32, 32, 3, 3) for i in range(4)},
}
WIDTHS = {f"{side}{k}": v for side in ("vis", "inf") for k, v in BRANCH.items()} | {
    "sft.SFT_scale_conv0": (32, 32, 3, 3),
    "sft.SFT_scale_conv1": (64, 32, 3, 3),
    "sft.SFT_shift_conv0": (32, 32, 1, 1),
    "sft.SFT_shift_conv1": (64, 32, 1, 1),
    "sft.SFT2": (64, 128, 3, 3),
    "decoder2.conv": (32, 96, 3, 3),
    "decoder1.conv": (1, 32, 3, 3),
}
TABLE = (
    {f"{k}.weight": v for k, v in WIDTHS.items()}
    | {f"{k}.bias": v[1 if k.endswith("spa_mask.5") else 0 : 2][:1] for k, v in WIDTHS.items()}
    | {f"{side}{k}": v for side in ("vis", "inf") for k, v in BARE.items()}
    | {f"decoder1.bn.{k}": (1,) for k in ("weight", "bias", "running_mean", "running_var")}
    | {"decoder1.bn.num_batches_tracked": ()}
)


def published():
    state = random_state(TABLE)
    for side in ("vis", "inf"):
        state[f"{side}_rmm.body.ch_mask"] *= 20  # some of both kinds
    return state


def reference(s, vis, inf, soft):
    """One pair (1, 1, H, W), even sides."""

    def conv(name, x, padding=1, **more):
        return nnf.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), padding=padding, **more)

    def draw(x, axis):
        return (x - torch.log(-torch.log(torch.rand(x.shape)))).softmax(axis)

    def branch(side, x):
        x = nnf.leaky_relu(conv(f"{side}_conv.conv", x), 0.2)
        dense = x
        for i in (1, 2):
            dense = torch.cat((dense, nnf.leaky_relu(conv(f"{side}_eem.dense.conv{i}.conv", dense), 0.2)), 1)
        edges = sum(conv(f"{side}_eem.sobelconv.conv{k}", x, groups=16).abs() for k in "xy")
        edges = conv(f"{side}_eem.convup.conv", edges, 0)
        x = nnf.leaky_relu(conv(f"{side}_eem.convdown.conv", dense, 0) + edges, 0.1)
        y = nnf.avg_pool2d(conv(f"{side}_rmm.spa_mask.0", x).relu(), 2)
        y = conv(f"{side}_rmm.spa_mask.3", y).relu()
        last = f"{side}_rmm.spa_mask.5"
        y = nnf.conv_transpose2d(y, s[f"{last}.weight"], s[f"{last}.bias"], 2, 1, 1)
        where = draw(y, 1)[:, 1:] if soft else (y[:, 1:] > y[:, :1]).float()
        which = s[f"{side}_rmm.body.ch_mask"]
        which = draw(which, 3) if soft else which.softmax(3).round()
        if not soft:
            assert 0.1 < which[..., 0].mean() < 0.9
        given, each = x, []
        for i in range(4):
            d, m = which[:, :, i, 0, None, None], which[:, :, i, 1, None, None]
            name = f"{side}_rmm.body.body.{i}"
            if i == 0:
                out = conv(name, given)
                out = out * m * where + out * d
            else:
                before = which[:, :, i - 1, 0, None, None], which[:, :, i - 1, 1, None, None]
                p, q = conv(name, given * before[0]), conv(name, given * before[1])
                out = p * m * where + p * d + q * m * where + q * d * where
            given = out.relu()
            each.append(given)
        out = conv(f"{side}_rmm.body.collect", torch.cat(each, 1), 0)
        squeezed = conv(f"{side}_rmm.ca.conv_du.0", out.mean((2, 3), keepdim=True), 0).relu()
        return x, out * conv(f"{side}_rmm.ca.conv_du.2", squeezed, 0).sigmoid() + x

    vis_edges, vis_kept = branch("vis", vis)
    inf_edges, inf_kept = branch("inf", inf)
    scale = conv("sft.SFT_scale_conv1", nnf.leaky_relu(conv("sft.SFT_scale_conv0", inf_edges), 0.1))
    shift = conv("sft.SFT_shift_conv1", nnf.leaky_relu(conv("sft.SFT_shift_conv0", inf_edges, 0), 0.1), 0)
    x = nnf.leaky_relu(conv("sft.SFT2", torch.cat((vis_kept, inf_kept, scale), 1)), 0.01) + shift
    x = nnf.leaky_relu(conv("decoder2.conv", torch.cat((x, vis_edges), 1)), 0.2)
    return conv("decoder1.conv", x).tanh() / 2 + 0.5


@pytest.fixture
def file(tmp_path):
    torch.save(published(), tmp_path / "GeSeNet.pth")
    return str(tmp_path / "GeSeNet.pth")


def make(file, **params):
    method = fusebench.create_method("gesenet", weights=file, **params)
    method.setup("cpu")
    return method


def test_the_table_has_the_published_number_of_values():
    assert sum(torch.Size(shape).numel() for shape in TABLE.values()) == 240_590
    assert fusebench.create_method("gesenet").info.params == 240_590 - 5


@pytest.mark.parametrize("compat", [False, True])
def test_the_published_program(file, compat):
    a, b = images(2, 18, 24)
    method = make(file, compat=compat)
    torch.manual_seed(4)
    expected = torch.cat([reference(published(), b[i : i + 1], a[i : i + 1], compat) for i in range(2)])
    assert expected.std() > 0.01
    torch.manual_seed(4)
    assert torch.allclose(method.fuse_slices(a, b), expected, atol=1e-5)
    assert method.describe().trained_on == "authors' weights (GeSeNet.pth)"


def test_only_compat_is_random(file):
    a, b = images(1, 16, 16)
    for compat in (False, True):
        method = make(file, compat=compat)
        assert torch.equal(method.fuse_slices(a, b), method.fuse_slices(a, b)) is not compat


def test_odd_sizes_are_extended_by_repetition(file):
    a, b = images(1, 15, 17)
    wider = [nnf.pad(x, (0, 1, 0, 1), mode="replicate") for x in (a, b)]
    method = make(file)
    assert torch.equal(method.fuse_slices(a, b), method.fuse_slices(*wider)[..., :15, :17])
