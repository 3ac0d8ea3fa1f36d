"""Consistency from slice to slice: flicker of slice-wise methods, and likeness in the three planes."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.errors import Undefined
from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from .structure import ssim

_AXES = {"": 0, "coronal": 1, "sagittal": 2}


def _step_error(t: Triple, axis: int) -> Tensor:
    """Mean distance of F's steps along `axis`, inside the mask, from what the sources' steps allow.

    Allowed is anything between the steps of the sources and none at all; of the range of the images.
    """
    a, b, fused = (torch.diff(x[0].double(), dim=axis) for x in (t.a, t.b, t.fused))
    n = t.shape[axis]
    inside = torch.ones(t.shape, dtype=torch.bool, device=t.device) if t.mask is None else t.mask[0]
    both = inside.narrow(axis, 1, n - 1) & inside.narrow(axis, 0, n - 1)
    if not both.any():
        raise Undefined("no two neighbouring points lie in the mask")
    low, high = torch.minimum(a, b).clamp(max=0), torch.maximum(a, b).clamp(min=0)
    error = (low - fused).clamp(min=0) + (fused - high).clamp(min=0)
    return error[both].mean()[None] / 255


@metric(
    MetricInfo(
        name="through_plane_error",
        title="Flicker from slice to slice",
        formula=r"\overline{\mathrm{distance}\,(\Delta_d F,\;"
        r"[\min(\Delta_d A,\Delta_d B,0),\;\max(\Delta_d A,\Delta_d B,0)])}",
        family="consistency",
        direction="lower",
        low=0,
        high=1,
        paper="FuseBench",
        dims=(3,),
        notes="Mean distance, inside the mask, of the step from one axial slice to the next from what the "
        "sources' steps allow: any fixed blend scores 0, a slice-wise method that flickers does not.",
    )
)
def through_plane_error(t: Triple) -> Tensor:
    """Flicker across axial slices."""
    return _step_error(t, 0)


@metric(
    MetricInfo(
        name="in_plane_error",
        title="Texture that neither source has",
        formula=r"\frac{1}{2}\sum_{i=h,w}\overline{\mathrm{distance}\,(\Delta_i F,\;"
        r"[\min(\Delta_i A,\Delta_i B,0),\;\max(\Delta_i A,\Delta_i B,0)])}",
        family="consistency",
        direction="lower",
        low=0,
        high=1,
        paper="FuseBench",
        dims=(3,),
        notes="As through_plane_error, along the two axes inside a slice: the price of a method's own "
        "texture.",
    )
)
def in_plane_error(t: Triple) -> Tensor:
    """Steps inside slices beyond those of the sources."""
    return (_step_error(t, 1) + _step_error(t, 2)) / 2


@metric(
    MetricInfo(
        name="ssim_plane",
        title="2D SSIM by plane",
        formula=r"\frac{1}{2}\;\overline{\mathrm{SSIM}(A_d,F_d)+\mathrm{SSIM}(B_d,F_d)}",
        family="consistency",
        direction="higher",
        low=-1,
        high=1,
        paper="Wang et al., IEEE TIP 13(4), 2004",
        dims=(3,),
        variants={"coronal": "coronal slices", "sagittal": "sagittal slices"},
        notes="Mean over the axial (by default) slices with foreground of the unmasked 2D SSIM to the "
        "two sources.",
    )
)
def ssim_plane(t: Triple, variant: str) -> Tensor:
    """2D SSIM along one axis of a volume."""
    axis = _AXES[variant]
    planes = [x[0].movedim(axis, 0) for x in (t.a, t.b, t.fused)]
    if t.mask is not None:
        held = t.mask[0].movedim(axis, 0).flatten(1).any(1)
        planes = [x[held] for x in planes]
    if not len(planes[0]):
        raise Undefined("no slice holds foreground")
    a, b, fused = ((x / 255).contiguous() for x in planes)
    with Triple.make(a, b, fused, batch=True) as slices:
        values = [ssim.on(chunk) for _, chunk in slices.chunks(slices.foreground())]
    return torch.cat(values).double().mean()[None]
