"""The files of one evaluate run: fetched once, kept by run id and digest, read and checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from analysis.measures.formats import MEASURE_COLUMNS
from analysis.measures.routing import ROUTING_FILE, read_routing_file
from xling.files.atomic import atomic_write
from xling.files.checksums import hash_file
from xling.messages.values import format_name
from xling.records import RUN_COLUMNS, read_records

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

RECORDS_FILE = "records.parquet"
FORMAT_FILE = "format.csv"
DIGEST_TAG = "xling.records_sha256"
_MEASURES = tuple(
    name
    for name in MEASURE_COLUMNS
    # Measures that may lie below 0 are not in the file.
    if name not in (*RUN_COLUMNS, "language", "recall_variance", "calibration_squared")
)
_ROUNDING = 1e-6  # csv keeps fewer digits


class ArtifactStore(Protocol):
    """Where artifacts are found; the module xling.tracking is one."""

    def download_artifact(self, run_id: str, path: str, folder: Path) -> Path:
        """Fetch one artifact; FileNotFoundError if the run has none of that name."""


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
    routing = fetch_file(store, run, ROUTING_FILE, folder, cache)
    shape = None if records is not None else fetch_file(store, run, FORMAT_FILE, folder, cache)
    return RunFiles(
        records,
        None if routing is None else _read(routing, run, read_routing_file),
        None if shape is None else _read(shape, run, read_format_file),
    )


def fetch_file(
    store: ArtifactStore, run: LoggedRun, name: str, folder: Path, cache: Path | None = None
) -> Path | None:
    """Fetch a file of a run, or take the cached one.

    A cached file is used if its digest is that of the run's tag `xling.<stem>_sha256`. Without the
    tag, records are fetched each time, for nothing says whether the cached ones are still those of
    the store; any other file is cached by run id alone: a finished run keeps its artifacts.

    Args:
        store: The tracking store.
        run: An evaluate run.
        name: The artifact, such as RECORDS_FILE.
        folder: Where downloads go that are not cached, one folder per run id.
        cache: Where files stay, one folder per run id; None to keep nothing.

    Returns:
        The file's path, None if the run has no such file.

    Raises:
        ValueError: If the file is not the one that the run logged; the message names the run.
        OSError: If a folder cannot be written.
    """
    tag = f"xling.{Path(name).stem}_sha256"
    digest = run.tags.get(tag, "")
    cached = None
    if cache and (digest or name != RECORDS_FILE):
        cached = cache / _folder_name(run) / name
    if cached and cached.is_file() and digest in ("", hash_file(cached)):
        return cached
    target = folder / _folder_name(run)
    target.mkdir(parents=True, exist_ok=True)
    try:
        path = store.download_artifact(run.run_id, name, target)
    except FileNotFoundError:
        return None  # the store says that the run has none
    if digest and hash_file(path) != digest:
        raise ValueError(
            f"run {run.name} ({run.run_id}), model {run.params.get('cfg.model', 'unknown')}: its "
            f"{name} is not the file that it logged (the tag {tag} says another sha256); repeat "
            "the run"
        )
    if not cached:
        return path
    with atomic_write(cached) as temporary:  # two processes may do so at once
        shutil.copyfile(path, temporary)
    return cached


def _folder_name(run: LoggedRun) -> str:
    """Return a run's id, if it is one: a store could say anything."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run.run_id):
        raise ValueError(
            f"the store has a run of the id {run.run_id!r:.80}, which is not valid: an id has "
            "letters, digits, '_' and '-'; delete that run"
        )
    return run.run_id


def read_format_file(path: Path) -> pd.DataFrame:
    """Read one run's table format.csv, as far as the analysis relies on it.

    Args:
        path: A csv file with a column `language`, and some of the measures of
            analysis.measures.formats.MEASURE_COLUMNS; other columns are not used.

    Returns:
        One row per language: `language` and the measures that the file has, numbers or NaN.

    Raises:
        ValueError: If the file is not a csv, has no column `language` or no row, a language is
            missing or appears twice, or a measure is not a proportion.
    """
    table = pd.read_csv(path, dtype={"language": str})
    remedy = "repeat the run that wrote it"
    if "language" not in table.columns:
        raise ValueError(f"format: the column 'language' is missing; {remedy}")
    if table.empty or table["language"].isna().any():
        raise ValueError(f"format: there is no row, or one without a language; {remedy}")
    twice = table.loc[table["language"].duplicated(), "language"]
    if len(twice):
        raise ValueError(f"format: language {format_name(twice.iloc[0])} appears twice; {remedy}")
    names = [name for name in _MEASURES if name in table.columns]
    for name in names:
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        given = table[name].notna().to_numpy(np.bool_)
        high = np.inf if name == "n_items" else 1 + _ROUNDING
        wrong = given & ~((values >= 0) & (values <= high) & np.isfinite(values))
        if wrong.any():
            row = table.iloc[int(np.argmax(wrong))]
            raise ValueError(
                f"format: {name} of language {format_name(row['language'])} is "
                f"{row[name]!r:.80}, but must be "
                f"{'a number of items' if name == 'n_items' else 'a number from 0 to 1'}; {remedy}"
            )
    return table[["language", *names]].astype(dict.fromkeys(names, np.float64))


def files_by_run(
    runs: Sequence[LoggedRun], frames: Sequence[pd.DataFrame | None]
) -> dict[str, pd.DataFrame]:
    """Return the frames that there are by run id; `frames` has one for each run, or None."""
    pairs = zip(runs, frames, strict=True)
    return {run.run_id: frame for run, frame in pairs if frame is not None}


def _fetch_records(
    store: ArtifactStore,
    run: LoggedRun,
    cell: tuple[str | int, ...],
    folder: Path,
    cache: Path | None,
) -> pd.DataFrame | None:
    """Return a run's records, None if it has none; refuse those of another run."""
    path = fetch_file(store, run, RECORDS_FILE, folder, cache)
    if path is None:
        return None  # accuracies only: a form the contract allows, noted by the caller
    records = _read(path, run, read_records)
    for row in records[list(RUN_COLUMNS)].drop_duplicates().itertuples(index=False):
        if tuple(row) != cell:
            raise ValueError(
                f"{run_words(run)}: its records are of {'/'.join(map(str, row))}, but its "
                f"parameters say {'/'.join(map(str, cell))}; log the run again"
            )
    return records


def _read(path: Path, run: LoggedRun, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read a table; the ValueError of a broken one names run and file."""
    try:
        return read(path)
    except ValueError as error:
        known = str(path) in str(error)
        raise ValueError(f"{run_words(run)}: {'' if known else f'{path}: '}{error}") from error


def run_words(run: LoggedRun) -> str:
    """Name a run and its model in a message."""
    model = run.params.get("cfg.model", "unknown")
    return f"run {format_name(run.name)} ({run.run_id}), model {format_name(model)}"
