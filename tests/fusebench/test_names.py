"""Names where they come in, and text where it goes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusebench.case import Case
from fusebench.errors import InputError, PluginError
from fusebench.names import check_file_name, check_name
from fusebench.plugins import find_plugins
from fusebench.text import cell, printable

BAD = ["", " ", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\0b", "\ud800"]
BAD += ["x" * 201]


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_name_a_file_names_no_case(name: str) -> None:
    with pytest.raises(InputError) as caught:
        check_file_name(name, "the id")
    assert printable(str(caught.value)) == str(caught.value), "one line that steers no terminal"
    with pytest.raises(InputError):
        Case(name, "d", "g", "f", loader=lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError):
        Case("c", name, "g", "f", loader=lambda: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("name", ["=cmd", "-x", "+1", "@s", ".hidden", "a,b", "a*", "a?", "a:b", "all", "a "])
def test_what_means_something_else_names_no_plugin(name: str) -> None:
    check_file_name(name, "the id")
    with pytest.raises(InputError, match="cannot be a name"):
        check_name(name, "method")


@pytest.mark.parametrize("name", ["dwt", "source-mri", "q_te", "Änderung 2", "融合", "scan[b]", "a=b"])
def test_ordinary_names_pass(name: str) -> None:
    assert check_file_name(name, "the id") == name


@pytest.mark.parametrize("name", ["../../escaped", "=cmd|' /C calc'!A0", "a\x1b[2Jb", ""])
def test_a_plugin_of_a_bad_name_is_a_broken_one_and_costs_no_other(tmp_path: Path, name: str) -> None:
    plugin = tmp_path / "p.py"
    plugin.write_text(f"from fusebench import MethodInfo\ninfo = MethodInfo(name={name!r}, summary='x')\n")
    methods = find_plugins((str(plugin),)).methods
    [listed] = set(methods.names()) - set(find_plugins().methods.names())
    assert printable(listed) == listed
    assert "average" in methods
    with pytest.raises(PluginError, match="name"):
        methods.load(listed)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("=1+1", "'=1+1"), ("@a", "'@a"), ("+x", "'+x"), ("-x", "'-x"), ("-5", "-5"), ("a=b", "a=b"), ("", "")],
)
def test_a_spreadsheet_gets_text(text: str, shown: str) -> None:
    assert cell(text) == shown


def test_what_steers_a_terminal_is_written_out() -> None:
    assert printable("a\x1b[2J\u202eb\x9bc\nd\ud800") == "a\\x1b[2J\\u202eb\\x9bc\\x0ad\\ud800"
    assert printable("a\nb", keep="\n") == "a\nb"
    assert printable("naïve 融合 ≥ 1") == "naïve 融合 ≥ 1"
