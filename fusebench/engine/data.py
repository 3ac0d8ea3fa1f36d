"""The data of a run: opening a dataset with a user's options, its cases, and what it leaves out."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..case import Case
from ..dataset import Dataset
from ..errors import FuseBenchError, InputError
from ..parameters import create, signature
from ..plugins import Plugins
from ..store.data_keys import Loading, loading_of
from ..store.keys import cases_key
from ..text import plural, printable
from .deadline import asking_dataset


def open_dataset(
    plugins: Plugins,
    name: str,
    data_dir: Path | None = None,
    options: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> Dataset:
    """Make the dataset called `name`.

    Parameters
    ----------
    data_dir : Path, optional
        Where the data lies.
    options : mapping, optional
        Its parameters; dashes in names are read as underscores.
    seconds : float, optional
        Limit, as of `asking_dataset`.

    Raises
    ------
    InputError
        No such folder, one is needed, a parameter does not fit, or as of `asking_dataset`.
    """
    with asking_dataset(name, "opening it", seconds):
        cls = plugins.datasets.load(name)
        given = {key.replace("-", "_"): value for key, value in (options or {}).items()}
        if data_dir is not None:
            if not data_dir.exists():
                raise InputError(f"--data-dir {data_dir}: no such folder")
            if "data_dir" not in (parameters := signature(cls))[0] and not parameters[1]:
                raise InputError(
                    f"--data-dir: dataset {name} reads no folder; leave it out, or name a dataset that does, "
                    "such as --dataset pairs"
                )
            given["data_dir"] = data_dir.resolve()  # workers may run in another folder
        elif cls.info.needs_dir and not given:
            raise InputError(f"dataset {name} needs --data-dir PATH. {cls.info.obtain}".strip())
        return create(name, cls, given)


def guess_dataset(plugins: Plugins, data_dir: Path) -> str:
    """What to say of a folder whose dataset was not named: the one that finds most cases in it."""
    counts: dict[str, int] = {}
    if not data_dir.is_dir():
        return f"--data-dir {data_dir}: no such folder"
    for name in plugins.datasets:
        try:
            cls = plugins.datasets.load(name)
            if "data_dir" in signature(cls)[0]:
                with asking_dataset(name, "listing its cases"):
                    dataset = create(name, cls, {"data_dir": data_dir.resolve()})
                    counts[name] = len(dataset.every_case())
        except (FuseBenchError, OSError):  # it is no folder of that kind, or the plugin is broken
            continue
    if not any(counts.values()):
        known = ", ".join(counts or ["pairs"])
        return f"--data-dir {data_dir}: say what it holds with --dataset ({known}); none of them finds cases"
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    what = f"add --dataset {best[0]}" if len(best) == 1 else "say which with --dataset"
    return f"--data-dir {data_dir}: {plural(most, 'case')} of dataset {' or '.join(best)}; {what}"


def check_split(dataset: Dataset, split: str) -> None:
    """Raise `InputError` for a split that the dataset does not have."""
    if split not in (*dataset.info.splits, "all"):
        known = ", ".join(dataset.info.splits)
        raise InputError(f"dataset {dataset.info.name} has no split {split!r}; it has {known}, all")


def split_cases(dataset: Dataset, split: str) -> list[Case]:
    """The cases of a split, or of all; where there are none, the error says where there are."""
    check_split(dataset, split)
    with asking_dataset(dataset.info.name, "listing its cases"):
        cases = list(dataset.every_case() if split == "all" else dataset.cases(split))
    if not cases:
        counts = {other: _count(dataset, other) for other in dataset.info.splits}
        have = ", ".join(f"{other} {count}" for other, count in counts.items())
        most = max(counts, key=lambda other: counts[other])
        remedy = f"try --split {most}" if counts[most] else "check --data-dir and --data-option"
        raise InputError(
            f"dataset {dataset.info.name} has no cases in split {split!r} (cases: {have}); {remedy}"
        )
    names = Counter((case.dataset, case.id) for case in cases)
    (_, name), count = names.most_common(1)[0]
    if count > 1:  # the rows of one would stand for both
        raise InputError(
            f"dataset {dataset.info.name}: {count} cases are called {name!r}; give each its own id"
        )
    return cases


def _count(dataset: Dataset, split: str) -> int:
    try:
        with asking_dataset(dataset.info.name, "listing its cases"):
            return len(dataset.cases(split))
    except InputError:  # how some datasets say that there are none
        return 0


def dataset_loading(plugins: Plugins, dataset: Dataset) -> Loading:
    """The code that loads the cases of a dataset, its plugin file included where it is a plugin's."""
    name, cls = dataset.info.name, type(dataset)
    known = plugins.datasets.entry(name) if name in plugins.datasets else None
    # Another class may have the name of a plugin: then that one's file has no part in it.
    is_plugin = known is not None and plugins.datasets.load(name) is cls
    return loading_of(cls, str(known.path or "") if known and is_plugin else "")


def left_out(dataset: Dataset) -> str:
    """One line on what the dataset found and cannot use; "" where that is nothing."""
    found = dataset.left_out()
    if not found:
        return ""
    first = printable(str(found[0])) + (", ..." if len(found) > 1 else "")
    where = getattr(dataset, "data_dir", None)
    folder = "" if where is None else f" --data-dir {shlex.quote(str(where))}"
    command = f"prepare --dataset {dataset.info.name}{folder} --report"
    return f"{len(found)} left out ({first}); `{command}` says why"


def dataset_facts(
    dataset: Dataset, split: str, cases: Sequence[Case], lost: str, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest's entry on the data: `cases` of the split under `options`; `lost` as `left_out` says."""
    return {
        "parameters": dict(options or {}),
        "split": split,
        "fingerprint": cases_key(cases),
        "cases": len(cases),
        "left_out": lost,
        **asdict(dataset.describe()),
    }
