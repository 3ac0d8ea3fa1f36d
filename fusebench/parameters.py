"""Parameters of plugins as users type them: names, values that fit their annotations, paths."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import InputError

T = TypeVar("T")

_TYPE_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    os.PathLike: "a path",
    NoneType: "None",
}


@dataclass(frozen=True)
class Parameter:
    """One constructor argument.

    Attributes
    ----------
    name : str
    annotation : object
        Its type; `inspect.Parameter.empty` or a string where it is not known.
    default : object
        `inspect.Parameter.empty` where there is none.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def words(self) -> str:
        """The values that may be given, in words; empty for an annotation that is not understood."""
        return _words(self.annotation)


def signature(make: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a plugin's class or factory by name, and whether it takes any others too."""
    try:
        found = inspect.signature(make, eval_str=True)
    except Exception:  # an annotation is any expression; unevaluated, it is a text that says nothing
        found = inspect.signature(make)
    kinds = inspect.Parameter
    named = {
        p.name: Parameter(p.name, p.annotation, p.default)
        for p in found.parameters.values()
        if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    return named, any(p.kind is kinds.VAR_KEYWORD for p in found.parameters.values())


def create(name: str, make: Callable[..., T], given: Mapping[str, Any]) -> T:
    """Make a plugin with the parameters that a user gave.

    Parameters
    ----------
    name : str
        The plugin's, for messages.
    make : callable
        Its class.
    given : mapping
        Parameter name to value, as read from the command line.

    Raises
    ------
    InputError
        No such parameter, a value that its annotation excludes, one that is missing, or the plugin's own
        refusal.
    """
    known, open_ended = signature(make)
    for key, value in given.items():
        if key not in known:
            if open_ended:
                continue
            raise InputError(f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
        if not _fits(value, known[key].annotation):
            text = _words(known[key].annotation)
            quoted = f" (in quotes: \"{key}='{value}'\")" if text.startswith("text") else ""
            raise InputError(f"{name}: {key}={value!r} is not {text}{quoted}")
    missing = [p.name for p in known.values() if p.required and p.name not in given]
    if missing:
        raise InputError(f"{name} needs the parameter {', '.join(missing)}")
    try:
        return make(**given)
    except (TypeError, ValueError) as error:  # how foreign code refuses a value
        raise InputError(f"{name}: {error}") from error


def check_seed(seed: int, what: str = "seed") -> None:
    """Raise `InputError` for a seed that generators, or the tables of rows, do not take."""
    if not 0 <= seed < 2**63:
        raise InputError(f"{what} {seed}: it must be 0 or more, and less than 2^63")


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Names one by one: of a sequence, or of one string that may hold several, ``"dwt, max"``."""
    several = [texts] if isinstance(texts, str) else texts
    return [part.strip() for text in several for part in text.split(",") if part.strip()]


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path with ``~`` expanded, which no shell does in a file, in quotes or behind ``=``."""
    return Path(os.path.expanduser(text))  # Path.expanduser raises where no user is called so


def _fits(value: Any, kind: Any) -> bool:
    """True if `value` is of the annotated type, and for a type that is not understood."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, k) for k in inner)
    if origin is Literal:
        return any(value == k and type(value) is type(k) for k in inner)
    if origin is tuple and inner and inner[-1] is not ...:
        return isinstance(value, (tuple, list)) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (tuple, list, Sequence) and inner:
        return isinstance(value, (tuple, list)) and all(_fits(v, inner[0]) for v in value)
    if kind in (int, float):  # True is an int to Python
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Path or os.PathLike in (kind, origin):
        return isinstance(value, (str, os.PathLike))
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_words, inner))))
    if origin is Literal:
        return "one of " + ", ".join(str(k) for k in inner)
    if origin is tuple and inner and inner[-1] is not ...:
        return f"({', '.join(map(_words, inner))})"
    if origin in (tuple, list, Sequence) and inner:
        return f"a list, each {_words(inner[0])}".removesuffix(", each ")
    key = os.PathLike if origin is os.PathLike else kind
    return next((words for known, words in _TYPE_WORDS.items() if known is key), "")
