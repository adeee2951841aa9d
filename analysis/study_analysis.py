"""The whole analysis of a study: estimates, tables, figures and report, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.estimates import Estimate, write_estimates
from analysis.estimators.all_estimates import study_estimates
from analysis.exhibits.all_exhibits import study_exhibits
from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.gains.comparisons import Comparisons, compare_runs
from analysis.gains.gain_table import PRIMARY
from analysis.measures.accuracy import responses_summary
from analysis.measures.formats import format_measures, logged_measures, trained_shares
from analysis.measures.routing import routing_table
from analysis.report.content import RunSource
from analysis.report.draw_figures import draw_study
from analysis.report.render import write_report
from analysis.report.summary import headline_metrics, summary_lines
from analysis.report.verdict import verdict
from analysis.report.warnings import suspicious_exhibit, suspicious_notes, suspicious_results
from analysis.runs.pull import PulledRuns
from analysis.tables.fields import table_frame
from analysis.tables.write import language_table, write_table
from xling.records import RUN_COLUMNS

MINI_SET_NOTE = "mini set: for trying the software, not a finding"


@dataclass(frozen=True)
class Analysis:
    """What an analysis found, and the files it wrote.

    `estimates` are the rows of estimates.json, `cells` the gains by cell
    (analysis.gains.cells.CELL_COLUMNS), `headline` the metrics of the analyze run (finite, gains
    in proportion), `summary` lines of plain text, `files` every file written.
    """

    estimates: tuple[Estimate, ...]
    cells: pd.DataFrame
    headline: dict[str, float]
    summary: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class StudyContext:
    """How a study is to be read: what its file says, and what a reader is told beside numbers.

    `family` maps every language of the runs to `related`, `control` or `source`; `names` to its
    English name; `distance` to the branches that it does not share with the source. `bound` is
    the equivalence bound of D in proportion; `seed` is that of every draw. `command` repeats the
    analysis; `sources` are the runs behind it; `left_out` are the languages that the
    control-source arm was tuned on, `kin` those that share a branch with one of them.
    """

    family: Mapping[str, str]
    bound: float
    names: Mapping[str, str]
    distance: Mapping[str, int] | None = None
    seed: int = 0
    description: str = ""
    note: str = ""
    command: str = ""
    sources: Sequence[RunSource] = ()
    left_out: Sequence[str] = ()
    kin: Sequence[str] = ()


def analyze_records(pulled: PulledRuns, reading: StudyContext, folder: Path) -> Analysis:
    """Analyse a study's runs and write what comes out.

    Args:
        pulled: As analysis.runs.pull.pull_records gives it.
        reading: Families, bound, names and notes.
        folder: Where the files go: report.html, estimates.json, tables (.csv, .tex) of cells,
            languages and estimates, and figures/ (.svg, .png).

    Returns:
        The analysis. What the data cannot show has a status, and figures that would be empty are
        left out.

    Raises:
        ValueError: If a language has no family, or the bound is not a positive number.
        OSError: If the folder cannot be written.
    """
    compared = compare_runs(
        pulled.records, pulled.accuracies, reading.family, reading.left_out, reading.kin
    )
    measures, trained = _measures(pulled), trained_shares(pulled.records, pulled.runs)
    estimates = study_estimates(compared, measures, trained, bound=reading.bound, seed=reading.seed)
    exhibits = study_exhibits(
        Evidence(
            compared, estimates, measures, trained, pulled.runs, _routing(pulled, reading.family),
            reading.family, reading.names,
        )
    )  # fmt: skip
    notes = suspicious_notes(pulled, suspicious_results(pulled, compared.responses))
    if notes:
        exhibits.insert(0, suspicious_exhibit(notes))
        pulled = replace(pulled, notes=(*notes, *pulled.notes))
    said = verdict(estimates, reading.bound)
    write_estimates(estimates, folder / "estimates.json")
    files = [folder / "estimates.json"]
    files += _write_tables(pulled.study, compared, estimates, reading, folder)
    files += _write_exhibit_tables(pulled.study, exhibits, reading, folder)
    answered = responses_summary(compared.responses)
    files += draw_study(
        pulled.study,
        compared,
        estimates,
        answered,
        folder / "figures",
        family=reading.family,
        names=reading.names,
        distance=reading.distance,
        bound=reading.bound,
        note=reading.note,
        exhibits=exhibits,
    )
    report = write_report(
        folder / "report.html",
        study=pulled.study,
        description=reading.description,
        estimates=estimates,
        cells=compared.cells,
        family=reading.family,
        names=reading.names,
        distance=reading.distance,
        bound=reading.bound,
        records_summary=answered,
        runs=reading.sources,
        notes=pulled.notes,
        analysis_command=reading.command,
        note=reading.note,
        baseline=compared.primary.training,
        exhibits=exhibits,
    )
    return Analysis(
        tuple(estimates),
        compared.cells,
        headline_metrics(estimates, compared.cells),
        tuple(
            summary_lines(
                pulled, compared.cells, estimates, [said.headline, *said.sentences], reading.note
            )
        ),
        (*files, report),
    )


def _measures(pulled: PulledRuns) -> pd.DataFrame:
    """Option positions and calibration of every run, from records where there are any."""
    rows = pulled.accuracies
    with_records = set(rows.loc[rows["has_records"].astype(bool), "run_id"])
    others = [run for run in pulled.runs if run.run_id not in with_records]
    found = format_measures(pulled.records)
    return pd.concat([found, logged_measures(others, pulled.formats)]) if others else found


def _routing(pulled: PulledRuns, family: Mapping[str, str]) -> pd.DataFrame:
    """Entropy and divergence of expert routing; no rows if no run has any."""
    frames = {}
    for run in pulled.runs:
        if run.run_id in pulled.routing:
            model, arm, seed, *how = (run.params[f"cfg.{name}"] for name in RUN_COLUMNS)
            frames[(model, arm, int(seed), how[0], how[1])] = pulled.routing[run.run_id]
    return routing_table(frames, [code for code, name in family.items() if name == "source"])


def _write_exhibit_tables(
    study: str, exhibits: Sequence[Exhibit], reading: StudyContext, folder: Path
) -> list[Path]:
    """The tables of exhibits, as they are shown."""
    return [
        path
        for exhibit in exhibits
        if exhibit.table is not None
        for path in write_table(
            table_frame(exhibit.table),
            folder / exhibit.name,
            caption=f"{study}: {exhibit.heading}. {reading.note}".strip(),
        )
    ]


def _write_tables(
    study: str,
    compared: Comparisons,
    estimates: Sequence[Estimate],
    reading: StudyContext,
    folder: Path,
) -> list[Path]:
    """Estimates, cells, and accuracy by language for every comparison that has cells."""
    files = write_table(
        pd.DataFrame(estimates),
        folder / "estimates",
        caption=f"{study}: estimates. {reading.note}".strip(),
    )
    files += write_table(
        compared.cells,
        folder / "cells",
        caption=f"{study}: gain over the base model by cell. {reading.note}".strip(),
    )
    for condition, comparison in compared.by_condition.items():
        if not comparison.table.models:
            continue
        suffix = "" if condition == PRIMARY else "-" + "-".join(condition)
        files += write_table(
            language_table(compared.cells, condition, reading.names),
            folder / f"languages{suffix}",
            caption=f"{study}: accuracy by language ({', '.join(condition)}). "
            f"{reading.note}".strip(),
        )
    return files
