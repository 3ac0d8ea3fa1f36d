"""What a plugin can change in the process that it runs in, put back behind it: where methods share one.

Workers have a child for every method, metric and loader (`fusebench.engine.apart`).  Methods on a GPU, and
everything with ``--jobs 0``, run in one process; `World.kept` gives the next one what the first one got.
"""

from __future__ import annotations

from .keeper import Keeper
from .settings import SETTINGS

# Modules whose functions and classes decide numbers, times or what is stored; with their submodules.
_WATCHED = (
    *(
        "builtins",
        "math",
        "random",
        "time",
        "os",
        "io",
        "json",
        "statistics",
        "collections",
        "dataclasses",
        "functools",
        "itertools",
        "contextlib",
        "copy",
        "copyreg",
        "pickle",
        "hashlib",
        "pathlib",
        "tempfile",
        "fusebench",
        "numpy",
        "pywt",
        "scipy.ndimage",
    ),
    *(
        "scipy.fft",
        "scipy.signal",
        "scipy.linalg",
        "scipy.stats",
        "scipy.optimize",
        "scipy.special",
        "skimage",
    ),
    *("torch", "torch.functional", "torch.nn", "torch.fft", "torch.linalg", "torch.special", "torch.random"),
)


class World(Keeper):
    """The settings of this process, and whatever decides numbers, times or what is stored."""

    def __init__(self) -> None:
        # Hooks of every module of torch lie in tables.
        whole = ["fusebench", "copyreg", "torch.nn.modules.module"]
        super().__init__(SETTINGS, _WATCHED, alone=["torch"], whole=whole)
