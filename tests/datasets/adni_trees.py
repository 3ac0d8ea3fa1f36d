"""Synthetic downloads with real headers, file-name patterns and description strings."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (40, 46, 42)  # x, y, z
AFFINE = np.array([[-4.0, 0, 0, 80], [0, 4.0, 0, -92], [0, 0, 4.0, -80], [0, 0, 0, 1.0]])


def head(seed=0):
    """(MRI, PET) of a small head, (x, y, z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(float)
    c = [(n - 1) / 2 for n in SHAPE]
    radius = np.sqrt(((x - c[0]) / 16) ** 2 + ((y - c[1]) / 19) ** 2 + ((z - c[2]) / 17) ** 2)
    wave = np.sin(x * 0.9 + seed) * np.cos(y * 0.7) * np.sin(z * 0.8 + 1)
    brain = radius < 0.8
    white = brain & (radius < 0.6 + 0.1 * wave)
    mri = np.where(radius < 1, 300.0, 0) + 300.0 * brain + 300.0 * white
    pet = np.where(radius < 1, 2.0, 0) + np.where(brain, 20.0, 0) - np.where(white, 12.0, 0)
    pet += 6.0 * np.exp(-(((x - 12) ** 2 + (y - 30) ** 2 + (z - 24) ** 2) / 20))
    mri += np.abs(rng.normal(0, 8, SHAPE))
    return mri.astype(np.int16), np.maximum(pet + rng.normal(0, 0.4, SHAPE), 0).astype(np.float32)


def nifti(path: Path, data, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(data), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    nib.save(image, path)
    return path


def stub(path: Path, content=b"not empty") -> Path:
    """A file that only its name matters of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folder_name(description: str) -> str:
    return description.replace(" ", "_").replace(";", "_")


def ida_path(root, subject, description, date, number, *, leaf=None, tag=None, extra="", suffix=".nii"):
    """Where IDA puts an image, `date` being that of the scan; the stamp in the name is the archive's."""
    pet = tag in ("PT", "PET") or "PET" in description or "oreg" in description
    tag = tag or ("PT" if pet else "MR")
    name = (
        f"ADNI_{subject}_{tag}_{folder_name(description)}_Br_20120416133844478{'_8' if pet else ''}"
        f"_S{100000 + number}_I{number}{extra}{suffix}"
    )
    return (
        Path(root)
        / "ADNI"
        / subject
        / folder_name(description)
        / f"{date}_11_06_55.0"
        / (leaf or f"I{number}")
        / name
    )


N3M = "MT1; GradWarp; N3m"
PET_8MM = "Coreg, Avg, Std Img and Vox Siz, Uniform Resolution"
PET_6MM = "Coreg, Avg, Std Img and Vox Siz, Uniform 6mm Res"
PET_STD = "Coreg, Avg, Standardized Image and Voxel Size"


def collection_csv(path, rows, header=None, **options):
    """A collection table as IDA writes it; `rows` hold (id, subject, group, modality, description, date)."""
    header = header or [
        "Image Data ID",
        "Subject",
        "Group",
        "Sex",
        "Age",
        "Visit",
        "Modality",
        "Description",
        "Type",
        "Acq Date",
        "Format",
        "Downloaded",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, **({"quoting": csv.QUOTE_ALL} | options))
        writer.writerow(header)
        for image, subject, group, modality, description, date in rows:
            writer.writerow(
                [
                    image,
                    subject,
                    group,
                    "M",
                    "74",
                    "bl",
                    modality,
                    description,
                    "Processed",
                    date,
                    "NiFTI",
                    "4/01/2013",
                ]
            )
    return path


def dicom_series(folder: Path, volume, affine, modality, *, prefix="ADNI", slopes=None, frames=1, uid=None):
    """Write (x, y, z) or (x, y, z, t) as one .dcm per slice, RAS affine with axes along the slices."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / size[0], lps[:3, 1] / size[1]
    uid = uid or generate_uid()
    volume = np.asarray(volume)
    volume = volume[..., None] if volume.ndim == 3 else volume
    paths = []
    for t in range(volume.shape[3]):
        for k in range(volume.shape[2]):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = CTImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            number = t * volume.shape[2] + k + 1
            path = folder / f"{prefix}_{number}.dcm"
            ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
            plane = volume[:, :, k, t].T.astype(float)
            slope = 1.0 if slopes is None else slopes[k]
            ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
            ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = uid, modality, number
            ds.Rows, ds.Columns = plane.shape
            ds.PixelSpacing = [float(size[1]), float(size[0])]
            ds.SliceThickness = float(size[2])
            ds.ImageOrientationPatient = [float(v) for v in (*row, *column)]
            ds.ImagePositionPatient = [float(v) for v in (lps @ [0, 0, k, 1])[:3]]
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated = ds.BitsStored = 16
            ds.HighBit, ds.PixelRepresentation = 15, 0
            ds.RescaleSlope, ds.RescaleIntercept = float(slope), 0.0
            if volume.shape[3] > 1:
                ds.FrameReferenceTime = 1000.0 * t
                ds.ActualFrameDuration = int(60000 * (t + 1))
            ds.PixelData = np.rint(plane / slope).astype(np.uint16).tobytes()
            pydicom.dcmwrite(path, ds, enforce_file_format=True)
            paths.append(path)
    return paths
