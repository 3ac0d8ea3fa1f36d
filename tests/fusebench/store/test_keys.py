"""Content keys: the files, settings and versions that they cover, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fusebench.case import Case
from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo
from fusebench.plugins import find_plugins
from fusebench.store import keys, sources
from fusebench.store.contents import remembered_sha256
from fusebench.store.keys import (
    are_as_they_were,
    cases_key,
    fuse_key,
    method_key,
    minor_versions,
    score_key,
    source_key,
    watched_files,
)
from fusebench.store.sources import source_files

PLUGIN = """
import os
import sys
import helper
from fusebench.method import Method, MethodInfo

LIMIT = os.environ.get("KEY_TEST_LIMIT", "1")
BY_NAME = "KEY_TEST_BY_NAME"
SECOND = os.environ[BY_NAME] if BY_NAME in os.environ else None
TABLE = "table.csv"


def late():
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "elsewhere"))
    from parts import far
    import installed


class Keyed(Method):
    info = MethodInfo(name="{name}", summary="test")

    def __init__(self, t: float = 1.0) -> None:
        self.t = t
"""


def test_every_relative_import_is_followed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "deep").mkdir(parents=True)
    names = ["one", "two", "three", "four", "five", "deep/six", "not_imported"]
    for name in names:
        (package / f"{name}.py").write_text("import math\n")
    (package / "one.py").write_text("from .five import x\n")
    main = package / "main.py"
    main.write_text(
        "from . import (\n    one,  # first (of two)\n    two as second,\n)\n"
        "from . import \\\n    three\n"
        "try: from .four import y\nexcept ImportError: y = None\n"
        "def late():\n    from .deep.six import z\n"
    )
    found = {str(path.relative_to(package.resolve())) for path in source_files(main)}
    assert found == {"main.py", *(f"{name}.py" for name in names[:-1])}


# What a plugin says to take a value from beside it, in DIR, or from the environment; the file that holds it.
WAYS = {
    "star": ("from helper_w import *", "helper_w.py"),
    "semicolon": ("import sys; sys.path.insert(0, DIR); from helper_w import W", "helper_w.py"),
    "semicolon import": ("import sys; import helper_w", "helper_w.py"),
    "try": ("try: from helper_w import W\nexcept ImportError: W = 0", "helper_w.py"),
    "import_module": ("import importlib\nW = importlib.import_module('helper_w').W", "helper_w.py"),
    "import_module as": (
        "from importlib import import_module as load\nW = load('helper_w').W",
        "helper_w.py",
    ),
    "import_module of a name": (
        "from importlib import import_module\nN = 'helper_w'\nW = import_module(N).W",
        "helper_w.py",
    ),
    "import_module inside": ("import importlib\nW = importlib.import_module('pkg.deep').W", "pkg/deep.py"),
    "import_module relative": (
        "import importlib\nW = importlib.import_module('.helper_w', __package__).W",
        "helper_w.py",
    ),
    "__import__": ("W = __import__('helper_w').W", "helper_w.py"),
    "relative package": ("def f():\n    from .pkg import W", "pkg/__init__.py"),
    "run_path": ("import runpy\nW = runpy.run_path(DIR + '/helper_w.py')['W']", "helper_w.py"),
    "spec": (
        "import importlib.util as u\ns = u.spec_from_file_location('x', DIR + '/helper_w.py')",
        "helper_w.py",
    ),
    "sum": ("W = open(DIR + '/w.txt').read()", "w.txt"),
    "sum of three": ("n = 'w'\nW = open(DIR + '/' + n + '.txt').read()", "w.txt"),
    "f-string": ("from pathlib import Path\nn = 'w'\nW = Path(__file__).parent / f'{n}.txt'", "w.txt"),
    "f-string of a folder": ("W = open(f'{DIR}/w.txt').read()", "w.txt"),
    "f-string below": ("n = 'v'\nW = open(f'{DIR}/data/{n}.txt').read()", "data/v.txt"),
    "percent": ("n = 'w'\nW = open('%s.txt' % n).read()", "w.txt"),
    "format": ("n = 'w'\nW = open('{}.txt'.format(n)).read()", "w.txt"),
    "no dot": ("from pathlib import Path\nW = Path(__file__).parent / 'weight'", "weight"),
    "glob": ("from glob import glob\nW = glob('*.txt')", "w.txt"),
    "rglob": ("from pathlib import Path\nW = Path(DIR).glob('**/v.*')", "data/v.txt"),
    "folder and name": (
        "from pathlib import Path\nW = Path(__file__).parent / 'data' / 'v.txt'",
        "data/v.txt",
    ),
    "environ as": ("from os import environ as E\nW = E['FB_KEY_W']", None),
    "environ alias": ("import os\ne = os.environ\nW = e['FB_KEY_W']", None),
    "environ lower": ("import os\ne = os.environ\nW = e.get('fb_key_w')", None),
    "getenv key": ("import os\nW = os.getenv(key='FB_KEY_W')", None),
    "getenv as": ("from os import getenv as g\nW = g('FB_KEY_W')", None),
    "setdefault": ("import os\nW = os.environ.setdefault('FB_KEY_W', '1')", None),
    "pop": ("import os\nW = os.environ.pop('FB_KEY_W', '1')", None),
    "sum of names": ("import os\nW = os.environ['FB_KEY' + '_W']", None),
    "function": ("import os\ndef ask(n): return os.environ[n]\nW = ask('FB_KEY_W')", None),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_plugin_takes_from_beside_it_counts_however_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    said, file = WAYS[way]
    for name in ("helper_w.py", "pkg/__init__.py", "pkg/deep.py", "w.txt", "weight", "data/v.txt", "no.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("W = 1\n")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"DIR = {str(tmp_path)!r}\n{said}\n")
    before = source_key(plugin)
    (tmp_path / "no.csv").write_text("other")
    monkeypatch.setenv("FB_KEY_OTHER", "2")
    assert source_key(plugin) == before
    if file:
        (tmp_path / file).write_text("W = 2\n")
    else:
        monkeypatch.setenv("FB_KEY_W", "2")
        monkeypatch.setenv("fb_key_w", "2")
    assert source_key(plugin) != before


@pytest.mark.parametrize(
    "said", ["W = open('w.txt').read()", "import os\nW = open(os.environ['FB_KEY_FILE'])"]
)
def test_a_file_that_lies_elsewhere_counts_with_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.txt").write_text("1")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("FB_KEY_FILE", str(tmp_path / "elsewhere" / "w.txt"))
    plugin = tmp_path / "plugin.py"
    plugin.write_text(said + "\n")
    before = source_key(plugin)
    (tmp_path / "elsewhere" / "w.txt").write_text("2")
    assert source_key(plugin) != before


def test_a_bundled_plugin_is_read_as_well_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path.resolve())
    (tmp_path / "helper_w.py").write_text("W = 1\n")
    for way in ("star", "semicolon", "semicolon import", "try", "import_module", "__import__"):
        plugin = tmp_path / f"{way.replace(' ', '_')}.py"
        plugin.write_text(f"DIR = ''\n{WAYS[way][0]}\n")
        assert tmp_path / "helper_w.py" in source_files(plugin), way


@pytest.mark.parametrize("said", ["W = '*'", "a = b = 1\nW = f'{a}.{b}'", "W = '\\0'", "W = ('x' * 9) + '*'"])
def test_a_text_that_matches_anything_names_no_file(tmp_path: Path, said: str) -> None:
    (tmp_path / "w.txt").write_text("1")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(said + "\n")
    assert source_files(plugin) == [plugin]


def test_a_source_that_does_not_parse_is_read_by_its_lines(tmp_path: Path) -> None:
    (tmp_path / "helper_w.py").write_text("W = 1\n")
    plugin = tmp_path / "plugin.py"
    plugin.write_text("from helper_w import W\nTABLE = 'w.txt'\nmatch W with\n")
    (tmp_path / "w.txt").write_text("1")
    assert source_files(plugin) == [tmp_path / n for n in ("helper_w.py", "plugin.py", "w.txt")]


def forget() -> None:
    for cached in (sources._sha256, sources._version, keys.libraries):
        cached.cache_clear()


@pytest.fixture
def key_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Key of a method with a helper beside it, a data file that it names and an environment variable."""
    name = f"keyed-{abs(hash(tmp_path))}"
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "table.csv").write_text("1,2\n")
    (tmp_path / "keyed.npz").write_text("1,2\n")
    far = tmp_path / "elsewhere" / "parts"
    far.mkdir(parents=True)
    (far / "far.py").write_text("y = 1\n")
    (tmp_path / "unrelated.csv").write_text("1,2\n")
    plugin = tmp_path / "keyed.py"
    plugin.write_text(PLUGIN.replace("{name}", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))  # as `late` does
    cls = find_plugins((str(plugin),)).methods.load(name)

    def ask(**parameters: object) -> str:
        forget()
        return method_key(cls, {"t": 1.0, **parameters}, [])

    yield ask
    forget()


@pytest.mark.parametrize(
    "file", ["keyed.py", "helper.py", "table.csv", "keyed.npz", "elsewhere/parts/far.py"]
)
def test_a_method_depends_on_its_source_helpers_and_data_files(
    key_of: Callable[..., str], tmp_path: Path, file: str
) -> None:
    before = key_of()
    assert key_of() == before
    path = tmp_path / file
    path.write_text(path.read_text() + "# changed\n")
    assert key_of() != before


def test_a_method_depends_on_the_environment_that_it_reads(
    key_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of()
    monkeypatch.setenv("KEY_TEST_OTHER", "2")
    (tmp_path / "unrelated.csv").write_text("3,4\n")
    assert key_of() == before
    monkeypatch.setenv("KEY_TEST_LIMIT", "2")
    second = key_of()
    assert second != before
    monkeypatch.setenv("KEY_TEST_BY_NAME", "2")
    assert key_of() not in (before, second)


def test_a_method_depends_on_the_versions_of_the_libraries_that_it_imports(
    key_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = key_of(), sources.version
    for name, changes in (("rich", False), ("installed", True)):
        known = {name: "9.9"}
        monkeypatch.setattr(sources, "version", lambda n, known=known: known.get(n) or version(n))
        assert (key_of() != before) == changes


def test_packages_of_another_environment_are_libraries_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"  # on the path by a .pth file
    packages.mkdir(parents=True)
    monkeypatch.syspath_prepend(packages)
    (packages / "far_library.py").write_text("import far_module\n")
    (packages / "far_module.py").write_text("")
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import far_library\n")
    assert source_files(plugin) == [plugin]


def test_an_edit_is_seen_whatever_the_clock_says(tmp_path: Path) -> None:
    # In one process, since a notebook runs twice, and with size and time put back, as some tools do.
    path = tmp_path / "plugin.py"
    path.write_text("W = 0.5\n")
    cls = type("Method", (), {})
    before, stat = (source_key(path), remembered_sha256(path)), path.stat()
    watched = watched_files(cls, [path])
    assert are_as_they_were(watched)
    path.write_text("W = 0.9\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not set(before) & {source_key(path), remembered_sha256(path)}
    assert not are_as_they_were(watched)
    path.unlink()
    assert not are_as_they_were(watched)


def test_a_method_depends_on_its_parameters_and_on_the_content_of_its_weights(
    key_of: Callable[..., str], tmp_path: Path
) -> None:
    assert key_of(t=2.0) != key_of()
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (one, two):
        path.write_bytes(b"same")
    cls = type("Learned", (), {})
    assert method_key(cls, {"weights": str(one)}, [one]) == method_key(cls, {"weights": str(two)}, [two])
    two.write_bytes(b"other")
    assert method_key(cls, {}, [one]) != method_key(cls, {}, [two])
    with pytest.raises(InputError, match="no such file"):
        method_key(cls, {}, [tmp_path / "absent.safetensors"])


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        *((name, True) for name in keys.SCORING),
        *(
            (name, False)
            for name in ("registry.py", "errors.py", "plugins.py", "cli/run.py", "store/rows.py")
        ),
    ],
)
def test_a_score_depends_on_the_code_that_scores_and_on_no_message(
    monkeypatch: pytest.MonkeyPatch, file: str, counts: bool
) -> None:
    def key() -> str:
        forget()
        return score_key("volume key", "volume", "psnr", "source key")

    before, sha256 = key(), sources.file_sha256
    reworded = keys.PACKAGE / file
    assert reworded.is_file()
    monkeypatch.setattr(sources, "file_sha256", lambda path: "reworded" if path == reworded else sha256(path))
    assert (key() != before) == counts
    monkeypatch.undo()
    assert key() == before


def test_versions_of_libraries_that_change_numbers_are_in_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> tuple[str, str]:
        forget()
        return fuse_key("m", "c", 0, "cpu", 1), score_key("v", "volume", "psnr", "s")

    before, version = both(), keys.version
    monkeypatch.setattr(keys, "version", lambda name: "9.9" if name == "scipy" else version(name))
    assert not set(both()) & set(before)
    monkeypatch.setattr(keys, "version", lambda name: "9.9" if name == "rich" else version(name))
    assert both() == before


def test_a_list_of_cases_has_a_key_of_ids_subjects_and_voxels() -> None:
    def case(name: str = "one", group: str = "s", fingerprint: str = "f") -> Case:
        return Case(name, "made-up", group, fingerprint, lambda: None)  # type: ignore[arg-type,return-value]

    known = cases_key([case()])
    assert known == cases_key([case()])
    others = [[case("two")], [case(group="t")], [case(fingerprint="g")], [case(), case()], []]
    assert len({known, *map(cases_key, others)}) == 6


def test_minor_versions_leave_the_last_number_away() -> None:
    (numpy, absent) = minor_versions(("numpy", "no-such-library"))
    assert len(numpy.split(".")) == 2 and absent == ""


@pytest.mark.parametrize("inside", ["", "folder"])
def test_a_method_depends_on_the_content_of_a_file_that_a_parameter_names(
    tmp_path: Path, inside: str
) -> None:
    class Tabled(Method):
        info = MethodInfo(name="tabled", summary="x")

        def __init__(self, *, table: str = "none", kind: str = "a.b") -> None:
            self.table, self.kind = table, kind

    table = tmp_path / inside / "table"
    table.parent.mkdir(exist_ok=True)
    table.write_text("1")
    assert Tabled().files() == []
    made = Tabled(table=str(tmp_path / inside if inside else table))
    before = method_key(Tabled, made.parameters(), made.files())
    table.write_text("2")
    assert made.files() == [table]
    assert method_key(Tabled, made.parameters(), made.files()) != before


class Loosely(Method):
    """Stores something else than what it is given."""

    info = MethodInfo(name="loosely", summary="x")
    core = "mean"

    def __init__(self, w: object = 0.5, **options: object) -> None:
        self._w, self.options = w, options


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"w": 0.1}, {"w": 0.2}),
        ({"further": 1}, {"further": 2}),
        ({"w": np.zeros(2000)}, {"w": np.eye(1, 2000, 1000)[0]}),
        ({"w": torch.zeros(2000)}, {"w": torch.eye(1, 2000)[0]}),
    ],
)
def test_a_method_depends_on_what_it_was_given_whatever_it_stored(
    one: dict[str, object], other: dict[str, object]
) -> None:
    first, second = (method_key(Loosely, Loosely(**given).parameters(), [], given) for given in (one, other))
    assert first != second
    assert keys.path_of(Loosely) == Path(__file__)


def test_a_plugin_file_that_sets_up_a_class_of_another_counts(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("from elsewhere import Loosely\nLoosely.power = 1\n")
    before = method_key(Loosely, {}, [], {}, str(plugin))
    plugin.write_text("from elsewhere import Loosely\nLoosely.power = 2\n")
    assert method_key(Loosely, {}, [], {}, str(plugin)) != before


def test_what_a_plugin_writes_beside_itself_is_no_part_of_it(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("MEMORY = open('/proc/meminfo').read()\n")
    before = source_files(plugin)
    (tmp_path / "plugin.log").write_text("1")
    assert source_files(plugin) == before == [plugin]
