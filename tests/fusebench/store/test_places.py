"""Paths that a source makes: known from its text alone, as far as it says them."""

from __future__ import annotations

import ast

import pytest

from fusebench.store.places import read

TOP = "import os\nfrom pathlib import Path\nHERE = Path(__file__).resolve().parent\n"


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("open(HERE / 'a' / 'b.npy')", "/top/plugs/a/b.npy"),
        ("open(os.path.join(HERE, 'a', NAME))", "/top/plugs/a/*"),
        ("NAME = 'b.npy'\nopen(os.path.join(os.path.dirname(__file__), 'a', NAME))", "/top/plugs/a/b.npy"),
        ("for n in NAMES: open(HERE / f'{n}.npy')", "/top/plugs/*.npy"),
        ("for n in NAMES: open(str(HERE) + '/a/' + n + '.npy')", "/top/plugs/a/*.npy"),
        ("open(Path(__file__).parent.parent / 'x.npy')", "/top/x.npy"),
        ("open(Path(__file__).parents[1] / 'x.npy')", "/top/x.npy"),
        ("open(os.path.join(HERE, '..', 'x.npy'))", "/top/x.npy"),
        ("open(HERE.joinpath('a').with_name('b'))", "/top/plugs/b"),
        ("HERE.rglob('*.npy')", "/top/plugs/**/*.npy"),
        ("class A:\n  def f(self): self.d = HERE / 'a'\n  def g(self): g(self.d / 'b')", "/top/plugs/a/b"),
        ("from importlib.resources import files\nfiles(__package__) / 'a.npy'", "/top/plugs/a.npy"),
        ("def f():\n  d = HERE / 'a'\n  g(d)\ndef h():\n  d = HERE / 'a'", "/top/plugs/a"),
        ("OFFERED = HERE / 'a'", "/top/plugs/a"),
    ],
)
def test_a_path_is_known_from_the_text(said: str, place: str) -> None:
    assert place in read(ast.parse(TOP + said), "/top/plugs/p.py").named


@pytest.mark.parametrize(
    "said",
    [
        "HERE.iterdir()",
        "os.listdir(HERE)",
        "HERE.glob('*')",
        "for p in os.scandir(os.path.dirname(__file__)): pass",
    ],
)
def test_a_folder_that_is_listed(said: str) -> None:
    assert read(ast.parse(TOP + said), "/top/plugs/p.py").listed == {"/top/plugs"}


def test_what_is_only_written_is_not_named() -> None:
    said = "OUT = HERE / 'out'\nOUT.mkdir()\n(OUT / 'a.txt').write_text('')\n"
    said += "open(HERE / 'b', 'ab')\nopen(HERE / 'c')"
    places = read(ast.parse(TOP + said), "/top/plugs/p.py")
    assert places.written == {"/top/plugs/out", "/top/plugs/out/a.txt", "/top/plugs/b"}
    assert places.named == {"/top/plugs/c"}


@pytest.mark.parametrize(
    "said",
    [
        "g('/etc/hosts')",
        "g(f'http://{h}/x')",
        "g(', '.join(NAMES))",
        "a = b\nb = a\ng(a / 'x')",
        "a0 = '/'\n" + "".join(f"a{i + 1} = a{i} + a{i}\n" for i in range(60)) + "g(a60)",
    ],
)
def test_other_texts_are_no_paths(said: str) -> None:
    assert not {p for p in read(ast.parse(said), "/top/plugs/p.py").named if len(p) > 1}
