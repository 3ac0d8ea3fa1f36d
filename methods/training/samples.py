"""Training samples from any dataset: subjects held in memory, crops of them, batches.

Everything random takes a generator that is a pure function of (seed, step, index in the whole batch), so a
run resumed at step k, or shared between devices, sees the stream of the uninterrupted one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from fusebench.case import Case
from fusebench.errors import InputError

# Keys: a, b, a_clean, b_clean, mask (1, *crop) float32; spacing (len(crop),) in mm.
Sample = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """One pair in memory.

    Attributes
    ----------
    case : Case
        Where it came from; its `truth` is for validation only.
    a, b : Tensor, shape (D, H, W)
        As stored; use ``.float()``.
    mask : Tensor, shape (D, H, W), bool
    spacing : tuple of float
        mm, (D, H, W).
    """

    case: Case
    a: Tensor
    b: Tensor
    mask: Tensor
    spacing: tuple[float, float, float]


class Subjects(Sequence[Subject]):
    """Cases of one split, loaded on demand, at most `pool` of them held at a time.

    Parameters
    ----------
    cases : sequence of Case
    pool : int
        Subjects that samples are drawn from at any one step.  Where there are more, the pool is a window on
        an endless shuffled list that moves on by one subject every `turn` steps.
    dtype : torch.dtype
        Of the stored images; half precision resolves 1/2048 of the range.
    """

    def __init__(
        self, cases: Sequence[Case], *, pool: int = 64, turn: int = 20, dtype: torch.dtype = torch.float16
    ) -> None:
        if not cases:
            raise InputError("the dataset's split holds no case to train on")
        self.cases = list(cases)
        self.pool, self.turn, self.dtype = min(pool, len(self.cases)), turn, dtype
        self._held: OrderedDict[int, Subject] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = [threading.Lock() for _ in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Subject:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        with self._loading[index]:  # other threads wait for a subject instead of loading it again
            subject = self._held.get(index) or self._load(self.cases[index])
            with self._lock:
                self._held[index] = subject
                self._held.move_to_end(index)
                while len(self._held) > self.pool + 2:  # two spare for samples prepared ahead
                    self._held.popitem(last=False)
        return subject

    def _load(self, case: Case) -> Subject:
        pair = case.loader()  # not case.pair, which would keep the arrays
        a, b = (torch.from_numpy(np.ascontiguousarray(v.data)).to(self.dtype) for v in (pair.a, pair.b))
        return Subject(case, a, b, torch.from_numpy(np.ascontiguousarray(pair.mask)), pair.a.spacing)

    def pick(self, step: int, rng: np.random.Generator) -> Subject:
        """A random subject of the pool as it stands at `step`."""
        n = len(self)
        if self.pool == n:
            return self[int(rng.integers(n))]
        round_, place = divmod(step // self.turn + int(rng.integers(self.pool)), n)
        return self[int(np.random.default_rng([n, round_]).permutation(n)[place])]


def crop(
    subject: Subject,
    size: Sequence[int],
    rng: np.random.Generator,
    *,
    planes: Sequence[int] = (0, 1, 2),
    margin: int = 0,
) -> Sample:
    """Cut a random crop, centred near a foreground voxel; zeros where it leaves the volume.

    Parameters
    ----------
    size : sequence of int
        Three numbers: a patch (d, h, w).  Two: a slice (h, w) across one of the axes `planes`.
    margin : int
        Added on every side; see `trim`.
    """
    arrays = {"a": subject.a, "b": subject.b, "mask": subject.mask}
    spacing = list(subject.spacing)
    where = _foreground(subject.mask, rng)
    if len(size) == 2:
        axis = 0 if subject.mask.shape[0] == 1 else int(rng.choice(np.asarray(planes)))
        arrays = {k: v.select(axis, where[axis]) for k, v in arrays.items()}
        del spacing[axis], where[axis]
    index, pad = [], []
    for length, full, centre in zip(size, arrays["a"].shape, where, strict=True):
        # The crop holds the voxel and stays inside the image where it fits, else centres the image.
        start = centre - int(rng.integers(length)) if length < full else (full - length) // 2
        start = min(max(start, 0), full - length) if length < full else start
        low, high = start - margin, start + length + margin
        index.append(slice(max(low, 0), min(high, full)))
        pad.append((max(-low, 0), max(high - full, 0)))
    flat = [p for pair in reversed(pad) for p in pair]
    cut = {k: nnf.pad(v[tuple(index)].float(), flat)[None] for k, v in arrays.items()}
    return {**cut, "a_clean": cut["a"], "b_clean": cut["b"], "spacing": torch.tensor(spacing)}


def _foreground(mask: Tensor, rng: np.random.Generator) -> list[int]:
    """A random foreground voxel: by a few random tries, which is as even as listing all and much faster."""
    shape = mask.shape
    for _ in range(64):
        voxel = [int(rng.integers(n)) for n in shape]
        if mask[tuple(voxel)]:
            return voxel
    inside = torch.nonzero(mask)
    return inside[int(rng.integers(len(inside)))].tolist() if len(inside) else [n // 2 for n in shape]


def trim(sample: Sample, margin: int) -> Sample:
    """Cut `margin` off every side."""
    if not margin:
        return sample
    inner = slice(margin, -margin)
    # An array with one axis or none is no image.
    return {k: v if v.ndim < 2 else v[(slice(None), *[inner] * (v.ndim - 1))] for k, v in sample.items()}


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Stack samples into a batch."""
    return {k: torch.stack([s[k] for s in samples]) for k in samples[0]}


def stream(
    draw: Callable[[int, np.random.Generator], Sample],
    *,
    seed: int,
    steps: range,
    indices: range,
    workers: int = 0,
) -> Generator[dict[str, Tensor], None, None]:
    """Batches of `steps`, prepared ahead by `workers` threads (threads share the subjects in memory).

    Parameters
    ----------
    draw : callable
        (step, generator) -> sample.
    indices : range
        This device's share of the whole batch.
    """

    def batch(step: int) -> dict[str, Tensor]:
        return collate([draw(step, np.random.default_rng([seed, step, i])) for i in indices])

    if workers < 1:
        yield from map(batch, steps)
        return
    ahead: deque[Future[dict[str, Tensor]]] = deque()
    with ThreadPoolExecutor(workers, "samples") as pool:
        todo = iter(steps)
        try:
            for step in todo:
                ahead.append(pool.submit(batch, step))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
