"""Files of a finished run: its boards as CSV, Markdown and LaTeX, and the contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fusebench.engine.manifest import protocol_order, read_manifest
from fusebench.errors import FuseBenchError, InputError
from fusebench.files import write_text
from fusebench.scoring.protocol import PROTOCOLS, READERS
from fusebench.store.folder import BOARD_SUFFIXES, RunFolder

from . import contact_sheet, likeness
from .board import Board
from .columns import READINGS
from .tables import MAIN, boards_of, build


def boards(
    folder: RunFolder,
    table: pd.DataFrame,
    metrics: Sequence[str] = (),
    notes: Sequence[str] = (),
    *,
    rank_by: str = "",
) -> dict[str, Board]:
    """The leaderboard of every protocol with rows, by protocol, in the order of the run.

    The readings of protocol ``readers`` are on the board of ``volume``, where there is one.

    Parameters
    ----------
    table : DataFrame
        Newest rows of the folder.
    metrics : sequence of str
        Ids to rank on; none: the ranking set among those stored.
    notes : sequence of str
        Lines below every board, behind its own.
    rank_by : str
        As of `tables.build`.
    """
    manifest = read_manifest(folder.path)
    alike = likeness.equals(folder.path, manifest.get("methods", {}))
    found: dict[str, Board] = {}
    for protocol in boards_of(protocol_order(table["protocol"], manifest)):
        present = set(table[table["protocol"] == protocol]["metric"])
        wanted = [m for m in metrics if m in present]
        if wanted and protocol == MAIN:
            # The readings are asked for by the name of their protocol, not among the metrics.
            read = set(table[table["protocol"] == READERS]["metric"])
            wanted += [m for m in READINGS if m in read and m not in wanted]
        board = build(table, manifest, protocol, wanted or None, rank_by=rank_by, alike=alike)
        found[protocol] = replace(board, notes=(*board.notes, *notes))
    return found


def write(folder: RunFolder, found: dict[str, Board], *, radiological: bool = False) -> list[Path]:
    """Write boards and the contact sheet; returns the paths, tables of the run last.

    The sheet shows the patient's right on the left where `radiological`.
    """
    try:
        return _write(folder, found, radiological)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder.path}: {error.strerror}; the rows are stored, boards not whole: "
            "make room and run the same command"
        ) from None


def _write(folder: RunFolder, found: dict[str, Board], radiological: bool) -> list[Path]:
    paths: list[Path] = []
    stems = {p: folder.board(p if index else "") for index, p in enumerate(found)}
    for protocol in PROTOCOLS:
        stem = folder.board(protocol)
        if stem not in stems.values():  # of an earlier run: its rows may not stand any more
            for suffix in BOARD_SUFFIXES:
                stem.with_name(f"{stem.name}.{suffix}").unlink(missing_ok=True)
    for protocol, board in found.items():
        stem = stems[protocol]
        texts = board.to_csv(), board.to_markdown(), board.to_latex()
        for suffix, text in zip(BOARD_SUFFIXES, texts, strict=True):
            path = stem.with_name(f"{stem.name}.{suffix}")
            write_text(path, text)
            paths.append(path)
    sheet = _sheet(folder, radiological)
    return [*paths, *([sheet] if sheet else []), folder.csv, folder.parquet, folder.manifest]


def _sheet(folder: RunFolder, radiological: bool) -> Path | None:
    """The contact sheet; of a volume that cannot be read a note: the boards stand without it."""
    try:
        return contact_sheet.of_run(folder.path, radiological=radiological)
    except FuseBenchError as error:
        print(f"note: no contact sheet: {error}", file=sys.stderr)
        return None
