"""Files that may be anybody's: opened in one place, bounded, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from fusebench.files import (
    atomic_path,
    file_sha256,
    open_plain,
    read_bytes,
    read_json,
    read_text,
    whole_folder,
)


def odd(folder: Path, kind: str) -> Path:
    """Pipes, folders and the like, of a name like a file's."""
    path = folder / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("read", [open_plain, read_bytes, read_text, read_json, file_sha256])
def test_what_is_no_file_is_an_error_at_once(tmp_path: Path, kind: str, read: object) -> None:
    path = odd(tmp_path, kind)
    with pytest.raises(OSError, match="is a folder, a pipe or a device, and no file") as caught:
        read(path)  # type: ignore[operator]
    assert caught.value.filename == str(path)


def test_a_file_is_read_no_further_than_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path, 8) == {"a": 1}
    assert read_text(path) == '{"a": 1}'
    os.truncate(path, 5 << 30)  # a hole, which takes no room on disk
    with pytest.raises(OSError, match="is larger than 256 MiB"):
        read_json(path)


def test_json_that_is_nested_without_end_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("first", ["source", None])
def test_a_write_that_fails_names_the_file_that_was_to_be_made(tmp_path: Path, first: str | None) -> None:
    def write(temporary: Path) -> None:
        names = ("source", None, str(temporary)) if first else (str(temporary),)  # of a copy: both files
        raise OSError(errno.ENOSPC, "full", *names)

    with pytest.raises(OSError, match="full") as caught, atomic_path(tmp_path / "a") as temporary:
        write(temporary)
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "a"), None)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_filled_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    for target in (tmp_path / "new", tmp_path / "deep" / "new", tmp_path / "empty"):
        if target.name == "empty":
            target.mkdir()
        with pytest.raises(ZeroDivisionError), whole_folder(target) as made:
            print((made / "half").write_text("x") / 0)
        assert not target.exists() or not list(target.iterdir())
        with whole_folder(target) as made:
            (made / "volumes").mkdir()
            (made / "volumes" / "a").write_text("x")
        assert [p.name for p in target.iterdir()] == ["volumes"]


def test_a_folder_of_files_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "site"

    def put(*names: str) -> None:
        with whole_folder(target) as made:
            for name in names:
                (made / name).parent.mkdir(exist_ok=True)
                (made / name).write_text("x")

    def files() -> list[str]:
        return sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())

    for name in ("old", "new"):
        put("index", f"pages/{name}", f"tables/{name}")
        assert files() == ["index", f"pages/{name}", f"tables/{name}"]
    (target / "wall").mkdir()
    (target / f".{'0' * 32}.tmp" / "made").mkdir(parents=True)  # of one that was killed
    before = files()
    with pytest.raises(IsADirectoryError) as caught:  # a folder has that name, and stays
        put("index", "more/a", "pages/a", "wall")
    assert caught.value.filename == str(target / "wall")
    assert files() == before
    assert sorted(p.name for p in target.iterdir()) == ["index", "pages", "tables", "wall"]
