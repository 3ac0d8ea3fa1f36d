"""Checks of what a method returns: shape, range, and what it may depend on."""

from __future__ import annotations

import random

import numpy as np
import torch

from ..errors import InputError
from ..text import describe
from ._kit import Check, CheckFailed, NotApplicable, check
from .images import head, noise
from .method_subject import SAME, SHAPE, MethodSubject, gap_between, global_settings, require_in_range

# Shapes that are odd in every axis, and the smallest.
ODD = ((7, 13, 19), (1, 17, 31))
SMALL = ((1, 1, 1), (1, 1, 9), (2, 3, 1))
IDENTICAL_TOLERANCE = 0.05


@check("weights_safe")
def fuses(s: MethodSubject) -> None:
    """A plain pair gives a float32 tensor of its shape, and global settings stay as they were."""
    a, b, _ = head((1, *SHAPE[1:]) if s.sliced else SHAPE)
    out = s.fuse(a, b)
    if tuple(out.shape) != a.shape:
        raise CheckFailed(
            f"shape {tuple(out.shape)} for input shape {a.shape}; return the shape of the input"
        )
    if out.dtype != torch.float32:
        raise CheckFailed(f"dtype {out.dtype}; return float32: fused.float()".replace("torch.", ""))
    changed = [name for name, value in global_settings().items() if value != s.settings[name]]
    if changed:
        torch.set_default_dtype(s.settings["torch default dtype"])
        raise CheckFailed(
            f"changes the global {', '.join(changed)}; other methods share the process: put it back"
        )


@check("fuses")
def batch_equals_single(s: MethodSubject) -> None:
    """2D: slices fused in one batch equal the same slices fused one by one."""
    if not s.sliced:
        raise NotApplicable("a 3D method has no batch of slices")
    # Of different brightness, so that statistics over the batch show.
    pairs = [head((32, 24), seed=k)[:2] for k in range(3)]
    stack = [np.stack([p[i] / (k + 1) for k, p in enumerate(pairs)])[:, None] for i in range(2)]
    one_by_one = torch.cat([s.fuse_slices(*(x[i : i + 1] for x in stack)) for i in range(3)])
    try:
        together = s.fuse_slices(*stack)
    except Exception as error:
        raise CheckFailed(
            f"a batch of 3 slices fails ({describe(error)}); fuse_slices gets (N, 1, H, W) with any N"
        ) from error
    if (gap := gap_between(together, one_by_one)) > 1e-4:
        raise CheckFailed(
            f"slices in a batch differ from single ones by {gap:.3g}; take statistics per slice "
            "(dim=(1, 2, 3)), not over the batch"
        )


@check("batch_equals_single")
def shape_odd(s: MethodSubject) -> None:
    """Odd, non-cubic shapes work, or are refused with one clear InputError."""
    _try_shapes(s, ODD, "pad the inputs and crop the result back")


@check("shape_odd")
def shape_small(s: MethodSubject) -> None:
    """Shapes down to one voxel per axis work, or are refused with one clear InputError."""
    _try_shapes(s, SMALL, "pad small inputs, or refuse them with fusebench.errors.InputError")


def _try_shapes(s: MethodSubject, shapes: tuple[tuple[int, ...], ...], todo: str) -> None:
    for shape in shapes:
        a, b, _ = head(shape, seed=1)
        try:
            out = s.fuse(a, b)
        except InputError as error:
            if "\n" in str(error) or not str(error):
                raise CheckFailed(
                    f"refuses shape {shape} without one clear line; say what size it needs"
                ) from error
            continue
        except CheckFailed:
            raise
        except Exception as error:
            raise CheckFailed(f"shape {shape} fails ({describe(error)}); {todo}") from error
        if tuple(out.shape) != shape:
            raise CheckFailed(f"returns shape {tuple(out.shape)} for input shape {shape}; {todo}")


@check("batch_equals_single")
def range_kept(s: MethodSubject) -> None:
    """Images of full contrast give values in [0, 1]."""
    require_in_range(s.fuse(*noise(s.shape)), "on noise of full contrast", "clip: fused.clamp(0, 1)")
    require_in_range(s.fuse(*head(s.shape)[:2]), "on a plain pair", "clip: fused.clamp(0, 1)")


@check("range_kept")
def constant_inputs(s: MethodSubject) -> None:
    """Constant images, black ones among them, give finite values in [0, 1]."""
    todo = "guard divisions by a range, norm or variance that can be 0"
    a, b, _ = head(s.shape)
    for va, vb in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.7)):
        out = s.fuse(np.full(s.shape, va, np.float32), np.full(s.shape, vb, np.float32))
        require_in_range(out, f"where a = {va:g} and b = {vb:g} everywhere", todo)
    require_in_range(s.fuse(a, np.zeros_like(b)), "where b is black", todo)
    require_in_range(s.fuse(np.zeros_like(a), b), "where a is black", todo)


@check("range_kept")
def out_of_range(s: MethodSubject) -> None:
    """Inputs a rounding error outside [0, 1] stay in range; 0..255 is refused or finite."""
    a, b = (x * np.float32(1 + 2e-4) - np.float32(1e-4) for x in noise(s.shape))
    require_in_range(s.fuse(a, b), "for inputs in [-0.0001, 1.0001]", "clip the result")
    try:
        out = s.fuse(a * 255, b * 255)
    except InputError:
        return
    if not bool(out.isfinite().all()):
        raise CheckFailed(
            "inputs in 0..255 give NaN or infinity; refuse them with fusebench.errors.InputError"
        )


@check("batch_equals_single")
def inputs_unchanged(s: MethodSubject) -> None:
    """`fuse` does not write to its inputs."""
    a, b, _ = head(s.shape)
    ta, tb = (torch.from_numpy(x).clone().to(s.device) for x in (a, b))
    with torch.inference_mode():
        s.ready.fuse(ta, tb)
    for tensor, array, name in ((ta, a, "a"), (tb, b, "b")):
        if not np.array_equal(tensor.cpu().numpy(), array):
            raise CheckFailed(
                f"changes its input {name}; work on a copy ({name}.clone()), avoid +=, *= and out="
            )


@check("batch_equals_single")
def deterministic(s: MethodSubject) -> None:
    """The same seed gives the same result from a new instance."""
    a, b, _ = head(s.shape)
    first = s.fuse(a, b, seed=5)
    random.random(), torch.rand(3)  # other work between the two
    again = s.fuse(a, b, seed=5, method=s.fresh())
    if (gap := gap_between(first, again)) > SAME:
        raise CheckFailed(
            f"two runs with one seed differ by {gap:.3g}; draw random numbers from torch's, numpy's or "
            "random's global generator, which the engine seeds, inside fuse"
        )


@check("deterministic")
def stateless(s: MethodSubject) -> None:
    """The result for a pair does not depend on what was fused before."""
    a, b, _ = head(s.shape)
    first = s.fuse(a, b, seed=5)
    s.fuse(*head(s.shape, seed=9)[:2])
    if (gap := gap_between(first, s.fuse(a, b, seed=5))) > SAME:
        raise CheckFailed(
            f"the same pair differs by {gap:.3g} after another one was fused; keep nothing on self in fuse, "
            "and networks in eval()"
        )


@check("deterministic")
def strided_inputs(s: MethodSubject) -> None:
    """Transposed views give what contiguous copies give."""
    a, b, _ = head(s.shape)
    views = [torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))).permute(1, 2, 0) for x in (a, b)]
    with torch.inference_mode():
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        try:
            out = s.ready.fuse(*(v.to(s.device) for v in views)).cpu()
        except RuntimeError as error:
            raise CheckFailed(
                f"a transposed view fails ({describe(error)}); use reshape, not view"
            ) from error
    if (gap := gap_between(out, s.fuse(a, b, seed=5))) > SAME:
        raise CheckFailed(f"a transposed view gives another result (by {gap:.3g}); call .contiguous() first")


@check("range_kept")
def identical_inputs(s: MethodSubject) -> None:
    """Where both images are the same, the fused one is about the same."""
    if s.info.control:
        raise NotApplicable("a control shows what a metric rewards; it need not fuse well")
    a, _, mask = head(s.shape)
    gap = (s.fuse(a, a) - torch.from_numpy(a)).abs()[torch.from_numpy(mask)].mean()
    if float(gap) > IDENTICAL_TOLERANCE:
        raise CheckFailed(
            f"for a = b the result is off by {float(gap):.3f} on average (allowed {IDENTICAL_TOLERANCE}); "
            "check that the weights of the two sources sum to 1, or declare why in expected_failed_checks"
        )


RESULTS: tuple[Check, ...] = (
    fuses,
    batch_equals_single,
    shape_odd,
    shape_small,
    range_kept,
    constant_inputs,
    out_of_range,
    inputs_unchanged,
    deterministic,
    stateless,
    strided_inputs,
    identical_inputs,
)
