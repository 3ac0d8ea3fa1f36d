"""Facts from the source of a plugin: what is literal is read, everything else is imported."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from fusebench.errors import PluginError
from fusebench.literals import NotLiteral, literal_facts, nodes_with
from fusebench.method_info import MethodInfo
from fusebench.registry import Registry

PLUGIN = """
import math
from dataclasses import replace
from fusebench.method import Method, MethodInfo, Weights

COMMON = {"licence": "MIT", "params": 2 * 10}
LOOP = LOOP
FACTS = {"big": {"cost": 9.0}}

class Mine(Method):
    info = MethodInfo(name="mine", summary="a" + "b", cost=-(-1.5), weights=Weights(file="w", sha256="0"),
                      **COMMON)
    variants = {"big": {"size": 3}, "odd": {"size": 4}}
    variant_facts = {"big": FACTS["big"]}
    def __init__(self, size=1):
        self.size = size
    def describe(self):
        return replace(super().describe(), params=7) if self.size == 4 else super().describe()

class Made(Method):
    info = MethodInfo(name="made", summary=str(3))

class Loop(Method):
    info = MethodInfo(name="loop", summary=LOOP)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def test_literals_names_items_and_known_classes_are_read(path: Path) -> None:
    info = literal_facts(path, MethodInfo, "mine").info
    assert (info.summary, info.cost, info.params, info.licence) == ("ab", 1.5, 20, "MIT")
    assert info.weights.file == "w"
    big = literal_facts(path, MethodInfo, "mine", "big")
    assert big.info.cost == 9.0 and big.setting == {"size": 3}


@pytest.mark.parametrize(("name", "variant"), [("made", ""), ("loop", ""), ("absent", ""), ("mine", "odd")])
def test_what_would_have_to_be_run_is_not_read(path: Path, name: str, variant: str) -> None:
    with pytest.raises(NotLiteral):
        literal_facts(path, MethodInfo, name, variant)


def test_what_cannot_be_read_is_imported(path: Path) -> None:
    path.write_text(PLUGIN.replace("LOOP = LOOP", "LOOP = ''"))
    registry: Registry[type] = Registry("method", MethodInfo)
    registry.add_path(path)
    assert registry.stated("made") is None and registry.facts("made").info.summary == "3"
    assert registry.facts("mine@odd").info.params == 7
    assert registry.facts("mine@big").info.cost == 9.0


def test_a_bundled_plugin_without_its_library_is_broken_unimported(tmp_path: Path) -> None:
    source = "import no_such_library\nfrom fusebench.method import Method, MethodInfo\n"
    source += "class A(Method):\n    info = MethodInfo(name='a', summary='')\n"
    (tmp_path / "a.py").write_text(textwrap.dedent(source))
    registry: Registry[type] = Registry("method", MethodInfo)
    registry.add_folder(tmp_path, "nowhere")
    with pytest.raises(PluginError, match="No module named 'no_such_library'"):
        registry.facts("a")
    assert registry.stated("a") is not None


def test_lines_are_counted_as_python_counts_them() -> None:
    source = "# \x0c \u2028 \x85\r\nclass A:\n    wanted = 1\n"
    assert [type(node).__name__ for node in nodes_with(source, "wanted")][1:3] == ["ClassDef", "Assign"]
