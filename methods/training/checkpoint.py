"""Files that are either the old one or the new one, never half of one; and the training checkpoint."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.files import open_plain
from fusebench.limits import check_memory
from fusebench.store.cache import is_honest

FORMAT = 1
AGAIN = "use another --out, or --force to start over"
# Parts of a checkpoint, and their types.
_PARTS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("config", "best", "net", "average", "optimizer", "precision"), dict),
    **{"step": int, "seconds": (int, float), "history": list},
}


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one move.

    The temporary file of a process that was killed is replaced by the next; no link is followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            write(temporary)
        except (
            RuntimeError,
            safetensors.SafetensorError,
        ) as error:  # torch's and Rust's word for a full disk
            raise OSError(errno.EIO, " ".join(str(error).split())[:120], str(path)) from None
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # nobody knows the temporary one
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run."""
    write_atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def load_checkpoint(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state of a run and make sure that it is a run of this `config`; only its ``steps`` may grow.

    Raises
    ------
    InputError
        Not a checkpoint of this program, or made under other options (named in the message).
    """
    with fitting(path):
        open_plain(path).close()
        if not zipfile.is_zipfile(path) or not is_honest(path):
            raise ValueError("torch wrote no such file")
        check_memory(path, 2 * path.stat().st_size, AGAIN)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"its format is {state['format']!r}, not {FORMAT}")
        _check_parts(state)
    known = state["config"]
    differing = [
        f"{key}={known.get(key)!r} (now {config.get(key)!r})"
        for key in sorted({*known, *config})
        if known.get(key) != config.get(key) and not (key == "steps" and _grown(state, config))
    ]
    if differing:
        raise InputError(
            f"{path} was made with {', '.join(differing)}; resume with the same options or use another --out"
        )
    return dict(state)


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint is read and taken up into `InputError`, which names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of a file that anything may be in, torch raises nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{path} is no checkpoint of this training ({reason}); {AGAIN}") from error


def _check_parts(state: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a part is missing or not of its kind."""
    for name, kind in _PARTS.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"{name} is missing or of another type")
    steps = (state["step"], state["config"].get("steps"))
    if not all(type(n) is int and 0 <= n < 2**53 for n in steps):
        raise ValueError("its steps are no numbers")
    if not all(isinstance(row, dict) and "step" in row and _are_numbers(row) for row in state["history"]):
        raise ValueError("its history is not of numbers")
    if not all(isinstance(value, Tensor) for value in state["best"].values()):
        raise ValueError("its best weights are no tensors")
    if not all(isinstance(text, str) for text in state.get("grown", [])):
        raise ValueError("its grown steps are no text")


def _are_numbers(row: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int | float) for value in row.values())


def _grown(state: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """True if a run is to be longer than it was planned."""
    return int(config["steps"]) >= max(int(state["config"]["steps"]), int(state["step"]))


def save_weights(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Write tensors as safetensors; equal weights give equal bytes.

    Parameters
    ----------
    facts : mapping
        Goes into the header as JSON under one key (several would come in random order).

    Returns
    -------
    str
        sha256 of the file.
    """
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
    header = {"fusebench": json.dumps(facts, sort_keys=True)}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, header))
    return hashlib.sha256(path.read_bytes()).hexdigest()
