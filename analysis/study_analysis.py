"""The whole analysis of a study: estimates, cells, tables and figures, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.estimates import OK, SCALE_DEPENDENT, Estimate, write_estimates
from analysis.estimators.contrasts import primary_contrasts
from analysis.figures.baseline import baseline_plot
from analysis.figures.heatmap import figure_gains, gain_heatmap, save_figure
from analysis.gains.baselines import NEEDS_BASELINE, baseline_groups, training_baselines
from analysis.gains.cells import CONDITION, NO_DISCORDANT, NOT_AVAILABLE, gain_cells
from analysis.gains.gain_table import PRIMARY
from analysis.pull import PulledRuns
from analysis.tables import language_table, write_table

MINI_SET_NOTE = "mini set: for trying the software, not a finding"


@dataclass(frozen=True)
class Analysis:
    """What an analysis found, and the files it wrote.

    `estimates` are the rows of estimates.json, `cells` the gains by cell
    (analysis.gains.cells.CELL_COLUMNS), `headline` the metrics of the analyze run (finite, gains in
    proportion), `summary` lines of plain text, `files` every file written.
    """

    estimates: tuple[Estimate, ...]
    cells: pd.DataFrame
    headline: dict[str, float]
    summary: tuple[str, ...]
    files: tuple[Path, ...]


def analyze_records(
    pulled: PulledRuns,
    *,
    family: Mapping[str, str],
    distance: Mapping[str, int] | None,
    bound: float,
    folder: Path,
    study: str,
    names: Mapping[str, str] | None = None,
    note: str = "",
) -> Analysis:
    """Analyse a study's runs and write what comes out.

    Args:
        pulled: As analysis.pull.pull_records gives it.
        family: Language code to `related`, `control` or `source`, for every language of the runs.
        distance: Language code to steps from the source in the family tree, or None.
        bound: Equivalence bound of D in proportion, above 0.
        folder: Where the files go: estimates.json, cells and languages (.csv, .tex), and
            figures/gains and figures/baseline (.svg, .png).
        study: The study's name, for titles.
        names: Language code to English name, for figures and tables.
        note: Small print of figures and summary, such as MINI_SET_NOTE.

    Returns:
        The analysis. What the data cannot show has a status, and figures that would be empty are
        left out with a line in the summary.

    Raises:
        ValueError: If a language has no family, or the bound is not a positive number.
        OSError: If the folder cannot be written.
    """
    cells = gain_cells(pulled.records, pulled.accuracies, family)
    estimates = primary_contrasts(cells, pulled.records, family, bound)
    write_estimates(estimates, folder / "estimates.json")
    files = [folder / "estimates.json"]
    files += write_table(
        cells,
        folder / "cells",
        caption=f"{study}: gain over the base model by cell. {note}".strip(),
    )
    conditions = _conditions(cells)
    for condition in conditions:
        suffix = "" if condition == PRIMARY else "-" + "-".join(condition)
        table = language_table(cells, condition, names)
        files += write_table(
            table,
            folder / f"languages{suffix}",
            caption=f"{study}: accuracy by language ({', '.join(condition)}). {note}".strip(),
        )
        files += _draw(
            cells,
            pulled.records,
            condition,
            folder / "figures",
            suffix,
            study=study,
            distance=distance,
            names=names,
            note=note,
        )
    return Analysis(
        tuple(estimates),
        cells,
        _headline(estimates, cells),
        tuple(_summary(pulled, cells, estimates, study, note)),
        tuple(files),
    )


def _conditions(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """The comparisons there are, the primary one first."""
    found = {tuple(map(str, row)) for row in cells[list(CONDITION)].drop_duplicates().to_numpy()}
    return sorted(found, key=lambda condition: (condition != PRIMARY, condition))


def _draw(
    cells: pd.DataFrame,
    records: pd.DataFrame,
    condition: tuple[str, ...],
    folder: Path,
    suffix: str,
    *,
    study: str,
    distance: Mapping[str, int] | None,
    names: Mapping[str, str] | None,
    note: str,
) -> list[Path]:
    """Both figures of one comparison; none if there is no gain to draw."""
    gains = figure_gains(cells, condition)
    if gains["gain"].isna().all():
        return []
    arm, reasoning, scoring = condition
    how = "" if condition == PRIMARY else f" ({reasoning}, {scoring})"
    baseline = _plotted_baseline(records, gains, reasoning, scoring)
    heatmap = gain_heatmap(
        gains,
        distance=distance,
        names=names,
        note=note,
        title=f"{study}: gain of {arm} over base by model and language, in points{how}",
    )
    scatter = baseline_plot(
        gains,
        baseline=baseline,
        note=note,
        title=f"{study}: gain of {arm} over base against the base model's accuracy{how}",
    )
    return [
        *save_figure(heatmap, folder / f"gains{suffix}"),
        *save_figure(scatter, folder / f"baseline{suffix}"),
    ]


def _plotted_baseline(
    records: pd.DataFrame, gains: pd.DataFrame, reasoning: str, scoring: str
) -> pd.DataFrame | None:
    """Training-split accuracy by model and language, if every target language has it."""
    targets = gains.loc[gains["family"] != "source", "language"].unique().tolist()
    groups = baseline_groups(
        records,
        models=gains["model"].unique().tolist(),
        languages=targets,
        reasoning=reasoning,
        scoring=scoring,
    )
    if groups.status == NEEDS_BASELINE:
        return None
    return training_baselines(
        records, reasoning=reasoning, scoring=scoring, languages=gains["language"].unique().tolist()
    )


def _headline(estimates: Sequence[Estimate], cells: pd.DataFrame) -> dict[str, float]:
    """Metrics of the analyze run: the primary estimates, and mean accuracies and gains."""
    metrics: dict[str, float] = {}
    for estimate in estimates:
        if estimate.estimand not in ("D", "I"):
            continue
        key = f"{estimate.estimand}/{estimate.scale}"
        key += "/tost" if estimate.estimator == "tost" else ""
        values = {
            "": estimate.estimate,
            "/se": estimate.se,
            "/ci_low": estimate.ci_low,
            "/ci_high": estimate.ci_high,
            "/p": estimate.p,
            "/p_holm": estimate.p_holm,
        }
        metrics |= {key + end: value for end, value in values.items() if value is not None}
    for row in _primary_means(cells).to_dict("records"):
        metrics |= {
            f"{column}/{row['model']}/{row['family']}": float(row[column])
            for column in ("accuracy_base", "accuracy", "gain")
        }
    return {_metric_key(key): value for key, value in metrics.items()}


def _metric_key(key: str) -> str:
    """A key that MLflow takes: letters, digits, and _ - . space : / only."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_-. :/" else "_" for c in key)


def _primary_means(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies and gain of the primary comparison by model and family, whole cells only."""
    rows = cells[(cells[list(CONDITION)] == list(PRIMARY)).all(axis=1)]
    means = rows.groupby(["model", "family"])[["accuracy_base", "accuracy", "gain"]].mean(
        skipna=False
    )
    return means.dropna().reset_index()


def _summary(
    pulled: PulledRuns,
    cells: pd.DataFrame,
    estimates: Sequence[Estimate],
    study: str,
    note: str,
) -> list[str]:
    """What a reader is told first, line by line."""
    lines = [f"Study {study}: {len(pulled.run_ids)} evaluate runs"]
    lines += [note] if note else []
    for means in _primary_means(cells).to_dict("records"):
        lines.append(
            f"{means['model']}, {means['family']}: mean accuracy "
            f"{means['accuracy_base']:.3f} (base) -> {means['accuracy']:.3f} (finetuned), "
            f"gain {100 * means['gain']:+.1f} points"
        )
    lines += [_said(row) for row in estimates]
    counts = cells["status"].value_counts()
    lines += [
        f"{_cells(number)}: {status}"
        for status, number in counts.items()
        if status not in (OK, NO_DISCORDANT, NOT_AVAILABLE)
    ]
    lines += [
        f"{_cells(counts[status])}: {status}"
        for status in (NO_DISCORDANT, NOT_AVAILABLE)
        if status in counts
    ]
    return lines + [f"Note: {text}" for text in pulled.notes]


def _said(row: Estimate) -> str:
    """One estimate in words."""
    what = f"{row.estimand} on {row.scale} ({row.estimator}, unit: {row.unit})"
    if row.estimate is None:
        return f"{what}: no number, {row.status}" + (f" ({row.note})" if row.note else "")
    factor, unit = (100, " points") if row.scale == "points" else (1, " logits")
    text = f"{what}: {factor * row.estimate:+.2f}{unit}"
    if row.ci_low is None or row.ci_high is None or row.p is None:
        return f"{text}; no interval, {row.status}"
    level = "90 %" if row.estimator == "tost" else "95 %"
    text += (
        f", {level} interval {factor * row.ci_low:+.2f} to {factor * row.ci_high:+.2f}, "
        f"p {row.p:.3f}"
    )
    text += f", Holm {row.p_holm:.3f}" if row.p_holm is not None else ""
    text += f" [{row.status}]" if row.status == SCALE_DEPENDENT else ""
    return f"{text} ({row.note})" if row.note else text


def _cells(number: int) -> str:
    """A number of cells, in words."""
    return f"{number} cell" if number == 1 else f"{number} cells"
