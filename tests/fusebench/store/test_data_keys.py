"""Keys of cases: of the fingerprint, the code that loads it, and what a plugin's loader is given."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset
from fusebench.errors import InputError
from fusebench.plugins import find_plugins
from fusebench.store import contents
from fusebench.store.data_keys import NOT_KNOWN, Loading, case_key, check_loading, data_key, loading_of

PLUGIN = """
import os
from pathlib import Path
from helper_d import STEP
from fusebench.dataset import Dataset, DatasetInfo

TABLE = Path(__file__).parent / "table.csv"
SCALE = os.environ.get("FB_DATA_SCALE", "1")

class Own(Dataset):
    info = DatasetInfo(name="own-data", summary="x")
"""
KNOWN = Loading("k")


def load(*_: object, **__: object) -> Pair:
    volume = Volume(np.zeros((2, 2, 2), np.float32))
    return Pair(volume, volume, np.ones((2, 2, 2), bool))


def case(loader: Callable[..., Pair], **given: Any) -> Case:
    return Case(**{"id": "c", "dataset": "d", "group": "g", "fingerprint": "f", "loader": loader, **given})


@pytest.fixture
def loading(tmp_path: Path) -> Callable[[], Loading]:
    (tmp_path / "helper_d.py").write_text("STEP = 1\n")
    (tmp_path / "table.csv").write_text("1\n")
    (tmp_path / "own.py").write_text(PLUGIN)
    cls = find_plugins((str(tmp_path / "own.py"),)).datasets.entry("own-data")
    assert cls.path is not None
    return lambda: loading_of(type("Own", (Dataset,), {"__module__": "elsewhere"}), str(cls.path))


@pytest.mark.parametrize("file", ["own.py", "helper_d.py", "table.csv"])
def test_a_dataset_depends_on_its_code_and_the_files_that_it_names(
    loading: Callable[[], Loading], tmp_path: Path, file: str
) -> None:
    before = loading()
    assert loading() == before and not before.bundled
    with (tmp_path / file).open("a") as handle:
        handle.write("# other\n")
    assert loading().key != before.key


def test_a_dataset_depends_on_the_environment_that_it_reads(
    loading: Callable[[], Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loading()
    monkeypatch.setenv("FB_DATA_SCALE", "2")
    assert loading().key != before.key


def test_of_a_bundled_dataset_the_code_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = find_plugins().datasets.load("phantom-hidden")
    before = loading_of(cls)
    assert before.bundled and before.key and all(not os.path.isabs(f) for f in before.files)
    monkeypatch.setenv("FUSEBENCH_HIDDEN_SEED", "what nobody is to guess from a key")
    assert loading_of(cls) == before


def test_the_code_of_the_plan_is_that_of_the_worker(loading: Callable[[], Loading], tmp_path: Path) -> None:
    planned = loading()
    check_loading(planned, "d")
    (tmp_path / "table.csv").write_text("2\n")  # it may write that itself
    os.utime(tmp_path / "own.py", (1, 1))
    check_loading(planned, "d")
    (tmp_path / "helper_d.py").write_text("STEP = 2\n")
    with pytest.raises(InputError, match="edited meanwhile"):
        check_loading(planned, "d")
    (tmp_path / "own.py").unlink()
    with pytest.raises(InputError, match="edited meanwhile"):
        check_loading(planned, "d")
    check_loading(NOT_KNOWN, "d")


def test_a_case_has_its_subject_and_its_fingerprint_in_its_key() -> None:
    before = case_key(case(load), KNOWN)
    assert case_key(case(load), KNOWN) == before
    assert (
        len({before, *(case_key(case(load, **{n: "x"}), KNOWN) for n in ("group", "fingerprint", "origin"))})
        == 4
    )
    assert case_key(case(load), Loading("other")) != before
    assert case_key(case(load), NOT_KNOWN) == "f" == data_key("f", "g", "")


class Holder:
    """An object that a loader may be a method of."""

    def __init__(self, **held: object) -> None:
        vars(self).update(held)

    @cached_property
    def table(self) -> list[int]:
        return [1, 2]

    def load(self) -> Pair:
        return load()


@dataclass(slots=True)
class Slotted:
    w: float


class Private:
    __slots__ = ("_w",)

    def __init__(self, w: float) -> None:
        self._w = w


class Rude:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


def enclosed(value: object) -> Callable[[], Pair]:
    return lambda: load(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: partial(load, w),
        lambda w: partial(load, given=[{"a": (1, w)}]),
        lambda w: Holder(w=w).load,
        lambda w: Holder(_w=w).load,
        lambda w: partial(Holder.load, Holder(inner=Holder(w=w))),
        lambda w: partial(load, np.full(3000, w)),
        lambda w: partial(load, frozenset({w})),
        lambda w: partial(load, np.array([w, None], object)),
        lambda w: partial(load, torch.full((3000,), w)),
        lambda w: partial(load, pd.Series({"w": w})),
        lambda w: partial(load, Slotted(w)),
        lambda w: partial(load, Private(w)),
        lambda w: Holder(_options={"w": w}).load,
        lambda w: partial(load, deque([w])),
        lambda w: partial(load, complex(w)),
        lambda w: partial(load, range(int(4 * w))),
        lambda w: partial(load, date(2026, 1, int(8 * w))),
        enclosed,
    ],
)
def test_what_a_loader_is_given_counts(make: Callable[[float], Callable[..., Pair]]) -> None:
    first, again, second = (case_key(case(make(w)), KNOWN) for w in (0.5, 0.5, 0.25))
    assert first == again != second


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["a.npy", "folder"])
def test_a_file_that_a_loader_is_given_counts_with_what_it_holds(
    tmp_path: Path, kind: Callable[[Path], object], name: str
) -> None:
    keys = []
    for place, text in (("one", "1"), ("two", "1"), ("two", "2")):
        for file in ("a.npy", "folder/b.npy"):
            (tmp_path / place / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / file).write_text(text)
        keys.append(case_key(case(partial(load, kind(tmp_path / place / name))), KNOWN))
    assert keys[0] == keys[1] != keys[2]


def test_the_facts_of_a_case_count_and_their_order_does_not() -> None:
    one, other = {"modality": "MRI-PET", "age": 1}, {"age": 1, "modality": "MRI-PET"}
    assert case_key(case(load, meta=one), KNOWN) == case_key(case(load, meta=other), KNOWN)
    assert case_key(case(load, meta=one), KNOWN) != case_key(case(load, meta={**one, "age": 2}), KNOWN)


def test_a_logger_that_a_loader_holds_does_not_count() -> None:
    before = case_key(case(Holder(log=logging.getLogger("a")).load), KNOWN)
    logging.getLogger("a").addHandler(logging.NullHandler())
    assert case_key(case(Holder(log=logging.getLogger("a")).load), KNOWN) == before


def test_a_folder_of_many_files_counts_by_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MOST_DATA_FILES", 2)
    for name in ("a/b/c/d.npy", "e.npy", "f.npy", "mine/rows.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = case_key(case(partial(load, tmp_path)), KNOWN)
    (tmp_path / "mine" / "board.csv").write_text("the folder of a run")
    assert case_key(case(partial(load, tmp_path)), KNOWN) == before
    (tmp_path / "a/b/c/d.npy").write_text("12")
    assert case_key(case(partial(load, tmp_path)), KNOWN) != before


def test_what_a_dataset_fills_as_it_goes_does_not_count() -> None:
    holder = Holder(w=1, _cache={}, _found=[])
    before = case_key(case(holder.load), KNOWN)
    vars(holder).update(_cache={"c": load()}, _found=["c"], _pair=load())
    assert holder.table and case_key(case(holder.load), KNOWN) == before


def test_a_loader_of_any_kind_is_told() -> None:
    itself: list[object] = []
    itself.append(itself)
    for odd in (
        itself,
        object(),
        Rude(),
        open,
        Holder,
        b"x",
        {1: {2: 3}},
        range(3),
        "x" * 9999 + "/",
        float("nan"),
    ):
        assert case_key(case(partial(load, odd)), KNOWN) == case_key(case(partial(load, odd)), KNOWN)


def test_rows_state_the_key_of_a_plugins_case() -> None:
    one = case(load)
    assert Loading("k").stated(one, "data") == "data"
    assert replace(Loading("k"), bundled=True).stated(one, "data") == NOT_KNOWN.stated(one, "data") == "f"
