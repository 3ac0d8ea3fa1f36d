"""Shared fixtures: one cache for the session, no network, one thread per process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

# Tests run in parallel processes; more threads than cores would only slow them down.
torch.set_num_threads(1)

_LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the session's own, shared by its worker processes."""
    base = tmp_path_factory.getbasetemp()
    # A worker of xdist has a folder inside the session's; without xdist the parent is that of all sessions.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fusebench-cache"
    folder.mkdir(exist_ok=True)
    os.environ["FUSEBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("FUSEBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to anything but this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in _LOCAL:
            raise OSError(f"tests must not use the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real development images that lie beside a checkout on some machines; not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development images (../shared/data) are not on this machine")
    return folder
