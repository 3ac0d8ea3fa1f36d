"""The fit loop for all learned methods, on Lightning Fabric (extra ``train``).

Equal seeds give equal runs: samples are a pure function of (seed, step, index in the whole batch), the
learning rate of the step, and torch's generator is seeded at every step.  So a checkpoint holds the network,
its average, the optimiser and the log, and a run resumed from it equals one never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fusebench.errors import InputError
from fusebench.files import refuse_foreign

from . import card
from .checkpoint import fitting, load_checkpoint, save_checkpoint, save_weights
from .process import deterministic, launch, signals
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
        "cpu", "cuda" or "cuda:1"; how many; "32", "bf16" or "16".
    threads : int
        CPU threads of each process, 0 for torch's choice; the last digits of sums depend on it.
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
    device: str = "cpu"
    devices: int = 1
    precision: str = "32"
    threads: int = 0
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
    """The result of a call of `fit`: `weights` is None when it was interrupted."""

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
    run = _Run(recipe, hyper, job)
    run.restore()
    reason = run.train(train, val)
    if reason == "interrupted" or not run.fabric.is_global_zero:
        return Outcome(run.step, reason, run.history)
    weights, sha256 = run.write(reason)
    return Outcome(run.step, reason, run.history, weights, sha256)


class _Run:
    """The state of a run on one device, and what is done with it."""

    def __init__(self, recipe: Recipe, hyper: Hyperparameters, job: Job) -> None:
        self.recipe, self.hyper, self.job = recipe, hyper, job
        self.fabric = fabric = launch(
            job.device, job.devices, job.precision, job.threads, unused_parameters=recipe.unused_parameters
        )
        torch.manual_seed(job.seed)
        self.net = recipe.model()
        if job.init is not None:
            recipe.load(self.net, job.init)
        self.average = AveragedModel(self.net, multi_avg_fn=_averaging(hyper.ema)) if hyper.ema else None
        recipe.setup(fabric.device)
        # The bare optimiser is kept: Fabric's wrapper loses sight of its groups when a state is loaded.
        self.optimizer = recipe.optimizer(self.net, hyper)
        self.objective, self.stepper = fabric.setup(_Objective(recipe, self.net), self.optimizer)
        self.kept = self.net if self.average is None else self.average.to(fabric.device).module.eval()
        self.config = {
            **asdict(hyper),
            **job.facts,
            "seed": job.seed,
            "batch": hyper.batch * fabric.world_size,
            "precision": job.precision,
            # Sums are ordered by threads, so that other ones would end elsewhere.
            "threads": torch.get_num_threads() if fabric.device.type == "cpu" else "any",
        }
        self.step, self.seconds, self.began = 0, 0.0, time.monotonic()
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}  # exported weights of the best validation
        self.grown: list[str] = []  # how the planned steps were made more, and the schedule with them

    # -- checkpoints -----------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the checkpoint if there is one."""
        job = self.job
        self.fabric.barrier()
        if not job.checkpoint.exists() and not job.force:
            refuse_foreign(job.out, (f"{job.name}.safetensors", f"{job.name}.md", "log.csv"), "this training")
        if job.checkpoint.exists() and not job.force:
            if not job.resume:
                raise InputError(
                    f"{job.checkpoint} exists: --resume to go on, --force to start over, or another --out"
                )
            state = load_checkpoint(job.checkpoint, self.config)
            self.step, self.seconds = state["step"], state["seconds"]
            self.history, self.best = state["history"], state["best"]
            self.grown = list(state.get("grown", []))
            if state["config"]["steps"] != self.config["steps"]:
                self.grown.append(f"{state['config']['steps']} to {self.config['steps']} at {self.step}")
            with fitting(job.checkpoint):
                self._take_up(state)
        self.fabric.barrier()

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Load the tensors of a checkpoint; whatever is raised means that they are of another network."""
        self.net.load_state_dict(state["net"])
        ours, theirs = (s["param_groups"] for s in (self.optimizer.state_dict(), state["optimizer"]))
        if [{k: type(v) for k, v in g.items()} for g in ours] != [
            {k: type(v) for k, v in g.items()} for g in theirs
        ]:
            raise ValueError("its optimiser is another one")
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def save(self) -> None:
        """Write the checkpoint and the log."""
        if not self.fabric.is_global_zero:
            return
        state = {
            "config": self.config,
            "step": self.step,
            "seconds": self.seconds + time.monotonic() - self.began,
            "history": self.history,
            "best": self.best,
            "grown": self.grown,
            "net": self.net.state_dict(),
            "average": {} if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        save_checkpoint(self.job.checkpoint, state)
        card.write_log(self.job.out / "log.csv", self.history)

    # -- the loop --------------------------------------------------------------------------------

    def train(self, train: Subjects, val: Subjects | None) -> str:
        """Run to the last step; "done", "stopped" (as asked), "early" or "interrupted"."""
        job, hyper, fabric = self.job, self.hyper, self.fabric
        last = min(hyper.steps, job.stop_after or hyper.steps)
        if self._is_enough() or self.step >= last:
            return "early" if self._is_enough() else "done" if self.step >= hyper.steps else "stopped"
        steps = range(self.step, last)
        batches = stream(
            lambda step, rng: self.recipe.sample(train, step, rng),
            seed=job.seed,
            steps=steps,
            indices=range(fabric.global_rank * hyper.batch, (fabric.global_rank + 1) * hyper.batch),
            workers=job.workers,
        )
        monitor = Monitor(
            self.step,
            last,
            every=job.log_every,
            events=job.out / "tensorboard" if job.tensorboard else None,
            active=fabric.is_global_zero,
        )
        with deterministic(), signals() as asked, closing(batches), monitor:
            for step in steps:
                row, interrupted = self._advance(step, next(batches), asked.is_set())
                validated = val is not None and (self.step % hyper.val_every == 0 or self.step == hyper.steps)
                if validated:
                    self._validate(val, row)
                monitor.step(row)
                enough = validated and self._is_enough()
                due = self.step % job.checkpoint_every == 0 if job.checkpoint_every else validated
                if due or interrupted or enough or self.step == last:
                    self.save()
                if interrupted and self.step < last:
                    return "interrupted"
                if enough:
                    return "early"
        return "done" if last == hyper.steps else "stopped"

    def _advance(self, step: int, batch: Batch, asked: bool) -> tuple[dict[str, float], bool]:
        """One optimiser step: its row of the log, and whether any process was asked to end."""
        lr = self.hyper.lr_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        torch.manual_seed(_mix(self.job.seed, step, self.fabric.global_rank))
        self.net.train()
        loss, logs = self.objective(self.fabric.to_device(batch))
        values = _mean(self.fabric, {"loss": loss, **logs, "asked": loss.new_tensor(float(asked))})
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"the loss is {values['loss']} at step {step + 1}; lower --lr or use --precision 32"
            )
        self.stepper.zero_grad()
        self.fabric.backward(loss)
        if self.hyper.clip:
            # Under --precision 16 single infinite gradients are usual: the scaler skips such a step.
            norm = self.fabric.clip_gradients(
                self.objective, self.stepper, max_norm=self.hyper.clip, error_if_nonfinite=False
            )
            if norm is not None and not norm.isfinite() and self.job.precision != "16":
                raise InputError(f"the gradient is {float(norm)} at step {step + 1}; lower --lr")
        self.stepper.step()
        if self.average is not None:
            self.average.update_parameters(self.net)
        self.step = step + 1
        interrupted = values.pop("asked") > 0
        row = {"step": self.step, "lr": lr, **values}
        self.history.append(row)
        return row, interrupted

    def _validate(self, val: Subjects | None, row: dict[str, float]) -> None:
        """Add the scores to `row` and keep the weights if they are the best."""
        scores: dict[str, float] = {}
        if self.fabric.is_global_zero and val is not None:
            torch.manual_seed(self.job.seed)
            self.kept.eval()
            with torch.no_grad():
                scores = {k: float(v) for k, v in self.recipe.validate(self.kept, val).items()}
                picture = self.recipe.picture(self.kept, val)
            if picture is not None:
                card.write_picture(self.job.out / "pictures" / f"step{self.step:06d}.png", picture)
            if self.recipe.monitor not in scores:
                raise KeyError(f"{type(self.recipe).__name__}.validate gave no {self.recipe.monitor!r}")
        row.update(self.fabric.broadcast(scores))
        if self._best_row() is row and self.hyper.keep == "best":
            self.best = self._exported()

    def _best_row(self) -> dict[str, float] | None:
        """The validated row with the best score, the earliest of equals; NaN is never best."""
        key, sign = self.recipe.monitor, 1 if self.recipe.mode == "min" else -1
        rows = [row for row in self.history if math.isfinite(row.get(key, math.nan))]
        return min(rows, key=lambda row: sign * row[key], default=None)

    def _is_enough(self) -> bool:
        """True if the last `patience` validations brought no gain."""
        best = self._best_row()
        since = [
            r for r in self.history if self.recipe.monitor in r and (not best or r["step"] > best["step"])
        ]
        return 0 < self.hyper.patience <= len(since)

    # -- the end ---------------------------------------------------------------------------------

    def _exported(self) -> dict[str, Tensor]:
        return {k: v.detach().to("cpu", copy=True) for k, v in self.recipe.export(self.kept).items()}

    def write(self, reason: str) -> tuple[Path, str]:
        """Write weights, card and curves; the weights' path and sha256."""
        job = self.job
        weights = job.out / f"{job.name}.safetensors"
        sha256 = save_weights(weights, self.best or self._exported(), dict(job.facts))
        facts = {
            **self.config,
            "steps done": self.step,
            "steps grown": self.grown,
            "ended": reason,
            "seconds": round(self.seconds + time.monotonic() - self.began),
            "hardware": card.hardware(self.fabric.device, self.fabric.world_size),
            "command": job.command,
            "sha256": sha256,
            "bytes": weights.stat().st_size,
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "licence of the weights": self.recipe.licence,
            "notes": self.recipe.notes,
        }
        best = self._best_row() if self.best else None
        card.write_card(job.out, job.name, facts, self.history, monitored=self.recipe.monitor, best=best)
        return weights, sha256


class _Objective(nn.Module):
    """The loss as a module's forward, so that any method of the network is under autocast and DDP's hooks."""

    def __init__(self, recipe: Recipe, net: nn.Module) -> None:
        super().__init__()
        self.recipe, self.net = recipe, net

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = self.recipe.loss(self.net, batch)
        return loss.float(), {k: torch.as_tensor(v).detach().float() for k, v in logs.items()}


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
    mean = cast(Tensor, fabric.all_reduce(stacked, reduce_op="mean"))
    return dict(zip(values, mean.tolist(), strict=True))
