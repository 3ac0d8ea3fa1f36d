"""Every built-in method, metric and dataset keeps its contract."""

import functools
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from fusebench.plugins import find_plugins
from fusebench.testing import (
    DATASET_CHECKS,
    METHOD_CHECKS,
    DatasetSubject,
    MethodSubject,
    parametrize_with_checks,
)
from fusebench.testing.images import head

WHOLE_IMAGE = "the feature is a transform of the whole image, which sees what lies outside the mask"
EXPECTED = {
    "fmi_dct": {"masked_is_cropped": WHOLE_IMAGE},
    "fmi_wavelet": {"masked_is_cropped": WHOLE_IMAGE},
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


def volume(path: Path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-2.0 * n for n in data.shape[::-1]]
    nib.save(nib.Nifti1Image((1000 * data).astype(np.int16).transpose(2, 1, 0), affine), path)


def picture(path: Path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * data).astype(np.uint8)).save(path)


def phantom(folder: Path):
    return {"size": 24, "subjects": 1}


def pairs(folder: Path):
    for number in range(3):
        a, b, _ = head((32, 28), seed=number)
        picture(folder / "mri" / f"p{number}.png", a)
        picture(folder / "pet" / f"p{number}.png", b)
    return {"data_dir": folder}


def aanlib(folder: Path):
    for number in (25015, 41010):
        a, b, _ = head((32, 32), seed=number)
        picture(folder / "PET-MRI" / "MRI" / f"{number}.png", a)
        picture(folder / "PET-MRI" / "PET" / f"{number}.png", b)
    return {"data_dir": folder}


def bids(folder: Path):
    for number in (1, 2):
        a, b, _ = head((24, 30, 28), seed=number)
        volume(folder / f"sub-0{number}" / "anat" / f"sub-0{number}_T1w.nii.gz", a)
        volume(folder / f"sub-0{number}" / "pet" / f"sub-0{number}_pet.nii.gz", b)
    return {"data_dir": folder, "recipe": "none"}


def adni(folder: Path):
    for number, subject in enumerate(("016_S_4353", "023_S_0084")):
        a, b, _ = head((24, 30, 28), seed=number)
        for data, kind, what in (
            (a, "MR", "MT1;_GradWarp;_N3m"),
            (b, "PT", "Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution"),
        ):
            image = f"I{1000 * number + 100 + (kind == 'PT')}"
            name = f"ADNI_{subject}_{kind}_{what.replace(';', '_')}_Br_20120416133844478_S1_{image}.nii"
            volume(
                folder / "ADNI" / subject / what.replace(";", "_") / "2012-03-31_11_06_55.0" / image / name,
                data,
            )
    return {"data_dir": folder, "recipe": "none", "split": "all-test"}


LAYOUTS = {f.__name__: f for f in (phantom, pairs, aanlib, bids, adni)}


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
    assert name in LAYOUTS, "add a small made-up copy of its layout to LAYOUTS"
    (layouts / name).mkdir(exist_ok=True)
    check(dataset_subject(name, layouts / name))
