"""`fuse` on the command line: what it refuses to write, and what it says."""

import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fusebench.cli import main
from fusebench.cli._options import weights_path
from fusebench.images.read_write import read_image, write_image

from ...saving import save_picture


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """m.png and p.png in the working folder; arguments that fuse them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("m.png", "p.png"):
        save_picture(name, rng.integers(0, 256, (40, 44), dtype=np.uint8))
    return ["fuse", "--method", "average", "--mri", "m.png", "--pet", "p.png"]


@pytest.mark.parametrize(
    ("output", "source"),
    [("m.png", "--mri"), ("./p.png", "--pet"), ("link.png", "--mri"), ("d/../m.png", "--mri")],
)
def test_a_source_is_never_overwritten(output, source, pictures, tmp_path, capsys):
    os.mkdir("d")
    os.symlink("m.png", "link.png")
    before = {name: (tmp_path / name).read_bytes() for name in ("m.png", "p.png")}
    assert main([*pictures, "-o", output]) == 2
    assert f"is the {source} file" in capsys.readouterr().err
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_picture_fused_to_any_format_reads_as_its_sources_lie(suffix, pictures):
    if suffix in (".mha", ".nrrd"):
        pytest.importorskip("SimpleITK")
    pictures[2] = "source-mri"
    assert main([*pictures, "-o", f"f{suffix}"]) == 0
    source, fused = (read_image(f, intensity="stored").data for f in ("m.png", f"f{suffix}"))
    assert np.abs(fused - source).max() < 1e-2


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 1, 1]), np.diag([1, -1, 1, 1])])
def test_one_slice_of_nifti_keeps_its_rows_and_is_written_back_so(affine, pictures, tmp_path):
    pixels = np.asarray(Image.open("m.png"))
    for name, shape in (("two", (44, 40)), ("three", (44, 40, 1))):
        nib.save(nib.Nifti1Image(pixels.T.reshape(shape), affine), f"{name}.nii")
        image = read_image(f"{name}.nii")
        assert np.array_equal(np.rint(image.data[0] * 255), pixels)
        assert np.array_equal(image.affine, affine)
        write_image("back.nii", image.data, like=f"{name}.nii")
        assert np.array_equal(np.asarray(nib.load("back.nii").dataobj), pixels.T.reshape(shape))


def test_home_is_known_behind_an_equals_sign(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    os.rename("m.png", "home/m.png")
    pictures[3:5] = ["--mri=~/m.png"]
    assert main([*pictures, "-o", "~/f.png"]) == 0
    assert (tmp_path / "home" / "f.png").is_file() and not (tmp_path / "~").exists()
    assert main(["score", *pictures[3:], "--fused=~/f.png", "--mask=~/m.png", "--metrics", "psnr"]) == 0
    assert weights_path("average=~/w.pt", "average") == tmp_path / "home" / "w.pt"


@pytest.mark.parametrize("command", ["fuse", "score"])
def test_an_interrupted_command_does_not_say_that_it_resumes(command, pictures, monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fusebench.images.read_write.read_raw", interrupted)
    arguments = {"fuse": [*pictures, "-o", "f.png"], "score": ["score", *pictures[3:], "--fused", "m.png"]}
    assert main(arguments[command]) == 130
    assert "starts anew" in capsys.readouterr().err


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    """m.nii.gz, turned and of whole numbers, and p.nii.gz; arguments that fuse them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine = np.array([[-2.0, 0, 0, 30], [0, 0, 1.5, -9], [0, 3.0, 0, 5], [0, 0, 0, 1]])
    for name in ("m", "p"):
        voxels = rng.integers(0, 900, (12, 9, 14)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, affine), f"{name}.nii.gz")
    return ["fuse", "--method", "dwt", "--mri", "m.nii.gz", "--pet", "p.nii.gz"]


def test_colour_keeps_the_place_and_its_luminance_is_the_fused_image(volumes, capsys):
    assert main([*volumes, "-o", "f.nii.gz", "--colour"]) == 0
    source, colour = nib.load("m.nii.gz"), nib.load("f-colour.nii.gz")
    assert colour.header["datatype"] == 128 and colour.shape == source.shape
    assert np.array_equal(colour.affine, source.affine)
    grey = read_image("f.nii.gz", intensity="stored")
    assert np.abs(read_image("f-colour.nii.gz").data - grey.data).max() < 3 / 255
    assert np.array_equal(read_image("f-colour.nii.gz").affine, grey.affine)
    raw = np.asarray(colour.dataobj)
    assert (raw["R"] != raw["B"]).mean() > 0.9
    assert Image.open("f-colour.png").mode == "RGB"
    assert "f-colour.nii.gz: in colour" in capsys.readouterr().out


def test_a_volume_as_png_is_a_sheet_of_planes(volumes):
    assert main([*volumes, "-o", "f.png"]) == 0
    assert main([*volumes, "-o", "r.png", "--radiological"]) == 0
    assert main([*volumes, "-o", "c.png", "--colour", "heat"]) == 0
    usual, turned, coloured = (np.asarray(Image.open(f"{n}.png")) for n in "frc")
    assert not np.array_equal(usual, turned) and usual.ndim == 2
    assert coloured.ndim == 3 and coloured.shape[0] > usual.shape[0]
    assert not os.path.exists("c-colour.png") and not os.path.exists("c-colour.nii.gz")


def test_colour_of_pictures_is_in_the_picture_itself(pictures):
    assert main([*pictures, "-o", "f.png"]) == 0 and Image.open("f.png").mode == "L"
    assert main([*pictures, "-o", "f.png", "--colour"]) == 0 and Image.open("f.png").mode == "RGB"


def test_colour_overwrites_no_source_and_knows_its_maps(volumes, capsys):
    os.rename("m.nii.gz", "f-colour.nii.gz")
    volumes[4] = "f-colour.nii.gz"
    assert main([*volumes, "-o", "f.nii.gz", "--colour"]) == 2
    assert "f-colour.nii.gz: is the --mri file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*volumes, "-o", "f.nii.gz", "--colour", "jet"])
    assert "'jet' is no colour map; there are coldwarm, heat" in capsys.readouterr().err
