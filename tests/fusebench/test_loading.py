"""Plugin files are imported as they are, not as bytecode of an earlier state has them."""

from __future__ import annotations

import os
import py_compile
import sys
from pathlib import Path

import pytest

from fusebench.loading import module_from_path


def rewrite(path: Path, text: str) -> None:
    """Replace a text by one of the same length, and put its time of change back."""
    stat = path.stat()
    assert len(text) == stat.st_size
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_old_bytecode_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"helper_{abs(hash(tmp_path))}"
    plugin, helper = tmp_path / "plugin.py", tmp_path / f"{name}.py"
    plugin.write_text(f"import {name}\nmine = 1\n")
    helper.write_text("theirs = 1\n")
    for path in (plugin, helper):
        py_compile.compile(str(path))
    rewrite(plugin, plugin.read_text().replace("1\n", "2\n"))
    rewrite(helper, "theirs = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = module_from_path(plugin)
    assert (found.mine, getattr(found, name).theirs) == (2, 2)
    monkeypatch.delitem(sys.modules, name)


def test_an_edited_plugin_is_imported_anew(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text("x = 1\n")
    first = module_from_path(path)
    assert module_from_path(path) is first
    rewrite(path, "x = 2\n")
    assert module_from_path(path).x == 2
    path.unlink()  # what is loaded stays of use
    assert module_from_path(path).x == 2
