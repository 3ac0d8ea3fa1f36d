"""Rows for tests of the store."""

from __future__ import annotations

from fusebench.store.rows import Row


def row(case: str = "c1", value: float | None = 1.5, key: str = "k", **changes: object) -> Row:
    given = {"run": "r", "key": key, "method": "m", "dataset": "d", "case": case, "group": "g"}
    return Row(**{**given, "protocol": "volume", "metric": "psnr", "value": value, **changes})  # type: ignore[arg-type]
