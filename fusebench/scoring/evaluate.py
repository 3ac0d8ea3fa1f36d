"""`evaluate` and `evaluate_slices`: several metrics of one fused image, what they share computed once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Pair
from ..errors import InputError
from ..metric import Metric, MetricFault, MetricId
from ..parameters import as_list
from ..staying import is_ctrl_c
from .select import metric_registry, ranking_set

if TYPE_CHECKING:
    from torch import Tensor

    from ..plugins import Plugins
    from ..triple import Triple

Begin = Callable[[str], object]  # told the id of each metric before it is computed

_NO_MASK = (
    "no mask, so air counts and flatters the scores: these are not the board's numbers, which "
    "evaluate(case, fused) gives; or say what counts, mask=case.mask or mask=np.ones(a.shape, bool)"
)


@overload
def evaluate(
    a: Case | Pair,
    b: Any,
    fused: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    *,
    truth: Mapping[str, Any] | None = None,
    protocol: str = "volume",
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
) -> dict[str, Any]: ...


@overload
def evaluate(
    a: Any,
    b: Any,
    fused: Any,
    metrics: str | Sequence[str] | None = None,
    *,
    mask: Any = None,
    spacing: Sequence[float] | None = None,
    truth: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
) -> dict[str, Any]: ...


def evaluate(
    a: Any,
    b: Any,
    fused: Any = None,
    metrics: str | Sequence[str] | None = None,
    *,
    mask: Any = None,
    spacing: Sequence[float] | None = None,
    truth: Mapping[str, Any] | None = None,
    protocol: str = "volume",
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Score one fused image with several metrics: ``evaluate(case, fused)`` gives the board's numbers.

    ``evaluate(a, b, fused, mask=...)`` takes plain images in place of a case.

    Parameters
    ----------
    a, b, fused, mask, spacing, truth
        As in `Metric.__call__`; or `a` a `Case` and `b` the fused image, where mask, voxel size and ground
        truth are the case's.  (D, H, W) with D > 1 is scored in 3D.
    metrics : sequence of str, optional
        Ids: ``psnr``, ``psnr.a``, ``ssim.worst``, ``mi@cddfuse``; or one string, ``"psnr,qabf"``.  None: the
        default ranking set, or what the protocol prescribes.
    protocol : {"volume", "slices", "paper"}
        How a case is scored, as of a run; see `Protocol`.
    on_error : {"raise", "keep"}
        "keep" puts the exception of a failing metric in place of its value, so that one broken metric
        costs only its own result.
    plugins : Plugins, optional
        Where to look up metrics; default: the metrics folder and installed packages.

    Returns
    -------
    dict
        Value by id, in the order asked for.

    Raises
    ------
    InputError
        Unusable images (in either mode); of a case: a protocol or metric that needs more than its images.
    UnknownNameError
        No such metric (``on_error="raise"``).

    Warns
    -----
    UserWarning
        Of a plain volume without a mask: air counts as well, which is not what the board says.
    """
    if isinstance(a, (Case, Pair)):
        from .protocol import evaluate_case

        if mask is not None or spacing is not None:
            raise InputError("a case has a mask and a voxel size of its own; leave out mask and spacing")
        chosen = metrics if fused is None else fused
        values: dict[str, Any] = evaluate_case(a, b, chosen, truth, protocol, plugins)
    elif fused is None:
        raise InputError("evaluate needs a case and its fused image, or two sources and the fused image")
    elif protocol != "volume":
        raise InputError(f"protocol {protocol!r} scores a case: evaluate(case, fused, protocol={protocol!r})")
    else:
        if mask is None and np.ndim(a) == 3 and len(a) > 1:
            warnings.warn(_NO_MASK, stacklevel=2)
        return score(
            a, b, fused, metrics, mask=mask, spacing=spacing, truth=truth, on_error=on_error, plugins=plugins
        )
    failed = [v for v in values.values() if isinstance(v, Exception)]
    if failed and on_error == "raise":
        raise failed[0]
    return values


def score(
    a: Any,
    b: Any,
    fused: Any,
    metrics: str | Sequence[str] | None = None,
    *,
    mask: Any = None,
    spacing: Sequence[float] | None = None,
    truth: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "keep"] = "keep",
    plugins: Plugins | None = None,
    begin: Begin = str,
    sources: dict[Any, Any] | None = None,
) -> dict[str, Any]:
    """`evaluate` of plain images; without a mask, everything is foreground.

    `begin` hears of each metric; `sources` is kept by the caller, see `Triple.make`.
    """
    from ..triple import Triple

    with Triple.make(a, b, fused, mask=mask, spacing=spacing, truth=truth, sources=sources) as triple:
        values = _evaluate(triple, metrics, on_error, plugins, begin)
    return {k: v if isinstance(v, Exception) else float(v[0]) for k, v in values.items()}


def evaluate_slices(
    a: Any,
    b: Any,
    fused: Any,
    metrics: str | Sequence[str] | None = None,
    *,
    mask: Any = None,
    truth: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
    begin: Begin = str,
) -> dict[str, Any]:
    """Score a batch of 2D images, or every axial slice of a volume, with the 2D definitions.

    Parameters
    ----------
    a, b, fused, mask : array or tensor, shape (N, H, W)
    metrics, truth, on_error, plugins
        As in `evaluate`.
    begin : callable
        Told the id of each metric before it is computed.

    Returns
    -------
    dict
        ``ndarray (N,)`` by id.  An image without foreground has nothing to score and is NaN.
    """
    from ..triple import Triple

    out: dict[str, Any] = {}
    with Triple.make(a, b, fused, mask=mask, batch=True, truth=truth) as whole:
        kept = whole.foreground()
        for rows, chunk in whole.chunks(kept):
            for key, value in _evaluate(chunk, metrics, on_error, plugins, begin).items():
                if isinstance(value, Exception) or isinstance(out.get(key), Exception):
                    out[key] = value if isinstance(value, Exception) else out[key]
                    continue
                column: NDArray[np.float64] = out.setdefault(key, np.full(len(whole), np.nan))
                column[rows.cpu().numpy()] = value.cpu().numpy()
    return out


def _evaluate(
    triple: Triple, metrics: str | Sequence[str] | None, on_error: str, plugins: Plugins | None, begin: Begin
) -> dict[str, Tensor | Exception]:
    """Values ``(N,)`` by id.  Metrics of a family follow each other, so that what they share is at hand."""
    import torch

    texts = ranking_set() if metrics is None else as_list(metrics)
    out: dict[str, Tensor | Exception] = {}
    asked: dict[str, tuple[MetricId, Metric]] = {}
    columns: dict[str, list[Tensor]] = {}

    @contextmanager
    def caught(text: str) -> Iterator[None]:
        begin(text)
        try:
            yield
        # A metric plugin is foreign code; with "keep" whatever it raises is that metric's result.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if on_error == "raise" or is_ctrl_c(error):
                raise
            raised = MetricFault(f"{text} raised {type(error).__name__}")
            out[text] = error if isinstance(error, Exception) else raised

    for text in texts:
        with caught(text):
            asked[text] = _find(text, plugins)
    for text, (key, metric) in sorted(asked.items(), key=lambda item: item[1][1].info.family):
        if metric.by_slices(triple):
            columns[text] = []
            continue
        with caught(text):
            out[text] = _numbers(metric.on(triple, key.part, key.variant))
        triple.trim()
    for slices in triple.slices() if columns else ():
        for text in columns.keys() - out.keys():
            key, metric = asked[text]
            with caught(text):
                columns[text].append(metric.values(slices, key.part, key.variant))
    for text in columns.keys() - out.keys():
        with caught(text):
            out[text] = _numbers(torch.cat(columns[text]).mean(0, keepdim=True))
    return {text: out[text] for text in texts}


def _numbers(values: Tensor) -> Tensor:
    """The same values in a tensor of our own: a plugin's may be of a kind that raises when it is read."""
    import torch

    return torch.tensor(values.tolist(), dtype=torch.float64)


def _find(text: str, plugins: Plugins | None) -> tuple[MetricId, Metric]:
    if plugins is None:
        return _known(text)
    key = MetricId.parse(text)
    found = plugins.metrics.load(key.name)
    return key.check(found.info), found


@lru_cache(maxsize=256)
def _known(key: str) -> tuple[MetricId, Metric]:
    """The parsed id and its metric, from the default registry."""
    parsed = MetricId.parse(key)
    found = metric_registry().load(parsed.name)
    return parsed.check(found.info), found
