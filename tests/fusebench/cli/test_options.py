"""Files that an option names are not those that the command reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusebench.cli import main
from fusebench.cli._options import refuse_sources
from fusebench.errors import InputError


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fused").mkdir(parents=True)
    for name in ("rows.jsonl", "manifest.json", "fused/a.nii.gz", "compare.md"):
        (run / name).write_text("x")
    os.link(run / "rows.jsonl", tmp_path / "link")
    for path, source in (
        (run / "rows.jsonl", run),
        (run / "fused" / ".." / "manifest.json", run),
        (run / "rows.parquet", run),  # not there yet: the next command would read it
        (run / "fused" / "a.nii.gz", run),
        (tmp_path / "link", run / "rows.jsonl"),
    ):
        with pytest.raises(InputError, match=r"^--json .* is of what is read here .*; give another name"):
            refuse_sources("--json", path, [tmp_path / "nowhere", source])
    for path in (run / "compare.md", run / "new.json", tmp_path / "other", Path("/dev/null"), None):
        refuse_sources("--json", path, [run])


@pytest.mark.parametrize(
    "command",
    [
        "score --mri a.png --pet b.png --fused f.png --csv f.png",
        "score --mri a.mhd --pet b.png --fused f.png --csv a.raw",
        "compare run other --json run/manifest.json",
        "compare run other --markdown other/rows.jsonl",
        "submit --check entry --verdict entry/entry.toml",
    ],
)
def test_commands_ask_before_they_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "f.png", "a.raw"):
        Path(name).write_text("x")
    Path("a.mhd").write_text("ElementDataFile = a.raw\n")
    for name in ("run/manifest.json", "other/rows.jsonl", "entry/entry.toml"):
        Path(name).parent.mkdir()
        Path(name).write_text("x")
    assert main(command.split()) == 2
    assert "is of what is read here" in capsys.readouterr().err
    assert Path(command.split()[-1]).read_text() == "x"
