"""What an analysis says in a few words and numbers: metrics of its run, lines of text."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Sequence
from itertools import product

import pandas as pd

from analysis.estimates import OK, Estimate
from analysis.estimators.primary import PRIMARY_ROWS, find_row, primary_row
from analysis.gains.cells import ACCURACIES_ONLY, CONDITION, NO_DISCORDANT, NOT_AVAILABLE
from analysis.gains.gain_table import PRIMARY
from analysis.report.verdict import Claim
from analysis.runs.pull import PulledRuns
from analysis.tables.numbers import points

REACH = {
    "MDE of D": "mde_D",
    "MDE of B": "mde_B",
    "MDE of I": "mde_I",
    "provable bound of D": "provable_bound_D",
    "provable bound of I": "provable_bound_I",
}
"""Estimands of what a study could have seen, and the metrics' names."""
_IN_WORDS = {NOT_AVAILABLE: "accuracies only: a gain without an interval"}
SCREEN_WIDTH, SCREEN_MODELS = 100, 4
SCREEN_FAMILIES = ("source", "related", "control")
_LEGEND = "base → tuned, points"
_NAME = 31  # characters of a model's name beside the three families
_ENDS = ("estimate", "se", "ci_low", "ci_high", "p", "p_holm")


def headline_metrics(estimates: Sequence[Estimate], cells: pd.DataFrame) -> dict[str, float]:
    """Return metrics of the analyze run: the primary estimates, and mean accuracies and gains."""
    metrics: dict[str, float] = {}
    for name, scale in product(PRIMARY_ROWS, ("points", "logit")):
        primary = primary_row(estimates, name, scale)
        metrics |= {} if primary is None else _numbers(f"{name}/{scale}", primary)
    families = find_row(estimates, "D", "random_effects", "families")
    metrics |= {} if families is None else _numbers("D/points/families", families)
    for row in estimates:
        if row.estimator == "tost" and row.estimand in ("D", "I") and row.p is not None:
            metrics[f"{row.estimand}/points/tost/{row.unit}/p"] = row.p
        if row.estimand in REACH and row.estimate is not None:
            # D has two units: languages, which the claim starts from, and families beside them.
            of = "/families" if row.unit == "families" else ""
            metrics[f"{REACH[row.estimand]}/{row.scale}{of}"] = row.estimate
    for means in _primary_means(cells).to_dict("records"):
        metrics |= {
            f"{column}/{means['model']}/{means['family']}": float(means[column])
            for column in ("accuracy_base", "accuracy", "gain")
        }
    named: dict[str, float] = {}
    for key, value in metrics.items():
        short = _metric_key(key)
        if short in named:  # two names that differ only in what a key may not hold
            short = f"{short[:240]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        named[short] = value
    return named


def _numbers(key: str, row: Estimate) -> dict[str, float]:
    """Return the numbers that a row has, by metric."""
    found = {name: getattr(row, name) for name in _ENDS}
    return {
        key if name == "estimate" else f"{key}/{name}": float(value)
        for name, value in found.items()
        if value is not None
    }


def _metric_key(key: str) -> str:
    """Make a key that MLflow takes: letters, digits, and _ - . space : / only."""
    allowed = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. :/" else "_" for c in key)
    # A key is also a path: no empty part, and none of dots alone.
    return "/".join(part if part.strip(".") else "_" for part in allowed.split("/"))[:250]


def _primary_means(cells: pd.DataFrame) -> pd.DataFrame:
    """Average the primary comparison by model and family, whole cells only."""
    rows = cells[(cells[list(CONDITION)] == list(PRIMARY)).all(axis=1)]
    means = rows.groupby(["model", "family"])[["accuracy_base", "accuracy", "gain"]].mean(
        skipna=False
    )
    return means.dropna().reset_index()


def summary_lines(
    pulled: PulledRuns,
    cells: pd.DataFrame,
    verdict: Sequence[str],
    note: str,
) -> list[str]:
    """Write what a reader sees first, line by line: runs, means, the verdict's sentences, notes."""
    lines = [f"Study {pulled.study}: {len(pulled.run_ids)} evaluate runs"]
    lines += [note] if note else []
    for means in _primary_means(cells).to_dict("records"):
        lines.append(
            f"{means['model']}, {means['family']}: mean accuracy "
            f"{means['accuracy_base']:.3f} (base) -> {means['accuracy']:.3f} (finetuned), "
            f"gain {100 * means['gain']:+z.1f} points"
        )
    lines += verdict
    counts = cells["status"].value_counts()
    lines += [
        f"{_cells(number)}: {status}"
        for status, number in counts.items()
        if status not in (OK, NO_DISCORDANT, *ACCURACIES_ONLY)
    ]
    lines += [
        f"{_cells(counts[status])}: {_IN_WORDS.get(status, status)}"
        for status in (NO_DISCORDANT, *ACCURACIES_ONLY)
        if status in counts
    ]
    return lines + [f"Note: {text}" for text in pulled.notes]


def screen_lines(
    pulled: PulledRuns, cells: pd.DataFrame, claims: Sequence[Claim], note: str
) -> list[str]:
    """Write what a person reads in a terminal: a table of means, and the claims' sentences.

    Of many models the first are shown. Lines are at most `SCREEN_WIDTH` characters wide.
    """
    count = f"{len(pulled.run_ids)} evaluate runs"
    lines = [f"Study {pulled.study}: {count}{f'; {note}' if note else ''}", ""]
    table = _table_lines(_primary_means(cells))
    lines += [*table, ""] if table else []
    for claim in claims:
        lines += textwrap.wrap(claim.sentence, SCREEN_WIDTH, break_long_words=False)
    notes = len(pulled.notes)
    if notes:
        lines.append(f"{notes} note{'s' if notes > 1 else ''} on these runs: see the report.")
    return lines


def _table_lines(means: pd.DataFrame) -> list[str]:
    """Write a line for each model, its families side by side; none where there are no means."""
    models = means["model"].drop_duplicates().tolist()
    if not models:
        return []
    families = [family for family in SCREEN_FAMILIES if family in set(means["family"])]
    shown = models[:SCREEN_MODELS]
    names = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in shown]
    width = max(map(len, (*names, _LEGEND)))
    lines = [f"{_LEGEND:<{width}}" + "".join(f"  {family:<21}" for family in families)]
    for model, name in zip(shown, names, strict=True):
        line = f"{name:<{width}}"
        for family in families:
            rows = means[(means["model"] == model) & (means["family"] == family)]
            cell = "".join(
                f"{row['accuracy_base']:.3f} → {row['accuracy']:.3f} {points(row['gain']):>6}"
                for row in rows.to_dict("records")
            )
            line += f"  {cell:<21}"
        lines.append(line.rstrip())
    lines[0] = lines[0].rstrip()
    if len(models) > SCREEN_MODELS:
        lines.append(f"and {len(models) - SCREEN_MODELS} more models")
    return lines


def _cells(number: int) -> str:
    """Put a number of cells into words."""
    return f"{number} cell" if number == 1 else f"{number} cells"
