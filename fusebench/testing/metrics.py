"""Checks of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from ..errors import InputError, Undefined
from ..metric import Metric, MetricId
from ..text import describe
from ..triple import Triple
from ._kit import Check, CheckFailed, ExpectedFailures, NotApplicable, Outcome, check, check_plugin
from .degradations import DEGRADATIONS, degradation_trends, degraded
from .images import Image, Mask, head
from .metric_subject import SIZE, MetricSubject

FAMILIES = ("fidelity", "structure", "information", "gradient", "perception", "task", "consistency")
VOLUME = (12, 36, 32)
EDGE = 20  # no local filter of a 2D metric at its finest scale reaches this far


# -- facts ---------------------------------------------------------------------------------------


@check()
def info_declared(s: MetricSubject) -> None:
    """`info` is complete: title, family, direction, range, paper."""
    if not isinstance(s.plugin, Metric):
        raise CheckFailed(
            f"is a {type(s.plugin).__name__}; decorate its function with @metric(MetricInfo(...))"
        )
    info = s.info
    if MetricId._PATTERN.fullmatch(info.name) is None or "-" in info.name:
        raise CheckFailed(f"info.name is {info.name!r}; use letters, digits and _")
    if not info.title.strip():
        raise CheckFailed("info.title is empty; give the full name")
    if info.family not in FAMILIES:
        raise CheckFailed(f"info.family is {info.family!r}; choose one of {', '.join(FAMILIES)}")
    if info.direction not in ("higher", "lower", "zero", "none"):
        raise CheckFailed(f"info.direction is {info.direction!r}; higher, lower, zero or none")
    if not info.low < info.high:
        raise CheckFailed(f"info.low {info.low:g} is not below info.high {info.high:g}")
    if info.ranked and info.direction == "none":
        raise CheckFailed("ranked=True needs a direction")
    if not info.dims or set(info.dims) - {2, 3}:
        raise CheckFailed(f"info.dims is {info.dims!r}; (2,), (3,) or (2, 3)")
    if not info.paper.strip():
        raise CheckFailed("info.paper is empty; cite the definition")


@check("info_declared")
def computes(s: MetricSubject) -> None:
    """Default, parts and variants give one finite number on a plain pair."""
    a, b, mask, _ = s.images
    for part in ("", *s.info.parts):
        for variant in ("", *s.info.variants):
            label = str(MetricId(s.info.name, part, variant))
            try:
                value = s.value(a, b, s.fused, mask=None if variant else mask, part=part, variant=variant)
            except InputError:
                if part and variant:  # not every variant is defined for one source
                    continue
                raise
            if not math.isfinite(value):
                raise CheckFailed(f"{label} is {value} on a plain pair; it must be a finite number there")


# -- values --------------------------------------------------------------------------------------


@check("inputs_unchanged")
def direction_true(s: MetricSubject) -> None:
    """Of noise, blur, contrast loss and shift, more make the value worse than better."""
    if s.info.direction == "none":
        raise NotApplicable("a descriptive metric has no direction")
    verdicts = {}
    for name, values in degradation_trends(s, (1.0,)).items():
        first, last = s.goodness(values[0]), s.goodness(values[-1])
        verdicts[name] = "same" if s.same(first, last, 1e-3) else "worse" if last < first else "better"
    better, worse = (list(verdicts.values()).count(v) for v in ("better", "worse"))
    if better > worse:
        found = ", ".join(f"{name}: {verdict}" for name, verdict in verdicts.items())
        raise CheckFailed(
            f"direction={s.info.direction!r} calls degraded images better ({found}); turn the direction "
            "round, or use 'none' for a metric that only describes"
        )


@check("inputs_unchanged")
def identity_best(s: MetricSubject) -> None:
    """With a = b the same image scores better than an unrelated one."""
    if s.info.direction == "none" or not s.info.of_images:
        raise NotApplicable("no direction, or measured against ground truth")
    a, b, mask, _ = s.images
    other = head(s.size, seed=3)[0]
    if s.same(s.value(a, a, other, mask=mask), s.value(b, b, other, mask=mask)):
        raise NotApplicable("a no-reference metric: it looks at the fused image only")
    best, unrelated = s.value(a, a, a, mask=mask), s.value(a, a, other, mask=mask)
    if math.isnan(best) or s.goodness(best) <= s.goodness(unrelated):
        raise CheckFailed(
            f"is {best:.6g} for F = A = B but {unrelated:.6g} for an unrelated image; check the formula and "
            "the direction"
        )


@check("inputs_unchanged")
def range_true(s: MetricSubject) -> None:
    """Values lie in the declared range, whatever the fused image."""
    slack = 1e-6 * max([1.0, *(abs(x) for x in (s.info.low, s.info.high) if math.isfinite(x))])
    candidates: dict[str, Callable[[Image, Image, Image], Image]] = {
        "a fair fusion": lambda a, b, f: f,
        "a": lambda a, b, f: a,
        "b": lambda a, b, f: b,
        "the negative": lambda a, b, f: np.asarray(1 - f, np.float32),
        "noise": lambda a, b, f: np.random.default_rng(4).random(f.shape, np.float32),
        **{n: partial(degraded, d, 1.0) for n, d in DEGRADATIONS.items()},
    }
    for name, change in candidates.items():
        value = s.judged(change)
        if not s.info.low - slack <= value <= s.info.high + slack:
            raise CheckFailed(
                f"is {value:.6g} for F = {name}, outside the declared [{s.info.low:g}, {s.info.high:g}]; "
                "correct info.low and info.high, or the formula"
            )


@check("inputs_unchanged")
def symmetry_true(s: MetricSubject) -> None:
    """Where `symmetric` says so, swapping the sources changes nothing."""
    if not s.info.of_images or not s.info.symmetric:
        raise NotApplicable("measured against ground truth, or not declared symmetric")
    a, b, mask, _ = s.images
    fused = (0.7 * a + 0.3 * b).astype(np.float32)
    one, two = s.value(a, b, fused, mask=mask), s.value(b, a, fused, mask=mask)
    if not s.same(one, two, 1e-5):
        raise CheckFailed(
            f"is {one:.8g}, and {two:.8g} with the sources swapped; declare symmetric=False or mend it"
        )


@check("inputs_unchanged")
def scale_rule(s: MetricSubject) -> None:
    """uint8 images and the same images as floats in [0, 1] give one number."""
    if not s.info.of_images:
        raise NotApplicable("ground truth is floating point")
    a, b, mask, _ = s.images
    eight = [np.rint(x * 255).astype(np.uint8) for x in (a, b, s.fused)]
    floats = [x.astype(np.float32) / np.float32(255) for x in eight]
    one, two = s.value(*eight, mask=mask), s.value(*floats, mask=mask)
    if not s.same(one, two):
        raise CheckFailed(
            f"is {one:.8g} on uint8 and {two:.8g} on floats; compute on the triple, scaled to 0..255"
        )


@check("inputs_unchanged")
def masked_is_cropped(s: MetricSubject) -> None:
    """Points outside the mask do not count: exactly for pixel-wise metrics, far away for all."""
    if not s.info.of_images:
        raise NotApplicable("the region comes from the ground truth")
    a, b, _, _ = s.images
    full = np.ones(s.size, bool)
    whole = s.value(a, b, s.fused)
    if not s.same(whole, s.value(a, b, s.fused, mask=full)):
        raise CheckFailed("a mask of everything differs from no mask; average over the mask, nothing else")
    box = np.zeros(s.size, bool)
    box[..., : SIZE[0] - EDGE - 12, : SIZE[1] - EDGE - 12] = True
    spoiled = s.fused.copy()
    spoiled[..., -12:, :] = 1 - spoiled[..., -12:, :]
    spoiled[..., -12:] = 1 - spoiled[..., -12:]
    unmasked = abs(s.value(a, b, spoiled) - whole)
    masked = abs(s.value(a, b, spoiled, mask=box) - s.value(a, b, s.fused, mask=box))
    if unmasked and masked > 0.25 * unmasked:
        raise CheckFailed(
            f"a change outside the mask moves it by {masked:.3g} ({unmasked:.3g} without a mask); average "
            "with triple.mean, map_mean or points, which know the mask"
        )
    order = np.random.default_rng(5).permutation(a.size)
    mixed = [x.ravel()[order].reshape(s.size) for x in (a, b, s.fused)]
    if not s.same(s.value(*mixed), whole, 1e-9):
        return  # windows reach across the border of a mask
    height, width = SIZE[0] - EDGE - 12, SIZE[1] - EDGE - 12
    cropped = s.value(*(x[..., :height, :width].copy() for x in (a, b, s.fused)))
    if not s.same(s.value(a, b, s.fused, mask=box), cropped):
        raise CheckFailed(
            f"a pixel-wise metric, but masked ({s.value(a, b, s.fused, mask=box):.8g}) is not cropped "
            f"({cropped:.8g}); use triple.points for everything, peaks and histograms too"
        )


@check("inputs_unchanged")
def no_nan(s: MetricSubject) -> None:
    """Constant, identical and tiny images give a number, or are refused with InputError."""
    if not s.info.of_images:
        raise NotApplicable("measured against ground truth")
    a, b, _, _ = s.images
    zero, half = np.zeros(s.size, np.float32), np.full(s.size, 0.5, np.float32)
    spot = np.zeros(s.size, bool)
    spot[tuple(n // 2 for n in s.size)] = True
    tiny = head((5, 4))[:2]
    sets: Mapping[str, tuple[Sequence[Image], Mask | None]] = {
        "all images black": ((zero, zero, zero), None),
        "constant images": ((half, zero, half), None),
        "a black source": ((a, zero, a), None),
        "a constant fused image": ((a, b, half), None),
        "F = A = B": ((a, a, a), None),
        "a mask of one pixel": ((a, b, s.fused), spot),
        "images of 5 x 4 pixels": ((*tiny, tiny[0]), None),
    }
    for what, (images, mask) in sets.items():
        try:
            value = s.value(*images, mask=mask)
        except (InputError, Undefined):
            continue
        except Exception as error:
            raise CheckFailed(
                f"fails for {what} ({describe(error)}); give the limit, or raise InputError"
            ) from error
        if math.isnan(value):
            raise CheckFailed(f"is NaN for {what}; guard 0 / 0 and give the case a documented value")


@check("inputs_unchanged")
def bad_input_refused(s: MetricSubject) -> None:
    """NaN and images of different shapes raise InputError."""
    a, b, _, _ = s.images
    holed = s.fused.copy()
    holed[(3,) * holed.ndim] = np.nan
    for what, images in (("NaN", (a, b, holed)), ("another shape", (a, b, s.fused[..., :-1]))):
        try:
            value = s.value(*images)
        except InputError:
            continue
        raise CheckFailed(f"gives {value} where the fused image has {what}; let Triple.make check the inputs")


@check("computes")
def inputs_unchanged(s: MetricSubject) -> None:
    """The images are not written to, and the value is the same again."""
    a, b, mask, _ = s.images
    copies = [x.copy() for x in (a, b, s.fused)]
    one = s.value(*copies, mask=mask)
    for before, after, name in zip((a, b, s.fused), copies, ("a", "b", "fused"), strict=True):
        if not np.array_equal(before, after):
            raise CheckFailed(f"changes its input {name}; work on a copy")
    if (two := s.value(a, b, s.fused, mask=mask)) != one:
        raise CheckFailed(f"is {one:.10g}, then {two:.10g} for the same images; seed what is random inside")


@check("inputs_unchanged")
def batch_equals_single(s: MetricSubject) -> None:
    """A batch of slices gives what the slices give one by one."""
    if not s.info.of_images:
        raise NotApplicable("never scored in batches")
    if 2 not in s.info.dims:
        raise NotApplicable("defined in volumes, never scored in batches of slices")
    pairs = [head(SIZE, seed=k) for k in range(3)]
    a, b, mask = (np.stack(x) for x in zip(*pairs, strict=True))
    fused = (a + b) / 2
    together = s.plugin.on(Triple.make(a, b, fused, mask=mask, batch=True))
    single = [s.value(*images, mask=m) for *images, m in zip(a, b, fused, mask, strict=True)]
    if not np.allclose(together, single, rtol=1e-9, atol=1e-12):
        raise CheckFailed(
            f"a batch gives {together.tolist()}, single slices {single}; reduce per image, never over axis 0"
        )


@check("inputs_unchanged")
def volumes(s: MetricSubject) -> None:
    """Volumes give a number in range; one slice as a volume equals the slice."""
    if not s.info.of_images:
        raise NotApplicable("the phantom is a volume")
    a, b, mask = head(VOLUME)
    value = s.value(a, b, (a + b) / 2, mask=mask, spacing=(2.0, 1.0, 1.0))
    if not s.info.low - 1e-6 <= value <= s.info.high + 1e-6:
        raise CheckFailed(f"is {value} on a volume, outside [{s.info.low:g}, {s.info.high:g}]")
    if 2 not in s.info.dims:
        return
    a, b, mask, _ = s.images
    flat, thick = s.value(a, b, s.fused, mask=mask), s.value(a[None], b[None], s.fused[None], mask=mask[None])
    if not s.same(flat, thick):
        raise CheckFailed(f"(1, H, W) gives {thick:.8g}, (H, W) gives {flat:.8g}; they are the same image")


METRIC_CHECKS: tuple[Check, ...] = (
    info_declared,
    computes,
    inputs_unchanged,
    direction_true,
    identity_best,
    range_true,
    symmetry_true,
    scale_rule,
    masked_is_cropped,
    no_nan,
    bad_input_refused,
    batch_equals_single,
    volumes,
)
MetricSubject.checks = METRIC_CHECKS


def check_metric(
    metric: Any,
    *,
    expected_failed_checks: ExpectedFailures | None = None,
    on_fail: Literal["raise", "keep"] = "raise",
) -> list[Outcome]:
    """Run every metric check on a metric or its registered name; see `check_method`."""
    return check_plugin(MetricSubject(metric, expected_failed_checks), on_fail)
