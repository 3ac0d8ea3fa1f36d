"""Retrain from the command on a card of shipped weights, and compare the first losses with its curve.

python benchmarks/check_cards.py [CARD ...] [--steps 200]

A card is named as its file in ``methods/weights/`` (default: all).  On the same kind of device every loss is
within 1e-4 of the card's; the exit status is 1 where one is not.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "methods" / "weights"
TOLERANCE = 1e-4


def command(card: Path) -> list[str]:
    """Arguments of ``run_bench.py`` on a card."""
    found = re.search(
        r"^\| command \| python run_bench\.py (.+?) \|$", card.read_text(encoding="utf-8"), re.M
    )
    if found is None:
        raise SystemExit(f"{card}: no command")
    return shlex.split(found[1])


def losses(path: Path) -> dict[int, float]:
    """Loss by step of a log or a curve."""
    with path.open(newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


def check(name: str, steps: int) -> bool:
    """Retrain `steps` steps of one card; prints the largest difference."""
    given = losses(WEIGHTS / f"{name}_curve.csv")
    with tempfile.TemporaryDirectory() as folder:
        extra = ["--stop-after", str(steps), "--out", folder, "--log-every", "50", "--no-tensorboard"]
        subprocess.run(
            [sys.executable, "run_bench.py", *command(WEIGHTS / f"{name}.md"), *extra], cwd=ROOT, check=True
        )
        again = losses(Path(folder) / "log.csv")
    differences = {step: abs(loss - given[step]) for step, loss in again.items()}
    worst = max(differences, key=differences.__getitem__)
    fine = differences[worst] <= TOLERANCE
    print(
        f"{name}: {len(differences)} losses, largest difference {differences[worst]:.2g} at step {worst}: "
        f"{'as on the card' if fine else 'NOT as on the card'}",
        flush=True,
    )
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cards", nargs="*", metavar="CARD")
    parser.add_argument("--steps", type=int, default=200, help="of at most the first 200 (default: 200)")
    options = parser.parse_args(arguments)
    names = options.cards or sorted(path.stem for path in WEIGHTS.glob("*.md"))
    for name in names:
        if not (WEIGHTS / f"{name}.md").is_file():
            parser.error(f"no card {name}.md in {WEIGHTS}")
    fine = [check(name, min(options.steps, 200)) for name in names]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    raise SystemExit(main())
