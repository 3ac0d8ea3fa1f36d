"""The manifest says which kernels computed."""

from __future__ import annotations

import pytest
import torch

from fusebench.engine.hardware import describe_hardware


def test_what_decides_the_last_digits_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    found = describe_hardware()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"] == torch.get_num_threads()
    assert all(found["blas"][library] for library in ("numpy", "torch"))
    assert found["forced"]["MKL_CBWR"] == "COMPATIBLE"
