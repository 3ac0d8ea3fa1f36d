"""``list``: plugins, variants with what they set, parameters as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusebench.cli import main

PLUGIN = """
from dataclasses import replace

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo


class Tuned(Method):
    info = MethodInfo(name="tuned", summary="a test", params=7)
    variants = {"big": {"size": 3}, "theirs": {"weights": "absent"}}
    unlisted_variants = ("theirs",)

    def __init__(self, size: int = 1, weights: str = "") -> None:
        if weights == "absent":
            raise InputError("there is no such file")
        self.size, self.weights = size, weights

    def describe(self):
        return replace(self.info, params=1000 * self.size) if self.size > 1 else self.info

    def fuse(self, a, b):
        return a
"""


@pytest.fixture
def listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "tuned.py"
    path.write_text(PLUGIN)

    def ask(*patterns: str) -> list[str]:
        assert main(["list", "methods", *patterns, "--plugin", str(path)]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]

    return ask


def test_a_variant_is_a_row_with_its_own_facts_and_its_setting(listed) -> None:
    lines = listed("tuned*")
    assert "tuned 3D 7 a test" in lines
    assert "tuned@big 3D 3,000 a test (size=3)" in lines


def test_parameters_of_a_variant_begin_where_it_sets_them(listed) -> None:
    lines = listed("tuned", "tuned@big")
    assert "--set tuned.size=1 a whole number" in lines
    assert "--set tuned@big.size=3 a whole number" in lines
    assert "variant tuned@big: size=3" in lines
    assert "variant tuned@theirs: weights=absent" in lines


def test_variants_that_need_a_file_are_named_below_the_list(listed) -> None:
    lines = listed()
    apart = lines[-1].removeprefix("only where they are named: ").split(", ")
    assert {"tuned@theirs", "u2fusion@port"} <= set(apart)
    assert not any(line.startswith("tuned@theirs") for line in lines)
    assert any(line.startswith("tuned@theirs 3D 7") for line in listed("tuned@theirs"))


def test_a_metric_has_its_name_beside_its_id(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["list", "metrics", "psnr", "qabf"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("psnr ↑ 0 … inf dB yes Peak signal-to-noise ratio") for line in lines)
    assert ".a .b .worst @paper @cddfuse @tang" in lines
    assert any(line.startswith("qabf") and line.endswith("Edge preservation Q^AB/F") for line in lines)
    assert any(line.startswith(r"psnr: 10\,\log_{10}") for line in lines)
    assert any(line.startswith("psnr@tang: images scaled to [0, 1]") for line in lines)


@pytest.mark.parametrize("words", [["dwt", "--names", "max"], ["--names", "dwt", "max"]])
def test_names_may_stand_behind_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", *words]) == 0
    assert capsys.readouterr().out.split() == ["dwt", "max"]


def test_an_unknown_option_is_still_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["list", "methods", "dwt", "--nmaes"], ["run", "--names", "max"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "unrecognized arguments: --n" in capsys.readouterr().err


def test_one_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "dwt"]) == 0
    assert "1 method\n" in capsys.readouterr().out
