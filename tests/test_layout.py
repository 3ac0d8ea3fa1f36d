"""The layout rules: who may import whom, and one module object per file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("methods", "datasets", "metrics", "leaderboard")
FILES = [
    p
    for folder in (*FOLDERS, "fusebench", "tests", "benchmarks")
    for p in sorted((ROOT / folder).rglob("*.py"))
]


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import statement in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugin_folders_are_never_imported_by_their_bare_name(path: Path) -> None:
    bare = [module for level, module in imports(path) if level == 0 and module.split(".")[0] in FOLDERS]
    # `import datasets` can only mean Hugging Face's package, and nothing here needs that.
    assert not bare, f"import them as fusebench.<folder>: {bare}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_plugin_folders_reach_others_only_through_the_core(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for level, module in imports(path):
            sideways = [f for f in FOLDERS if f != folder and module.startswith(f"fusebench.{f}.")]
            assert level or not sideways, f"{path.relative_to(ROOT)} imports {module}"


# Above the core and the plugin folders: the public functions, the command line that calls them, and the
# writer of new plugins, which imports none.
ABOVE = {"api.py", "notebook.py", "cli", "scaffold.py"}


def core_files() -> list[Path]:
    """Files of the core: all of `fusebench/` but what lies above it."""
    top = ROOT / "fusebench"
    return [p for p in sorted(top.rglob("*.py")) if not ABOVE & {*p.relative_to(top).parts}]


def test_core_imports_no_plugin_folder() -> None:
    for path in core_files():
        package = path.relative_to(ROOT).parts[:-1]
        for level, module in imports(path):
            target = (
                [*package[: len(package) + 1 - level], *module.split(".")] if level else module.split(".")
            )
            # `fusebench.metrics` is the public face of its folder, a module of the core.
            inside = target[0] == "fusebench" and len(target) > 1 and target[1] in FOLDERS
            assert not inside or target[1:] == ["metrics"], (
                f"{path.relative_to(ROOT)} imports {'.'.join(target)}"
            )


def test_core_names_no_module_of_a_plugin_folder_in_a_string() -> None:
    inside = re.compile(rf"fusebench\.({'|'.join(FOLDERS)})\.\w")
    for path in core_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in documentation
            ):
                assert not inside.search(node.value), f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"


def test_core_has_no_import_circle() -> None:
    """Imports at the top of files, those for type checkers left out, form no circle."""
    graph = {path: top_imports(path) for path in sorted((ROOT / "fusebench").rglob("*.py"))}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(str(p.relative_to(ROOT)) for p in (*trail, path))
        if path not in done:
            for other in graph[path] & graph.keys():
                visit(other, (*trail, path))
            done.add(path)

    for path in graph:
        visit(path, ())


def top_imports(path: Path) -> set[Path]:
    """Files of the package that a file imports when it is imported itself."""
    found: set[Path] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        elif (node.module or "").startswith("fusebench."):
            base = ROOT.joinpath(*(node.module or "").split("."))
        else:
            continue
        found |= {base.with_suffix(".py"), *(base / f"{a.name}.py" for a in node.names)}
    return {p for p in found if p.is_file()} - {path}


@pytest.mark.parametrize("folder", FOLDERS)
def test_plugin_folders_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_scoring_alone_loads_no_runner_dataset_or_network_code() -> None:
    script = (
        "import sys; from fusebench.metrics import psnr, evaluate\n"
        "bad = [m for m in sys.modules if m.startswith(('fusebench.methods', 'fusebench.datasets', 'methods',"
        " 'fusebench.engine'))]\n"
        "print(bad); sys.exit(bool(bad))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_run_bench_works_from_any_folder(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "run_bench.py"), "list", "methods", "--names"]
    result = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "average" in result.stdout.split()
