"""``train METHOD``: fit a learned method's network; see methods/training/README.md."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..engine.data import open_dataset, split_cases
from ..engine.deadline import asking_dataset
from ..errors import InputError
from ..files import file_sha256, is_file
from ..names import check_file_name
from ..parameters import check_seed
from ._options import (
    add_data_options,
    add_device_option,
    add_plugin_option,
    at_least,
    dataset_of,
    device_of,
    literal,
    parameters_of,
    plugins_of,
    weights_path,
)
from ._signals import CTRL_C


def add(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "train",
        help="train a learned method; writes weights, a card and curves",
        description="Train a learned method. Resumable; equal seeds and --threads give equal weights on "
        "equal processors (on a GPU, gradients of some of torch's 3D layers vary in the last bits).",
    )
    parser.add_argument("method", metavar="METHOD", help="a method that offers recipes")
    parser.add_argument("--recipe", metavar="NAME", help="recipe of the method (default: its first)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="option of the recipe"
    )
    add_plugin_option(parser)

    data = add_data_options(parser, split="train")
    data.add_argument("--val-split", default="val", metavar="NAME", help="'' for none (default: val, if any)")
    data.add_argument("--val-cases", type=at_least(1), metavar="N", help="only the first N validation cases")
    data.add_argument(
        "--pool", type=at_least(1), default=64, metavar="N", help="subjects in memory at a time"
    )
    data.add_argument("--workers", type=int, default=2, metavar="N", help="threads that prepare samples")

    hyper = parser.add_argument_group("optimisation (defaults: the recipe's)")
    hyper.add_argument("--steps", type=at_least(1), metavar="N")
    hyper.add_argument("--batch", type=at_least(1), metavar="N", help="samples per step and device")
    hyper.add_argument("--lr", type=float)
    hyper.add_argument("--schedule", choices=["cosine", "poly", "constant"])
    hyper.add_argument("--warmup", type=int, metavar="N", help="steps of linear warm-up")
    hyper.add_argument("--weight-decay", type=float)
    hyper.add_argument("--clip", type=float, help="largest gradient norm, 0: none")
    hyper.add_argument("--ema", type=float, help="decay of the weights' moving average, 0: none")
    hyper.add_argument("--val-every", type=at_least(1), metavar="N", help="steps between validations")
    hyper.add_argument(
        "--patience", type=int, metavar="N", help="stop after N validations without gain, 0: never"
    )
    hyper.add_argument("--keep", choices=["best", "last"], help="which weights are written")
    hyper.add_argument("--seed", type=int, default=0)
    hyper.add_argument("--weights", metavar="FILE", help="start from these weights, ours or published ones")

    run = parser.add_argument_group("run")
    add_device_option(run)  # type: ignore[arg-type]
    run.add_argument("--devices", type=at_least(1), default=1, metavar="N", help="devices or CPU processes")
    run.add_argument(
        "--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch's); losses depend on it"
    )
    run.add_argument("--precision", choices=["32", "bf16", "16"], default="32")
    run.add_argument("--out", type=Path, metavar="DIR", help="default: runs/train/METHOD-RECIPE")
    run.add_argument("--name", help="stem of the files (default: METHOD or METHOD_RECIPE)")
    again = run.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, if there is one"
    )
    again.add_argument("--force", action="store_true", help="start over, whatever --out holds")
    run.add_argument(
        "--stop-after", type=at_least(1), default=0, metavar="N", help="end at step N of the same schedule"
    )
    run.add_argument(
        "--checkpoint-every",
        type=at_least(1),
        default=0,
        metavar="N",
        help="default: at each validation",
    )
    run.add_argument(
        "--log-every", type=at_least(1), default=20, metavar="N", help="steps between plain lines"
    )
    run.add_argument("--no-tensorboard", action="store_true")
    parser.set_defaults(run=run_train, again="the same command with --resume goes on")


def run_train(args: argparse.Namespace) -> int:
    """Train as asked; 0 when the weights are written, 130 when it was interrupted."""
    from ..store.keys import cases_key

    try:
        from ..methods.training import fit as loop
        from ..methods.training import recipe as recipes
        from ..methods.training import samples
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fusebench"):
            raise
        raise InputError(f"training needs {error.name}: pip install 'fusebench[train]'") from error
    args.dataset = dataset_of(args)
    plugins, options = plugins_of(args), _options_of(args.set)
    method = plugins.methods.load(args.method)
    weights = weights_path(args.weights, args.method) if args.weights else None
    recipe_name, recipe, is_default = recipes.find_recipe(method, args.recipe, **options)
    given = {
        f.name: getattr(args, f.name)
        for f in fields(recipes.Hyperparameters)
        if getattr(args, f.name) is not None
    }
    hyper = replace(recipe.defaults, **given)
    check_seed(args.seed, "--seed")
    if args.workers < 0:
        raise InputError(f"--workers {args.workers} must be 0 or more")

    data_options = parameters_of(args.data_option, "--data-option")
    dataset = open_dataset(plugins, args.dataset, args.data_dir, data_options)
    splits = dataset.info.splits
    has_val = args.val_split in splits
    if args.val_split not in ("", "val") and not has_val:
        raise InputError(
            f"dataset {args.dataset!r} has no split {args.val_split!r}; it has {', '.join(splits)}"
        )
    train_cases = split_cases(dataset, args.split)[: args.cases]
    with asking_dataset(args.dataset, "listing its cases"):
        val_cases = dataset.cases(args.val_split)[: args.val_cases] if has_val else []
    if hyper.patience and not val_cases:
        raise InputError(f"--patience needs a val split, and {args.dataset!r} has none here; see --val-split")
    train = samples.Subjects(train_cases, pool=args.pool)
    val = samples.Subjects(val_cases, pool=len(val_cases)) if val_cases else None

    if args.name:
        check_file_name(args.name, "--name")
    name = args.name or (args.method if is_default else f"{args.method}_{recipe_name}")
    out = args.out or Path("runs", "train", f"{args.method}-{recipe_name}")
    facts = {
        "method": args.method,
        "recipe": recipe_name,
        "options": {
            k: f"{Path(v).name}, sha256 {_sha256(Path(v))}" if is_file(v) else v for k, v in options.items()
        },
        "dataset": args.dataset,
        "dataset parameters": args.data_option,
        "data licence": dataset.info.licence,
        "train": f"{args.split}, {len(train_cases)} cases, {cases_key(train_cases)}",
        "val": f"{args.val_split}, {len(val_cases)} cases, {cases_key(val_cases)}" if val else "none",
        "pool": train.pool,
        "initial weights": _sha256(weights) if weights else "random",
    }
    job = loop.Job(
        name=name,
        out=out,
        facts=facts,
        seed=args.seed,
        device=device_of(args),
        devices=args.devices,
        precision=args.precision,
        threads=args.threads or 0,
        workers=args.workers,
        resume=args.resume,
        force=args.force,
        stop_after=args.stop_after,
        checkpoint_every=args.checkpoint_every,
        log_every=args.log_every,
        tensorboard=not args.no_tensorboard,
        init=weights,
        command=_command(args, recipe_name, hyper, weights),
    )
    try:
        outcome = loop.fit(recipe, hyper, train, val, job)
    except InputError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return 2  # the first process says it
        raise
    if outcome.reason == "interrupted":
        print(f"interrupted at step {outcome.step}; the same command with --resume goes on from there")
        return CTRL_C
    if outcome.weights is not None:
        print(f"{outcome.reason} at step {outcome.step} of {hyper.steps}")
        print(f"weights {outcome.weights}  sha256 {outcome.sha256}")
        print(f"card    {outcome.weights.with_suffix('.md')}")
    return 0


def _options_of(pairs: list[str]) -> dict[str, Any]:
    """The recipe's options, from ``name=value`` pairs."""
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--set {pair}: the form is NAME=VALUE")
        options[name] = literal(value)
    return options


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file; leave it out to start from random weights")
    return file_sha256(path)


def _command(args: argparse.Namespace, recipe: str, hyper: Any, weights: Path | None) -> str:
    """The command that repeats this run, every default spelled out, without this machine's paths."""
    import torch  # seconds, that `--help` does without

    words = ["python", "run_bench.py", "train", args.method, "--recipe", recipe, "--dataset", args.dataset]
    words += ["--data-dir", "DIR"] if args.data_dir else []
    words += [w for text in args.data_option for w in ("--data-option", text)]
    for name, value in _options_of(args.set).items():
        words += ["--set", f"{name}={Path(value).name if is_file(value) else value}"]
    words += [w for path in args.plugin for w in ("--plugin", Path(path).name)]
    words += ["--weights", weights.name] if weights else []
    values: dict[str, Any] = {"device": device_of(args)}
    keys = ["split", "val_split", "cases", "val_cases", "pool", "devices", "precision", "seed"]
    values |= {k: getattr(args, k) for k in keys if getattr(args, k) is not None}
    if values["device"] == "cpu":
        values["threads"] = args.threads or torch.get_num_threads()
    values |= {f.name: getattr(hyper, f.name) for f in fields(hyper)}
    for key, value in values.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)
