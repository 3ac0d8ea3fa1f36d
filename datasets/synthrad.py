"""SynthRAD2023, task 1, brain: MR and CT of one head, rigidly registered, with the outline of the patient."""

from __future__ import annotations

import os
import re

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError

from .preprocessing.base import LeftOut, PairDataset
from .preprocessing.named import case_folders
from .preprocessing.pipeline import PairSource

# Task, region (B brain, P pelvis), centre, number.
_CASE = re.compile(r"^[12]([BP])([A-Z])\d{3}$")
_NAMES = {"mr": ("mr",), "ct": ("ct",), "mask": ("mask",)}


class SynthRad(PairDataset):
    """MR and CT of SynthRAD2023.

    Parameters
    ----------
    data_dir : path
        What the archive ``Task1.zip`` unpacks to, or a folder of its cases.
    window : str
        ``low,high`` in Hounsfield units: CT beyond is clipped.  The default is a bone window, in which brain
        is a quarter of the way from black to white.
    """

    info = DatasetInfo(
        name="synthrad",
        summary="SynthRAD2023 task 1, brain: MR and CT of radiotherapy patients, registered",
        licence="CC BY-NC 4.0: with attribution, for non-commercial use",
        obtain="zenodo.org, doi:10.5281/zenodo.7260705 (Task1.zip); unpack it",
        citation="Thummerer et al., Medical Physics 50:4664 (2023), doi:10.1002/mp.16529",
        images_may_be_shared=False,
        modalities="MR-CT",
        roles=("MR", "CT"),
        needs_dir=True,
        splits=("train", "val", "test"),
        notes="CT shows bone and air, MR soft tissue; both are anatomy: findings of both are focal",
    )
    default_split = "all-test"
    expected = "folders such as 1BA001 with mr.nii.gz, ct.nii.gz and mask.nii.gz"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        window: str | tuple[float, float] = "-500,1500",
        recipe: str | None = None,
        register: str = "auto",
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
    ) -> None:
        super().__init__(
            data_dir=data_dir, recipe=recipe, register=register, mask=mask, size=size, split=split
        )
        try:
            low, high = (float(x) for x in (window.split(",") if isinstance(window, str) else window))
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not low < high:
            raise InputError(
                f"synthrad: window={window!r} is not low,high in Hounsfield units, such as -500,1500"
            )
        self.window = low, high

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        pairs, left_out = [], []
        for folder, files in case_folders(self.root, _NAMES):
            match = _CASE.match(folder.name)
            absent = [role for role in ("mr", "ct") if role not in files]
            reason = "its folder is not named as a case (1BA001)" if match is None else ""
            if match and match.group(1) != "B":
                reason = "no brain"
            elif match and absent:
                reason = f"no {' and no '.join(absent)} beside it"
            if reason or match is None:
                left_out.append(LeftOut(folder.name, str(next(iter(files.values()))), reason))
                continue
            meta = {"modality": "MR-CT", "a": "MR", "b": "CT", "centre": match.group(2)}
            pairs.append(
                PairSource(
                    folder.name,
                    folder.name,
                    files["mr"],
                    files["ct"],
                    mask=files.get("mask"),
                    aligned=True,
                    functional=False,
                    window=self.window,
                    meta=meta,
                )
            )
        return pairs, left_out
