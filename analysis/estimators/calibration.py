"""Whether tuning makes models more or less sure than they are right.

Chance alone makes an expected calibration error (ECE) above 0, by an amount that falls as models
become surer, so that ECE changes with accuracy where calibration does not. The test is therefore of
squared errors less what chance adds (after Kumar, Liang and Ma 2019, Verified uncertainty
calibration), which are right on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.estimates import OK, Estimate
from analysis.estimators.permuted import LESS_CHANCE, SQUARED, SQUARED_POINTS
from analysis.estimators.primary import with_status
from analysis.estimators.rows import one_sample
from analysis.gains.gain_table import PRIMARY, GainTable
from analysis.measures.formats import before_and_after

NO_PROBABILITIES = "no item records; an ece metric alone holds an unknown part of chance"


def calibration_rows(
    tables: Mapping[tuple[str, ...], GainTable], measures: pd.DataFrame
) -> list[Estimate]:
    """Estimate the change in squared calibration error by arm.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        measures: As analysis.measures.formats.format_measures gives them.

    Returns:
        A row for each arm that was answered directly and scored by the answer's token, the
        primary one first, in squared points (an error of 10 points in every bin: 100); a row
        without a number has a status. Its note has ECE (Guo et al. 2017) before and after.
    """
    rows = []
    for condition, table in tables.items():
        if condition[1:] != PRIMARY[1:] or not table.models:
            continue
        row = Estimate(
            f"change in squared calibration error{table.label}",
            SQUARED, "one_sample_ttest", status=table.status, **table.shared,
        )  # fmt: skip
        rows += with_status([_filled(row, table, measures)], table.subset)
    return rows


def _filled(row: Estimate, table: GainTable, measures: pd.DataFrame) -> Estimate:
    if row.status != OK:
        return row
    names = ["ece", "calibration_squared"]
    before, after = before_and_after(measures, table, names)
    if np.isfinite(before[..., 0]).all() and np.isfinite(after[..., 0]).all():
        was, now = before[..., 0].mean(), after[..., 0].mean()
        note = (
            f"ten bins, over the four options; {LESS_CHANCE}; expected calibration error itself "
            f"goes from {was:.3f} to {now:.3f}, to which chance adds, the more the less sure a "
            "model is"
        )
        row = replace(row, note=note)
    values = SQUARED_POINTS * (after - before)[..., 1]
    if not np.isfinite(values).all():
        return replace(row, status=NO_PROBABILITIES)
    return one_sample(row, values.mean(axis=0))
