"""Every built-in method, metric and dataset keeps its contract."""

import functools
from importlib import import_module

import pytest
from safetensors.torch import save_file

from fusebench.plugins import find_plugins
from fusebench.testing import (
    DATASET_CHECKS,
    METHOD_CHECKS,
    DatasetSubject,
    MethodSubject,
    parametrize_with_checks,
)

from .layouts import LAYOUTS

WHOLE_IMAGE = "the feature is a transform of the whole image, which sees what lies outside the mask"
EXPECTED = {
    "fmi_dct": {"masked_is_cropped": WHOLE_IMAGE},
    "fmi_wavelet": {"masked_is_cropped": WHOLE_IMAGE},
    "fmi_edge": {"masked_is_cropped": "the threshold of its edge detector comes from the whole image"},
    "q_cb": {"masked_is_cropped": "images are stretched and filtered as a whole, as published"},
    "q_p": {
        "masked_is_cropped": "phase congruency filters the whole image, and takes its noise level from it"
    },
    "q_sf": {"masked_is_cropped": "published as a sum over all pixels; inside a mask the mean is over pairs"},
    "ssim_plane": {"masked_is_cropped": "whole slices by definition; the mask chooses which"},
    "wm_edge": {"direction_true": "white-matter borders are not resolved on the small phantom of the kit"},
}


class Builtin(MethodSubject):
    """A built-in method; a network that ships no weights gets random ones, made when first needed."""

    folder = None
    random_weights = False

    def fresh(self, device=None):
        if self.cls.recipes and self.cls.info.weights is None and "weights" not in self.parameters:
            _, recipe, _ = import_module("fusebench.methods.training.recipe").find_recipe(self.cls)
            path = self.folder / f"{self.name}.safetensors"
            save_file(dict(recipe.export(recipe.model())), path)
            self.parameters, self.random_weights = {"weights": str(path)}, True
        return super().fresh(device)


@pytest.fixture(scope="session", autouse=True)
def _folders(tmp_path_factory):
    Builtin.folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSEBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@parametrize_with_checks([Builtin(name) for name in find_plugins().methods.names()])
def test_method(plugin, check):
    if check.name == "identical_inputs" and plugin.outcome(METHOD_CHECKS[2]) and plugin.random_weights:
        pytest.skip("random weights: the method ships none")
    check(plugin)


@parametrize_with_checks(find_plugins().metrics.names(), EXPECTED, kind="metric")
def test_metric(plugin, check):
    check(plugin)


# -- datasets: each on a small made-up copy of its layout ----------------------------------------


@functools.cache
def dataset_subject(name, folder):
    make = find_plugins().datasets.load(name)
    options = LAYOUTS[name](folder)
    return DatasetSubject(make(**options), again=make(**options))


@pytest.fixture(scope="session")
def layouts(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.mark.parametrize("check", DATASET_CHECKS, ids=str)
@pytest.mark.parametrize("name", find_plugins().datasets.names())
def test_dataset(name, check, layouts):
    assert name in LAYOUTS, "add a small made-up copy of its layout to layouts.py"
    (layouts / name).mkdir(exist_ok=True)
    check(dataset_subject(name, layouts / name))
