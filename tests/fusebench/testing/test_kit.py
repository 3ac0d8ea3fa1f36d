"""The conformance kit: a sound plugin passes; each planted fault is found by the one check meant for it."""

import functools
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo
from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo, SliceMethod
from fusebench.metric import Metric, MetricInfo
from fusebench.testing import (
    METHOD_CHECKS,
    CheckFailed,
    check_dataset,
    check_method,
    check_metric,
    degradation_trends,
    parametrize_with_checks,
)
from fusebench.testing.images import head


def failed(outcomes):
    return {o.check: o.message for o in outcomes if not o.ok}


# -- sound plugins -------------------------------------------------------------------------------


class Mean(Method):
    info = MethodInfo(name="mean", summary="mean of both")

    def fuse(self, a, b):
        return (a + b) / 2


class SliceMean(SliceMethod):
    info = MethodInfo(name="slice-mean", summary="mean of both, slice by slice", dims=2)

    def fuse_slices(self, a, b):
        return (a + b) / 2


class NoisyMean(Mean):
    """Random, but from the generator that the engine seeds."""

    info = MethodInfo(name="noisy", summary="mean and noise")

    def fuse(self, a, b):
        return ((a + b) / 2 + 0.01 * torch.randn(a.shape)).clamp(0, 1)


class Choosy(Mean):
    """Refusing small images with one clear line is allowed."""

    info = MethodInfo(name="choosy", summary="mean of large images")

    def fuse(self, a, b):
        if min(a.shape) < 8:
            raise InputError(f"choosy needs 8 voxels per axis, got {tuple(a.shape)}")
        return (a + b) / 2


# -- planted faults: methods ---------------------------------------------------------------------


class WritesToInput(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        a += b
        return a / 2


class Unseeded(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        noise = np.random.default_rng().normal(scale=0.01, size=a.shape).astype(np.float32)
        return ((a + b) / 2 + torch.from_numpy(noise)).clamp(0, 1)


class CropsOddSizes(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        d, h, w = (n if n < 4 else n // 2 * 2 for n in a.shape)
        return ((a + b) / 2)[:d, :h, :w]


class CrashesOnOneVoxel(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        nn.functional.pad(a[None], (2, 2, 2, 2), mode="reflect")
        return (a + b) / 2


class BatchOfOne(SliceMethod):
    info = MethodInfo(name="f", summary="s", dims=2)

    def fuse_slices(self, a, b):
        return ((a.reshape(a.shape[2:]) + b.reshape(b.shape[2:])) / 2)[None, None]


class BatchStatistics(SliceMethod):
    info = MethodInfo(name="f", summary="s", dims=2)

    def fuse_slices(self, a, b):
        return ((a + b) / 2 / (1e-6 + (a + b).amax() / 2)).clamp(0, 1) * 0.98


class Overshoots(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        return 1.2 * torch.maximum(a, b) - 0.1 * (a + b)


class DividesByRange(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        wa, wb = ((x - x.amin()) / (x.amax() - x.amin()) * 0 + 0.5 for x in (a, b))
        return wa * a + wb * b


class RemembersLast(Mean):
    info = MethodInfo(name="f", summary="s")
    last = None

    def fuse(self, a, b):
        fused = (a + b) / 2
        before = fused if self.last is None or self.last.shape != fused.shape else self.last
        self.last = fused
        return 0.9 * fused + 0.1 * before


class Doubles(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        return ((a + b) / 2).double()


class ChangesDefaults(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        torch.set_default_dtype(torch.float64)
        return (a + b) / 2


class NotAWeightedMean(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        return (a + b).clamp(0, 1)


class Views(Mean):
    info = MethodInfo(name="f", summary="s")

    def fuse(self, a, b):
        return ((a.view(-1) + b.view(-1)) / 2).view(a.shape)


class WrongParams(Mean):
    info = MethodInfo(name="f", summary="s", params=12)

    def setup(self, device="cpu"):
        super().setup(device)
        self.network = nn.Conv3d(1, 1, 1, bias=False)


class ForgetsParameter(Mean):
    info = MethodInfo(name="f", summary="s")

    def __init__(self, sigma=1.0):
        self._s = sigma


class NoLicence(Mean):
    info = MethodInfo(name="f", summary="s", licence="")


class SaysThreeD(SliceMean):
    info = MethodInfo(name="f", summary="s", dims=3)


def _local():
    class Local(Mean):
        info = MethodInfo(name="f", summary="s")

    return Local


METHOD_FAULTS = [
    (WritesToInput, "inputs_unchanged", "work on a copy"),
    (Unseeded, "deterministic", "the engine seeds"),
    (CropsOddSizes, "shape_odd", "crop the result back"),
    (CrashesOnOneVoxel, "shape_small", "refuse them with"),
    (BatchOfOne, "batch_equals_single", r"fuse_slices gets \(N, 1, H, W\)"),
    (BatchStatistics, "batch_equals_single", "statistics per slice"),
    (Overshoots, "range_kept", "clamp"),
    (DividesByRange, "constant_inputs", "guard divisions"),
    (RemembersLast, "stateless", "keep nothing on self"),
    (Doubles, "fuses", "return float32"),
    (ChangesDefaults, "fuses", "put it back"),
    (NotAWeightedMean, "identical_inputs", "sum to 1"),
    (Views, "strided_inputs", "use reshape"),
    (WrongParams, "params_counted", "write that number"),
    (ForgetsParameter, "parameters_kept", "set self.sigma = sigma"),
    (NoLicence, "info_declared", "info.licence"),
    (SaysThreeD, "info_declared", "make them agree"),
    (_local(), "spawn_safe", "top level"),
]


@pytest.mark.parametrize("method", [Mean, SliceMean, NoisyMean, Choosy])
def test_sound_methods_pass(method):
    outcomes = check_method(method)
    assert [o.check for o in outcomes] == [c.name for c in METHOD_CHECKS]
    assert {o.status for o in outcomes} <= {"pass", "skip"}


@pytest.mark.parametrize(
    ("method", "check", "advice"), METHOD_FAULTS, ids=lambda x: getattr(x, "__name__", None)
)
def test_each_method_fault_is_found_by_one_check(method, check, advice):
    found = failed(check_method(method, on_fail="keep"))
    assert list(found) == [check]
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(found[check])


# -- weights -------------------------------------------------------------------------------------


class Learned(Mean):
    info = MethodInfo(name="learned", summary="s", params=1)

    def __init__(self, weights=None):
        self.weights = weights

    def setup(self, device="cpu"):
        super().setup(device)
        self.network = nn.Conv3d(1, 1, 1, bias=False)
        state = torch.load(self.weights, weights_only=not self.weights.endswith(".pkl"))
        self.network.load_state_dict(state)


class Unpickles(Learned):
    def setup(self, device="cpu"):
        Method.setup(self, device)
        with open(self.weights, "rb") as handle:
            self.network = pickle.load(handle)


class Downloads(Learned):
    def setup(self, device="cpu"):
        import urllib.request

        Method.setup(self, device)
        self.network = nn.Conv3d(1, 1, 1, bias=False)
        urllib.request.urlopen("http://127.0.0.1:9/weights")


def test_weights_may_be_a_torch_file_read_safely(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(nn.Conv3d(1, 1, 1, bias=False).state_dict(), path)
    assert not failed(check_method(Learned(str(path)), on_fail="keep"))


def test_unsafe_torch_load_is_found(tmp_path):
    path = tmp_path / "w.pkl"
    torch.save(nn.Conv3d(1, 1, 1, bias=False).state_dict(), path)
    found = failed(check_method(Learned(str(path)), on_fail="keep"))
    assert list(found) == ["weights_safe"]
    assert "weights_only" in found["weights_safe"]


def test_pickle_and_network_are_found(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(pickle.dumps(nn.Conv3d(1, 1, 1, bias=False)))
    for cls, advice in ((Unpickles, "safetensors"), (Downloads, "ship the weights")):
        found = failed(check_method(cls(str(path)), on_fail="keep"))
        assert list(found) == ["weights_safe"]
        assert advice in found["weights_safe"]


PLUGIN = """
import torch
from pathlib import Path
from safetensors.torch import load_file
from fusebench.method import Method, MethodInfo, Weights

class Shipped(Method):
    info = MethodInfo(name="shipped", summary="s", params=1, trained_on="phantom train",
                      weights=Weights(file="w.safetensors", sha256="{sha}"))

    def setup(self, device="cpu"):
        super().setup(device)
        self.network = torch.nn.Conv3d(1, 1, 1, bias=False)
        self.network.load_state_dict(load_file(Path(__file__).with_name("w.safetensors")))

    def fuse(self, a, b):
        return (a + b) / 2
"""


def test_declared_sha256_is_compared(tmp_path):
    from fusebench.files import file_sha256
    from fusebench.plugins import find_plugins

    save_file(nn.Conv3d(1, 1, 1, bias=False).state_dict(), tmp_path / "w.safetensors")
    for name, sha in (("bad.py", "0" * 64), ("good.py", file_sha256(tmp_path / "w.safetensors"))):
        (tmp_path / name).write_text(PLUGIN.format(sha=sha))
        method = find_plugins((str(tmp_path / name),)).methods.load("shipped")
        found = failed(check_method(method, on_fail="keep"))
        assert ("sha256" in found.get("weights_safe", "")) == (name == "bad.py")
        assert len(found) == (name == "bad.py")


# -- expected failures, pytest -------------------------------------------------------------------


def test_expected_failures_need_reasons_that_hold():
    outcomes = check_method(WritesToInput, expected_failed_checks={"inputs_unchanged": "known, #12"})
    (expected,) = [o for o in outcomes if o.status == "xfail"]
    assert expected.check == "inputs_unchanged"
    assert "known, #12" in expected.message
    stale = check_method(Mean, expected_failed_checks={"shape_odd": "old"}, on_fail="keep")
    assert "take it off" in failed(stale)["shape_odd"]
    with pytest.raises(CheckFailed, match="no method check"):
        check_method(Mean, expected_failed_checks={"no_such_check": "?"})


def test_expected_failures_may_be_an_attribute():
    class Declared(WritesToInput):
        expected_failed_checks = {"inputs_unchanged": "in place to save memory", "spawn_safe": "local class"}

    assert not failed(check_method(Declared, on_fail="keep"))


def test_raising_lists_every_failure_on_a_line():
    with pytest.raises(
        CheckFailed, match="method f fails 1 checks:\n  inputs_unchanged: changes its input a"
    ):
        check_method(WritesToInput)


@parametrize_with_checks([Mean, WritesToInput], {"f": {"inputs_unchanged": "planted"}})
def test_parametrized(plugin, check):
    check(plugin)


def test_parametrize_ids():
    mark = parametrize_with_checks([Mean])
    assert [p.id for p in mark.mark.args[1]][:2] == ["mean-info_declared", "mean-parameters_kept"]


def test_a_plugin_that_cannot_be_loaded_fails_with_the_reason(tmp_path):
    with pytest.raises(CheckFailed, match="no method is called 'no-such-method'"):
        check_method("no-such-method")


# -- metrics -------------------------------------------------------------------------------------

FACTS = {
    "name": "m",
    "title": "Mean squared error",
    "family": "fidelity",
    "direction": "lower",
    "low": 0.0,
    "high": 255.0**2,
    "paper": "none",
}


def mse(t, part, variant):
    pairs = ((t.points(s), t.points("fused")) for s in ("a", "b"))
    return sum(t.mean((x - y).square()) for x, y in pairs) / 2


def ignores_mask(t, part, variant):
    pairs = ((getattr(t, s), t.fused) for s in ("a", "b"))
    return sum((x - y).square().flatten(1).double().mean(1) for x, y in pairs) / 2


def undefined_if_constant(t, part, variant):
    spread = t.points("fused").double().std(1)
    return mse(t, part, variant) * (spread / spread)


def batch_mean(t, part, variant):
    return mse(t, part, variant).mean().expand(len(t))


def one_sided(t, part, variant):
    return t.mean((t.points("a") - t.points("fused")).square()).double()


def unseeded(t, part, variant):
    value = mse(t, part, variant)
    return value + 1e-3 * torch.rand(1, dtype=value.dtype)


def fails_on_volumes(t, part, variant):
    return mse(t, part, variant) - (1e9 if t.dims == 3 else 0)


METRIC_FAULTS = [
    (mse, {"direction": "higher"}, {"direction_true", "identity_best"}, "turn the direction round"),
    (mse, {"high": 10.0}, {"range_true", "volumes"}, "info.high"),
    (one_sided, {}, {"symmetry_true"}, "declare symmetric=False"),
    (ignores_mask, {}, {"masked_is_cropped"}, "know the mask"),
    (undefined_if_constant, {}, {"no_nan"}, "guard 0 / 0"),
    (batch_mean, {}, {"batch_equals_single"}, "never over axis 0"),
    (unseeded, {}, {"inputs_unchanged"}, "seed what is random"),
    (fails_on_volumes, {}, {"volumes"}, "on a volume"),
    (mse, {"paper": ""}, {"info_declared"}, "cite the definition"),
    (mse, {"parts": ("z",)}, set(), ""),
]


def test_a_sound_metric_passes():
    outcomes = check_metric(Metric(MetricInfo(**FACTS), mse))
    assert {o.status for o in outcomes} == {"pass"}


@pytest.mark.parametrize(("core", "changes", "checks", "advice"), METRIC_FAULTS)
def test_metric_faults(core, changes, checks, advice):
    found = failed(check_metric(Metric(MetricInfo(**{**FACTS, **changes}), core), on_fail="keep"))
    assert set(found) == checks
    assert advice in "".join(found.values())


def test_trends_show_what_a_metric_rewards():
    trends = degradation_trends(Metric(MetricInfo(**FACTS), mse))
    assert set(trends) == {"noise", "blur", "contrast loss", "shift"}
    assert all(values == tuple(sorted(values)) for values in trends.values())
    assert all(math.isfinite(v) for values in trends.values() for v in values)


# -- datasets ------------------------------------------------------------------------------------


def load(seed, shape=(6, 12, 10), affine=None, gain=1.0, dtype=np.float32):
    a, b, mask = head(shape, seed=seed)
    grid = np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine
    return Pair(Volume((a * gain).astype(dtype), grid), Volume(b, grid), mask)


class Tiny(Dataset):
    info = DatasetInfo(
        name="tiny", summary="two heads", licence="MIT", obtain="made", splits=("train", "test")
    )

    def options(self, split, number):
        return {}

    def case(self, split, number):
        seed = 10 * (split == "test") + number
        return Case(
            id=f"{split}{number}",
            dataset="tiny",
            group=f"s{seed}",
            fingerprint=f"tiny-{seed}",
            loader=functools.partial(load, seed, **self.options(split, number)),
        )

    def cases(self, split="test"):
        if split not in self.info.splits:
            raise InputError(f"tiny has no split {split!r}")
        return [self.case(split, n) for n in range(2)]


class LeaksSubject(Tiny):
    def case(self, split, number):
        case = super().case(split, number)
        return Case(case.id, "tiny", f"s{number}", case.fingerprint, case.loader)


class Eager(Tiny):
    def case(self, split, number):
        case = super().case(split, number)
        _ = case.pair
        return case


class HoldsImages(Tiny):
    def case(self, split, number):
        case = super().case(split, number)
        return Case(
            case.id,
            "tiny",
            case.group,
            case.fingerprint,
            functools.partial(big, load(number), np.zeros(9999)),
        )


def big(pair, weight):
    return pair


class Lambda(Tiny):
    def case(self, split, number):
        case = super().case(split, number)
        return Case(case.id, "tiny", case.group, case.fingerprint, lambda: load(3))


class Shuffled(Tiny):
    calls = 0

    def cases(self, split="test"):
        Shuffled.calls += 1
        return super().cases(split)[:: (-1) ** Shuffled.calls]


class OneFingerprint(Tiny):
    def case(self, split, number):
        case = super().case(split, number)
        return Case(case.id, "tiny", case.group, "same", case.loader)


class LeftToRight(Tiny):
    def options(self, split, number):
        return {"affine": np.diag([-1.0, 1.0, 1.0, 1.0])}


class TooBright(Tiny):
    def options(self, split, number):
        return {"gain": 255.0}


class TakesAnySplit(Tiny):
    def cases(self, split="test"):
        return [self.case(split, n) for n in range(2)]


class DoubleIds(Tiny):
    def case(self, split, number):
        return super().case(split, 0)


DATASET_FAULTS = [
    (LeaksSubject, "splits_disjoint", "split by subject"),
    (Eager, "lazy", "leave that to its loader"),
    (HoldsImages, "lazy", "paths and parameters"),
    (Lambda, "picklable", "top level"),
    (Shuffled, "order_stable", "sort them"),
    (OneFingerprint, "fingerprints_differ", "hash what makes each"),
    (LeftToRight, "geometry_sane", r"reorient to RAS\+"),
    (TooBright, "intensities_sane", "normalise it"),
    (TakesAnySplit, "unknown_split_refused", "InputError"),
    (DoubleIds, "cases_listed", "ids are unique"),
]


def test_a_sound_dataset_passes():
    outcomes = check_dataset(Tiny())
    assert {o.check: o.status for o in outcomes if o.status != "pass"} == {"truth_sane": "skip"}


@pytest.mark.parametrize(
    ("dataset", "check", "advice"), DATASET_FAULTS, ids=lambda x: getattr(x, "__name__", None)
)
def test_each_dataset_fault_is_found_by_one_check(dataset, check, advice):
    found = failed(check_dataset(dataset(), on_fail="keep"))
    assert list(found) == [check]
    with pytest.raises(AssertionError, match=advice):
        raise AssertionError(found[check])
