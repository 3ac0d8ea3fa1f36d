"""Which files a content key covers."""

from __future__ import annotations

from pathlib import Path

from fusebench.store.keys import source_files


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
