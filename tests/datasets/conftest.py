import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch, request):
    """Prepared pairs and hashes of these tests go to a folder of their own."""
    if "phantom" not in request.node.nodeid:
        monkeypatch.setenv("FUSEBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "fusebench-cache"))
