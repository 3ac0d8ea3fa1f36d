"""The array cache: made once, whole or not at all, repaired when damaged."""

import contextlib
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from fusebench.files import atomic_path
from fusebench.store.cache import cache_dir, cached_arrays
from fusebench.store.keys import content_key


def _make_slowly(path, log):
    def make():
        with open(log, "a") as handle:
            handle.write("made\n")
        return {"x": np.arange(200_000)}

    x = cached_arrays(path, make)["x"]
    if int(x.sum()) != 200_000 * 199_999 // 2:
        raise SystemExit(3)


def test_processes_that_ask_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    target, log = tmp_path / "sub" / "key.npz", tmp_path / "log"
    workers = [context.Process(target=_make_slowly, args=(target, log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert log.read_text() == "made\n"
    assert not list(target.parent.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "flip"])
def test_damaged_file_is_made_anew(tmp_path, damage):
    path = tmp_path / "key.npz"
    want = np.linspace(0, 1, 5000)
    cached_arrays(path, lambda: {"x": want})
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "overwrite":
        data = bytearray(b"not an archive")
    else:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    np.testing.assert_array_equal(cached_arrays(path, lambda: {"x": want})["x"], want)
    # And the file itself is whole again.
    np.testing.assert_array_equal(cached_arrays(path, lambda: pytest.fail("made twice"))["x"], want)


def _swap(path):
    other = path.with_name("other.npz")
    cached_arrays(other, lambda: {"x": np.zeros(3)})
    shutil.copy(other, path)


def _change(path, change):
    arrays = dict(np.load(path))
    np.savez(path, **{name: change(name, x) for name, x in arrays.items()})


@pytest.mark.parametrize(
    "plant",
    [
        _swap,
        lambda path: _change(path, lambda _, x: x[:2] if x.ndim else x),
        lambda path: _change(path, lambda name, x: x.astype(int) if name == "x" else x),
        lambda path: _change(path, lambda *_: np.array(["x"])),
        lambda path: np.savez(path, **{**np.load(path), "y": np.ones(1)}),
        lambda path: np.savez(path, x=np.zeros(3)),
    ],
    ids=["another's", "shape", "kind", "text", "one more", "without a key"],
)
@pytest.mark.parametrize("names", [None, ["x"]])
def test_a_valid_file_that_was_not_stored_here_is_made_anew(tmp_path, plant, names):
    path, want = tmp_path / "key.npz", np.ones(3)
    cached_arrays(path, lambda: {"x": want})
    plant(path)
    for make in (lambda: {"x": want}, lambda: pytest.fail("made twice")):
        found = cached_arrays(path, make, names)
        assert list(found) == ["x"]
        np.testing.assert_array_equal(found["x"], want)


def test_only_the_named_arrays_are_read(tmp_path):
    path = tmp_path / "key.npz"
    made = {"x": np.ones(3), "y": np.zeros(2)}
    assert set(cached_arrays(path, lambda: made, ["y"])) == {"y"}
    assert set(cached_arrays(path, lambda: pytest.fail("made twice"), ["x"])) == {"x"}


def test_unwritable_cache_still_gives_the_arrays(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not writable"):
        arrays = cached_arrays(tmp_path / "file" / "key.npz", lambda: {"x": np.ones(2)})
    assert arrays["x"].sum() == 2


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "key.npz"
    (path.mkdir if kind == "folder" else lambda: os.mkfifo(path))()
    with pytest.warns(UserWarning, match="cache") if kind == "folder" else contextlib.nullcontext():
        assert cached_arrays(path, lambda: {"x": np.ones(3)})["x"].sum() == 3


def test_an_error_of_the_maker_is_not_the_cache_s(tmp_path, recwarn):
    calls = []

    def make():
        calls.append(1)
        raise FileNotFoundError(2, "No such file or directory", "mri.nii.gz")

    with pytest.raises(FileNotFoundError, match=r"mri\.nii\.gz"):
        cached_arrays(tmp_path / "key.npz", make)
    assert len(calls) == 1
    assert not recwarn.list


def test_error_leaves_the_old_file(tmp_path):
    target = tmp_path / "t"
    target.write_text("old")

    def fail_half_way():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_key_sees_parameters_and_sources(tmp_path):
    source = tmp_path / "a.py"
    source.write_text("x = 1")
    key = content_key({"p": 1, "q": 2.5}, [source])
    assert key == content_key({"q": 2.5, "p": 1}, [source])
    assert key != content_key({"p": 2, "q": 2.5}, [source])
    source.write_text("x = 2")
    assert key != content_key({"p": 1, "q": 2.5}, [source])


def test_environment_places_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSEBENCH_CACHE", str(tmp_path))
    assert cache_dir("phantom") == tmp_path / "phantom"
    monkeypatch.delenv("FUSEBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "fusebench"
