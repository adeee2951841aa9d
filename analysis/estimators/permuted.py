"""What averaging over option orders changes: the gain, and the bias for positions.

Zheng et al. 2024 (Large language models are not robust multiple choice selectors) measure a bias
for option positions by RStd, the standard deviation of the recalls of the four positions, and
take it away by averaging over orders. Chance alone makes RStd, and less of it the further an
accuracy is from 1/2, so that RStd changes with accuracy where no bias does. Tests are therefore of
its square less what chance adds, which is right on average.
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
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable
from analysis.measures.formats import before_and_after

PERMUTED = (*PRIMARY[:2], "permuted")
DIFFERENT_CELLS = "models or languages differ between the scorings"
NO_RECALLS = "no item records, or a position that is right in fewer than two items"
SQUARED = "squared points"
LESS_CHANCE = "squares less what chance adds, which have no bias on average"
SQUARED_POINTS = 1e4


def permuted_rows(
    tables: Mapping[tuple[str, ...], GainTable], measures: pd.DataFrame
) -> list[Estimate]:
    """Estimate what option orders and positions do, for the primary arm.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        measures: As analysis.measures.formats.format_measures gives them.

    Returns:
        Change in squared RStd less chance by plain answer-token scoring; and if there are
        permuted runs the gain by plain minus by averaged scoring, the change in squared RStd after
        averaging, and what averaging takes off it before and after tuning. Squares are in squared
        points (RStd of 10 points: 100). No rows without the primary arm; a row without a number
        has a status.
    """
    plain, averaged = tables.get(PRIMARY), tables.get(PERMUTED)
    if plain is None or not plain.models:
        return []
    rows = with_status([_change_row(plain, measures, "answer-token")], plain.subset)
    if averaged is None or not averaged.models:
        return rows
    others = [_gain_row(plain, averaged), _change_row(averaged, measures, "permuted")]
    others += _bias_rows(plain, averaged, measures)
    return rows + with_status(others, averaged.subset)


def recall_variance(measures: pd.DataFrame, table: GainTable) -> tuple[Floats, Floats]:
    """Return squared RStd less chance, before and after tuning, by model and language.

    In squared points; NaN where there is none.
    """
    before, after = before_and_after(measures, table, ["recall_variance"])
    return SQUARED_POINTS * before[..., 0], SQUARED_POINTS * after[..., 0]


def _gain_row(plain: GainTable, averaged: GainTable) -> Estimate:
    row = _row(
        averaged, "gain answer-token - permuted",
        "permuted averages probabilities over option orders, so that a bias for a position "
        "cancels (Zheng et al. 2024), and as an average of several answers it also loses noise: "
        "this part of the gain is position bias and noise over orders",
    )  # fmt: skip
    row = _joint(row, plain, averaged)
    if row.status != OK:
        return row
    return one_sample(row, (plain.gain[POINTS] - averaged.gain[POINTS]).mean(axis=0))


def _change_row(table: GainTable, measures: pd.DataFrame, scoring: str) -> Estimate:
    """Return squared RStd less chance after tuning minus before, by one scoring."""
    row = _squared_row(table, f"change in squared RStd of recalls ({scoring})", "")
    if row.status != OK:
        return row
    before, after = recall_variance(measures, table)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return replace(row, status=NO_RECALLS)
    was, now = (
        100 * part.mean(axis=(0, 1))
        for part in before_and_after(measures, table, ["recall_std", "recall_noise"])
    )
    note = (
        f"{LESS_CHANCE}; RStd itself goes from {was[0]:.1f} to {now[0]:.1f} points, where chance "
        f"alone makes {was[1]:.1f} and {now[1]:.1f} if all recalls are alike"
    )
    return one_sample(replace(row, note=note), (after - before).mean(axis=0))


def _bias_rows(plain: GainTable, averaged: GainTable, measures: pd.DataFrame) -> list[Estimate]:
    """Return squared RStd less chance, plain minus averaged, before and after tuning."""
    pairs = list(
        zip(recall_variance(measures, plain), recall_variance(measures, averaged), strict=True)
    )
    rows = []
    for arm, (with_bias, without) in zip(("base", PRIMARY[0]), pairs, strict=True):
        row = _joint(
            _squared_row(
                averaged, f"squared RStd of recalls answer-token - permuted ({arm})",
                f"the bias for positions that averaging over orders takes away; {LESS_CHANCE}",
            ),
            plain, averaged,
        )  # fmt: skip
        if row.status == OK and not (np.isfinite(with_bias).all() and np.isfinite(without).all()):
            row = replace(row, status=NO_RECALLS)
        if row.status == OK:
            row = one_sample(row, (with_bias - without).mean(axis=0))
        rows.append(row)
    return rows


def _row(table: GainTable, name: str, note: str) -> Estimate:
    return Estimate(
        name, POINTS, "one_sample_ttest", status=table.status, note=note, **table.shared
    )


def _squared_row(table: GainTable, name: str, note: str) -> Estimate:
    return replace(_row(table, name, note), scale=SQUARED)


def _joint(row: Estimate, plain: GainTable, averaged: GainTable) -> Estimate:
    """Return the row with the status of both tables."""
    if plain.status != OK:
        return replace(row, status=plain.status)
    same = (plain.models, plain.languages) == (averaged.models, averaged.languages)
    return row if row.status != OK or same else replace(row, status=DIFFERENT_CELLS)
