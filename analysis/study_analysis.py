"""The whole analysis of a study: estimates, tables, figures and report, written into a folder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.estimates import Estimate, write_estimates
from analysis.estimators.all_estimates import study_estimates
from analysis.estimators.primary import PRIMARY_ROWS, primary_row
from analysis.estimators.specifications import specification_rows, specifications
from analysis.exhibits.all_exhibits import study_exhibits
from analysis.exhibits.exhibit import Evidence
from analysis.gains.comparisons import compare_runs
from analysis.gains.gain_table import PRIMARY
from analysis.measures.formats import format_measures, logged_measures, trained_shares
from analysis.measures.routing import routing_table
from analysis.report.draw_figures import draw_figures
from analysis.report.findings import Findings, StudyContext
from analysis.report.render import write_report
from analysis.report.summary import headline_metrics, screen_lines, summary_lines
from analysis.report.verdict import verdict_of
from analysis.report.warnings import find_warnings, warning_notes, warnings_exhibit
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
    in proportion), `summary` lines of plain text, `screen` the few of them that a terminal shows,
    `files` every file written.
    """

    estimates: tuple[Estimate, ...]
    cells: pd.DataFrame
    headline: dict[str, float]
    summary: tuple[str, ...]
    screen: tuple[str, ...]
    files: tuple[Path, ...]


def analyze_records(pulled: PulledRuns, context: StudyContext, folder: Path) -> Analysis:
    """Analyse a study's runs and write what comes out.

    Args:
        pulled: As analysis.runs.pull.pull_records gives it.
        context: Families, bound, names and notes.
        folder: Where the files go: report.html, estimates.json, tables (.csv, .tex) of cells,
            languages and estimates, and figures/ (.svg, .png).

    Returns:
        The analysis. What the data cannot show has a status, and figures that would be empty are
        left out.

    Raises:
        ValueError: If a language has no family, or the bound is not a positive number.
        OSError: If the folder cannot be written.
    """
    found = compute_findings(pulled, context)
    cells, estimates = found.compared.cells, found.estimates
    conclusion = verdict_of(estimates, context)
    write_estimates(estimates, folder / "estimates.json")
    files = [folder / "estimates.json", *_write_tables(found, context, folder)]
    files += draw_figures(found, context, folder / "figures")
    files.append(write_report(folder / "report.html", found, context))
    pulled = replace(pulled, notes=tuple(found.notes))
    said = [*(claim.sentence for claim in conclusion.claims), *conclusion.basis]
    lines = summary_lines(pulled, cells, said, context.note)
    screen = screen_lines(pulled, cells, conclusion.claims, context.note)
    return Analysis(
        tuple(estimates), cells, headline_metrics(estimates, cells), tuple(lines), tuple(screen),
        tuple(files),
    )  # fmt: skip


def compute_findings(pulled: PulledRuns, context: StudyContext) -> Findings:
    """Compute everything that a study's runs show.

    Args:
        pulled: As analysis.runs.pull.pull_records gives it.
        context: Families, bound, names and notes.

    Raises:
        ValueError: If a language has no family, or the bound is not a positive number.
    """
    compared = compare_runs(pulled.records, pulled.accuracies, context.design)
    measures, trained = _measures(pulled), trained_shares(pulled.records, pulled.runs)
    estimates = study_estimates(compared, measures, trained, bound=context.bound, seed=context.seed)
    primary = compared.primary
    curve = specifications(primary.table, primary.groups, compared.sources)
    signs = {
        name: None if (row := primary_row(estimates, name)) is None else row.estimate
        for name in PRIMARY_ROWS
    }
    estimates += specification_rows(curve, primary.table, signs)
    exhibits = study_exhibits(
        Evidence(
            compared, estimates, measures, trained, pulled.runs,
            _routing(pulled, context.trained_on), context.family, context.names, curve,
        )
    )  # fmt: skip
    warnings = warning_notes(pulled, find_warnings(pulled, compared.responses))
    if warnings:
        exhibits.insert(0, warnings_exhibit(warnings))
    return Findings(pulled.study, compared, estimates, exhibits, (*warnings, *pulled.notes))


def _measures(pulled: PulledRuns) -> pd.DataFrame:
    """Measure option positions and calibration of every run, from records if possible."""
    rows = pulled.accuracies
    with_records = set(rows.loc[rows["has_records"].astype(bool), "run_id"])
    others = [run for run in pulled.runs if run.run_id not in with_records]
    found = format_measures(pulled.records)
    return pd.concat([found, logged_measures(others, pulled.formats)]) if others else found


def _routing(pulled: PulledRuns, sources: Collection[str]) -> pd.DataFrame:
    """Measure entropy and divergence of expert routing; no rows if no run has any."""
    frames = {}
    for run in pulled.runs:
        if run.run_id in pulled.routing:
            model, arm, seed, *how = (run.params[f"cfg.{name}"] for name in RUN_COLUMNS)
            frames[(model, arm, int(seed), how[0], how[1])] = pulled.routing[run.run_id]
    return routing_table(frames, sources)


def _write_tables(found: Findings, context: StudyContext, folder: Path) -> list[Path]:
    """Write estimates, cells, accuracy by language of each comparison, and tables of exhibits."""
    cells = found.compared.cells
    tables = {
        "estimates": (pd.DataFrame(found.estimates), "estimates"),
        "cells": (cells, "gain over the base model by cell"),
    }
    for condition, comparison in found.compared.by_condition.items():
        if comparison.table.models:
            suffix = "" if condition == PRIMARY else "-" + "-".join(condition)
            tables[f"languages{suffix}"] = (
                language_table(cells, condition, context.names),
                f"accuracy by language ({', '.join(condition)})",
            )
    for exhibit in found.exhibits:
        if exhibit.table is not None:
            tables[exhibit.name] = (table_frame(exhibit.table), exhibit.heading)
    return [
        path
        for name, (table, caption) in tables.items()
        for path in write_table(
            table, folder / name, caption=f"{found.study}: {caption}. {context.note}".strip()
        )
    ]
