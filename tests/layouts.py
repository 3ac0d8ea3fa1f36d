"""Small made-up copies of the folder layouts that the datasets read."""

from pathlib import Path

import numpy as np

from fusebench.testing.images import head

from . import open_trees
from .saving import save_picture, save_volume


def volume(path: Path, data):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-2.0 * n for n in data.shape[::-1]]
    save_volume(path, (1000 * data).astype(np.int16), affine)


def phantom(folder: Path):
    return {"size": 24, "subjects": 1}


def pairs(folder: Path):
    for number in range(3):
        a, b, _ = head((32, 28), seed=number)
        save_picture(folder / "mri" / f"p{number}.png", a)
        save_picture(folder / "pet" / f"p{number}.png", b)
    return {"data_dir": folder}


def aanlib(folder: Path):
    for number in (25015, 41010):
        a, b, _ = head((32, 32), seed=number)
        save_picture(folder / "PET-MRI" / "MRI" / f"{number}.png", a)
        save_picture(folder / "PET-MRI" / "PET" / f"{number}.png", b)
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


def openneuro(folder: Path):
    listing = open_trees.ds004513(folder, sessions=2)
    return {"data_dir": folder / "ds004513", "listing": listing, "size": 32, "register": "auto"}


LAYOUTS = {f.__name__: f for f in (phantom, pairs, aanlib, bids, adni, openneuro)}
