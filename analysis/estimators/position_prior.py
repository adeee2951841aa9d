"""What shuffled labels teach about positions: which are right how often.

A model that learned only the labels' frequencies answers with them whatever is asked: its mean
probability by position, the position prior, is then that of the labels it was tuned on. Models that
answer rightly also put probability where right answers stand, so the prior here is balanced: the
mean over the right positions, each counting alike, which knowing answers leaves even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.arrays import Floats
from analysis.estimates import OK, Estimate
from analysis.estimators.primary import with_status
from analysis.estimators.rows import one_sample
from analysis.estimators.source_arms import SHUFFLED
from analysis.gains.gain_table import GainTable
from analysis.measures.formats import BALANCED, GoldShares, before_and_after

NO_PRIOR = "no item records, or a position that is never right"
NO_SHARES = "no item records to know the trained positions from"
EVEN_SHARES = "each position was right equally often in training, so none could be learned"

_ROUNDING = 1e-9
_DISTANCE = "total variation, 0 to 1, that chance raises"
_MOVED = (
    "probability moved onto the positions that were right more often than 0.25 in training; from "
    "even shares to the trained ones it is their distance; more right answers draw a liking for "
    "positions that was there before towards even shares"
)


def position_prior_rows(
    tables: Mapping[tuple[str, ...], GainTable], measures: pd.DataFrame, trained: GoldShares
) -> list[Estimate]:
    """Compare the shuffled-labels arm's position prior with what it was tuned on.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        measures: As analysis.measures.formats.format_measures gives them.
        trained: Positions of the right answers in training.

    Returns:
        Total-variation distance of the prior, averaged over models, from the trained shares and
        from 1/4 each, by language; and how much probability tuning moved onto the positions that
        were right more often than 1/4 in training. Distances are not tested: chance raises them.
        No rows without the arm; a row without a number has a status.
    """
    table = tables.get(SHUFFLED)
    if table is None or not table.models:
        return []
    return with_status(_rows(table, measures, trained), table.subset)


def _rows(table: GainTable, measures: pd.DataFrame, trained: GoldShares) -> list[Estimate]:
    """Return the arm's three rows, before what its missing cells make of their status."""
    said = ", ".join(f"{share:.2f}" for share in trained.values)
    of = f"shares of positions 1 to 4 among {trained.source}: {said}"
    rows = [
        _row(table, "position prior to trained shares (shuffled-labels)", f"{_DISTANCE}; {of}"),
        _row(table, "position prior to even shares (shuffled-labels)",
             f"{_DISTANCE}; even: 0.25 each"),
        replace(
            _row(table, "change in position prior towards trained shares (shuffled-labels)",
                 f"{_MOVED}; {of}"),
            estimator="one_sample_ttest",
        ),
    ]  # fmt: skip
    if table.status != OK:
        return rows
    before, after = (values.mean(axis=0) for values in before_and_after(measures, table, BALANCED))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return [replace(row, status=NO_PRIOR) for row in rows]
    even = one_sample(rows[1], total_variation(after, np.full(4, 0.25)), test=False)
    if not np.isfinite(trained.values).all():
        return [replace(rows[0], status=NO_SHARES), even, replace(rows[2], status=NO_SHARES)]
    distance = one_sample(rows[0], total_variation(after, trained.values), test=False)
    over = trained.values > 0.25 + _ROUNDING
    if not over.any():
        return [distance, even, replace(rows[2], status=EVEN_SHARES)]
    return [distance, even, one_sample(rows[2], (after - before)[:, over].sum(axis=1))]


def total_variation(p: Floats, q: Floats) -> Floats:
    """Return half the sum of absolute differences of distributions over positions.

    From 0 (alike) to 1 (nothing in common), over the last axis.
    """
    return np.asarray(np.abs(p - q).sum(axis=-1) / 2, np.float64)


def _row(table: GainTable, name: str, note: str) -> Estimate:
    note = f"mean over models of the probabilities, each right position counting alike; {note}"
    return Estimate(
        name, "probability", "total_variation", status=table.status, note=note, **table.shared
    )
