"""Result rows: one per method x case x protocol x metric."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Status = Literal["ok", "skip", "error", "timeout", "oom"]
SCHEMA = 1


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
        Of the case: loading, fusing (median of repeats, synchronised), scoring all metrics of the protocol.
    fuse_iqr : float or None
        Interquartile range of the fusing time, where repeated.
    memory_mb, gpu_memory_mb : float or None
        Peak resident memory of the worker, and peak device memory.
    device : str
    seed : int
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


COLUMNS = tuple(f.name for f in fields(Row))
