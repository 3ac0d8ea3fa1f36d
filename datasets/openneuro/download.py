"""Fetch listed files over HTTP: resumed, tried again, and each checked by size and hash before it is used."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fusebench.errors import InputError
from fusebench.images.dicom_itk import need

from .listing import File

PART = ".part"
_BLOCK = 1 << 20
# Small: a piece that a connection breaks off in is fetched anew.
_PIECE = 1 << 12
_TRIES = 5
# Seconds to connect, and between two pieces of a file.
_PATIENCE = (10.0, 60.0)
_LONGEST_WAIT = 60.0
# Refused files after which the rest is not asked for.
_ENOUGH = 3
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_FINAL = {
    401: "the server wants a login",
    403: "the server refuses it (403): the data were withdrawn, or the address is not public",
    404: "the server has no such file (404): the dataset has changed since this listing was made",
    410: "the server has it no more (410)",
}


class _Refused(Exception):
    """A file that no further try brings; its text says why."""


class _Unreachable(Exception):
    """No server answers: no file can be had."""


@dataclass
class Downloads:
    """A folder and the address that fills it.

    Parameters
    ----------
    server : str
        Address above the paths, ``https://host/bucket/dataset``.
    folder : Path
        The files lie here below their paths; one that is under way has the suffix ``.part``.
    say : callable
        Hears a line on each file that came.
    pause : float
        Seconds before the second try; twice as many before each further one.
    """

    server: str
    folder: Path
    say: Callable[[str], None] = lambda _: None
    pause: float = 1.0
    patience: tuple[float, float] = _PATIENCE
    _stop: threading.Event = field(default_factory=threading.Event)

    def missing(self, files: Sequence[File]) -> list[File]:
        """Those that are not here in their full length: what lies here was checked when it came."""
        return [f for f in files if not _is_there(self.folder / f.path, f.size)]

    def fetch(self, files: Sequence[File], workers: int = 4) -> int:
        """Fetch what is missing and return how many files that was.

        Raises
        ------
        InputError
            The server cannot be reached, refuses files or sends others, or the disk has no room.  What came
            stays, and is not fetched again.
        """
        todo = self.missing(files)
        if not todo:
            return 0
        self._check_room(todo)
        failures: list[str] = []
        came = 0

        def one(file: File) -> str:
            if self._stop.is_set():
                return "stopped"
            try:
                self._file(file)
            except _Refused as error:
                failures.append(f"{file.path}: {error}")
                if len(failures) >= _ENOUGH:
                    self._stop.set()
                return "failed"
            except BaseException:
                self._stop.set()
                raise
            return ""

        with ThreadPoolExecutor(workers) as pool:
            try:
                for file, outcome in zip(todo, pool.map(one, todo), strict=True):
                    if not outcome:
                        came += 1
                        self.say(f"[{came}/{len(todo)}] {file.path} ({_size(file.size)})")
            except _Unreachable as error:
                raise InputError(f"{error}; {self._left(files)}") from None
            except BaseException:
                self._stop.set()  # on an interruption: parts stay, and go on at the next call
                raise
        if failures:
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise InputError(f"{failures[0]}{more}; {self._left(files)}")
        return came

    def _left(self, files: Sequence[File]) -> str:
        there = len(files) - len(self.missing(files))
        return f"{there} of {len(files)} files are in {self.folder}; the same command fetches the rest"

    def _check_room(self, files: Sequence[File]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted, free = sum(f.size for f in files), shutil.disk_usage(self.folder).free
        if wanted > free:
            raise InputError(
                f"{self.folder}: {_size(wanted)} are to be fetched and {_size(free)} are free; make room, "
                "give another --data-dir, or fewer people (--data-option people=...)"
            )

    def _file(self, file: File) -> None:
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        reason, wrong = "", 0
        for attempt in range(_TRIES):
            if attempt:
                wait = self.pause * 2 ** (attempt - 1)
                if self._stop.wait(min(_LONGEST_WAIT, max(wait, _asked_wait(reason)))):
                    raise _Refused("stopped")
            reason = self._try(file, part)
            if reason:
                continue
            if _hash_of(part, file) == file.digest:
                part.replace(target)
                return
            part.unlink()
            wrong += 1
            reason = "what came has another hash"
            if wrong > 1:
                raise _Refused(
                    "the server sends other content than the listing names; the dataset has changed, or "
                    "something on the way changes files"
                )
        if reason.startswith("no answer"):
            raise _Unreachable(
                f"{_host(self.server)}: {reason}; check the network, or read a copy with --data-dir"
            )
        raise _Refused(f"{_TRIES} tries: {reason}")

    def _try(self, file: File, part: Path) -> str:
        """Go on with `part`; returns "" where it now has its full length, else why not."""
        requests = need("requests")
        have = part.stat().st_size if part.exists() else 0
        if have == file.size:
            return ""
        if have > file.size:
            part.unlink()
            have = 0
        url = f"{self.server.rstrip('/')}/{quote(file.path)}"
        if file.version:
            url += f"?versionId={quote(file.version, safe='')}"
        # Bytes as they are: a transport encoding would make another length and hash of a .nii.gz.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.patience) as answer:
                if answer.status_code in _FINAL:
                    raise _Refused(_FINAL[answer.status_code])
                if answer.status_code == 416:  # another length there than here: from the beginning
                    part.unlink(missing_ok=True)
                    return "the server has fewer bytes"
                if answer.status_code not in (200, 206):
                    return _answered(answer)
                return self._receive(answer, file, part, have)
        except requests.exceptions.InvalidURL:
            raise _Unreachable(f"{self.server}: not an address; give https://host/...") from None
        except (requests.ConnectionError, requests.Timeout) as error:
            grew = (part.stat().st_size if part.exists() else 0) > have
            return "the connection broke" if grew else f"no answer ({_why(error)})"
        except requests.RequestException as error:
            return f"the connection broke ({type(error).__name__})"

    def _receive(self, answer: Any, file: File, part: Path, have: int) -> str:
        starts = _start_of(answer)
        if starts not in (0, have):
            return "the server sent another part than was asked for"
        left = file.size - starts
        with part.open("r+b" if part.exists() else "wb") as out:
            out.seek(starts)
            out.truncate()
            for block in answer.iter_content(_PIECE):
                if self._stop.is_set():
                    raise _Refused("stopped")
                out.write(block[:left])  # never more than the listing says, whatever is sent
                left -= len(block)
                if left < 0:
                    break
        if left < 0:
            part.unlink()
            raise _Refused("the server sends a longer file than the listing names; the dataset has changed")
        return "" if left == 0 else "the connection broke before the end"


def _is_there(path: Path, size: int) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == size
    return False


def _hash_of(path: Path, file: File) -> str:
    found = file.hasher()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _start_of(answer: Any) -> int:
    """Byte at which an answer begins: 0 where the server knows no ranges and sends all."""
    if answer.status_code == 200:
        return 0
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1


def _answered(answer: Any) -> str:
    if answer.status_code not in _AGAIN:
        raise _Refused(f"the server answers {answer.status_code}")
    after = answer.headers.get("Retry-After", "")
    asked = f", to be asked again in {after} s" if after.isdecimal() else ""
    return f"the server answers {answer.status_code}{asked}"


def _asked_wait(reason: str) -> float:
    match = re.search(r"again in (\d+) s", reason)
    return float(match.group(1)) if match else 0.0


def _why(error: BaseException) -> str:
    text = str(error)
    if "Timeout" in type(error).__name__ or "timed out" in text:
        return "timed out"
    if "resolve" in text or "getaddrinfo" in text or "Name or service" in text:
        return "its name cannot be resolved; offline?"
    return "connection refused or broken; offline?"


def _host(server: str) -> str:
    return server.split("//", 1)[-1].split("/", 1)[0]


def _size(count: int) -> str:
    if count < 1e5:
        return f"{count} B"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
