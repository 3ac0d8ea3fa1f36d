"""AANLIB layouts, patients, colour."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import fusebench
from fusebench.errors import InputError

from ..saving import save_picture

aanlib = importlib.import_module("fusebench.datasets.aanlib")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
real = pytest.mark.skipif(not (REAL / "aanlib").is_dir(), reason="AANLIB pictures are not at hand")


def grey(seed, shape=(32, 32)):
    image = np.random.default_rng(seed).integers(40, 256, shape, dtype=np.uint8)
    image[:6] = image[-6:] = 0
    return image


def coloured(seed):
    return aanlib.pet_ramp()[np.random.default_rng(seed).integers(0, 128, (32, 32))]


def make(root, layout, numbers, other="PET", colour=True):
    for n in numbers:
        save_picture(root / layout.format("MRI") / f"{n}.png", grey(n))
        save_picture(root / layout.format(other) / f"{n}.png", coloured(n) if colour else grey(n + 1))
    return root


@pytest.mark.parametrize("layout", ["PET-MRI/{}", "MyDatasets/MRI-PET/test/{}", "test_img/MRI_PET/{}", "{}"])
def test_layouts(tmp_path, layout):
    dataset = fusebench.create_dataset("aanlib", data_dir=make(tmp_path, layout, [25001, 41002]))
    cases = dataset.cases()
    assert [c.id for c in cases] == ["mri-pet-25001", "mri-pet-41002"]
    assert cases[0].pair.b.chroma is not None


def test_hidden_files_folders_doubles_and_links(tmp_path):
    make(tmp_path / "data", "PET-MRI/{}", [25001, 41002])
    for folder in ("data/PET-MRI/MRI", "data/PET-MRI/PET", "__MACOSX/PET-MRI/MRI", "__MACOSX/PET-MRI/PET"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "._25001.png").write_bytes(b"\0\5\26\7")
        (tmp_path / folder / "9.png").mkdir()
    save_picture(tmp_path / "data/PET-MRI/MRI/25001.BMP", grey(3))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "slices").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "linked")
    for root in (tmp_path, tmp_path / "linked"):
        dataset = fusebench.create_dataset("aanlib", data_dir=root)
        assert [s.id for s in dataset.sources()] == ["mri-pet-25001", "mri-pet-41002"]
        assert [x.reason for x in dataset.found[1]] == ["the same name as 25001.BMP"]


def test_patients(tmp_path):
    make(tmp_path, "PET-MRI/{}", [25001, 30002, 41003])
    make(tmp_path, "SPECT-MRI/{}", [3015, 3016, 9043], "SPECT")
    make(tmp_path, "CT-MRI/{}", [2022, 16018], "CT", colour=False)
    cases = fusebench.create_dataset("aanlib", data_dir=tmp_path).cases()
    groups = {c.id: c.group for c in cases}
    assert len({groups[f"mri-pet-{n}"] for n in (25001, 30002, 41003)}) == 1
    assert groups["mri-spect-3015"] == groups["mri-spect-3016"] == "aanlib-spectmri-003"
    assert len(set(groups.values())) == 1 + 2 + 2
    planes = [c.meta["plane"] for c in cases[:3]]
    assert planes == ["coronal", "sagittal", "axial"]
    assert cases[0].meta["patients"] == "one head: n = 1"
    assert [c.id for c in cases if not c.functional] == ["ct-mri-2022", "ct-mri-16018"]  # CT gives no colour
    for modality, count in (("MRI-PET", 3), ("pet-mri", 3), ("MRI-SPECT", 3), ("CT-MRI", 2)):
        assert len(fusebench.create_dataset("aanlib", data_dir=tmp_path, modality=modality).cases()) == count


def test_splits_never_divide_a_patient(tmp_path):
    make(tmp_path, "SPECT-MRI/{}", [k * 1000 + i for k in range(3, 15) for i in (1, 2)], "SPECT")
    dataset = fusebench.create_dataset("aanlib", data_dir=tmp_path, split="hash")
    where = {}
    for split in ("train", "val", "test"):
        for source in dataset.sources(split):
            assert where.setdefault(source.group, split) == split
    assert len(where) == 12


def test_renumbered_files_are_one_group_and_lonely_ones_said(tmp_path):
    make(tmp_path, "CT-MRI/{}", [1, 2, 3], "CT", colour=False)
    save_picture(tmp_path / "CT-MRI" / "CT" / "4.png", grey(4))
    dataset = fusebench.create_dataset("aanlib", data_dir=tmp_path)
    assert {c.group for c in dataset.cases()} == {"aanlib-ctmri-unknown"}
    assert "no picture of this name" in dataset.found[1][0].reason


def test_luminance_falls_past_yellow_and_uptake_does_not(tmp_path):
    ramp = np.tile(aanlib.pet_ramp(), (64, 1, 1))
    save_picture(tmp_path / "MRI" / "41001.png", grey(1, (64, 128)))
    save_picture(tmp_path / "PET" / "41001.png", ramp)
    line = {}
    for pet in ("luminance", "uptake"):
        case = fusebench.create_dataset("aanlib", data_dir=tmp_path, pet=pet).cases()[0]
        line[pet] = case.b.data[0, 0]
        assert case.meta["fused_plane"] == pet
        dataset = fusebench.create_dataset("aanlib", data_dir=tmp_path, pet=pet)
        assert f"its {pet} is fused" in dataset.info.notes
    y = np.rint(line["luminance"] * 255)
    assert (y.argmax(), y.max(), y[95], y[127]) == (63, 226, 76, 105)
    assert np.allclose(line["uptake"], np.arange(128) / 127)


def test_uptake_refuses_other_colours(tmp_path):
    save_picture(tmp_path / "MRI" / "41001.png", grey(1))
    save_picture(
        tmp_path / "PET" / "41001.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    )
    case = fusebench.create_dataset("aanlib", data_dir=tmp_path, pet="uptake").cases()[0]
    with pytest.raises(InputError, match=r"41001\.png: .*not colours of the AANLIB PET ramp"):
        _ = case.pair


def test_stack_bridges_one_missing_slice(tmp_path):
    make(tmp_path, "PET-MRI/{}", [n for n in range(41001, 41013) if n != 41005] + [41050])
    (case,) = fusebench.create_dataset("aanlib", data_dir=tmp_path, stack=True).cases()
    assert case.a.shape == (12, 32, 32)
    assert (case.meta["slices"], case.meta["interpolated"]) == (11, 1)
    assert np.allclose(case.a.data[4], (case.a.data[3] + case.a.data[5]) / 2)
    assert np.allclose(case.a.data[0, ::-1, ::-1] * 255, grey(41001))
    assert case.a.spacing == pytest.approx((1.739, 1, 1))


def test_wrong_options_and_sizes(tmp_path):
    for options in ({"modality": "x"}, {"pet": "x"}):
        with pytest.raises(InputError, match="aanlib"):
            fusebench.create_dataset("aanlib", data_dir=tmp_path, **options)
    with pytest.raises(InputError, match="no pair of MRI and PET"):
        fusebench.create_dataset("aanlib", data_dir=tmp_path).cases()
    save_picture(tmp_path / "MRI" / "1.png", grey(1))
    save_picture(tmp_path / "PET" / "1.png", grey(1, (16, 16)))
    with pytest.raises(InputError, match="is not"):
        _ = fusebench.create_dataset("aanlib", data_dir=tmp_path).cases()[0].pair


@real
def test_real_pictures():
    dataset = fusebench.create_dataset("aanlib", data_dir=REAL / "aanlib", pet="uptake")
    cases = dataset.cases()
    assert len(cases) == 60
    assert len({c.group for c in cases}) == 1 + 10 + 10
    for case in cases[::7]:
        assert 0.2 < case.mask.mean() < 0.9
    table = np.loadtxt(REAL / "aanlib3d" / "aanlib_pet_lut.csv", delimiter=",", comments="#")
    assert np.array_equal(table, aanlib.pet_ramp())


@real
def test_real_stack_is_the_rebuilt_volume():
    """Slices stacked here lie as in the volume that was rebuilt from them (up to the one interpolated)."""
    import nibabel as nib

    volume = nib.load(REAL / "aanlib3d/sub-aanlibnormal/anat/sub-aanlibnormal_T1w.nii.gz")
    files = sorted((REAL / "aanlib/PET-MRI/MRI").glob("4103[34].png"))
    pets = [f.parents[1] / "PET" / f.name for f in files]
    pair = aanlib.load_stack([(int(f.stem), f, p) for f, p in zip(files, pets, strict=True)], "uptake")
    expected = volume.get_fdata()[:, :, 11:13].transpose(2, 1, 0)
    assert np.allclose(pair.a.data * 255, expected)


@pytest.mark.parametrize("dataset", ["aanlib", "pairs"])
def test_key_follows_the_readers_and_what_is_drawn_for_a_case_does_not(dataset, tmp_path, monkeypatch):
    from fusebench.datasets.preprocessing import pipeline

    from fusebench.store import sources as content

    def made():
        for remembered in (content._sha256, pipeline._code_key, pipeline._reader_key):
            remembered.cache_clear()
        given = (
            {"data_dir": tmp_path} if dataset == "aanlib" else dict(zip(("mri", "pet"), files, strict=True))
        )
        return fusebench.create_dataset(dataset, **given).cases()[0]

    make(tmp_path, "PET-MRI/{}", [41002])
    files = [next(tmp_path.rglob(f"{name}/41002.png")) for name in ("MRI", "PET")]
    before, sha256 = made(), content.file_sha256
    monkeypatch.setattr(content, "file_sha256", lambda p: "new" if p.name == "foreground.py" else sha256(p))
    after = made()
    monkeypatch.undo()
    assert after.fingerprint != before.fingerprint == made().fingerprint
    assert after.origin == before.origin != ""
