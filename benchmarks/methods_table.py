"""What the methods of a run reach, for the table of methods in the documentation.

    python run_bench.py --methods all
    python benchmarks/methods_table.py runs/phantom-test   # writes docs/methods.csv

The page joins it with the facts of the classes (year, size, licence, cost) when it is built, so that a new
method is in the table before it has been run.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import fusebench

OUT = Path(__file__).resolve().parents[1] / "docs" / "methods.csv"


def main(folder: str) -> None:
    """Write both average ranks of every method of a run's board."""
    run = fusebench.load_run(folder)
    board = run.board()
    command = [Path(word).name for word in run.manifest.get("run", {}).get("command", [])]
    with OUT.open("w", newline="", encoding="utf-8") as handle:
        handle.write(f"# {board.title}; `{' '.join(command) or 'fusebench.run'}`\n")
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(["method", "reading", "similarity"])
        for line in board.lines:
            standing = [line.ranks[n].short if n in line.ranks else "" for n in ("reading", "similarity")]
            rows.writerow([line.method, *standing])


if __name__ == "__main__":
    main(*sys.argv[1:])
