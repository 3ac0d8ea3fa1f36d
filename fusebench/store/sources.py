"""Sources of a plugin: its files, those that it imports or names, and what it takes from its surroundings.

They are read, never run, but for where a module that is loaded already lies.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import islice
from pathlib import Path

from ..files import PACKAGE, ROOT, file_sha256, is_installed, stamp
from . import syntax
from .contents import PASSING, remembered_sha256
from .data_files import Found, is_there, named
from .places import Places

# Libraries whose versions change numbers; they are in every key.
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "PyWavelets")

_KNOWN = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "skimage", "pywt"}
_PLUGINS = ("methods", "metrics", "datasets")
_COMMENT = re.compile(r"#[^\n]*")  # one that holds a bracket would end a list of names
_NAMES = r"\s+import\s*(?:\(([^)]*)\)|((?:\\\n|[^\n])+))"
_RELATIVE = re.compile(r"\bfrom\s*(\.+)([\w.]*)" + _NAMES)
_FROM = re.compile(r"^[ \t]*from\s+(\w[\w.]*)" + _NAMES, re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import\s+([\w., \t]+)", re.MULTILINE)
_LARGE = 1 << 22  # bytes of a file whose hash is kept from run to run
# Files of settings, which name others; how long one may be, and how many it may name.
_SETTINGS, _LONG, _MOST = {".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt"}, 1 << 16, 200
_FILE = re.compile(r"[\w./-]{1,200}\.\w{1,20}\b")
_NAME = re.compile(r"\w+")
_TEXT = re.compile(r"""["']([^"'\n\\{}]{1,200})["']""")
_ASKS = r"(?:environ(?:\.get)?\s*[\[(]|getenv\s*\()\s*"
_VARIABLE = re.compile(_ASKS + r"""["'](\w+)["']|["'](\w+)["']\s+(?:not\s+)?in\s+(?:os\s*\.\s*)?environ""")
_NAMED_VARIABLE = re.compile(_ASKS + r"([A-Za-z_]\w*)\s*[\]),]")
# Imports that the patterns do not see.
_UNUSUAL = re.compile(r"import[ \t]*\(?\s*\*|[;:][ \t]*(?:from[ \t]+[\w.]+[ \t]+import|import)\b")


@dataclass(frozen=True)
class _Parsed:
    """What the text of one file says."""

    relative: tuple[Path, ...]  # where modules may lie
    absolute: tuple[str, ...]  # dotted names, of which the last may be no module
    variables: frozenset[str]
    texts: tuple[str, ...] = ()
    places: Places | None = None  # None where its data files are not looked for


@dataclass
class _Walked:
    """Files and folders that a plugin consists of."""

    files: dict[Path, _Parsed | None] = field(default_factory=dict)
    folders: dict[Path, tuple[tuple[str, int], ...]] = field(default_factory=dict)  # as of `Found`


def source_files(path: Path) -> list[Path]:
    """Return `path`, the plugin files that it imports, directly or not, and the data files that it names."""
    return sorted(_walk(path).files)


def sources(path: Path) -> tuple[list[object], dict[str, str], dict[str, str]]:
    """Hashes of `source_files`, versions of the libraries that they import, and variables that they read.

    Data files are with their names, and those that are too large to be read with their sizes.  Libraries
    that are in every key (`LIBRARIES`) are left out.
    """
    walked = _walk(path)
    found = sorted(walked.files.items(), key=lambda pair: _place(pair[0], path.resolve().parent))
    parsed = [p for _, p in found if p is not None]
    tops = {name.partition(".")[0] for p in parsed for name in p.absolute} - _KNOWN - {"fusebench"}
    versions = {top: _version(top) for top in sorted(tops)}
    variables = {name for p in parsed for name in p.variables}
    # A plugin may be called otherwise; a table that swaps its name with another is another.
    hashes: list[object] = [sha256_of(f) if p is not None else (f.name, sha256_of(f)) for f, p in found]
    return (
        [*hashes, *(sizes for _, sizes in sorted(walked.folders.items()) if sizes)],
        {top: known for top, known in versions.items() if known},
        {name: os.environ.get(name, "") for name in sorted(variables)},
    )


def _place(file: Path, beside: Path) -> tuple[str, str]:
    """Where a file lies, seen from a plugin's folder: the same in another checkout and on another machine."""
    if ROOT in file.parents:
        return "fusebench", str(file.relative_to(ROOT))
    way = os.path.relpath(file, beside)
    return ("..", f"{file.name} {sha256_of(file)}") if way.startswith("..") else ("", way)


def sha256_of(file: Path) -> str:
    """`file_sha256`, remembered for as long as the file is not written to; "" of one that cannot be read."""
    try:
        return _sha256(file, stamp(file))
    except OSError:  # another user's, or gone meanwhile
        return ""


@lru_cache(maxsize=1024)
def _sha256(file: Path, _: tuple[int, ...]) -> str:
    return file_sha256(file) if file.stat().st_size < _LARGE else remembered_sha256(file)


def _walk(path: Path) -> _Walked:
    walked = _Walked()
    todo = [path.resolve()]
    while todo:
        file = todo.pop()
        if file in walked.files or not file.is_file():
            continue
        parsed = walked.files[file] = _parsed(file, stamp(file)) if file.suffix == ".py" else None
        if parsed is not None:
            todo += (p.resolve() for p in parsed.relative if p.is_file())
            found = Found() if parsed.places is None else named(parsed.texts, parsed.places, file)
            todo += found.files
            walked.folders.update(found.folders)
            todo += _given(parsed.variables, file.parent)
            for name in parsed.absolute:
                todo += _located(name.split("."), file.parent)
        elif file.suffix in _SETTINGS and file.stat().st_size < _LONG:
            todo += _named_by_settings(file)
    return walked


def _named_by_settings(file: Path) -> Iterator[Path]:
    """Files beside a file of settings that it names: ``{"weights": "w.npy"}``."""
    text = file.read_text(encoding="utf-8", errors="replace")
    beside = (file.parent / name for name in dict.fromkeys(_FILE.findall(text)))
    yield from islice((p.resolve() for p in beside if is_there(p)), _MOST)


def _given(variables: Iterable[str], beside: Path) -> Iterator[Path]:
    """Files that environment variables name, in full, in the working folder or beside the plugin."""
    for name in sorted(variables):
        given = Path(os.environ.get(name, ""))
        # A file without a suffix, or with a passing one, is more likely written to than read.
        if given.suffix and given.suffix not in PASSING:
            yield from (p.resolve() for p in (given, beside / given) if is_there(p))


@lru_cache(maxsize=1024)
def _parsed(file: Path, _: tuple[int, ...]) -> _Parsed:
    text = file.read_text(encoding="utf-8", errors="replace")
    bundled = ROOT in file.parents
    # A tree takes twenty times as long as the patterns, so bundled files are parsed where these may fail.
    said = syntax.read(text, file) if not bundled or _is_unusual(text) else None
    text = _COMMENT.sub("", text)
    # What looks like an import in a text does no harm, and may be one that is run.
    imports = [*_imports_by_pattern(text), *(said.imports if said else ())]
    relative: list[Path] = []
    absolute: list[str] = []
    for dots, module, names in dict.fromkeys(imports):
        if not dots:
            absolute += [f"{module}.{n}" for n in names] or [module]
        elif dots <= len(file.parents):
            base = file.parents[dots - 1].joinpath(*filter(None, module.split(".")))
            # `from . import x` names modules; `from .m import f` names m.py (or a package m/ holding f.py).
            below = [base / n for n in names]
            relative += [p.with_suffix(".py") for p in (base, *below)]
            relative += [p / "__init__.py" for p in ([base, *below] if module else below)]
    variables = {one or other for one, other in _VARIABLE.findall(text)}
    for constant in _NAMED_VARIABLE.findall(text):
        variables.update(re.findall(rf"""\b{constant}\s*(?::[^=\n]+)?=\s*["'](\w+)["']""", text))
    if said:
        variables |= said.variables
        absolute += [m for m in sorted(said.maybe_modules) if _is_module(file.parent / m.partition(".")[0])]
    wanted = tuple(name for name in dict.fromkeys(absolute) if name.partition(".")[0] not in _KNOWN)
    parsed = _Parsed(tuple(relative), wanted, frozenset(variables))
    if bundled:  # these name their files to `Method.files`
        return parsed
    texts = dict.fromkeys([*_TEXT.findall(text), *sorted(said.texts if said else ())])
    return replace(parsed, texts=tuple(texts), places=said.places if said else Places())


def _is_unusual(text: str) -> bool:
    by_word = any(word in text for word in (*syntax.IMPORTERS, *syntax.ENVIRONMENT))
    return by_word or _UNUSUAL.search(text) is not None


def _imports_by_pattern(text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for dots, module, *names in _RELATIVE.findall(text):
        yield len(dots), module, tuple(_NAME.findall("".join(names)))
    for module, *names in _FROM.findall(text):
        yield 0, module, tuple(_NAME.findall("".join(names)))
    for several in _IMPORT.findall(text):
        yield from ((0, m.split()[0], ()) for m in several.split(",") if m.strip())


def _is_module(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _located(parts: list[str], beside: Path) -> list[Path]:
    """Files that importing a dotted name runs: of a bundled plugin, or of helpers, wherever they lie."""
    if parts[0] == "fusebench":
        inside = len(parts) > 2 and parts[1] in _PLUGINS
        base = (ROOT if (ROOT / "run_bench.py").exists() else PACKAGE).joinpath(*parts[1:3])
        below = [base.with_suffix(".py"), base / "__init__.py", base.joinpath(*parts[3:4]).with_suffix(".py")]
        return below if inside else []
    for folder in (beside, *_loaded_from(parts[0]), *map(Path, sys.path)):
        top = folder / parts[0]
        compiled = [] if is_installed(folder) else _compiled(top)
        if not (compiled or top.with_suffix(".py").is_file() or top.is_dir()):
            continue
        if is_installed(top):
            return []
        steps = [folder.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
        texts = [p.resolve() for step in steps for p in (step.with_suffix(".py"), step / "__init__.py")]
        return [*compiled, *texts]
    return []


def _compiled(top: Path) -> list[Path]:
    """The extension modules of a name: of this Python and of others."""
    found = (p for suffix in (".so", ".pyd") for p in top.parent.glob(f"{top.name}*{suffix}"))
    return [p.resolve() for p in found if p.name.partition(".")[0] == top.name]


def _loaded_from(top: str) -> list[Path]:
    """The folder that holds a module, where it is loaded."""
    module = sys.modules.get(top)
    file, inside = getattr(module, "__file__", None), list(getattr(module, "__path__", ()))
    if inside:
        return [Path(inside[0]).parent]
    return [Path(file).parent] if file else []


@lru_cache(maxsize=256)
def _version(top: str) -> str:
    """Version of the library that a module belongs to; "" where that is none."""
    try:
        return version(top)
    except PackageNotFoundError:
        offering = _distributions().get(top)
    return version(offering[0]) if offering else ""


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # reads a file of every installed package
