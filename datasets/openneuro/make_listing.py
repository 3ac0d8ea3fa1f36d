"""Make the listing of an accession from a clone of its public git repository, which holds no image.

    git clone https://github.com/OpenNeuroDatasets/ds004513
    python -m fusebench.datasets.openneuro.make_listing ds004513 '_desc-bet_T1w.nii.gz$' > ds004513.csv

Sizes and hashes are those of git-annex and git; the version is the one that the public bucket has stored.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fusebench.datasets.openneuro.listing import COLUMNS, File

_KEY = re.compile(r"(SHA256|MD5)E-s(\d+)--([0-9a-f]+)")
_STORED = re.compile(r":V \+(\S+?)#[^/\s]+/(.+)")


def files(clone: Path, pattern: str) -> Iterator[File]:
    """The files of the newest commit whose path matches `pattern`, in order."""
    wanted = re.compile(pattern)
    versions = dict(_versions(clone))
    for line in _git(clone, "ls-tree", "-r", "HEAD").splitlines():
        facts, _, path = line.partition("\t")
        mode, _, blob = facts.split()
        if not wanted.search(path):
            continue
        if mode != "120000":  # no link into git-annex, but the file itself
            yield File(path, int(_git(clone, "cat-file", "-s", blob)), f"git:{blob}", "")
            continue
        key = _KEY.search(_git(clone, "cat-file", "-p", blob))
        if key is None:
            raise SystemExit(f"{path}: its key of git-annex holds no hash")
        algorithm, size, digest = key.groups()
        yield File(path, int(size), f"{algorithm.lower()}:{digest}", versions.get((digest, path), ""))


def _versions(clone: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Stored version by hash and path, from the branch git-annex."""
    for line in _git(clone, "grep", "-e", ":V +", "git-annex", "--", "*.rmet").splitlines():
        key, stored = _KEY.search(line), _STORED.search(line)
        if key and stored:
            yield (key.group(3), stored.group(2)), stored.group(1)


def _git(clone: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {arguments[0]} in {clone}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows((f.path, f.size, f.hash, f.version) for f in files(Path(sys.argv[1]), sys.argv[2]))
