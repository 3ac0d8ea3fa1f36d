"""The manifest: a record of every command into a folder, and one line where it cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fusebench.engine.manifest import (
    describe_run,
    git_state,
    protocol_order,
    read_manifest,
    write_manifest,
)
from fusebench.engine.spec import MethodSpec
from fusebench.errors import InputError
from fusebench.method_info import MethodInfo


def manifest(run: str, *names: str) -> dict[str, Any]:
    methods = [
        MethodSpec(name, {"t": 0.5}, f"key of {name}", MethodInfo(name=name, summary="test", params=3))
        for name in names
    ]
    return describe_run(
        run=run,
        command=["run_bench.py", run],
        options={"seed": 1},
        methods=methods,
        metrics={},
        dataset={"name": "made-up"},
        hardware={},
        git=git_state(),
    )


def test_facts_parameters_and_versions_are_in_it(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest("one", "p"))
    found = read_manifest(tmp_path)
    assert found["methods"]["p"]["parameters"] == {"t": 0.5}
    assert (found["methods"]["p"]["key"], found["methods"]["p"]["params"]) == ("key of p", 3)
    assert {"fusebench", "python", "torch", "numpy"} <= set(found["versions"])
    assert found["run"]["command"] == ["run_bench.py", "one"]


def test_what_earlier_commands_wrote_is_kept(tmp_path: Path) -> None:
    for run, names in (("one", "p"), ("two", "q"), ("three", "p")):
        write_manifest(tmp_path, manifest(run, *names))
    found = read_manifest(tmp_path)
    assert found["run"]["id"] == "three"
    assert list(found["earlier"]) == ["one", "two"]
    assert found["earlier"]["one"]["run"]["command"] == ["run_bench.py", "one"]
    assert set(found["methods"]) == {"p", "q"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is .* a run folder"),
        ("{", "is not JSON"),
        ('{"methods": {"p": {"params": "many"}}}', r"no manifest of a run \(methods: params\)"),
        ('{"metrics": {"psnr": {"direction": "up"}}}', r"no manifest of a run \(metrics: direction\)"),
        ('{"options": {"protocols": 5}}', r"no manifest of a run \(options: protocols\)"),
        ('{"options": {"protocols": [{}]}}', r"no manifest of a run \(options: protocols\)"),
        ('{"dataset": {"doubts": [3]}}', r"no manifest of a run \(dataset: doubts\)"),
        ('{"metrics": {"psnr": {"parts": [3]}}}', r"no manifest of a run \(metrics: parts\)"),
        (f'{{"methods": {{"p": {{"dims": {10**30}}}}}}}', r"no manifest of a run \(methods: dims\)"),
        ("[]", r"no manifest of a run \(no mapping\); delete it and run again, rows.jsonl is kept$"),
        ('{"run": {"id": [1]}}', r"no manifest of a run \(run: id\)"),
        ('{"options": {"seed": "1"}}', r"no manifest of a run \(options: seed\)"),
        ('{"options": {"threads": {}}}', r"no manifest of a run \(options: threads\)"),
        ('{"dataset": {"parameters": 5}}', r"no manifest of a run \(dataset: parameters\)"),
        ('{"metrics": {"psnr": {"variants": 5}}}', r"no manifest of a run \(metrics: variants\)"),
        ('{"metrics": {"psnr": {"tolerances": {"a": "1"}}}}', r"\(metrics: tolerances\)"),
        ('{"earlier": {"one": []}}', r"no manifest of a run \(earlier\)"),
        ('{"earlier": {"one": {"options": {"threads": []}}}}', r"\(options: threads\)"),
        (f'{{"zz": {"[" * 900}{"]" * 900}}}', r"no manifest of a run \(nested more than 30 deep\)"),
        ('{"dataset": {"doubts": 3}}', r"no manifest of a run \(dataset: doubts\)"),
    ],
)
def test_a_folder_without_one_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_protocols_come_as_they_were_asked_for() -> None:
    asked = {"options": {"protocols": ["slices", "paper", "volume"]}}
    assert protocol_order(["volume", "readers", "slices"], asked) == ["slices", "volume", "readers"]
    assert protocol_order(["paper", "volume"], {}) == ["paper", "volume"]


def test_a_file_of_a_run_is_not_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(InputError, match=rf"rows\.jsonl: a file; .* {re.escape(str(tmp_path))}$"):
        read_manifest(tmp_path / "rows.jsonl")
