"""Parameters from the command line: unknown names and unfit values are one clear line."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from fusebench.cli import main
from fusebench.errors import InputError
from fusebench.parameters import create, signature

from .conftest import Bench

Error = Callable[[], str]


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Error:
    """The one line on stderr."""

    def read() -> str:
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return read


class Plugin:
    def __init__(
        self,
        count: int = 1,
        share: float = 0.5,
        flag: bool = False,
        name: str | None = None,
        kind: Literal["a", "b"] = "a",
        size: tuple[int, int] = (1, 2),
        steps: Sequence[float] = (),
        where: str | os.PathLike[str] | None = None,
        free: Any = None,
        loose=None,  # type: ignore[no-untyped-def]
    ) -> None:
        if count < 0:
            raise ValueError("count is negative")


@pytest.mark.parametrize(
    "given",
    [
        {"count": 3, "share": 2, "flag": True, "name": "x", "kind": "b", "size": [3, 4], "steps": (1, 0.5)},
        {"name": None, "where": Path("x"), "free": object(), "loose": {}},
        {"where": "x"},
    ],
)
def test_fitting_values_pass(given: dict[str, Any]) -> None:
    assert isinstance(create("it", Plugin, given), Plugin)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"foo": 1}, "it has no parameter 'foo'; it has count, share, flag"),
        ({"count": "abc"}, "it: count='abc' is not a whole number"),
        ({"count": 3.5}, "it: count=3.5 is not a whole number"),
        ({"count": True}, "it: count=True is not a whole number"),
        ({"share": "foo"}, "it: share='foo' is not a number"),
        ({"flag": "perhaps"}, "it: flag='perhaps' is not true or false"),
        ({"flag": 5}, "it: flag=5 is not true or false"),
        ({"name": 18}, "it: name=18 is not text or None (in quotes: \"name='18'\")"),
        ({"kind": "c"}, "it: kind='c' is not one of a, b"),
        ({"size": (1, 2, 3)}, "it: size=(1, 2, 3) is not (a whole number, a whole number)"),
        ({"steps": (1, "x")}, "it: steps=(1, 'x') is not a list, each a number"),
        ({"count": -1}, "it: count is negative"),
    ],
)
def test_unfit_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        create("it", Plugin, given)
    assert str(caught.value).startswith(message)


def test_annotations_that_cannot_be_evaluated_and_open_signatures() -> None:
    def vague(*, a: NoSuchType = 1, **others: Any) -> dict[str, Any]:  # type: ignore[name-defined]  # noqa: F821
        return {"a": a, **others}

    assert create("it", vague, {"a": "x", "b": 2}) == {"a": "x", "b": 2}
    assert signature(vague)[0]["a"].words == ""
    with pytest.raises(InputError, match="it needs the parameter seed"):
        create("it", lambda seed: seed, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "dwt", "--set", "dwt.levels=abc"], "dwt: levels='abc' is not a whole number"),
        (["--methods", "dwt", "--set", "dwt.levels=3.5"], "dwt: levels=3.5 is not a whole number"),
        (["--methods", "dwt", "--set", "dwt.foo=1"], "dwt has no parameter 'foo'; it has wavelet, levels"),
        (["--methods", "dcfb", "--set", "dcfb.bf16=perhaps"], "dcfb: bf16='perhaps' is not true or false"),
        (
            ["--methods", "average", "--weights", "average=x"],
            "average has no parameter 'weights'",
        ),
        (["--data-option", "foo=1"], "tiny has no parameter 'foo'; it has count, size"),
        (["--data-option", "count=x"], "tiny: count='x' is not a whole number"),
    ],
)
def test_run(bench: Bench, error: Error, arguments: list[str], message: str) -> None:
    assert bench("--methods", "healthy", *arguments) == 2
    assert error().startswith(f"run_bench.py: error: {message}")


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("adni", "max_days=abc", "adni: max_days='abc' is not a whole number"),
        ("adni", "follow_links=5", "adni: follow_links=5 is not true or false"),
        ("bids", "size=abc", "bids: size='abc' is not a whole number"),
        ("aanlib", "stack=maybe", "aanlib: stack='maybe' is not true or false"),
    ],
)
def test_prepare(tmp_path: Path, error: Error, name: str, option: str, message: str) -> None:
    folder = str(tmp_path)
    assert main(["prepare", "--dataset", name, "--data-dir", folder, "--data-option", option]) == 2
    assert error() == f"run_bench.py: error: {message}"


def test_a_metric_has_no_parameters(error: Error) -> None:
    assert main(["check", "metric", "psnr", "--set", "foo=1"]) == 2
    assert error() == "run_bench.py: error: metric psnr has no parameter 'foo'; metrics have none"


def test_list_shows_the_parameters_of_named_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "dwt", "average"]) == 0
    out = capsys.readouterr().out
    assert "--set dwt.levels=3" in out and "a whole number" in out
    assert "average has no parameters" in out
    assert main(["list", "datasets", "bids"]) == 0
    out = capsys.readouterr().out
    assert "--data-option size=128" in out and "--data-dir PATH" in out
