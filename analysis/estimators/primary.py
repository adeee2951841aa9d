"""The rows that D, B and I are judged by, and the correction for there being three of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pingouin

from analysis.estimates import OK, Estimate

PRIMARY_ROWS = {
    "D": (("welch", "languages"),),
    "B": (("welch", "models"), ("one_sample_ttest", "languages")),
    "I": (("intersection_union", "models, languages"), ("intersection_union", "languages")),
}
"""Estimator and unit of each claim's primary row; the first that has an interval counts."""


def find_row(
    estimates: Sequence[Estimate], estimand: str, estimator: str, unit: str, scale: str = "points"
) -> Estimate | None:
    """Return the row of that name, or None."""
    key = (estimand, estimator, unit, scale)
    return next(
        (row for row in estimates if (row.estimand, row.estimator, row.unit, row.scale) == key),
        None,
    )


def primary_row(
    estimates: Sequence[Estimate], name: str, scale: str = "points", label: str = ""
) -> Estimate | None:
    """Return the row that a claim is judged by.

    Args:
        estimates: All rows of an analysis.
        name: `D`, `B` or `I`.
        scale: `points` or `logit`.
        label: What follows the name for other arms, such as ` (cot)`; empty for the primary one.

    Returns:
        The first of PRIMARY_ROWS with an interval; else the first there is, for its status.
    """
    found = [find_row(estimates, name + label, *kind, scale) for kind in PRIMARY_ROWS[name]]
    there = [row for row in found if row is not None]
    return next((row for row in there if row.se is not None), there[0] if there else None)


def with_holm(estimates: Sequence[Estimate], label: str = "") -> list[Estimate]:
    """Add Holm's p to the primary rows of D, B and I of one arm, on each scale (Holm 1979).

    The family is always these three: a row without a p counts as one with p = 1.
    """
    rows = list(estimates)
    for scale in ("points", "logit"):
        primary = [primary_row(rows, name, scale, label) for name in PRIMARY_ROWS]
        values = [1.0 if row is None or row.p is None else row.p for row in primary]
        adjusted = pingouin.multicomp(values, method="holm")[1]
        for row, p in zip(primary, adjusted, strict=True):
            if row is not None and row.p is not None:
                rows[rows.index(row)] = replace(row, p_holm=float(p))
    return rows


def with_status(estimates: Sequence[Estimate], status: str) -> list[Estimate]:
    """Give the rows that have numbers a status that says what these hold for.

    Where a row has another status than `ok`, that one stays, and the note says this one too.
    """
    if not status:
        return list(estimates)
    return [
        row if row.estimate is None
        else replace(row, status=status) if row.status == OK
        else replace(row, note="; ".join(filter(None, [status, row.note])))
        for row in estimates
    ]  # fmt: skip
