"""The published network against a slow reference that spells out every quirk in plain torch."""

import importlib

import pytest
import torch
from torch.nn import functional as F

import fusebench
from fusebench.errors import InputError

compat = importlib.import_module("fusebench.methods.dcfb.compat")
rules = importlib.import_module("fusebench.methods.dcfb.fusion_rules")
sampling = importlib.import_module("fusebench.methods.dcfb.sampling")

EMBED = 24


def randomise(state, seed):
    """Norms and running statistics away from their defaults, offsets doubled, so that all of it matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if "norm" in name or "dwconv3x3.1" in name:
            if name.endswith(("weight", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        if name.endswith("conv_offset.3.weight"):
            tensor.mul_(2)
    return state


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    with torch.no_grad():
        network = compat.CompatNetwork(EMBED).eval()
        randomise(network.state_dict(), 1)
    return network.requires_grad_(False)


# -- the reference -------------------------------------------------------------------------------------


def channels_norm(x, p, name):
    """Layer norm over axis 1."""
    x = x.movedim(1, -1)
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"]).movedim(-1, 1)


def conv(x, p, name, **options):
    return F.conv3d(x, p[name + ".weight"], p.get(name + ".bias"), **options)


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def reference_block(x0, xa, p, heads):
    """One block on channels-last tokens; `p` holds the block's parameters by their names."""
    size = x0.shape[1:4]
    dim = x0.shape[-1]

    def norm1(x):
        return F.layer_norm(x, (dim,), p["norm1.weight"], p["norm1.bias"], 1e-5)

    window = [min(2, n) for n in size]
    pad = [(-n) % w for n, w in zip(size, window, strict=True)]
    far = (0, 0, 0, pad[2], 0, pad[1], 0, pad[0])
    x, xa = F.pad(norm1(x0), far), F.pad(xa, far)
    depth, height, width = x.shape[1:4]
    xf, xaf = x.movedim(-1, 1), xa.movedim(-1, 1)

    u = conv(torch.cat([xf, xaf], 1), p, "proj_q")
    u = conv(u, p, "conv_offset.0", padding=1, groups=2 * dim)
    offset = conv(gelu(channels_norm(u, p, "conv_offset.1.norm")), p, "conv_offset.3")
    offset = torch.tanh(offset) * 2 / torch.tensor([depth, height, width]).view(1, 3, 1, 1, 1)
    grid = torch.empty(x.shape[0], depth, height, width, 3)
    for k in range(depth):
        for j in range(height):
            for i in range(width):
                place = ((k + 0.5) / height, (j + 0.5) / width, (i + 0.5) / depth)
                for axis in range(3):
                    grid[:, k, j, i, 2 - axis] = place[axis] * 2 - 1 + offset[:, axis, k, j, i]
    sampled = F.grid_sample(xaf, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    s = sampled.contiguous().flatten().view(x.shape)

    both = torch.cat([xf, s.movedim(-1, 1)], 1)
    c = conv(both, p, "dwconv3x3.0", padding=3, groups=dim)
    c = F.batch_norm(
        c,
        p["dwconv3x3.1.running_mean"],
        p["dwconv3x3.1.running_var"],
        p["dwconv3x3.1.weight"],
        p["dwconv3x3.1.bias"],
        eps=dim,
    )
    c = gelu(c)
    gate = conv(c.mean((2, 3, 4), keepdim=True), p, "channel_interaction.1")
    gate = conv(gelu(channels_norm(gate, p, "channel_interaction.2.norm")), p, "channel_interaction.4")
    c = conv(c, p, "projection")

    q, k, v = (
        F.linear(t, p[f"cross_attn.{n}.weight"], p[f"cross_attn.{n}.bias"])
        for n, t in (("q", x), ("k", s), ("v", x))
    )
    q = q / (dim // heads) ** 0.5
    v = v * torch.sigmoid(gate).view(-1, 1, 1, 1, dim)
    attended = torch.empty_like(x)
    for z in range(0, depth, window[0]):
        for y in range(0, height, window[1]):
            for w in range(0, width, window[2]):
                box = (
                    slice(None),
                    slice(z, z + window[0]),
                    slice(y, y + window[1]),
                    slice(w, w + window[2]),
                )
                shape = attended[box].shape
                tq, tk, tv = (
                    t[box].reshape(shape[0], -1, heads, dim // heads).transpose(1, 2) for t in (q, k, v)
                )
                out = torch.einsum("bhid,bhjd,bhje->bhie", tq, tk, tv)  # no softmax
                attended[box] = out.transpose(1, 2).reshape(shape)
    af = attended.movedim(-1, 1)
    r = gelu(channels_norm(conv(af, p, "spatial_interaction.0"), p, "spatial_interaction.1.norm"))
    c = torch.sigmoid(conv(r, p, "spatial_interaction.3")) * c
    mixed = torch.cat([c.movedim(1, -1), norm1(attended)], -1)
    mixed = F.linear(mixed, p["proj.weight"], p["proj.bias"])[:, : size[0], : size[1], : size[2]]
    x1 = x0 + mixed
    hidden = gelu(F.linear(norm1(x1), p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
    return x1 + F.linear(hidden, p["mlp.fc2.weight"], p["mlp.fc2.bias"])


def reference_network(moving, fixed, p):
    """Features before the fusion rule."""

    def under(prefix):
        return {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}

    def stage(x, xa, prefix, level):
        for i in range((2, 2, 6, 2)[level]):
            q = under(f"{prefix}.blocks.{i}.")
            x = reference_block(x, xa, q, (3, 6, 12, 24)[level])
            xa = reference_block(xa, x, q, (3, 6, 12, 24)[level])
        return x, xa

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"])

    def embed(x):
        x = F.pad(x, [v for n in reversed(x.shape[2:]) for v in (0, (-n) % 4)])
        return conv(x, p, "swin.patch_embed.proj", stride=4).movedim(1, -1)

    def down(x, name):
        x = F.pad(x.movedim(-1, 1), [v for n in reversed(x.shape[1:4]) for v in (0, n % 2)])
        return norm(conv(x, p, name + ".down_conv", stride=2).movedim(1, -1), name + ".norm")

    def up(x, name):
        y = F.conv_transpose3d(
            x.movedim(-1, 1), p[name + ".up_conv.weight"], p[name + ".up_conv.bias"], stride=2
        )
        return norm(y.movedim(1, -1), name + ".norm")

    def join(x, skip, j):
        if x.shape != skip.shape:
            y = F.interpolate(x.movedim(-1, 1), skip.shape[1:4], mode="trilinear", align_corners=True)
            x = y.movedim(1, -1)
        w = f"swin.concat_back_dim.{j}"
        return F.linear(torch.cat([x, skip], -1), p[w + ".weight"], p[w + ".bias"])

    x, xa = embed(moving), embed(fixed)
    skips = []
    for i in range(4):
        x, xa = stage(x, xa, f"swin.layers.{i}", i)
        skips.append((x, xa))
        if i < 3:
            x, xa = (down(t, f"swin.layers.{i}.downsample") for t in (x, xa))
    x, xa = norm(x, "swin.norm"), norm(xa, "swin.norm")
    for j in range(4):
        i = 3 - j
        if j:
            x, xa = join(x, skips[i][0], j), join(xa, skips[i][1], j)
        x, xa = stage(x, xa, f"swin.up_layers.{j}", i)
        if i:
            x, xa = (up(t, f"swin.up_layers.{j}.downsample") for t in (x, xa))
    z = norm(torch.cat([x, xa], -1), "swin.norm2").movedim(-1, 1)
    name = "swin.reverse_patch_embedding"
    z = F.conv_transpose3d(z, p[name + ".weight"], p[name + ".bias"], stride=4)
    return conv(z, p, "out_conv", padding=1)


# -- tests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 3, 6), (1, 4, 7), (2, 8, 1)])
@pytest.mark.parametrize("level", [0, 2])
def test_block(network, shape, level):
    block = network.swin.layers[level].blocks[0]
    dim = EMBED * 2**level
    torch.manual_seed(level)
    x, xa = torch.randn(2, *shape, dim), torch.randn(2, *shape, dim)
    expected = reference_block(x, xa, block.state_dict(), (3, 6, 12, 24)[level])
    torch.testing.assert_close(block(x, xa), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 9, 21), (8, 20, 12), (3, 4, 1)])
def test_network_before_the_rule(network, shape):
    torch.manual_seed(2)
    a, b = torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)
    expected = reference_network(a, b, network.state_dict())
    assert expected.std() > 0.01
    assert expected.shape[2:] == tuple(4 * -(-n // 4) for n in shape)
    torch.testing.assert_close(network.features(a, b), expected, rtol=0, atol=5e-4)


def test_state_dict_has_the_authors_names():
    with torch.device("meta"):
        state = compat.CompatNetwork(96).state_dict()
    assert len(state) == 1098
    learned = [v for k, v in state.items() if "running" not in k and "tracked" not in k]
    assert sum(v.numel() for v in learned) == 98_751_290
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    first, last = "swin.layers.0.blocks.0.", "swin.up_layers.0.blocks.1."
    assert shapes[first + "conv_offset.0.weight"] == (192, 1, 3, 3, 3)
    assert shapes[first + "conv_offset.3.weight"] == (3, 192, 1, 1, 1)
    assert shapes[first + "dwconv3x3.0.weight"] == (96, 2, 7, 7, 7)
    assert shapes[first + "channel_interaction.4.bias"] == (96,)
    assert shapes[last + "spatial_interaction.0.weight"] == (96, 768, 1, 1, 1)
    assert shapes[last + "mlp.fc1.weight"] == (3072, 768)
    assert shapes["swin.up_layers.2.downsample.up_conv.weight"] == (192, 96, 2, 2, 2)
    assert shapes["swin.reverse_patch_embedding.weight"] == (192, 48, 4, 4, 4)
    assert shapes["out_conv.weight"] == (2, 48, 3, 3, 3)
    assert sum(k.startswith(first) for k in state) == 44


def test_batch_norm_eps_is_the_channel_count(network):
    assert [s.blocks[0].dwconv3x3[1].eps for s in network.swin.layers] == [24, 48, 96, 192]


def test_rules():
    f1, f2 = torch.tensor([[1.0, -2.0], [0.0, 4.0]]), torch.tensor([[3.0, 1.0], [0.0, -1.0]])
    n1, n2 = 7.0, 5.0
    expected = {
        "addition": f1 + f2,
        "average": (f1 + f2) / 2,
        "L1NW": n1 * f1 + n2 * f2,
        "AL1NW": (n1 * f1 + n2 * f2) / 2,
        "FL1N": (n1 * f1 + n2 * f2) / 12,
        "FER": torch.tensor([[28 / 10, -7 / 5], [0.0, 63 / 17]]),
    }
    assert set(rules.RULES) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(rules.fusion_rule(name)(f1, f2), value)


def test_l1nw_mixes_the_batch(network):
    """The published norms run over the batch: two equal samples weigh twice as much."""
    torch.manual_seed(0)
    a, b = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    one = network(a, b)
    two = network(a.repeat(2, 1, 1, 1, 1), b.repeat(2, 1, 1, 1, 1))
    torch.testing.assert_close(two[:1], 2 * one, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rule", ["SFNN", "nonsense"])
def test_unknown_rule(rule):
    with pytest.raises(InputError, match="choose one of"):
        rules.fusion_rule(rule)


def test_sampling_is_grid_sample():
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 4, 6, 3, dtype=torch.double, requires_grad=True)
    position = (torch.rand(2, 7, 3, dtype=torch.double) * 9 - 2).requires_grad_()
    size = torch.tensor([5, 4, 6])
    for outside, mode in (("zero", "zeros"), ("border", "border")):
        out = sampling.sample(tokens, position, outside)
        grid = (position / (size - 1) * 2 - 1).flip(-1)[:, :, None, None]
        expected = F.grid_sample(tokens.permute(0, 4, 1, 2, 3), grid, padding_mode=mode, align_corners=True)
        torch.testing.assert_close(out, expected[..., 0, 0].transpose(1, 2))
        weight = torch.randn_like(out)
        got = torch.autograd.grad((out * weight).sum(), (tokens, position))
        want = torch.autograd.grad((expected[..., 0, 0].transpose(1, 2) * weight).sum(), (tokens, position))
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w)


def test_method_runs_a_checkpoint(network, tmp_path):
    """A file of the authors' kind runs through the method, cropped, and is not bounded."""
    path = tmp_path / "theirs.pth"
    torch.save(network.state_dict(), path)
    method = fusebench.create_method("dcfb", compat=True, weights=str(path))
    method.setup("cpu")
    torch.manual_seed(1)
    a, b = torch.rand(9, 8, 6), torch.rand(9, 8, 6)
    fused = method.fuse(a, b)
    torch.testing.assert_close(fused, network(a[None, None], b[None, None])[0, 0, :9, :8, :6])
    assert fused.shape == a.shape
    assert fused.abs().max() > 1


def test_compat_refuses_other_files(network, tmp_path):
    with pytest.raises(InputError, match="give a file with weights=FILE"):
        fusebench.create_method("dcfb", compat=True).setup("cpu")
    state = dict(network.state_dict())
    torch.save({k: v for k, v in state.items() if "out_conv" not in k}, tmp_path / "cut.pth")
    with pytest.raises(InputError, match=r"not a DC2Fusion state dict.*out_conv"):
        fusebench.create_method("dcfb", compat=True, weights=str(tmp_path / "cut.pth")).setup("cpu")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="leave out compat"):
        fusebench.create_method("dcfb", compat=True, weights=str(tmp_path / "other.pth")).setup("cpu")


def test_training_mode_uses_batch_statistics_and_gradients(network):
    """Training works: the batch norm takes the batch, and every parameter but the dead ones learns."""
    torch.manual_seed(0)
    trained = compat.CompatNetwork(EMBED, "FL1N").train()
    trained(torch.rand(2, 1, 32, 32, 32), torch.rand(2, 1, 32, 32, 32)).mean().backward()
    silent = {n for n, p in trained.named_parameters() if p.grad is None}
    assert all("cross_attn.proj" in n or "concat_back_dim.0" in n for n in silent)
    assert len(silent) == 24 * 2 + 2
    assert trained.swin.layers[0].blocks[0].dwconv3x3[1].num_batches_tracked == 2
