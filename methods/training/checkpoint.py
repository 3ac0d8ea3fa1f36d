"""Files that are either the old one or the new one, never half of one; and the training checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fusebench.errors import InputError

FORMAT = 1


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one move.

    The temporary file of a process that was killed is replaced by the next; no link is followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = state["config"] if state["format"] == FORMAT else None
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise InputError(
            f"{path} is not a training checkpoint ({reason}); use another --out or --force"
        ) from error
    if known is None:
        raise InputError(
            f"{path} has checkpoint format {state['format']}, expected {FORMAT}; use another --out"
        )
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
