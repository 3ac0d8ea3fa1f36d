"""Checks of fusion methods."""

from __future__ import annotations

import inspect
import json
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from ..case import Case, Pair, Volume
from ..engine.fusing import RANGE_TOLERANCE, Here
from ..engine.spec import MethodSpec, Score, Task
from ..engine.task import TaskRunner
from ..errors import InputError
from ..files import file_sha256
from ..method import Method, MethodInfo, SliceMethod
from ..plugins import find_plugins
from ..store.keys import digest, path_of
from ..text import describe
from . import _spawn
from ._kit import (
    SAFE_NAME,
    Check,
    CheckFailed,
    ExpectedFailures,
    NotApplicable,
    Outcome,
    Subject,
    check,
    check_plugin,
)
from .images import Image, head, noise

# Even in every axis; what odd and tiny sizes do has checks of its own.
SHAPE = (16, 24, 32)
ODD = ((7, 13, 19), (1, 17, 31))
SMALL = ((1, 1, 1), (1, 1, 9), (2, 3, 1))
# Two roundings of one sum in float32, with room for other orders of summation.
SAME = 1e-5
# Between devices: other kernels and other orders; steps may fall the other way in single voxels.
DEVICE_TOLERANCE, DEVICE_SHARE = 1e-3, 0.999
IDENTICAL_TOLERANCE = 0.05


class MethodSubject(Subject):
    """A fusion method under test.

    Parameters
    ----------
    plugin : type, Method or str
        Class (made without arguments), instance (made anew with the same parameters), or registered name,
        also ``name@variant``.
    device : str
    """

    kind = "method"

    def __init__(
        self, plugin: Any, expected_failed_checks: ExpectedFailures | None = None, device: str = "cpu"
    ) -> None:
        super().__init__(plugin, expected_failed_checks)
        self.device = torch.device(device)

    @cached_property
    def cls(self) -> type[Method]:
        return self.plugin if isinstance(self.plugin, type) else type(self.plugin)

    @cached_property
    def info(self) -> MethodInfo:
        """Facts of the method as it is set."""
        return self.cls(**self.parameters).describe() if self.parameters else self.cls.info

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        if isinstance(self.given, str):
            variant = find_plugins().methods.entry(self.given).variant
            return dict(self.cls.variants[variant]) if variant else {}
        return {} if isinstance(self.plugin, type) else dict(self.plugin.parameters())

    def fresh(self, device: torch.device | None = None) -> Method:
        """A new instance, set up."""
        method = self.cls(**self.parameters)
        method.setup(device or self.device)
        return method

    @cached_property
    def ready(self) -> Method:
        """The instance that most checks share."""
        self.settings = _settings()
        return self.fresh()

    @property
    def on_cpu(self) -> Method:
        return self.ready if self.device.type == "cpu" else self.fresh(torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the plain test volume: a few slices are enough for a method that fuses them one by one."""
        return (4, *SHAPE[1:]) if self.sliced else SHAPE

    @property
    def sliced(self) -> bool:
        """True if it fuses slices."""
        return issubclass(self.cls, SliceMethod)

    def fuse(self, a: Any, b: Any, seed: int = 0, method: Method | None = None) -> Tensor:
        """Fuse copies of `a` and `b`, seeded; the result on the CPU."""
        method = method or self.ready
        return _seeded(lambda x, y: method.fuse(x, y), a, b, seed, method.device)

    def fuse_slices(self, a: Any, b: Any) -> Tensor:
        method = self.ready
        assert isinstance(method, SliceMethod)
        return _seeded(method.fuse_slices, a, b, 0, method.device)


def _seeded(function: Callable[[Tensor, Tensor], Any], a: Any, b: Any, seed: int, device: Any) -> Tensor:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - plugins may use the global generator
    torch.manual_seed(seed)
    ta, tb = (torch.as_tensor(x).clone().to(device) for x in (a, b))
    with torch.inference_mode():
        out = function(ta, tb)
    if not isinstance(out, Tensor):
        raise CheckFailed(f"fuse returned {type(out).__name__}; return a torch.Tensor")
    return out.detach().cpu()


def _gap(x: Tensor, y: Tensor) -> float:
    """Largest difference; infinite where the shapes differ or one is NaN."""
    if x.shape != y.shape:
        return float("inf")
    worst = (x.double() - y.double()).abs().max()
    return float("inf") if bool(worst.isnan()) else float(worst)


def _in_range(out: Tensor, when: str, todo: str) -> None:
    if not bool(out.isfinite().all()):
        raise CheckFailed(f"NaN or infinity {when}; {todo}")
    low, high = float(out.min()), float(out.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise CheckFailed(f"values in [{low:.4g}, {high:.4g}] {when}; {todo}")


# -- facts ---------------------------------------------------------------------------------------


@check()
def info_declared(s: MethodSubject) -> None:
    """`info` is complete: name, summary, dims, licence, colour, what it was trained on."""
    info = getattr(s.cls, "info", None)
    if not isinstance(info, MethodInfo):
        raise CheckFailed("the class has no `info`; add  info = MethodInfo(name=..., summary=...)")
    if not SAFE_NAME.fullmatch(info.name):
        raise CheckFailed(f"info.name is {info.name!r}; use letters, digits, - _ and . only (it names files)")
    for field in ("summary", "licence", "colour"):
        text = getattr(info, field)
        if not text.strip() or "\n" in text:
            raise CheckFailed(f"info.{field} is {text!r}; give one line")
    if info.dims not in (2, 3):
        raise CheckFailed(f"info.dims is {info.dims!r}; 2 (slice-wise) or 3 (volumes)")
    if (info.dims == 2) != s.sliced:
        base = "SliceMethod" if info.dims == 2 else "Method"
        raise CheckFailed(
            f"info.dims is {info.dims} but the class does not derive from {base}; make them agree"
        )
    if info.weights is not None and not info.trained_on:
        raise CheckFailed("weights are shipped but info.trained_on is empty; name dataset and split")


@check()
def parameters_kept(s: MethodSubject) -> None:
    """Every constructor argument has a default and is stored under its own name."""
    arguments = [p for n, p in inspect.signature(s.cls.__init__).parameters.items() if n != "self"]
    for p in arguments:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.default is p.empty and p.name not in s.parameters:
            raise CheckFailed(
                f"argument {p.name!r} has no default; give it one, so that --methods all can run it"
            )
    method = s.cls(**s.parameters)
    lost = [p.name for p in arguments if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    lost = [n for n in lost if not hasattr(method, n)]
    if lost:
        raise CheckFailed(
            f"{', '.join(lost)} not stored: set self.{lost[0]} = {lost[0]} in __init__; the content key and "
            "the manifest read parameters there"
        )
    try:
        json.dumps(dict(method.parameters()), default=str)
    except (TypeError, ValueError) as error:
        raise CheckFailed(
            f"parameters cannot be written as JSON ({error}); use numbers, text and lists"
        ) from error


@check("parameters_kept")
def weights_safe(s: MethodSubject) -> None:
    """Weights are safetensors with the declared sha256; setup unpickles nothing, needs no network."""
    weights, source = s.info.weights, path_of(s.cls)
    if weights is not None and source is not None and not s.parameters.get("weights"):
        path = source.parent / weights.file
        if path.suffix != ".safetensors":
            raise CheckFailed(
                f"{weights.file} is not .safetensors; convert it with safetensors.torch.save_file"
            )
        if not path.is_file():
            raise CheckFailed(f"{weights.file} is missing beside {source.name}; ship the file")
        if (found := file_sha256(path)) != weights.sha256:
            raise CheckFailed(f"{weights.file} has sha256 {found}; write that into info.weights.sha256")
    with _guarded():
        s.ready  # noqa: B018 - made here, under guard


@contextmanager
def _guarded() -> Iterator[None]:
    """Refuse unsafe unpickling and network connections."""
    load = torch.load

    def checked_load(*args: Any, **options: Any) -> Any:
        if options.get("weights_only") is False:
            raise CheckFailed(
                "setup calls torch.load(weights_only=False), which runs code from the file; use "
                "safetensors.torch.load_file, or weights_only=True for foreign files"
            )
        # torch itself calls pickle for safe files.
        with mock.patch.multiple(pickle, load=_pickle_load, loads=_pickle_loads):
            return load(*args, **options)

    def refuse(what: str) -> Callable[..., Any]:
        def refused(*args: Any, **options: Any) -> Any:
            raise CheckFailed(f"setup {what}")

        return refused

    unpickles = refuse("unpickles a file, which runs code from it; use safetensors.torch.load_file")
    connects = refuse("opens a network connection; ship the weights, or take their path as weights=FILE")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "load", checked_load))
        stack.enter_context(mock.patch.multiple(pickle, load=unpickles, loads=unpickles))
        stack.enter_context(mock.patch("socket.socket.connect", connects))
        yield


_pickle_load, _pickle_loads = pickle.load, pickle.loads


@check("weights_safe")
def params_counted(s: MethodSubject) -> None:
    """`info.params` is the number of learned parameters in use."""
    counted = {
        id(p): p.numel() for value in vars(s.ready).values() for m in _modules(value) for p in m.parameters()
    }
    total = sum(counted.values())
    if total != s.info.params:
        raise CheckFailed(
            f"info.params is {s.info.params:,}, but its networks have {total:,}; write that number"
        )


def _modules(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _modules(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _modules(item)


# -- results -------------------------------------------------------------------------------------


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
    changed = [name for name, value in _settings().items() if value != s.settings[name]]
    if changed:
        torch.set_default_dtype(s.settings["torch default dtype"])
        raise CheckFailed(
            f"changes the global {', '.join(changed)}; other methods share the process: put it back"
        )


def _settings() -> dict[str, Any]:
    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch number of threads": torch.get_num_threads(),
        "torch deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch gradient mode": torch.is_grad_enabled(),
        "numpy error handling": tuple(np.geterr().items()),
    }


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
    if (gap := _gap(together, one_by_one)) > 1e-4:
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
    _in_range(s.fuse(*noise(s.shape)), "on noise of full contrast", "clip: fused.clamp(0, 1)")
    _in_range(s.fuse(*head(s.shape)[:2]), "on a plain pair", "clip: fused.clamp(0, 1)")


@check("range_kept")
def constant_inputs(s: MethodSubject) -> None:
    """Constant images, black ones among them, give finite values in [0, 1]."""
    todo = "guard divisions by a range, norm or variance that can be 0"
    a, b, _ = head(s.shape)
    for va, vb in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.7)):
        out = s.fuse(np.full(s.shape, va, np.float32), np.full(s.shape, vb, np.float32))
        _in_range(out, f"where a = {va:g} and b = {vb:g} everywhere", todo)
    _in_range(s.fuse(a, np.zeros_like(b)), "where b is black", todo)
    _in_range(s.fuse(np.zeros_like(a), b), "where a is black", todo)


@check("range_kept")
def out_of_range(s: MethodSubject) -> None:
    """Inputs a rounding error outside [0, 1] stay in range; 0..255 is refused or finite."""
    a, b = (x * np.float32(1 + 2e-4) - np.float32(1e-4) for x in noise(s.shape))
    _in_range(s.fuse(a, b), "for inputs in [-0.0001, 1.0001]", "clip the result")
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
    if (gap := _gap(first, again)) > SAME:
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
    if (gap := _gap(first, s.fuse(a, b, seed=5))) > SAME:
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
    if (gap := _gap(out, s.fuse(a, b, seed=5))) > SAME:
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


# -- in the engine -------------------------------------------------------------------------------


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
    if _gap(torch.from_numpy(saved.copy()), s.fuse(a, b).clamp(0, 1)) > SAME:
        raise CheckFailed("the saved volume is not what fuse returns; make fuse depend on a and b only")


@check("stateless")
def spawn_safe(s: MethodSubject) -> None:
    """A fresh process makes the same method from its parameters and fuses to the same result."""
    a, b, _ = head(s.shape)
    arguments = (_spawn.reference(s.cls), dict(s.parameters), a, b)
    out = _spawn.in_child(_fuse_fresh, *arguments, what=f"method {s.info.name}")
    if (gap := _gap(torch.from_numpy(out), s.fuse(a, b, method=s.on_cpu))) > 1e-4:
        raise CheckFailed(
            f"a fresh process gets another result (by {gap:.3g}); keep parameters in __init__ arguments, "
            "never in module globals that are set later"
        )


def _fuse_fresh(found: Any, parameters: Mapping[str, Any], a: Image, b: Image) -> Image:
    method = _spawn.resolve(found)(**parameters)
    method.setup("cpu")
    return np.asarray(_seeded(method.fuse, a, b, 0, "cpu"))


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


METHOD_CHECKS: tuple[Check, ...] = (
    info_declared,
    parameters_kept,
    weights_safe,
    params_counted,
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
    runs_in_engine,
    spawn_safe,
    cpu_equals_gpu,
)
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
