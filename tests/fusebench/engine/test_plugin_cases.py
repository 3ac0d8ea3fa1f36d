"""Cases that a plugin loads: sent as bytes, loaded in a child; a loader reaches no row but its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusebench.case import Case, Pair, Volume
from fusebench.engine.parcel import Sealed, described, opened, seal, unsealed
from fusebench.errors import InputError
from fusebench.plugins import find_plugins

from ..conftest import Bench

SHAPE = (4, 5, 6)
DATA = """
import os, signal, socket, stat, sys, time
import numpy as np
import torch
from functools import partial
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo

def sockets():
    for fd in range(3, 256):
        if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode):
            yield fd

WAYS = {
    "healthy": lambda: None,
    "ends": lambda: os._exit(0),
    "leaves": lambda: sys.exit(3),
    "hangs": lambda: time.sleep(1000),
    "writes": lambda: [os.write(fd, b"0" * 40) for fd in sockets()],
    "closes": lambda: os.closerange(3, 256),
    "forks": lambda: os.fork(),
    "patches": lambda: setattr(torch.Tensor, "mean", torch.Tensor.sum),
    "registry": lambda: sys.modules["fusebench.plugins"].find_plugins().metrics._entries.clear(),
    "truth": lambda: None,
    "later": lambda: None,
}

def load(way):
    WAYS[way]()
    a, b = np.random.rand(2, 8, 8, 8).astype(np.float32)
    return Pair(Volume(a), Volume(b), np.ones((8, 8, 8), bool))

def truth(way):
    if way == "truth":
        raise ValueError("no truth today")
    return {"lesion": np.ones((8, 8, 8), bool)}

class Odd(Dataset):
    info = DatasetInfo(name="odd", summary="x")

    def cases(self, split="test"):
        return [Case(way, "odd", way, way, partial(load, way), partial(truth, way)) for way in WAYS]
"""
BAD = {
    "ends": "the worker exited with code 0",
    "leaves": "SystemExit: 3 (odd.py:17)",
    "hangs": "loading the case took over 10 s (--timeout)",
    "writes": "loading the case wrote to the engine's own connection; stopped",
    "closes": "the worker exited with code 1",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are watched by what Linux tells")
def test_a_loader_costs_its_own_rows_only(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame]
) -> None:
    (tmp_path / "odd.py").write_text(DATA)
    options = ("--plugin", str(tmp_path / "odd.py"), "--dataset", "odd", "--jobs", "1", "--timeout", "1")
    assert bench("--methods", "average,max", "--metrics", "psnr,lesion_contrast", *options) == 1
    found = rows()
    failed = found[found.status.isin(["error", "timeout"])]
    assert failed[failed.metric == "psnr"].groupby("case").reason.first().to_dict() == BAD
    contrast = found[found.metric == "lesion_contrast"].groupby("case")[["status", "reason"]].first()
    assert contrast.reason["truth"].startswith("the ground truth cannot be read: ValueError: no truth today")
    assert contrast.status["later"] == "skip"
    assert contrast.reason["later"] == "the ground truth has no 'mri_twin', the case without its lesion"
    psnr = found[(found.metric == "psnr") & (found.method == "average")].set_index("case")
    good = psnr.index.difference(list(BAD))
    assert set(psnr.status[good]) == {"ok"}
    # Patched by a case before, averages of noise would not be what they are.
    assert psnr.value[good].between(5, 20).all()


def _pair(value: float) -> Pair:
    a = Volume(np.full(SHAPE, value, np.float32), np.diag([1.0, 2, 3, 1]), (3.0, 9.0))
    chroma = np.full((2, *SHAPE), 7, np.uint8)
    return Pair(a, Volume(np.ones(SHAPE, np.float32), chroma=chroma), np.ones(SHAPE, bool), reference=a)


def _truth() -> dict[str, object]:
    odd = {
        "name": "x",
        "phase": np.full(SHAPE, 1j),
        "none": None,
        "nested": {"a": 1},
        "ragged": [[1], [2, 3]],
    }
    return {"lesion": np.ones(SHAPE, bool), "size": 3, **odd}


class _Odd:
    pass


def _case() -> Case:
    meta = {"plane": np.str_("axial"), "functional": np.bool_(False), "ages": (1, 2.5), "object": _Odd()}
    return Case("c", "d", "g", "f", partial(_pair, 0.5), _truth, meta)  # type: ignore[arg-type]


def test_a_sealed_case_is_opened_with_all_that_it_held() -> None:
    sent = seal(_case())
    assert isinstance(sent.loader, Sealed) and not sent.is_foreign
    assert dict(sent.meta) == {"plane": "axial", "functional": False, "ages": (1, 2.5)}
    assert type(sent.meta["plane"]) is str and not sent.functional
    with pytest.raises(InputError, match="loaded in a child"):
        sent.load()
    case = unsealed((), sent.loader.content)
    arrays, facts = described(case)
    found = opened(sent, facts, arrays)
    for one, other in ((found.a, case.a), (found.b, case.b), (found.reference, case.reference)):
        np.testing.assert_array_equal(one.data, other.data)
        np.testing.assert_array_equal(one.affine, other.affine)
        assert one.intensity == other.intensity
    assert found.b.chroma is not None and found.b.chroma[0, 0, 0, 0] == 7
    assert found.truth is not None and int(found.truth["size"]) == 3
    assert found.truth["phase"].dtype == complex
    assert set(found.truth) == {"lesion", "size", "name", "phase"}
    assert (found.id, found.dataset, found.group, found.fingerprint) == ("c", "d", "g", "f")


def test_what_no_process_can_be_sent_is_said() -> None:
    sent = seal(Case("c", "d", "g", "f", lambda: _pair(0.5)))
    with pytest.raises(InputError, match=r"^the case cannot be sent to a worker: .*; loaders are functions"):
        sent.load()


class _OddCase(Case):
    pass


def test_only_cases_without_code_of_a_plugin_are_sent_as_they_are() -> None:
    case = find_plugins().datasets.load("phantom")(size=16).cases()[0]
    assert seal(case) is case
    ours = (case.id, case.dataset, case.group, case.fingerprint, case.loader)
    for odd in (replace(case, truth_loader=_truth), _OddCase(*ours)):  # type: ignore[arg-type]
        assert isinstance(seal(odd).loader, Sealed)
