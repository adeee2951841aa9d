"""The files of one evaluate run, fetched, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.measures.formats import MEASURE_COLUMNS
from analysis.measures.routing import ROUTING_FILE, read_routing_file
from analysis.runs.records_cache import FORMAT_FILE, ArtifactStore, optional_file, records_file
from xling.records import RUN_COLUMNS, read_records


def told(name: object) -> str:
    """A name as it stands, if it is short and all of it can be seen; else its beginning, quoted."""
    text = str(name)
    return text if len(text) <= 80 and text.isprintable() else f"{text!r:.80}"


if TYPE_CHECKING:
    from xling.tracking import LoggedRun


_MEASURES = tuple(
    name
    for name in MEASURE_COLUMNS
    # What may lie below 0 is no part of the file.
    if name not in (*RUN_COLUMNS, "language", "recall_variance", "calibration_squared")
)
_ROUNDING = 1e-6  # csv keeps fewer digits


@dataclass(frozen=True)
class RunFiles:
    """Tables of one run: records.parquet, routing.parquet, format.csv; None for what it lacks."""

    records: pd.DataFrame | None
    routing: pd.DataFrame | None
    format: pd.DataFrame | None


def fetch_files(
    store: ArtifactStore,
    run: LoggedRun,
    cell: tuple[str | int, ...],
    folder: Path,
    cache: Path | None = None,
) -> RunFiles:
    """Fetch what a run has.

    Args:
        store: The tracking store.
        run: An evaluate run.
        cell: Its values of RUN_COLUMNS, which its records must have.
        folder: Where downloads go that are not kept.
        cache: Where files are kept, one folder per run id; None to keep nothing.

    Returns:
        Its tables. format.csv is fetched only where there are no records, which say the same.

    Raises:
        ValueError: If a file is corrupt, not the one logged, or of another run; it names the run.
        OSError: If a folder cannot be written.
    """
    records = _fetch_records(store, run, cell, folder, cache)
    routing = optional_file(store, run, ROUTING_FILE, folder, cache)
    shape = None if records is not None else optional_file(store, run, FORMAT_FILE, folder, cache)
    return RunFiles(
        records,
        None if routing is None else _read(routing, run, read_routing_file),
        None if shape is None else _read(shape, run, read_format_file),
    )


def read_format_file(path: Path) -> pd.DataFrame:
    """Read one run's table format.csv, as far as the analysis relies on it.

    Args:
        path: A csv file with a column `language`, and some of the measures of
            analysis.measures.formats.MEASURE_COLUMNS; other columns are not used.

    Returns:
        One row per language: `language` and the measures that the file has, numbers or NaN.

    Raises:
        ValueError: If the file is no csv, has no column `language` or no row, a language is
            missing or there twice, or a measure is no proportion.
    """
    table = pd.read_csv(path, dtype={"language": str})
    remedy = "repeat the run that wrote it"
    if "language" not in table.columns:
        raise ValueError(f"format: the column 'language' is missing; {remedy}")
    if table.empty or table["language"].isna().any():
        raise ValueError(f"format: there is no row, or one without a language; {remedy}")
    twice = table.loc[table["language"].duplicated(), "language"]
    if len(twice):
        raise ValueError(f"format: language {told(twice.iloc[0])} is there twice; {remedy}")
    names = [name for name in _MEASURES if name in table.columns]
    for name in names:
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        given = table[name].notna().to_numpy(np.bool_)
        high = np.inf if name == "n_items" else 1 + _ROUNDING
        wrong = given & ~((values >= 0) & (values <= high) & np.isfinite(values))
        if wrong.any():
            row = table.iloc[int(np.argmax(wrong))]
            raise ValueError(
                f"format: {name} of language {told(row['language'])} is {row[name]!r:.80}, but "
                "must be "
                f"{'a number of items' if name == 'n_items' else 'a number from 0 to 1'}; {remedy}"
            )
    return table[["language", *names]].astype(dict.fromkeys(names, np.float64))


def files_by_run(
    runs: Sequence[LoggedRun], frames: Sequence[pd.DataFrame | None]
) -> dict[str, pd.DataFrame]:
    """The frames that there are, by run id.

    Args:
        runs: The runs.
        frames: One for each run, or None.
    """
    pairs = zip(runs, frames, strict=True)
    return {run.run_id: frame for run, frame in pairs if frame is not None}


def _fetch_records(
    store: ArtifactStore,
    run: LoggedRun,
    cell: tuple[str | int, ...],
    folder: Path,
    cache: Path | None,
) -> pd.DataFrame | None:
    """A run's records; None if it has none. ValueError if they are not this run's."""
    try:
        path = records_file(store, run, folder, cache)
    except FileNotFoundError:
        return None  # accuracies only: a form the contract allows, noted by the caller
    records = _read(path, run, read_records)
    for row in records[list(RUN_COLUMNS)].drop_duplicates().itertuples(index=False):
        if tuple(row) != cell:
            raise ValueError(
                f"{_where(run)}: its records are of {'/'.join(map(str, row))}, but its "
                f"parameters say {'/'.join(map(str, cell))}; log the run again"
            )
    return records


def _read(path: Path, run: LoggedRun, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """A table; ValueError that names run and file if it is broken."""
    try:
        return read(path)
    except ValueError as error:
        known = str(path) in str(error)
        raise ValueError(f"{_where(run)}: {'' if known else f'{path}: '}{error}") from error


def _where(run: LoggedRun) -> str:
    return f"run {told(run.name)} ({run.run_id}), model {told(run.params['cfg.model'])}"
