"""Starts a worker: imports this package from where it lies, whatever the path and the working folder hold."""

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    package = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "fusebench", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fusebench"] = module
    spec.loader.exec_module(module)
    from fusebench.engine.serve import main

    main(*map(int, sys.argv[1:4]))
