"""The fit loop for all learned methods, on Lightning Fabric (extra ``train``).

Equal seeds give equal runs: samples are a pure function of (seed, step, index in the whole batch), the
learning rate of the step, and torch's generator is seeded at every step.  So a checkpoint holds the network,
its average, the optimiser and the log, and a run resumed from it equals one never stopped.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from fusebench.errors import InputError
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import card
from .checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from .progress import Monitor
from .recipe import Batch, Hyperparameters, Recipe
from .samples import Subjects, stream


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: where and how, besides the recipe and its hyperparameters.

    Parameters
    ----------
    name : str
        Stem of the files written.
    out : Path
        Folder of the run.
    facts : mapping
        Method, recipe, options, dataset and its fingerprint: what must be equal to resume, and the card.
    device, devices, precision : str, int, str
        "auto", "cpu", "cuda" or "cuda:1"; how many; "32", "bf16" or "16".
    stop_after : int
        End this call at that step (0: at the last), under the same schedule.
    checkpoint_every : int
        Steps between checkpoints (0: at each validation).
    init : Path, optional
        Weights to start from.
    """

    name: str
    out: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "32"
    workers: int = 0
    resume: bool = False
    force: bool = False
    stop_after: int = 0
    checkpoint_every: int = 0
    log_every: int = 20
    tensorboard: bool = True
    init: Path | None = None
    command: str = ""

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"


@dataclass(frozen=True)
class Outcome:
    """What a call of `fit` ended with: `weights` is None when it was interrupted."""

    step: int
    reason: str
    history: list[dict[str, float]]
    weights: Path | None = None
    sha256: str = ""


def fit(recipe: Recipe, hyper: Hyperparameters, train: Subjects, val: Subjects | None, job: Job) -> Outcome:
    """Train `recipe`, or go on training it, and write weights, card and curves into ``job.out``.

    Raises
    ------
    InputError
        A checkpoint is in the way or does not fit, a device is missing, the loss stopped being finite.
    """
    fabric = _launch(recipe, job)
    main = fabric.is_global_zero
    torch.manual_seed(job.seed)
    net = recipe.model()
    if job.init is not None:
        _initialise(recipe, net, job.init)
    average = AveragedModel(net, multi_avg_fn=_averaging(hyper.ema)) if hyper.ema else None
    recipe.setup(fabric.device)
    inner = recipe.optimizer(net, hyper)  # Fabric's wrapper loses sight of the groups when a state is loaded
    objective, optimizer = fabric.setup(_Objective(recipe, net), inner)
    kept = net if average is None else average.to(fabric.device).module.eval()

    world = fabric.world_size
    config = {**asdict(hyper), **job.facts, "seed": job.seed, "batch": hyper.batch * world, "precision": job.precision}
    step, seconds, history, best = 0, 0.0, list[dict[str, float]](), dict[str, Tensor]()
    fabric.barrier()
    if job.checkpoint.exists() and not job.force:
        if not job.resume:
            raise InputError(f"{job.checkpoint} exists: --resume to go on, --force to start over, or another --out")
        state = load_checkpoint(job.checkpoint, config)
        step, seconds, history, best = (state[k] for k in ("step", "seconds", "history", "best"))
        net.load_state_dict(state["net"])
        inner.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        if average is not None:
            average.load_state_dict(state["average"])
    fabric.barrier()

    def checkpoint() -> None:
        if main:
            state = {"config": config, "step": step, "seconds": seconds + clock(), "history": history, "best": best}
            state |= {"net": net.state_dict(), "average": average.state_dict() if average is not None else {}}
            state |= {"optimizer": inner.state_dict(), "precision": fabric.strategy.precision.state_dict()}
            save_checkpoint(job.checkpoint, state)
            card.write_log(job.out / "log.csv", history)

    last = min(hyper.steps, job.stop_after or hyper.steps)
    reason = _finished(history, recipe, hyper) or ("stopped" if last < hyper.steps else "done")
    share = range(fabric.global_rank * hyper.batch, (fabric.global_rank + 1) * hyper.batch)
    todo = range(step, step if reason == "early" else max(step, last))
    batches = stream(
        lambda k, rng: recipe.sample(train, k, rng), seed=job.seed, steps=todo, indices=share, workers=job.workers
    )
    events = job.out / "tensorboard" if job.tensorboard else None
    clock = _Clock()
    with _deterministic(), _signals() as asked, Monitor(
        step, last, every=job.log_every, events=events, active=main
    ) as monitor:
        for k, batch in zip(todo, batches, strict=True):
            lr = hyper.lr_at(k)
            for group in inner.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            torch.manual_seed(_mix(job.seed, k, fabric.global_rank))
            net.train()
            loss, logs = objective(fabric.to_device(batch))
            shown = _mean(fabric, {"loss": loss, **logs, "stop": loss.new_tensor(float(asked.is_set()))})
            if not math.isfinite(shown["loss"]):
                raise InputError(f"the loss is {shown['loss']} at step {k + 1}; lower --lr or --clip, or use --precision 32")
            optimizer.zero_grad()
            fabric.backward(loss)
            if hyper.clip:
                fabric.clip_gradients(objective, optimizer, max_norm=hyper.clip, error_if_nonfinite=False)
            optimizer.step()
            if average is not None:
                average.update_parameters(net)
            step = k + 1
            stop = shown.pop("stop") > 0
            row = {"step": step, "lr": lr, **shown}
            history.append(row)
            validated = val is not None and (step % hyper.val_every == 0 or step == hyper.steps)
            if validated:
                row.update(fabric.broadcast(_validate(recipe, kept, val, job.seed) if main else {}))
                if _best(history, recipe) is row:
                    best = _copy(recipe.export(kept))
                reason = _finished(history, recipe, hyper) or reason
            monitor.step(row)
            early = validated and reason == "early"
            due = step % job.checkpoint_every == 0 if job.checkpoint_every else validated
            if due or stop or early or step == last:
                checkpoint()
            if stop:
                reason = "interrupted"
            if stop or early:
                break
        batches.close()
    seconds += clock()
    if not main or reason == "interrupted":
        return Outcome(step, reason, history)
    state = best if best and hyper.keep == "best" else _copy(recipe.export(kept))
    weights = job.out / f"{job.name}.safetensors"
    sha256 = save_weights(weights, state, dict(job.facts))
    card.write_card(
        job.out,
        job.name,
        {
            **config,
            "steps done": step,
            "ended": reason,
            "seconds": round(seconds),
            "hardware": card.hardware(fabric.device, world),
            "command": job.command,
            "sha256": sha256,
            "bytes": weights.stat().st_size,
            "parameters": sum(p.numel() for p in net.parameters()),
            "licence of the weights": recipe.licence,
            "notes": recipe.notes,
        },
        history,
        monitored=recipe.monitor,
        best=_best(history, recipe) if state is best else None,
    )
    return Outcome(step, reason, history, weights, sha256)


class _Objective(nn.Module):
    """The loss as a module's forward, so that any method of the network is under autocast and DDP's hooks."""

    def __init__(self, recipe: Recipe, net: nn.Module) -> None:
        super().__init__()
        self.recipe, self.net = recipe, net

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = self.recipe.loss(self.net, batch)
        return loss.float(), {k: torch.as_tensor(v).detach().float() for k, v in logs.items()}


class _Clock:
    """Seconds since the run, or this part of it, began."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self.began


def _launch(recipe: Recipe, job: Job) -> Fabric:
    kind, _, number = job.device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this torch sees no CUDA device; use --device cpu")
    precision = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[job.precision]
    if kind == "cpu" and job.precision == "16":
        raise InputError("--precision 16 needs a GPU; use bf16 or 32 on the CPU")
    strategy = DDPStrategy(find_unused_parameters=recipe.unused_parameters) if job.devices > 1 else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fabric = Fabric(
                accelerator=kind,
                devices=[int(number)] if number else job.devices,
                precision=precision,  # type: ignore[arg-type]
                strategy=strategy,
            )
            fabric.launch()
        # Fabric has no common base class for "you asked for what is not there".
        except (ValueError, RuntimeError) as error:
            raise InputError(f"--device {job.device} --devices {job.devices}: {str(error).splitlines()[0]}") from error
    return fabric


def _initialise(recipe: Recipe, net: nn.Module, path: Path) -> None:
    try:
        recipe.load(net, load_weights(path))
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"weights {path} do not fit this network: {reason}") from error


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Moving average whose memory grows with the number of steps, so that it forgets the initial weights."""

    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(list(averages), list(currents), 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _mix(*numbers: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _mean(fabric: Fabric, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean over the devices."""
    stacked = torch.stack([v.detach() for v in values.values()])
    return dict(zip(values, fabric.all_reduce(stacked, reduce_op="mean").tolist(), strict=True))


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}


def _validate(recipe: Recipe, model: nn.Module, val: Subjects | None, seed: int) -> dict[str, float]:
    assert val is not None
    torch.manual_seed(seed)
    model.eval()
    with torch.no_grad():
        scores = {k: float(v) for k, v in recipe.validate(model, val).items()}
    if recipe.monitor not in scores:
        raise KeyError(f"validate() of {type(recipe).__name__} returned no {recipe.monitor!r}")
    return scores


def _best(history: list[dict[str, float]], recipe: Recipe) -> dict[str, float] | None:
    """The validated row with the best score, the earliest of equals; a score of NaN is never best."""
    rows = [r for r in history if math.isfinite(r.get(recipe.monitor, math.nan))]
    sign = 1 if recipe.mode == "min" else -1
    return min(rows, key=lambda r: sign * r[recipe.monitor], default=None)


def _finished(history: list[dict[str, float]], recipe: Recipe, hyper: Hyperparameters) -> str:
    """ "early" when the last `patience` validations brought no gain."""
    rows = [r for r in history if recipe.monitor in r]
    best = _best(history, recipe)
    since = len(rows) if best is None else len(rows) - 1 - next(i for i, r in enumerate(rows) if r is best)
    return "early" if hyper.patience and rows and since >= hyper.patience else ""


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic kernels where torch has them; a warning elsewhere."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # slow, and nothing reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set when the process is asked to end, so that the step is finished and a checkpoint written."""
    asked = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
