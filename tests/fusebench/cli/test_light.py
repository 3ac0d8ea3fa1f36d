"""Commands that compute nothing with images: they run where torch cannot be imported, and start at once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fusebench.cli import main
from fusebench.files import ROOT

# A finder that knows torch and refuses to load it: an import of it anywhere ends the command.
BLOCKED = """
import importlib.machinery, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torch" else None
    def create_module(self, spec):
        raise SystemExit("torch was imported")

sys.meta_path.insert(0, Refuse())
from fusebench.cli import main
for line in sys.stdin.read().splitlines():
    print(line)
    if code := main(line.split()):
        sys.exit(f"{line}: exit code {code}")
"""


def light(*commands: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("light") / "run"
    small = ["--data-option", "size=16", "--cases", "2", "--jobs", "0", "--metrics", "psnr,ssim"]
    assert main(["--methods", "average,max", *small, "--protocol", "volume", "--out", str(out)]) == 0
    return out


def test_lists_report_compare_and_history_do_not_import_torch(run_folder: Path, tmp_path: Path) -> None:
    printed = light(
        "list methods",
        "list methods --json",
        "list metrics",
        "list datasets",
        f"report {run_folder} --out report --no-figures",
        f"compare {run_folder} {run_folder}",
        f"history add {run_folder} --store kept --commit 0123abc --time 2026-01-01T00:00:00",
        "history chart --store kept",
        cwd=tmp_path,
    )
    assert "swinfuse" in printed and "cannot be loaded" not in printed
    assert (tmp_path / "report" / "index.html").is_file()
    assert list((tmp_path / "kept" / "chart").glob("*.html"))


@pytest.mark.parametrize(("command", "seconds"), [(["--help"], 1.0), (["list", "methods"], 2.0)])
def test_they_answer_at_once(command: list[str], seconds: float, tmp_path: Path) -> None:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), *command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert used() - before < seconds


def test_a_list_as_json_holds_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "dcfb@paper", "dwt", "--json"]) == 0
    paper, dwt = json.loads(capsys.readouterr().out)
    assert paper["name"] == "dcfb@paper" and paper["setting"]["target"] == "likeness"
    assert paper["params"] == 905193 and paper["cost"] > 0
    assert dwt["dims"] == 3 and Path(dwt["origin"].rpartition(":")[0]).name == "dwt.py"
    assert main(["list", "metrics", "psnr", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["high"] is None  # JSON has no infinity
