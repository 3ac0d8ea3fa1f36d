"""`Row`, one result, and the form in which rows are stored: columns, their types, the version.

A row is one method x case x protocol x metric.  `fusebench.store.run_store` writes rows,
`fusebench.store.read_rows` reads and checks them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd  # only tables need it, and workers make none

Status = Literal["ok", "skip", "error", "timeout", "oom"]
SCHEMA = 1
IDENTITY = ("method", "dataset", "case", "protocol", "metric")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result.

    Attributes
    ----------
    run, key : str
        Run id and the content key the row was made under.
    method, dataset, case, group, protocol, metric : str
        `metric` is the full id, ``ssim.worst`` or ``mi@cddfuse``.
    value : float or None
        None unless `status` is "ok".
    status, reason : str
        Why there is no value; "" for an ok row.
    load_seconds, fuse_seconds, score_seconds : float or None
        Of the case: loading, fusing (median of repeats, device synchronised), scoring all metrics of
        the protocol.
    fuse_iqr : float or None
        Interquartile range of the fusing time, where repeated.
    memory_mb, gpu_memory_mb : float or None
        Peak resident memory of the worker while fusing, and peak device memory.
    device : str
    seed : int
    fingerprint : str
        `Case.fingerprint` of the data the row was made from; "" where the row does not say.
    split : str
        Of the dataset, in which the case was; "" where the row does not say.
    """

    run: str
    key: str
    method: str
    dataset: str
    case: str
    group: str
    protocol: str
    metric: str
    value: float | None = None
    status: Status = "ok"
    reason: str = ""
    load_seconds: float | None = None
    fuse_seconds: float | None = None
    fuse_iqr: float | None = None
    score_seconds: float | None = None
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    device: str = "cpu"
    seed: int = 0
    fingerprint: str = ""
    split: str = ""

    def as_dict(self) -> dict[str, Any]:
        return vars(self).copy()  # flat, so that asdict's deep copy is not needed

    @property
    def identity(self) -> tuple[str, ...]:
        """Method, dataset, case, protocol and metric: a later row with the same ones replaces this one."""
        return tuple(getattr(self, name) for name in IDENTITY)

    @property
    def mark(self) -> str:
        """Short hash of identity, key and run: what tells this row from one that replaces it."""
        parts = "\0".join((*self.identity, self.key, self.run))
        return hashlib.sha256(parts.encode(errors="replace")).hexdigest()[:16]


COLUMNS = tuple(f.name for f in fields(Row))
TEXT = {"run", "key", *IDENTITY, "group", "status", "reason", "device", "fingerprint", "split"}
# Part of manifest.json whose ``rows`` are the marks of what was left out of rows.parquet.
OUTDATED = "outdated"
# In the header of rows.parquet: how long rows.jsonl was when it was made, and its hash.
LOG_SIZE, LOG_HASH = b"fusebench.log.size", b"fusebench.log.sha256"


def as_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with stable column types."""
    import pandas as pd

    table = pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))
    for column in COLUMNS:
        table[column] = table[column].astype(column_type(column))
    return table


def column_type(column: str) -> Literal["str", "int64", "float64"]:
    """Type of a column of the table."""
    return "str" if column in TEXT else "int64" if column == "seed" else "float64"
