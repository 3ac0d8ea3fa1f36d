"""Options shared by several subcommands."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import write_text
from ..names import check_name
from ..parameters import user_path

if TYPE_CHECKING:
    from ..engine.spec import Choice
    from ..plugins import Plugins


# What runs where no dataset is named.
DATASET = "phantom"
# Names of texts in a run folder and an entry; and suffixes of texts that `write_named` may have written.
_HELD = ("manifest.json", "rows.jsonl", "rows.parquet", "rows.csv", "findings.csv", "entry.toml")
_TEXTS = (".csv", ".tsv", ".json", ".md", ".txt")
# argparse's groups and parsers take arguments alike, and share no public class.
Options = Any


def add_data_options(parser: argparse.ArgumentParser, split: str = "test") -> Options:
    """``--dataset`` and the options that choose its cases; returns their group, which takes more."""
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME", help=f"default {DATASET}; see `list datasets`")
    data.add_argument("--data-dir", type=Path, metavar="PATH", help="where the data lies")
    data.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="a parameter of the dataset (repeatable)",
    )
    data.add_argument("--split", default=split, help=f"a split of the dataset, or all (default {split})")
    data.add_argument("--cases", type=at_least(1), metavar="N", help="the first N cases only")
    return data


def dataset_of(args: argparse.Namespace) -> str:
    """The name of the dataset; `InputError` with a guess where a folder is given and no name."""
    name: str | None = args.dataset
    if name is None and args.data_dir is not None:
        from ..engine.data import guess_dataset

        raise InputError(guess_dataset(plugins_of(args), args.data_dir))
    return name or DATASET


def data_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Request` that the data options and ``--plugin`` set."""
    return {
        "dataset": dataset_of(args),
        "data_dir": args.data_dir,
        "data_options": parameters_of(args.data_option, "--data-option"),
        "split": args.split,
        "cases": args.cases,
        "plugins": tuple(args.plugin),
    }


def add_plugin_option(parser: Options) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PATH",
        help="a plugin file, or a folder of plugin files (repeatable)",
    )


def plugins_of(args: argparse.Namespace) -> Plugins:
    """Everything registered, ``--plugin`` included, each of which must offer something."""
    from ..plugins import find_plugins, require_plugins

    found = find_plugins(tuple(args.plugin))
    require_plugins(found, args.plugin)
    return found


def add_radiological_option(parser: Options) -> None:
    parser.add_argument(
        "--radiological",
        action="store_true",
        help="pictures have the patient's right on the left, as at a workstation (default: the left)",
    )


def add_board_options(parser: Any) -> None:
    """``--rank-by``, ``--wide`` and ``--radiological``."""
    add_radiological_option(parser)
    parser.add_argument(
        "--rank-by",
        choices=["reading", "similarity", "all"],
        help="what gives the places (default: the readings where the run has some, else the likeness to the "
        "sources)",
    )
    parser.add_argument(
        "--wide", action="store_true", help="print all columns of the board (default: at most 100 wide)"
    )


def add_device_option(parser: Options) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")


def device_of(args: argparse.Namespace) -> str:
    """The device asked for, checked."""
    from ..engine.hardware import checked_device  # imports torch

    return checked_device(args.device)


def add_settings_option(parser: Options, what: str) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME.PARAM=VALUE",
        help=f"a parameter of a {what}, e.g. dwt.wavelet=db4 (repeatable)",
    )


def settings_of(pairs: Iterable[str], option: str = "--set") -> dict[str, dict[str, Any]]:
    """Parse ``NAME.PARAM=VALUE`` pairs; values are Python literals, else text."""
    settings: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        target, equals, text = pair.partition("=")
        name, dot, parameter = target.rpartition(".")
        if not (equals and dot and name and parameter):
            raise InputError(f"{option} {pair}: the form is NAME.PARAM=VALUE")
        settings.setdefault(name, {})[parameter] = literal(text)
    return settings


def choices_of(texts: Iterable[str], option: str) -> list[Choice]:
    """Parse ``LABEL=METHOD,PARAM=VALUE,...``: entries of a board under labels of the user's."""
    from ..engine.spec import Choice

    found = []
    for text in texts:
        label, equals, rest = text.partition("=")
        name, *pairs = rest.split(",")
        given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if not (equals and label and name and len(given) == len(pairs)):
            raise InputError(f"{option} {text}: the form is LABEL=METHOD,PARAM=VALUE,...")
        check_name(label, f"{option}: the label")
        values = {key: literal(value) for key, value in given.items()}
        if isinstance(values.get("weights"), str):
            values["weights"] = str(user_path(values["weights"]).resolve())
        found.append(Choice(label, name, values))
    return found


def parameters_of(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """Parse ``PARAM=VALUE`` pairs of one plugin; values are Python literals, else text."""
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{option} {pair}: the form is PARAM=VALUE")
        parameters[name] = literal(text)
    return parameters


def weights_path(text: str, method: str) -> Path:
    """The file of ``--weights FILE``, or of ``--weights METHOD=FILE`` as `run` takes it."""
    path = user_path(text)
    name, equals, rest = text.partition("=")
    if path.exists() or not equals or {"/", "\\"} & set(name):
        return path
    if name != method or not rest:
        raise InputError(f"--weights {text}: no such file; the form is FILE or {method}=FILE")
    return user_path(rest)


def literal(text: str) -> Any:
    """Read a Python literal, or ``true`` and ``false`` in any case, or keep the text as it is."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # no literal, or a huge one
        return text


def at_least(low: int, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """The `type` of an argument that is a number, `low` or more."""

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {name}") from None
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text!r} is too small; it must be {low} or more")
        return value

    return number


def split_commas(values: Iterable[str]) -> list[str]:
    """``["a,b", "c"]`` to ``["a", "b", "c"]``."""
    return [part for value in values for part in value.split(",") if part]


def refuse_sources(option: str, path: Path | None, sources: Iterable[Path]) -> None:
    """Raise `InputError` where a file to write is one of `sources`, or of what a run or entry there holds.

    Texts of other names, such as an earlier output, may be replaced in such a folder.
    """
    if path is None:
        return
    kept = path.exists() and path.suffix.lower() not in _TEXTS
    for source in sources:
        if not source.exists():  # which reading it says
            continue
        inside = path.resolve().is_relative_to(source.resolve())
        if (inside and (kept or path.name in _HELD)) or (path.exists() and path.samefile(source)):
            raise InputError(f"{option} {path}: is of what is read here ({source}); give another name")


def write_named(path: Path, text: str) -> None:
    """Write a text to a file that the user named: beside it and moved, or into what is a device or pipe."""
    with writing(path):
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
        else:
            write_text(path, text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path`, or a file in it, into `InputError`."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise InputError(f"{where}: cannot be written ({error.strerror or error})") from None
