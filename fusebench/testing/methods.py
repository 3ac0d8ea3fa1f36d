"""All checks of fusion methods in order; of them here those in the engine, a fresh process and on a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch

from ..case import Case, Pair, Volume
from ..engine.fusing import Here
from ..engine.spec import MethodSpec, Score, Task
from ..engine.task import TaskRunner
from ..store.keys import digest
from . import _spawn
from ._kit import Check, CheckFailed, ExpectedFailures, NotApplicable, Outcome, check, check_plugin
from .images import Image, head
from .method_facts import FACTS
from .method_results import RESULTS
from .method_subject import SAME, MethodSubject, gap_between, seeded

# Between devices: other kernels and other orders; steps may fall the other way in single voxels.
DEVICE_TOLERANCE, DEVICE_SHARE = 1e-3, 0.999


@check("stateless", "inputs_unchanged", "range_kept")
def runs_in_engine(s: MethodSubject) -> None:
    """A case of an oblique, anisotropic volume runs, scores, and is saved with its geometry."""
    a, b, mask = head(s.shape)
    affine = np.array([[0, -1.2, 0, 9], [1.0, 0, 0.1, -7], [0, 0.1, 2.5, 3], [0, 0, 0, 1.0]])
    pair = Pair(Volume(a, affine), Volume(b, affine), mask)
    case = Case("case", "kit", "subject", digest("kit"), lambda: pair)
    spec = MethodSpec(s.info.name, s.parameters, digest(s.info.name), s.info)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fused.nii.gz")
        task = Task("kit", spec, case, (Score("volume", "rmse", "key"),), fused_path=str(path), save=True)
        runner = TaskRunner()
        runner._methods[spec.key] = Here(s.ready)
        (row,) = runner.run(task)
        if row.status != "ok":
            raise CheckFailed(f"the engine's row says {row.status}: {row.reason}")
        image = nib.Nifti1Image.from_filename(path)
        if not np.allclose(image.affine, affine, atol=1e-5):
            raise CheckFailed("the saved volume lost the affine of the structural image")
        saved = np.asarray(image.dataobj).transpose(2, 1, 0)
    if gap_between(torch.from_numpy(saved.copy()), s.fuse(a, b).clamp(0, 1)) > SAME:
        raise CheckFailed("the saved volume is not what fuse returns; make fuse depend on a and b only")


@check("stateless")
def spawn_safe(s: MethodSubject) -> None:
    """A fresh process makes the same method from its parameters and fuses to the same result."""
    a, b, _ = head(s.shape)
    arguments = (_spawn.reference(s.cls), dict(s.parameters), a, b)
    out = _spawn.in_child(_fuse_fresh, *arguments, what=f"method {s.info.name}")
    if (gap := gap_between(torch.from_numpy(out), s.fuse(a, b, method=s.on_cpu))) > 1e-4:
        raise CheckFailed(
            f"a fresh process gets another result (by {gap:.3g}); keep parameters in __init__ arguments, "
            "never in module globals that are set later"
        )


def _fuse_fresh(found: Any, parameters: Mapping[str, Any], a: Image, b: Image) -> Image:
    method = _spawn.resolve(found)(**parameters)
    method.setup("cpu")
    return np.asarray(seeded(method.fuse, a, b, 0, "cpu"))


@check("stateless")
def cpu_equals_gpu(s: MethodSubject) -> None:
    """On a GPU 99.9 % of voxels are within 0.001 of the CPU's."""
    if not torch.cuda.is_available():
        raise NotApplicable("no CUDA device here")
    a, b, _ = head(s.shape)
    on_cpu, on_gpu = (s.fuse(a, b, method=m) for m in (s.on_cpu, s.fresh(torch.device("cuda"))))
    share = float(((on_cpu - on_gpu).abs() <= DEVICE_TOLERANCE).double().mean())
    if share < DEVICE_SHARE:
        raise CheckFailed(
            f"only {share:.2%} of voxels are within {DEVICE_TOLERANCE} between CPU and GPU; draw random "
            "numbers on the CPU, and keep thresholds away from ties"
        )


METHOD_CHECKS: tuple[Check, ...] = (*FACTS, *RESULTS, runs_in_engine, spawn_safe, cpu_equals_gpu)
MethodSubject.checks = METHOD_CHECKS


def check_method(
    method: Any,
    *,
    device: str = "cpu",
    expected_failed_checks: ExpectedFailures | None = None,
    on_fail: Literal["raise", "keep"] = "raise",
) -> list[Outcome]:
    """Run every method check.

    Parameters
    ----------
    method : type, Method or str
        Class, instance, or registered name.
    device : str
        Where the method runs; the comparison of devices happens wherever there is a GPU.
    expected_failed_checks : mapping, optional
        Check name to the reason why failing it is right for this method.
    on_fail : {"raise", "keep"}

    Returns
    -------
    list of Outcome

    Raises
    ------
    CheckFailed
        With one line per failed check (``on_fail="raise"``).

    Examples
    --------
    >>> import torch
    >>> from fusebench import Method, MethodInfo
    >>> class Mean(Method):
    ...     info = MethodInfo(name="mean-of-two", summary="mean of both images")
    ...     def fuse(self, a, b):
    ...         a += b  # writes to its input
    ...         return a / 2
    >>> print(next(o.message for o in check_method(Mean, on_fail="keep") if not o.ok))
    changes its input a; work on a copy (a.clone()), avoid +=, *= and out=
    """
    return check_plugin(MethodSubject(method, expected_failed_checks, device), on_fail)
