"""What an analysis says in a few words and numbers: metrics of its run, lines of text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd

from analysis.estimates import OK, SCALE_DEPENDENT, Estimate
from analysis.gains.cells import CONDITION, NO_DISCORDANT, NOT_AVAILABLE
from analysis.gains.gain_table import PRIMARY
from analysis.runs.pull import PulledRuns

HEADLINES = {
    "D": "D",
    "I": "I",
    "MDE of D": "mde_D",
    "MDE of I": "mde_I",
    "provable bound of D": "provable_bound_D",
    "provable bound of I": "provable_bound_I",
}
"""Estimands whose numbers are metrics of the analyze run, and the metrics' names."""


def headline_metrics(estimates: Sequence[Estimate], cells: pd.DataFrame) -> dict[str, float]:
    """Return metrics of the analyze run: the primary estimates, and mean accuracies and gains."""
    metrics: dict[str, float] = {}
    for estimate in estimates:
        if estimate.estimand not in HEADLINES or not _is_headline(estimate):
            continue
        key = f"{HEADLINES[estimate.estimand]}/{estimate.scale}"
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
    named: dict[str, float] = {}
    for key, value in metrics.items():
        short = _metric_key(key)
        if short in named:  # two names that differ only in what a key may not hold
            short = f"{short[:240]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        named[short] = value
    return named


def _is_headline(row: Estimate) -> bool:
    """Return whether a row is the primary estimator of its estimand, with languages as the unit."""
    primary = row.estimand not in ("D", "I") or row.estimator in ("ttest", "mixed_anova", "tost")
    return primary and row.unit == "languages"


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
    estimates: Sequence[Estimate],
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
            f"gain {100 * means['gain']:+.1f} points"
        )
    lines += verdict
    lines += [
        _estimate_words(row)
        for row in estimates
        if row.estimand.split(" (")[0] in ("D", "I")
        and row.estimator in ("ttest", "mixed_anova", "tost")
        and row.unit == "languages"
    ]
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


def _estimate_words(row: Estimate) -> str:
    """Put one estimate into words."""
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
    """Put a number of cells into words."""
    return f"{number} cell" if number == 1 else f"{number} cells"
