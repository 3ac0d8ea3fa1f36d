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


def phantom_hidden(folder: Path):
    return {"size": 24, "subjects": 1, "period": "example"}


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


def synthrad(folder: Path):
    for number, case in enumerate(("1BA001", "1BB002", "1PA001")):
        a, _, mask = head((36, 40, 38), seed=number)
        hounsfield = np.where(mask, 2000 * a - 700, -1000)
        for name, data in (("mr", 900 * a), ("ct", hounsfield), ("mask", mask)):
            _anatomy(folder / "Task1" / "brain" / case / f"{name}.nii.gz", data)
    _anatomy(folder / "Task1" / "brain" / "1BC003" / "mr.nii.gz", a)
    return {"data_dir": folder, "size": 32}


def brats(folder: Path):
    scans = (
        ("BraTS20_Training_001/BraTS20_Training_001_t1ce", "BraTS20_Training_001/BraTS20_Training_001_flair"),
        ("BraTS-GLI-00005-000/BraTS-GLI-00005-000-t1c", "BraTS-GLI-00005-000/BraTS-GLI-00005-000-t2f"),
        ("BraTS-GLI-00005-001/BraTS-GLI-00005-001-t1c", "BraTS-GLI-00005-001/BraTS-GLI-00005-001-t2f"),
        ("HGG/Brats17_TCIA_1/Brats17_TCIA_1_t1ce", "HGG/Brats17_TCIA_1/Brats17_TCIA_1_flair"),
    )
    for number, names in enumerate(scans):
        a, b, _ = head((36, 40, 38), seed=number)
        for name, data in zip(names, (a, b), strict=True):
            _anatomy(folder / f"{name}.nii.gz", 800 * data)
        _anatomy(folder / f"{names[0].rsplit('_', 1)[0]}_seg.nii.gz", a > 0.8)
    return {"data_dir": folder, "size": 32}


def _anatomy(path: Path, data):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    save_volume(path, np.asarray(data).astype(np.int16), affine)


_ALL = (phantom, phantom_hidden, pairs, aanlib, bids, adni, openneuro, synthrad, brats)
LAYOUTS = {f.__name__.replace("_", "-"): f for f in _ALL}
