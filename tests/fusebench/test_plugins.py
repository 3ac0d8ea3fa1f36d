"""Plugins by name and by variant, from folders, files and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fusebench
from fusebench.errors import InputError, UnknownNameError
from fusebench.plugins import ENVIRONMENT, find_plugins, make_method

PLUGIN = """
from fusebench.method import Method, MethodInfo


class Tuned(Method):
    info = MethodInfo(name="tuned", summary="a test")
    variants = {"half": {"t": 0.5}, "more": {"t": 0.75, "power": 2}, "file": {"t": 1.0}}
    default_variant = "half"
    unlisted_variants = ("file",)

    def __init__(self, t: float = 0.1, power: int = 1) -> None:
        self.t, self.power = t, power

    def fuse(self, a, b):
        return self.t * a + (1 - self.t) * b
"""


@pytest.fixture
def plugins(tmp_path: Path):
    path = tmp_path / "tuned.py"
    path.write_text(PLUGIN)
    return find_plugins((str(path),))


def test_variants_are_entries_without_importing_and_unlisted_ones_are_asked_for(plugins) -> None:
    assert [n for n in plugins.methods.names() if n.startswith("tuned")] == ["tuned@half", "tuned@more"]
    assert plugins.methods.select(["tuned*"]) == ["tuned@half", "tuned@more"]
    assert plugins.methods.select(["tuned@file"]) == ["tuned@file"]
    assert {"tuned@file", "u2fusion@port"} <= set(plugins.methods.unlisted())
    assert not set(plugins.methods.unlisted()) & set(plugins.methods.names())


def test_the_plain_name_stands_for_the_default_variant(plugins) -> None:
    assert plugins.methods.select(["tuned"]) == ["tuned@half"]
    assert make_method(plugins, "tuned", {}).parameters() == {"t": 0.5, "power": 1}


def test_parameters_of_the_user_go_over_those_of_the_variant(plugins) -> None:
    made = make_method(plugins, "tuned@more", {"t": 0.2})
    assert made.parameters() == {"t": 0.2, "power": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tuned@mroe", "method tuned has no variant 'mroe'; it has half, more, file"),
        ("average@x", "method average has no variant 'x'; it has none"),
        ("tunde", "no method is called 'tunde'; did you mean .*tuned"),
    ],
)
def test_an_unknown_variant_is_told_the_known_ones(plugins, name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        plugins.methods.load(name)


def test_a_variant_refuses_what_the_method_refuses(plugins) -> None:
    with pytest.raises(InputError, match="tuned@more has no parameter 'q'"):
        make_method(plugins, "tuned@more", {"q": 1})


def test_create_method_takes_variants() -> None:
    a, b = torch.ones(1, 2, 2), torch.zeros(1, 2, 2)
    for name, share in (("blend@0.20", 0.80), ("blend@0.75", 0.25), ("blend", 0.65)):
        assert torch.allclose(fusebench.create_method(name).fuse(a, b), torch.tensor(share))
    assert {"blend@0.20", "blend@0.35", "blend@0.75"} <= set(fusebench.list_methods(["blend*"]))


def test_files_of_the_environment_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more.py").write_text(PLUGIN.replace('"tuned"', '"from-environment"'))
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    find_plugins.cache_clear()
    try:
        assert "from-environment@half" in fusebench.list_methods()
    finally:
        monkeypatch.delenv(ENVIRONMENT)
        find_plugins.cache_clear()
