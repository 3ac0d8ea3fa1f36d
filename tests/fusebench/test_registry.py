"""Names without imports, wildcards, near names, duplicates and broken plugins."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fusebench.errors import DuplicateNameError, InputError, PluginError, UnknownNameError
from fusebench.method import MethodInfo
from fusebench.registry import Registry

PLUGIN = """
from fusebench.method import Method, MethodInfo

class Plain(Method):
    info = MethodInfo(name="{name}", summary="test")
"""


@pytest.fixture
def registry() -> Registry:
    return Registry("method", MethodInfo)


def write(folder: Path, stem: str, text: str) -> Path:
    path = folder / f"{stem}.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_names_are_known_without_importing(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path, "boom", PLUGIN.format(name="boom") + "raise RuntimeError('must not be imported')\n")
    registry.add_folder(tmp_path, "nowhere")
    assert registry.names() == ["boom"]
    assert registry.entry("boom").origin.endswith("boom.py:5")


def test_folder_walk_takes_sub_folders_and_leaves_shared_code(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path, "one", PLUGIN.format(name="one"))
    for folder, name in (("net", "net"), ("training", "no"), ("weights", "no")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "plugin", PLUGIN.format(name=name))
    write(tmp_path, "_helper", "x = 1\n")
    registry.add_folder(tmp_path, "nowhere")
    assert registry.names() == ["net", "one"]


def test_path_plugin_loads_once_per_file(registry: Registry, tmp_path: Path) -> None:
    path = write(tmp_path, "mine", PLUGIN.format(name="mine"))
    registry.add_path(path)
    assert registry.load("mine") is registry.load("mine")
    assert registry.load("mine").info.name == "mine"


def test_failed_import_says_where_and_why(registry: Registry, tmp_path: Path) -> None:
    registry.add_path(write(tmp_path, "bad", PLUGIN.format(name="bad") + "import no_such_module\n"))
    with pytest.raises(PluginError, match=r"bad .*bad\.py:5.*No module named 'no_such_module'"):
        registry.load("bad")
    assert not [m for m in sys.modules if m.startswith("fusebench_plugin_bad")]


def test_syntax_error_is_listed_under_the_file_name(registry: Registry, tmp_path: Path) -> None:
    registry.add_path(write(tmp_path, "typo", "MethodInfo(name='x'\n"))
    assert registry.names() == ["typo"]
    with pytest.raises(PluginError, match="SyntaxError"):
        registry.load("typo")


def test_plugin_that_exits_is_a_plugin_error(registry: Registry, tmp_path: Path) -> None:
    registry.add_path(write(tmp_path, "quit", PLUGIN.format(name="quit") + "raise SystemExit(3)\n"))
    with pytest.raises(PluginError, match="SystemExit"):
        registry.load("quit")


def test_duplicate_names_both_origins(registry: Registry, tmp_path: Path) -> None:
    registry.add_path(write(tmp_path, "first", PLUGIN.format(name="same")))
    with pytest.raises(DuplicateNameError, match=r"first\.py:5 and .*second\.py:5"):
        registry.add_path(write(tmp_path, "second", PLUGIN.format(name="same")))


def test_wildcards_exclusion_and_order(registry: Registry, tmp_path: Path) -> None:
    for name in ("dense2", "dense10", "plain"):
        registry.add_path(write(tmp_path, name, PLUGIN.format(name=name)))
    assert registry.select(["all"]) == ["dense2", "dense10", "plain"]
    assert registry.select(["plain", "dense*"]) == ["plain", "dense2", "dense10"]
    assert registry.select(["all"], ["dense*"]) == ["plain"]


def test_unknown_names_are_helped(registry: Registry, tmp_path: Path) -> None:
    registry.add_path(write(tmp_path, "laplacian", PLUGIN.format(name="laplacian")))
    with pytest.raises(UnknownNameError, match="did you mean laplacian"):
        registry.select(["laplacan"])
    with pytest.raises(UnknownNameError, match="no method matches 'z\\*'"):
        registry.select(["z*"])
    with pytest.raises(UnknownNameError):
        registry.select(["all"], ["typo"])


def test_missing_plugin_path(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.py: no such file"):
        registry.add_path(tmp_path / "absent.py")


def test_entry_points(registry: Registry) -> None:
    good = EntryPoint("shipped", "fusebench.method:MethodInfo", "fusebench.methods")
    broken = EntryPoint("gone", "no_such_package:Thing", "fusebench.methods")
    registry.add_entry_points([good, broken])
    assert registry.names() == ["gone", "shipped"]
    with pytest.raises(PluginError, match="no `info` of type MethodInfo"):
        registry.load("shipped")
    with pytest.raises(PluginError, match=r"entry point no_such_package:Thing.*No module named"):
        registry.load("gone")
