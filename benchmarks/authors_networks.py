"""Published 2D networks beside ours: the same weights, whole AANLIB pairs, one thread, both in turn.

    PYTHONPATH=. python benchmarks/authors_networks.py --checkouts DIR --data AANLIB [--methods cddfuse,emma]

DIR holds checkouts of the authors' repositories by their own names: MMIF-CDDFuse, MMIF-EMMA, GIFNet,
SwinFusion, IFCNN, GeSeNet.  Their networks are imported from there, nothing of them is in this repository;
importing runs code, so look through a checkout first.  They import timm, torchvision, matplotlib, seaborn
and einops, which FuseBench never needs: install it into an environment of its own, or elsewhere
(``pip install --no-deps --target DIR2 einops``, then ``PYTHONPATH=.:DIR2``).

Where a checkout lacks its weights file (copies may leave out large files) one is made of the weights that
FuseBench ships, under the authors' names; the table says which it was.  Both programs read the same file.

Both get the same luminance in [0, 1].  Compared is the picture that the authors' test script makes, before
it is rounded to 8 bits: cut to [0, 1], and for CDDFuse and EMMA stretched to its own range (``compat=True``).
GeSeNet runs twice: by its inference, which ends in an error as released and is mended here from outside, and
as its script runs it, with masks drawn at random (``compat=True``), from one seed for both.  SwinFusion runs
with its file for PET.  Seconds are processor time; they and the ratio are medians over the pairs.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple
from warnings import catch_warnings

import numpy as np
import torch
from torch import Tensor, nn

import fusebench
from benchmarks.peers import _library as library

# The structural and the functional image, (1, 1, H, W).
Pair = tuple[Tensor, Tensor]
PARTS = ("MRI-PET", "MRI-SPECT", "CT-MRI")


class CDDFuse(nn.Module):
    """The four parts of CDDFuse, by the names that its file has for them."""

    def __init__(self, net: ModuleType) -> None:
        super().__init__()
        self.DIDF_Encoder, self.DIDF_Decoder = net.Restormer_Encoder(), net.Restormer_Decoder()
        self.BaseFuseLayer = net.BaseFeatureExtraction(dim=64, num_heads=8)
        self.DetailFuseLayer = net.DetailFeatureExtraction(num_layers=1)

    def forward(self, mri: Tensor, other: Tensor) -> Tensor:
        (b1, d1, _), (b2, d2, _) = self.DIDF_Encoder(mri), self.DIDF_Encoder(other)
        fused: Tensor = self.DIDF_Decoder(None, self.BaseFuseLayer(b1 + b2), self.DetailFuseLayer(d1 + d2))[0]
        return fused


def stretched(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min())


def gifnet(net: Any, mri: Tensor, other: Tensor) -> Any:
    shared = net.forward_encoder(other, mri)
    return net.forward_mixed_decoder(shared, net.forward_MultiTask_branch(shared, shared))


def swinfusion_net(module: Any) -> nn.Module:
    size = {"upscale": 1, "img_size": 128, "window_size": 8, "embed_dim": 60, "mlp_ratio": 2}
    net: nn.Module = module.SwinFusion(**size, upsampler=None)
    return net


def swinfusion(net: Any, mri: Tensor, other: Tensor) -> Any:
    def larger(x: Tensor) -> Tensor:
        for axis in (2, 3):  # by a window even where the size is a multiple of one
            x = torch.cat((x, x.flip(axis)), axis).narrow(axis, 0, (x.shape[axis] // 8 + 1) * 8)
        return x

    return net(larger(mri), larger(other))[..., : mri.shape[2], : mri.shape[3]]


def ifcnn(net: Any, mri: Tensor, other: Tensor) -> Any:
    colours = net(*(x.repeat(1, 3, 1, 1) for x in (mri, other))).clamp(0, 1)
    return (colours * colours.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def gesenet_inference(net: Any) -> Any:
    """Kernels made, and what a mask gives in a tuple, of which the network takes the first."""
    for part in (net.vis_rmm, net.inf_rmm):
        part.body._prepare()
        part.register_forward_hook(lambda module, given, out: (out,))
    return net.eval()


class Program(NamedTuple):
    """An authors' program: where its network and weights are, how it fuses, and the options of ours."""

    folder: str
    module: str
    weights: str
    build: Callable[[Any], nn.Module]
    fuse: Callable[[Any, Tensor, Tensor], Tensor]  # of the structural and the functional image
    options: Mapping[str, Any] = {}
    ready: Callable[[Any], nn.Module] = nn.Module.eval


COMPAT = {"compat": True}
GESENET = Program(
    "GeSeNet", "model", "model/GeSeNet.pth", lambda m: m.GeSeNet(1), lambda net, mri, other: net(other, mri)
)
SWINFUSION = "Model/Medical_Fusion-PET-MRI/Medical_Fusion/models/10000_E.pth"
PROGRAMS = {
    "cddfuse": Program(
        "MMIF-CDDFuse", "net", "models/CDDFuse_MIF.pth", CDDFuse, lambda net, *x: stretched(net(*x)), COMPAT
    ),
    "emma": Program(
        "MMIF-EMMA",
        "nets.Ufuser",
        "model/EMMA.pth",
        lambda m: m.Ufuser(),
        lambda net, mri, other: stretched(net(other, mri)),
        COMPAT,
    ),
    "gifnet": Program(
        "GIFNet",
        "GIFNet_model",
        "model/Final.model",
        lambda m: m.TwoBranchesFusionNet(m.args.s, m.args.n, m.args.channel, m.args.stride),
        gifnet,
    ),
    "swinfusion": Program("SwinFusion", "models.network_swinfusion1", SWINFUSION, swinfusion_net, swinfusion),
    "ifcnn": Program(
        "IFCNN/Code",
        "model",
        "snapshots/IFCNN-MAX.pth",
        lambda m: m.IFCNN(m.models.resnet101(weights=None)),
        ifcnn,
    ),
    "gesenet": GESENET._replace(ready=gesenet_inference),
    "gesenet@compat": GESENET._replace(options=COMPAT, ready=nn.Module.train),
}


def imported(folder: Path, name: str) -> ModuleType:
    """A module of a checkout; two checkouts may use one name."""
    for needed in ("torchvision", "timm"):
        library(needed)
    if library("cv2") is None:  # they read files with it
        sys.modules["cv2"] = ModuleType("cv2")
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(folder))
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", "") or "").startswith(str(folder)):
                del sys.modules[module]


def flat(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a file, those of dicts inside by both names, without what wrappers put before a name."""
    out: dict[str, Tensor] = {}
    for key, value in found.get("params", found).items():
        inner = flat(value) if isinstance(value, Mapping) else {"": value}
        out |= {f"{key.removeprefix('module.')}.{name}".rstrip("."): x for name, x in inner.items()}
    return out


def stand_in(name: str, net: nn.Module, path: Path) -> Path:
    """The shipped weights in a file of the authors' names."""
    method: Any = fusebench.create_method(name)
    method.setup("cpu")
    (layout,) = method.layouts
    assert layout.change is None, f"{name}: the authors' tensors are not shaped as ours"
    ours = method.network.state_dict()
    torch.save(net.state_dict() | {theirs: ours[mine] for mine, theirs in layout.names.items()}, path)
    return path


def pairs_of(data: Path, count: int) -> list[Pair]:
    """Pairs spread over each part of AANLIB, the largest share of PET."""
    out = []
    for i, part in enumerate(PARTS):
        cases = fusebench.create_dataset("aanlib", data_dir=data, modality=part).cases("test")
        wanted = (count + len(PARTS) - 1 - i) // len(PARTS)
        for place in np.linspace(0, len(cases) - 1, wanted).round().astype(int):
            a, b = (torch.from_numpy(x.data.copy())[None] for x in (cases[place].a, cases[place].b))
            out.append((a, b))
    return out


def compare(name: str, checkouts: Path, pairs: list[Pair], double: bool) -> str:
    """A row of the table."""
    program, method_name = PROGRAMS[name], name.partition("@")[0]
    folder = (checkouts / program.folder).resolve()
    if not folder.is_dir():
        return f"| {name} | no folder {folder} |"
    with TemporaryDirectory() as scratch, redirect_stdout(sys.stderr), catch_warnings(action="ignore"):
        net = program.build(imported(folder, program.module))
        path, whose = folder / program.weights, "authors'"
        if not path.is_file():
            path, whose = stand_in(method_name, net, Path(scratch) / "weights.pth"), "shipped"
        net.load_state_dict(flat(torch.load(path, map_location="cpu", weights_only=True)))
        ours: Any = fusebench.create_method(method_name, weights=str(path), **program.options)
        ours.setup("cpu")
    # Masks that are drawn in double precision are other ones.
    exact = program.ready(copy.deepcopy(net).double()) if double and name != "gesenet@compat" else None
    net = program.ready(net)

    def theirs(net: nn.Module, mri: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            return program.fuse(net, mri, other).clamp(0, 1)

    calls: dict[str, Callable[[Pair], Tensor]] = {
        "theirs": lambda pair: theirs(net, *pair),
        "ours": lambda pair: ours.fuse(*(x[0] for x in pair))[None],
    }
    for call in calls.values():  # to warm up
        call((pairs[0][0][..., :64, :64].contiguous(), pairs[0][1][..., :64, :64].contiguous()))
    rows = []
    for number, pair in enumerate(pairs):
        fused, seconds = {}, {}
        for who in list(calls)[:: 1 if number % 2 else -1]:  # each is the first of a pair in turn
            torch.manual_seed(0)
            begin = time.process_time()
            fused[who] = calls[who](pair)
            seconds[who] = time.process_time() - begin
        difference = (fused["ours"] - fused["theirs"]).abs()
        row = [float(difference.max()), float(difference.mean()), *(seconds[who] for who in calls)]
        row.append(seconds["ours"] / seconds["theirs"])
        if exact is not None:
            torch.manual_seed(0)
            best = theirs(exact, pair[0].double(), pair[1].double())
            row += [float((fused[who] - best).abs().max()) for who in calls]
        rows.append(row)
    table = np.array(rows)
    shown = [f"{table[:, 0].max():.1e}", f"{table[:, 1].mean():.1e}"]
    shown += [f"{x:.2f}" for x in np.median(table[:, 2:5], 0)]
    shown += [f"{x:.1e}" for x in table[:, 5:].max(0)]
    return f"| {' | '.join([name, whose, str(len(pairs)), *shown])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkouts", type=Path, required=True, help="folder of the authors' repositories")
    parser.add_argument("--data", type=Path, required=True, help="folder of AANLIB")
    parser.add_argument("--methods", default=",".join(PROGRAMS), help="some of: " + ", ".join(PROGRAMS))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument(
        "--double", action="store_true", help="how far is each from the authors' in double precision, too"
    )
    asked = parser.parse_args()
    if not set(asked.methods.split(",")) <= set(PROGRAMS):
        parser.error(f"--methods: some of {', '.join(PROGRAMS)} are needed")
    torch.set_num_threads(1)
    columns = ["method", "weights", "pairs", "largest", "mean", "theirs, s", "ours, s", "ours / theirs"]
    columns += ["theirs from double", "ours from double"] if asked.double else []
    pairs = pairs_of(asked.data, asked.pairs)
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for name in asked.methods.split(","):
        print(compare(name, asked.checkouts, pairs, asked.double), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
