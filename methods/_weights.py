"""Weights of learned methods: safe reading, fitting of published files onto our names, clear refusals."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.limits import check_memory, naming_file
from fusebench.method import MethodInfo
from fusebench.store.cache import is_honest, unpacked_bytes

State = dict[str, Tensor]

# Pickled numpy scalars (a loss history, say) are data; numpy wrote them under two module names.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(t)) for t in ("float64", "float32", "int64", "int32")),
]

# Beside an 8-bit tensor, what its channels are multiplied by.
SCALE = ".scale"

# What `full` makes float32 of.
_SHORT = (torch.float16, torch.bfloat16, torch.int8)

# Compressed weights shrink by a fifth; what shrinks far more holds nothing but a trap.
_RATIO = 20
_SMALLER = "save the network's state_dict() alone, or allow more memory"
_FORMS = ".safetensors, .npz or PyTorch's format"


@dataclass(frozen=True)
class Layout:
    """How a published file names and stores the parameters of one of our networks.

    Attributes
    ----------
    origin : str
        Whose file it is; shown on the board.
    names : mapping
        Our parameter name to the file's.
    change : callable, optional
        ``(our name, tensor) -> tensor`` in our layout.
    unused : sequence of str
        Names (shell wildcards) that the file holds and nobody needs.
    """

    origin: str
    names: Mapping[str, str]
    change: Callable[[str, Tensor], Tensor] | None = None
    unused: Sequence[str] = ()


def read_state(path: str | Path) -> State:
    """Read a state dict without running code from the file.

    Parameters
    ----------
    path : str or Path
        ``.safetensors``, ``.npz`` (no pickles), or a PyTorch file, bare or under ``model``, ``state_dict``
        or ``params``.

    Raises
    ------
    InputError
        The file is missing, cannot be read safely, or holds no tensors.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"weights {path!r}: the path of a file is needed")
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise InputError(f"weights {path}: {what}; give an existing file or leave it out for the shipped one")
    if not path.stat().st_size:
        raise InputError(f"weights {path}: an empty file; download or write it again")
    with naming_file(path, _SMALLER):
        found = _content(path)
    for key in ("model", "state_dict", "params"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    state = {name: v for name, v in _named(found) if isinstance(v, Tensor)}
    if not state:
        raise InputError(f"weights {path}: holds no tensors; save the network's state_dict() in {_FORMS}")
    _check_sizes(path, state)
    return full(state)


def _check_sizes(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are larger than what the file holds of them, or than `full` has memory for."""
    dense = {k: t for k, t in state.items() if t.layout == torch.strided and not t.is_meta}
    for name, tensor in dense.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():  # a stride of 0
            raise InputError(
                f"weights {path}: {name} has shape {tuple(tensor.shape)} and fewer values; save contiguous "
                "tensors"
            )
    for name in state:
        if _is_scaled(state, name) and not (
            {name, name + SCALE} <= dense.keys() and dense[name + SCALE].shape == dense[name].shape[:1]
        ):
            raise InputError(
                f"weights {path}: {name + SCALE} is not one number for each of {name}'s first axis; save "
                "the network's state_dict() again"
            )
    # Several tensors may share what one of them holds.
    check_memory(path, 4 * sum(t.numel() for t in dense.values() if t.dtype in _SHORT), _SMALLER)


def _content(path: Path) -> Any:
    """Content of a file of weights, no larger than it may be and read without running code."""
    try:
        # The file, or what it unpacks to, and the tensors made of it.
        check_memory(path, 2 * _unpacked(path), _SMALLER)
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {k: torch.from_numpy(np.array(arrays[k])) for k in arrays.files}
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"weights {path}: cannot be read ({_line(error)}); download or write it again, in {_FORMS}"
        ) from error
    except Exception as error:  # torch.load raises pickle's errors and, on foreign bytes, nearly any other
        # The text of pickle's is torch's advice to trust the file.
        raise InputError(
            f"weights {path}: refused, not a plain file of tensors ({type(error).__name__}); "
            f"code in a file is never run: save the network's state_dict() alone, in {_FORMS}"
        ) from error


def full(state: State) -> State:
    """Half-precision and 8-bit tensors (of `small`) as float32, which the networks compute in."""
    out: State = {}
    for name, tensor in state.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in state:
            continue
        if _is_scaled(state, name):
            tensor = tensor.float() * state[name + SCALE].float().view(-1, *[1] * (tensor.ndim - 1))
        half = tensor.dtype in (torch.float16, torch.bfloat16) and tensor.layout == torch.strided
        out[name] = tensor.float() if half else tensor
    return out


def _is_scaled(state: Mapping[str, Tensor], name: str) -> bool:
    return state[name].dtype == torch.int8 and name + SCALE in state


def small(state: Mapping[str, Tensor]) -> State:
    """Tensors to ship: matrices and kernels as 8 bits with a scale per output channel, the rest halved."""
    out: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            out[name] = tensor
        elif tensor.ndim < 2:
            out[name] = tensor.half()
        else:
            scale = tensor.flatten(1).abs().amax(1).clamp_min(1e-7) / 127
            out[name] = (tensor / scale.view(-1, *[1] * (tensor.ndim - 1))).round().to(torch.int8)
            out[name + SCALE] = scale
    return out


def _unpacked(path: Path) -> int:
    """Bytes of a file, of an archive unpacked; `ValueError` where those are far more than of weights."""
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return path.stat().st_size
    if not is_honest(path, _RATIO):
        raise ValueError(f"it unpacks to more than {_RATIO} times its size")
    return unpacked_bytes(path)


def origin_of(path: str | Path, layouts: Iterable[Layout] = ()) -> str:
    """Whose names a file uses: the origin of one of the published `layouts`, else ``"fusebench"``."""
    names = read_state(path).keys()
    shared = {k.origin: len(names & set(k.names.values())) / len(k.names) for k in layouts}
    return next((origin for origin, share in shared.items() if share > 0.5), "fusebench")


def load_weights(network: nn.Module, path: str | Path, layouts: Iterable[Layout] = ()) -> str:
    """Load a file in our names, or in one of the published `layouts`, into `network`.

    Returns
    -------
    str
        ``"fusebench"``, or the layout's origin.

    Raises
    ------
    InputError
        One line that lists what does not fit.
    """
    state = read_state(path)
    ours = network.state_dict()
    known = [Layout("fusebench", {k: k for k in ours}), *layouts]
    layout = max(known, key=lambda known: len(state.keys() & set(known.names.values())))
    if not state.keys() & set(layout.names.values()):
        theirs = ", ".join(list(state)[:2])
        expected = " or ".join(f"{k.origin} ({next(iter(k.names.values()))}, ...)" for k in known)
        raise InputError(
            f"weights {path} do not fit {type(network).__name__}: names in it are {theirs}, ... "
            f"and not {expected}"
        )
    changed: State = {}
    wrong: list[str] = []
    for name, theirs in layout.names.items():
        tensor = state.pop(theirs, None)
        if tensor is None:
            wrong.append(f"{theirs} is missing")
            continue
        if not _plain(tensor):
            wrong.append(f"{theirs} is not a dense tensor of finite real numbers")
            continue
        shape, needed = tuple(tensor.shape), tuple(ours[name].shape)
        try:
            tensor = layout.change(name, tensor) if layout.change else tensor
        except (RuntimeError, IndexError):  # a reordering of axes that this tensor does not have
            tensor = tensor.new_empty(0)
        if tuple(tensor.shape) != needed:
            wrong.append(f"{theirs} has shape {shape}, not that of {needed}")
        changed[name] = tensor.to(ours[name].dtype)
    wrong += [f"{k} is not expected" for k in state if not any(fnmatch(k, p) for p in layout.unused)]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            f"weights {path} do not fit {type(network).__name__} ({layout.origin} names): "
            + "; ".join(wrong[:4])
            + more
        )
    network.load_state_dict(changed)
    return layout.origin


def facts_of(path: str | Path) -> Mapping[str, Any]:
    """Facts that `train` wrote into a weights file (method, recipe, options, dataset, splits); else none."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("fusebench", "{}"))
    except (OSError, ValueError, SafetensorError):  # which reading the tensors will say
        return {}
    return facts if isinstance(facts, Mapping) else {}


def with_weights(info: MethodInfo, path: str | Path, origin: str = "fusebench") -> MethodInfo:
    """Facts of a method that runs a weights file of the user's in place of the shipped one.

    Parameters
    ----------
    origin : str
        Whose names the file uses, as `load_weights` returns it.
    """
    whose = "own weights" if origin == "fusebench" else f"{origin} weights"
    trained = f"{whose} ({Path(path).name})"
    splits: tuple[str, ...] = ()
    facts = facts_of(path)
    if facts.get("dataset"):
        split, _, rest = str(facts.get("train", "")).partition(",")
        count = rest.partition(",")[0].strip()
        splits = (f"{facts['dataset']}/{split}",)
        trained += f", from {splits[0]}" + (f" ({count})" if count else "")
    return replace(info, trained_on=trained, trained_splits=splits, weights=None)


def refuse_other_form(path: str | Path, option: str, asked: object, usual: object) -> None:
    """Raise `InputError` where a file that `train` wrote is of a network of another form.

    Parameters
    ----------
    path : str or Path
        A weights file; nothing is known of those of others.
    option : str
        Of method and recipe, that decides the form of the network.
    asked, usual : object
        Its value now, and by default.
    """
    made = facts_of(path)
    trained = made.get("options", {}).get(option, usual) if made else asked
    if trained != asked:
        raise InputError(
            f"weights {path}: trained with {option}={trained}, asked is {option}={asked} (--set)"
        )


def _plain(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
    return dense and not tensor.is_complex() and bool(tensor.isfinite().all())


def _named(found: Any) -> Iterator[tuple[str, Any]]:
    """Entries, and those of state dicts inside by "name of the dict.name"; without what wrappers prepend."""
    for key, value in _items(found):
        name = str(key).removeprefix("module.")
        yield name, value
        for inner, part in _items(value):
            yield f"{name}.{str(inner).removeprefix('module.')}", part


def _items(found: Any) -> Iterable[tuple[Any, Any]]:
    return found.items() if isinstance(found, Mapping) else ()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
