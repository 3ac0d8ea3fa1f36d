"""Starts a worker: imports this package from where it lies, whatever the path and the working folder hold."""

import signal
import sys

if __name__ == "__main__":
    # To end is the parent's to handle. Before all else is imported, since a signal may come meanwhile.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for ended in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ended) is signal.SIG_DFL:  # a function: no program inherits it
            signal.signal(ended, lambda *_: None)

    import importlib.util
    from pathlib import Path

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
