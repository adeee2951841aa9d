"""B: do weak models gain more than strong ones?"""

from __future__ import annotations

from dataclasses import replace

from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.contrasts import MODELS, WELCH, by_group
from analysis.estimators.rows import with_difference
from analysis.estimators.two_groups import has_no_variance, welch_difference
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import LOGIT, POINTS, GainTable

BASELINE_GAP = "baseline strong - weak"


def strength_rows(table: GainTable, groups: BaselineGroups, unit: str = MODELS) -> list[Estimate]:
    """Return B on both scales."""
    return [_welch_row(table, groups, scale, unit) for scale in (POINTS, LOGIT)]


def _welch_row(table: GainTable, groups: BaselineGroups, scale: str, unit: str) -> Estimate:
    """Test the mean gain of weak minus that of strong models over models."""
    status = table.status if table.status != OK else groups.status
    if status == OK and scale == LOGIT:
        status = table.logit_status(groups)
    row = Estimate(
        f"B{table.label}", scale, WELCH, status=status, note=groups.note,
        baseline_source=groups.source, **{**table.shared, "unit": unit},
    )  # fmt: skip
    if status != OK:
        return row
    weak, strong = by_group(table.gain[scale].mean(axis=1), table, groups)
    if min(len(weak), len(strong)) < 2:
        return replace(row, status="needs 2 weak and 2 strong models")
    if has_no_variance(weak, strong):
        return replace(row, estimate=float(weak.mean() - strong.mean()), status=ZERO_VARIANCE)
    return with_difference(row, welch_difference(weak, strong))
