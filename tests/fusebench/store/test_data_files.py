"""Data files of a plugin: what its source names counts, wherever it is said, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fusebench.store import contents
from fusebench.store.keys import source_key
from fusebench.store.sources import source_files

TOP = "import glob, os\nfrom pathlib import Path\nHERE = Path(__file__).parent\n"
FILES = (
    "w/a.npy",
    "w/sub/b.npy",
    "fold1/w.npy",
    "own.dat",
    "fb_compiled.cpython-311-x86_64-linux-gnu.so",
    "no/z.npy",
    "../x.npy",
    "../shared/s.npy",
    "../no.npy",
)

# Code of a plugin that reads a file, and the file.
WAYS = {
    "iterdir": ("for p in (HERE / 'w').iterdir(): pass", "w/a.npy"),
    "rglob": ("for p in (HERE / 'w').rglob('*'): pass", "w/sub/b.npy"),
    "listdir": (
        "D = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'w')\n"
        "W = [open(os.path.join(D, n)) for n in os.listdir(D)]",
        "w/a.npy",
    ),
    "handed on": ("def f(d): return sorted(os.scandir(d))\nf(HERE / 'w')", "w/a.npy"),
    "attribute": (
        "class A:\n  def __init__(self): self.d = HERE / 'w'\n  def f(self): return list(self.d.iterdir())",
        "w/a.npy",
    ),
    "default": ("def load(d=HERE / 'w'): return sorted(d.iterdir())", "w/a.npy"),
    "own folder": ("W = [p for p in HERE.iterdir() if p.suffix == '.dat']", "own.dat"),
    "own folder by glob": ("W = glob.glob(os.path.join(HERE, '*'))", "own.dat"),
    "two folders deep": ("N = 'b.npy'\nW = open(HERE / 'w' / 'sub' / N)", "w/sub/b.npy"),
    "names of a list": ("W = [open(HERE / 'w' / (n + '.npy')) for n in ['a', 'b']]", "w/a.npy"),
    "folders of a list": ("W = [open(HERE / f'fold{i}' / 'w.npy') for i in range(2)]", "fold1/w.npy"),
    "unknown name": ("def f(n): return open(HERE / 'w' / n)", "w/a.npy"),
    "parent": ("W = open(HERE.parent / 'x.npy')", "../x.npy"),
    "parents": ("W = open(Path(__file__).parents[1] / 'x.npy')", "../x.npy"),
    "parent, names of a list": ("for n in ['x.npy']: open(HERE.parent / n)", "../x.npy"),
    "dots": ("W = open(os.path.join(os.path.dirname(__file__), '..', 'x.npy'))", "../x.npy"),
    "folder of the parent": ("W = list((HERE.parent / 'shared').iterdir())", "../shared/s.npy"),
    "folder of a variable": ("W = os.listdir(os.environ['FB_KEY_FOLDER'])", "w/a.npy"),
    "below a variable": ("W = open(Path(os.getenv('FB_KEY_FOLDER')) / 'sub' / 'b.npy')", "w/sub/b.npy"),
    "default of a variable": ("W = os.listdir(os.environ.get('FB_KEY_NONE', HERE / 'w'))", "w/a.npy"),
    "file of settings": (
        "import json\nW = open(HERE / json.load(open(HERE / 'settings.json'))['data'])",
        "own.dat",
    ),
    "compiled": ("import fb_compiled", "fb_compiled.cpython-311-x86_64-linux-gnu.so"),
    "name of a variable": ("W = open(HERE / os.environ['FB_KEY_FILE'])", "own.dat"),
}


@pytest.fixture
def plug(tmp_path: Path) -> Path:
    """Folder of a plugin, with files in and about it."""
    folder = tmp_path / "top" / "plug"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    (folder / "settings.json").write_text('{"data": "own.dat"}')
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_read_counts(plug: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("FB_KEY_FILE", "own.dat")
    monkeypatch.setenv("FB_KEY_FOLDER", str(plug / "w"))
    said, file = WAYS[way]
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}{said}\n")
    before = source_key(plugin)
    for other in ("no/z.npy", "../no.npy", "another.py"):
        (plug / other).write_text("2")
    assert source_key(plugin) == before
    (plug / file).write_text("2")
    assert source_key(plugin) != before


def test_a_file_that_is_new_in_a_folder_counts_at_once(plug: Path) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}for p in (HERE / 'w').iterdir(): pass\n")
    before = source_key(plugin)
    (plug / "w" / "new.npy").write_text("1")
    assert source_key(plugin) != before


def test_files_that_swap_their_names_are_seen(plug: Path) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}for p in (HERE / 'w').iterdir(): pass\n")
    before = source_key(plugin)
    (plug / "w" / "a.npy").rename(plug / "w" / "c.npy")
    assert source_key(plugin) != before


WRITES = {
    "OUT = HERE / 'made'\nOUT.mkdir(exist_ok=True)\n(OUT / 'seen.txt').write_text('1')": "made/seen.txt",
    "OUT = HERE / 'made'\nos.makedirs(OUT)\ndef f(n): open(OUT / n, 'w').write('1')": "made/any.txt",
    "D = HERE / 'w'\nW = open(D / 'a.npy')\n(D / 'seen.txt').write_text('1')": "w/seen.txt",
    "for p in (HERE / 'w').iterdir(): pass\nnp.save(HERE / 'w' / 'seen.npy', 1)": "w/seen.npy",
    "with open(os.path.join(HERE, 'seen.txt'), 'a') as f: f.write('1')": "seen.txt",
    "CACHE = HERE / 'my-cache'\nos.listdir(CACHE)": "my-cache/seen.txt",
    "for p in HERE.glob('*'): pass": "plugin.log",
    "for p in HERE.iterdir(): pass": ".state",
    "for p in (HERE / 'w').rglob('*'): pass": "w/__pycache__/x.pyc",
    "for p in os.walk(HERE / 'w'): pass": "w/sub/x.lock",
}


@pytest.mark.parametrize("said", WRITES)
def test_what_a_plugin_writes_changes_nothing(plug: Path, said: str) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}{said}\n")
    before = source_key(plugin)
    (plug / WRITES[said]).parent.mkdir(exist_ok=True)
    for text in "12":
        (plug / WRITES[said]).write_text(text)
        assert source_key(plugin) == before


def test_a_folder_counts_wherever_it_lies(plug: Path, tmp_path: Path) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}W = list((HERE / 'w').iterdir()) + list((HERE.parent / 'shared').iterdir())\n")
    shutil.copytree(plug.parent, tmp_path / "another" / "place")
    assert source_key(tmp_path / "another" / "place" / "plug" / "plugin.py") == source_key(plugin)


def test_of_a_folder_too_large_to_read_the_sizes_count(plug: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST_BYTES", 1)
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}for p in (HERE / 'w').iterdir(): pass\n")
    before = source_key(plugin)
    assert source_files(plugin) == [plugin]
    (plug / "w" / "a.npy").write_text("2")
    assert source_key(plugin) == before
    (plug / "w" / "a.npy").write_text("22")
    assert source_key(plugin) != before


@pytest.mark.parametrize("name", ["plugin.md", "plugin.png", "plugin.py~", "plugin.py.orig", "plugin.ipynb"])
def test_cards_and_copies_beside_a_plugin_are_no_part_of_it(plug: Path, name: str) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text("x = 1\n")
    before = source_key(plugin)
    (plug / name).write_text("1")
    assert source_key(plugin) == before


def test_a_tree_is_not_walked(plug: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST_FILES", 3)
    plugin = plug / "plugin.py"
    plugin.write_text(f"{TOP}for p in (HERE / 'w').iterdir(): pass\n")
    assert len(source_files(plugin)) == 3
    for i in range(3):
        (plug / "w" / f"{i}.npy").write_text("1")
    assert source_files(plugin) == [plugin]


def test_a_key_does_not_depend_on_where_helpers_lie(plug: Path, tmp_path: Path) -> None:
    plugin = plug / "plugin.py"
    plugin.write_text("import helper_p\n")
    found = []
    for place in ("a", "z"):  # before and behind the plugin's folder in the order of paths
        helpers = tmp_path / place / "one" / "two" / "three"
        helpers.mkdir(parents=True)
        (helpers / "helper_p.py").write_text("W = 1\n")
        with pytest.MonkeyPatch.context() as here:
            here.syspath_prepend(helpers)
            assert len(source_files(plugin)) == 2
            found.append(source_key(plugin))
    assert found[0] == found[1]
