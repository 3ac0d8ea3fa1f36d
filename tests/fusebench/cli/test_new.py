"""`new`: what the scaffold writes runs at once, passes its own tests, and lands on the board."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fusebench.cli import main
from fusebench.files import file_sha256
from fusebench.plugins import find_plugins
from fusebench.testing.images import head

from ...saving import save_volume

ROOT = Path(__file__).resolve().parents[3]
MADE = [
    ("method", "wave-max"),
    ("method", "slice-max", "--dims", "2"),
    ("method", "net-three", "--learned"),
    ("method", "net-two", "--learned", "--dims", "2"),
    ("metric", "mae_both"),
    ("dataset", "my-hospital"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one plugin of every sort."""
    folder = tmp_path_factory.mktemp("new")
    for arguments in MADE:
        assert main(["new", *arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_python(*arguments, cwd, path=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_files(made):
    for _, name, *options in MADE:
        module = name.replace("-", "_")
        for file in (f"{module}.py", f"{module}.md", f"test_{module}.py"):
            assert (made / file).is_file()
        assert (made / f"{module}.safetensors").is_file() == ("--learned" in options)


def test_written_tests_pass(made):
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", made, cwd=made)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_learned_info_is_true(made):
    method = find_plugins((str(made / "net_three.py"),)).methods.load("net-three")
    assert method.info.weights.sha256 == file_sha256(made / "net_three.safetensors")
    assert method.info.params > 0


def test_on_the_board_at_once(made, tmp_path):
    plugins = [o for p in sorted(made.glob("*.py")) if "test_" not in p.name for o in ("--plugin", str(p))]
    code = main(
        [
            "run",
            *("--methods", "wave-max,slice-max,net-three,net-two,average", "--metrics", "mae_both,psnr"),
            *("--cases", "1", "--data-option", "size=24", "--jobs", "1", "--out", str(tmp_path / "run")),
            *plugins,
        ]
    )
    assert code == 0
    board = pd.read_csv(tmp_path / "run" / "rows.csv")
    assert set(board["status"]) == {"ok"}
    value = board.pivot(index="method", columns="metric", values="value")
    assert set(value.index) == {"wave-max", "slice-max", "net-three", "net-two", "average"}
    # The initial networks are the mean; the weighted mean is another method.
    assert value.loc["net-three", "psnr"] == pytest.approx(value.loc["average", "psnr"], abs=1e-3)
    assert abs(value.loc["wave-max", "psnr"] - value.loc["average", "psnr"]) > 0.01


def test_new_dataset_on_the_board(made, tmp_path):
    for number in range(8):
        a, b, _ = head((8, 20, 16), seed=number)
        for data, name in ((a, "mri"), (b, "pet")):
            image = nib.Nifti1Image(data.transpose(2, 1, 0), np.diag([1.0, 1.0, 3.0, 1.0]))
            nib.save(image, tmp_path / f"s{number}_{name}.nii.gz")
    code = main(
        [
            *(
                "run",
                "--methods",
                "average",
                "--metrics",
                "psnr",
                "--dataset",
                "my-hospital",
                "--split",
                "train",
            ),
            *("--data-dir", str(tmp_path), "--plugin", str(made / "my_hospital.py"), "--jobs", "1"),
            *("--out", str(tmp_path / "run")),
        ]
    )
    assert code == 0
    assert (pd.read_csv(tmp_path / "run" / "rows.csv")["status"] == "ok").all()


def test_a_small_new_dataset_says_where_its_cases_are(made, tmp_path, capsys):
    a, b, _ = head((8, 20, 16), seed=0)
    for data, name in ((a, "mri"), (b, "pet")):
        save_volume(tmp_path / f"s0_{name}.nii.gz", data)
    options = ["--data-dir", str(tmp_path), "--plugin", str(made / "my_hospital.py")]
    options += ["--dataset", "my-hospital", "--jobs", "0", "--out", str(tmp_path / "run")]
    assert main(["run", "--methods", "average", *options]) == 2
    error = capsys.readouterr().err
    assert "no cases in split 'test' (cases: train 1, test 0); try --split train" in error


def test_new_network_trains_and_its_weights_run(made, tmp_path):
    pytest.importorskip("lightning_fabric")
    plugin = ["--plugin", str(made / "net_two.py")]
    small = ["--data-option", "size=64"]
    out = tmp_path / "train"
    train = [*("--steps", "2", "--batch", "2", "--val-every", "2", "--cases", "1", "--val-cases", "1")]
    train += ["--no-tensorboard", "--device", "cpu", "--out", str(out)]
    assert main(["train", "net-two", *train, *small, *plugin]) == 0
    weights = out / "net-two.safetensors"
    assert file_sha256(weights) != file_sha256(made / "net_two.safetensors")
    options = [
        "--weights",
        f"net-two={weights}",
        "--cases",
        "1",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    run = ["run", "--methods", "net-two", "--metrics", "psnr", *options]
    assert main([*run, "--data-option", "size=24", *plugin]) == 0


def test_in_a_checkout_it_is_dropped_in(tmp_path):
    root = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz", ".*")
    for folder in ("fusebench", "methods", "metrics", "datasets", "leaderboard"):
        shutil.copytree(ROOT / folder, root / folder, ignore=leave_out)
    for file in ("run_bench.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root)
    for arguments in (("method", "wave-max"), ("method", "net-three", "--learned"), ("metric", "mae_both")):
        done = run_python("run_bench.py", "new", *arguments, cwd=root, path=root)
        assert done.returncode == 0, done.stderr
        assert "--plugin" not in done.stdout
    assert (root / "methods/wave_max.py").is_file()
    assert (root / "methods/weights/net_three.safetensors").is_file()
    assert (root / "tests/metrics/test_mae_both.py").is_file()
    listed = run_python("run_bench.py", "list", "methods", "--names", cwd=root, path=root).stdout.split()
    assert {"wave-max", "net-three", "average"} <= set(listed)
    tests = [root / "tests/methods/test_wave_max.py", root / "tests/methods/test_net_three.py"]
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=root, path=root)
    assert done.returncode == 0, done.stdout[-3000:]
    lint = [sys.executable, "-m", "ruff"]
    if subprocess.run([*lint, "--version"], capture_output=True).returncode:
        return
    new = ["methods/wave_max.py", "methods/net_three.py", "metrics/mae_both.py", "tests"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*lint, *command, *new], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("method", "My Method"), "cannot name a method; use small letters"),
        (("method", "../x"), "cannot name a method"),
        (("metric", "edge-loss"), "digits and _"),
        (("method", "average"), "exists"),
        (("metric", "psnr"), "exists"),
        (("metric", "x", "--learned"), "are for methods"),
    ],
)
def test_bad_names_are_refused_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["new", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_files_are_never_overwritten(tmp_path, capsys):
    (tmp_path / "mine.md").write_text("notes")
    assert main(["new", "method", "mine", "--out", str(tmp_path)]) == 2
    assert "mine.md exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.md"]


def test_what_was_written_before_the_disk_was_full_is_not_in_the_way(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    command = ["new", "method", "net-four", "--learned", "--out", str(tmp_path)]
    with monkeypatch.context() as disk:
        disk.setattr("safetensors.torch.save_file", full)
        assert main(command) == 2
    error = capsys.readouterr().err
    assert "net_four.safetensors" in error and "make room" in error and error.count("\n") == 1
    assert not [p.name for p in tmp_path.iterdir() if p.is_file()]
    assert main(command) == 0


def test_check_command_reports(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["check", "method", "wave-max", "--plugin", str(made / "wave_max.py")]) == 0
    assert "conforms" in capsys.readouterr().out
    faulty = tmp_path / "faulty.py"
    text = (made / "wave_max.py").read_text().replace("wa, wb = (", "a += 0.001\n        wa, wb = (")
    faulty.write_text(text.replace('"wave-max"', '"faulty"'))
    assert main(["check", "method", "faulty", "--plugin", str(faulty), "--verbose"]) == 1
    out = capsys.readouterr().out
    assert "work on a copy" in out
    assert "faulty: 1 failed" in out
    text = text.replace("wa, wb = (", "raise ValueError(1)\n        wa, wb = (")
    broken = tmp_path / "broken.py"
    broken.write_text(text.replace('"wave-max"', '"broken"'))
    assert main(["check", "method", "broken", "--plugin", str(broken)]) == 1
    out = capsys.readouterr().out
    assert out.count("not tried") == out.count("because fuses does not pass") == 1, "one line for all of them"
    assert main(["check", "metric", "mae_both", "--plugin", str(made / "mae_both.py")]) == 0
    assert main(["check", "dataset", "my-hospital", "--plugin", str(made / "my_hospital.py")]) == 2
    assert "needs --data-dir" in capsys.readouterr().err
