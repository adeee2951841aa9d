"""The finished evaluate runs of a study, brought together: records where there are any."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.runs.conditions import differing_conditions
from analysis.runs.run_files import RECORDS_FILE, fetch_files, files_by_run, run_words
from xling.messages.values import format_name
from xling.records import ARMS, REASONINGS, RECORD_SCHEMA, RUN_COLUMNS, SCORINGS, check_records
from xling.study.settings import ACCURACY_LIMITS

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

_KNOWN = tuple(ACCURACY_LIMITS)
ACCURACY_COLUMNS = (*RUN_COLUMNS, "language", "accuracy", "has_records", "run_id", *_KNOWN)
# Item records have four options (xling.records.RECORD_SCHEMA).
_RECORD_OPTIONS = 4
_ALLOWED = {"arm": ARMS, "reasoning": REASONINGS, "scoring": SCORINGS}
# Of a model's name; MLflow keeps no more of a parameter in some stores.
MAX_NAME_CHARS = 500
_SEED = re.compile(r"-?[0-9]{1,18}")
# Metrics pass through stores that keep fewer digits than a float64 has.
_ACCURACY_SLACK = 1e-6


class RunStore(Protocol):
    """Where runs are found; the module xling.tracking is one."""

    def find_runs(self, *, kind: str, study: str, experiment: str) -> list[LoggedRun]:
        """Find the finished runs of one kind and study, newest first."""

    def download_artifact(
        self, run_id: str, path: str, folder: Path, *, artifact_uri: str = ""
    ) -> Path:
        """Fetch one artifact; FileNotFoundError if the run has none of that name.

        With the run's `artifact_uri` the store need not look the run up again.
        """


class _KnownPlaces:
    """Artifacts of runs that have been found, without looking each run up again."""

    def __init__(self, store: RunStore, runs: Sequence[LoggedRun]) -> None:
        self._store = store
        self._places = {run.run_id: run.artifact_uri for run in runs if run.artifact_uri}

    def download_artifact(self, run_id: str, path: str, folder: Path) -> Path:
        """Fetch one artifact, as ArtifactStore does."""
        if run_id not in self._places:
            return self._store.download_artifact(run_id, path, folder)
        place = self._places[run_id]
        return self._store.download_artifact(run_id, path, folder, artifact_uri=place)


@dataclass(frozen=True)
class PulledRuns:
    """What the evaluate runs of a study say.

    `records` holds item records (columns of RECORD_SCHEMA) of all runs that have them, and may be
    empty. `accuracies` holds one row per run and language (columns of ACCURACY_COLUMNS): held-out
    accuracy in proportion, from the records where `has_records`; `n_items`; `stderr` in proportion;
    `n_options` of each question. The last three are as the run logged them, NaN where it did not;
    with records, items are counted, options are four, and `stderr` is NaN. `run_ids` are the runs
    used, `notes` what a reader should know of them, `runs` the runs as the store has them.
    `routing` holds the tables routing.parquet of mixture-of-experts models by run id, `formats` the
    tables format.csv of runs that have no records.
    """

    study: str
    records: pd.DataFrame
    accuracies: pd.DataFrame
    run_ids: tuple[str, ...]
    notes: tuple[str, ...]
    runs: tuple[LoggedRun, ...] = ()
    routing: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    formats: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def with_options(self, n_options: int | None) -> PulledRuns:
        """Fill in the number of options where neither records nor the run say it."""
        if n_options is None:
            return self
        filled = self.accuracies["n_options"].fillna(float(n_options))
        return replace(self, accuracies=self.accuracies.assign(n_options=filled))


def pull_records(
    store: RunStore,
    *,
    study: str,
    experiment: str,
    folder: Path,
    run_ids: Collection[str] = (),
    cache: Path | None = None,
    workers: int = 8,
    progress: bool = True,
) -> PulledRuns:
    """Find a study's finished evaluate runs and fetch their files in parallel.

    Where several runs exist for one cell the newest is used, and a note says so. A run without
    records contributes its accuracies only, and a note says so.

    Args:
        store: The tracking store, `xling.tracking` itself.
        study: The study's name, as in the tag `xling.study`.
        experiment: The experiment's name; empty for the one selected.
        folder: Where to put the downloads, one folder per run id.
        run_ids: The only runs to use; empty for all of the study.
        cache: Folder where records stay, by run id, and are used again while their digest is
            the one that the run logged; None to keep nothing.
        workers: Downloads at a time.
        progress: Whether to show a progress bar.

    Returns:
        Records, accuracies and notes; the order of rows does not depend on the downloads' timing.

    Raises:
        ValueError: If there are no runs, or if a run lacks a parameter, has a parameter or an
            accuracy out of range, or has records that are corrupt or of another run.
    """
    runs, notes = newest_runs(_find_runs(store, study, experiment, run_ids))
    notes += differing_conditions(runs)
    known = _KnownPlaces(store, runs)
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        fetched = pool.map(lambda run: fetch_files(known, run, _cell(run), folder, cache), runs)
        parts = list(tqdm(fetched, "records", len(runs), unit="run", disable=not progress))
    accuracies: list[pd.DataFrame] = []
    for run, part in zip(runs, parts, strict=True):
        rows, more = _accuracies(run, part.records)
        accuracies.append(rows)
        notes.extend(more)
    return PulledRuns(
        study,
        _concatenate([part.records for part in parts]),
        pd.concat(accuracies, ignore_index=True),
        tuple(run.run_id for run in runs),
        tuple(notes),
        tuple(runs),
        files_by_run(runs, [part.routing for part in parts]),
        files_by_run(runs, [part.format for part in parts]),
    )


def _find_runs(
    store: RunStore, study: str, experiment: str, run_ids: Collection[str]
) -> list[LoggedRun]:
    """Find a study's finished evaluate runs, at least one; ValueError for an unknown id."""
    found = store.find_runs(kind="evaluate", study=study, experiment=experiment)
    if run_ids:
        unknown = sorted(set(run_ids) - {run.run_id for run in found})
        if unknown:
            raise ValueError(f"run {unknown[0]} is not a finished evaluate run of study {study!r}")
        found = [run for run in found if run.run_id in run_ids]
    if not found:
        raise ValueError(
            f"study {study!r} has no finished evaluate run in "
            f"{f'experiment {experiment!r}' if experiment else 'this experiment'}; "
            "run the study first, or name the experiment that holds its runs"
        )
    return found


def newest_runs(runs: Sequence[LoggedRun]) -> tuple[list[LoggedRun], list[str]]:
    """Return the newest run of each cell (model, arm, seed, reasoning, scoring).

    Args:
        runs: Finished evaluate runs in any order.

    Returns:
        One run per cell, sorted by cell, and a note for each cell that had more than one.

    Raises:
        ValueError: If a run's parameters are missing or out of range; it names run and model.
    """
    cells: dict[tuple[str | int, ...], list[LoggedRun]] = {}
    for run in sorted(runs, key=lambda run: (-run.start_time, run.run_id)):
        cells.setdefault(_cell(run), []).append(run)
    notes = [
        f"{len(found)} finished runs for {'/'.join(map(str, cell))}: the newest is used "
        f"({found[0].name}, {found[0].run_id}), not "
        f"{', '.join(run.run_id for run in found[1:])}"
        for cell, found in sorted(cells.items())
        if len(found) > 1
    ]
    return [found[0] for _, found in sorted(cells.items())], notes


def _cell(run: LoggedRun) -> tuple[str | int, ...]:
    """Return a run's values of RUN_COLUMNS, checked."""
    values: list[str | int] = []
    where = run_words(run)
    remedy = "log the run again in the contract's form, or delete it"
    for name in RUN_COLUMNS:
        value = run.params.get(f"cfg.{name}", "")
        if not value:
            raise ValueError(f"{where}: parameter cfg.{name} is missing; {remedy}")
        if len(value) > MAX_NAME_CHARS or not value.isprintable():
            raise ValueError(
                f"{where!r:.200}: parameter cfg.{name} is {value!r:.80}; it must be one line of "
                f"{MAX_NAME_CHARS} characters at most; {remedy}"
            )
        if value not in _ALLOWED.get(name, (value,)):
            raise ValueError(
                f"{where}: parameter cfg.{name} is {value!r:.80}, but must be one of "
                f"{', '.join(_ALLOWED[name])}; {remedy}"
            )
        if name == "seed" and not _SEED.fullmatch(value):
            raise ValueError(
                f"{where}: parameter cfg.seed is {value!r:.80}, but must be a whole number of "
                f"18 digits at most; {remedy}"
            )
        values.append(int(value) if name == "seed" else value)
    return tuple(values)


def _accuracies(run: LoggedRun, records: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str]]:
    """Return held-out accuracies by language of one run (ACCURACY_COLUMNS), and notes."""
    logged = {
        key.removeprefix("accuracy/"): value
        for key, value in run.metrics.items()
        if key.startswith("accuracy/")
    }
    where = run_words(run)
    for language, value in logged.items():
        if not 0 <= value <= 1:  # NaN fails this too
            raise ValueError(
                f"{where}, language {format_name(language)}: accuracy {value} lies outside 0 to "
                "1; log proportions, not per cent"
            )
    notes = []
    counts: dict[str, int] = {}
    if records is None:
        notes.append(
            f"{where}: no {RECORDS_FILE}, accuracies only; item-level outputs are not available"
        )
        values = logged
    else:
        heldout = records[records["part"] == "heldout"]
        means = heldout.groupby("language")["correct"].mean()
        values = {str(code): float(value) for code, value in means.items()}
        counts = {str(code): int(n) for code, n in heldout["language"].value_counts().items()}
        notes += [
            f"{where}, language {code}: the metric says accuracy {logged[code]:.6f}, the "
            f"records {value:.6f}; the records are used"
            for code, value in values.items()
            if code in logged and abs(logged[code] - value) > _ACCURACY_SLACK
        ]
    if not values:
        raise ValueError(
            f"{where}: it has neither held-out records nor an accuracy/<code> metric; "
            "log the run again, or delete it"
        )
    cell = dict(zip(RUN_COLUMNS, _cell(run), strict=True))
    rows = [
        {
            **cell,
            "language": code,
            "accuracy": value,
            "has_records": records is not None,
            "run_id": run.run_id,
            **(
                _logged(run, code)
                if records is None
                else {"n_items": counts[code], "n_options": _RECORD_OPTIONS}
            ),
        }
        for code, value in sorted(values.items())
    ]
    frame = pd.DataFrame(rows, columns=list(ACCURACY_COLUMNS))
    return frame.astype(dict.fromkeys(_KNOWN, np.float64)), notes


def _logged(run: LoggedRun, code: str) -> dict[str, float]:
    """Return what a run logged of an accuracy (_KNOWN), as far as it did."""
    found = {}
    for name in _KNOWN:
        value = run.metrics.get(f"{name}/{code}")
        if value is None:
            continue
        least, most = ACCURACY_LIMITS[name]
        if not least <= value <= most or (name != "stderr" and value != int(value)):
            whole = "a number" if name == "stderr" else "a whole number"
            raise ValueError(
                f"{run_words(run)}, language {format_name(code)}: metric {name}/{code} is {value}, "
                f"but must be {whole} from {least} to {most}; log the run again"
            )
        found[name] = float(value)
    return found


def _concatenate(parts: Sequence[pd.DataFrame | None]) -> pd.DataFrame:
    """Put all records into one frame, with the schema's columns even if there are none."""
    frames = [part for part in parts if part is not None]
    if frames:
        return pd.concat(frames, ignore_index=True)
    return check_records(RECORD_SCHEMA.empty_table().to_pandas())
