"""Exact permutation of family labels over languages: a test that assumes no distribution."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import stats

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.two_groups import has_no_variance
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import LOGIT, POINTS, GainTable
from analysis.gains.grouped import group_gains

MAX_LABELINGS = 100_000
"""Up to so many labelings are all gone through; of more, DRAWS are drawn."""
DRAWS = 20_000
# Labelings with equal statistics must stay equal when their sums are rounded differently.
_DECIMALS = 7


def n_labelings(n_related: int, n_control: int) -> int:
    """Count in how many ways the family labels can be dealt out to the languages.

    20 for 3 + 3, 8,008 for 6 + 10. The smallest two-sided p that can come out is 2 divided by it.

    Raises:
        ValueError: If a number is negative.
    """
    return math.comb(n_related + n_control, n_related)


def permutation_rows(
    table: GainTable, groups: BaselineGroups, rng: np.random.Generator
) -> list[Estimate]:
    """Test D and I on both scales by dealing the family labels out anew.

    Under the null hypothesis the languages' gains (for I: their gains in weak models minus those
    in strong ones) do not depend on family, so that every labeling is equally likely. The p is
    that of `scipy.stats.permutation_test`, two-sided: twice the smaller tail, at most 1.

    Args:
        table: Gains by model and language.
        groups: Weak and strong models, for I.
        rng: Draws the labelings if there are more than MAX_LABELINGS.

    Returns:
        Four rows without an interval: D and I on points, then on logits. A row without a p has a
        status: that of the table or of the groups, or `zero variance`.
    """
    rows: list[Estimate] = []
    tested: dict[int, Floats] = {}
    for scale in (POINTS, LOGIT):
        for name in ("D", "I"):
            row = _empty_row(table, groups, name, scale)
            if row.status == OK:
                values = _by_language(table, groups, name, scale)
                related, control = table.split(values)
                row = replace(row, estimate=float(related.mean() - control.mean()))
                if has_no_variance(related, control):
                    row = replace(row, status=ZERO_VARIANCE)
                else:
                    tested[len(rows)] = values
            rows.append(row)
    if tested:
        p = _p_values(np.stack(list(tested.values())), table.related, rng)
        for k, value in zip(tested, p, strict=True):
            rows[k] = replace(rows[k], p=float(value))
    return rows


def _empty_row(table: GainTable, groups: BaselineGroups, name: str, scale: str) -> Estimate:
    """Return the row before its test."""
    status = groups.status if name == "I" and table.status == OK else table.status
    if status == OK and table.related.sum() < 2:
        status = "needs 2 related languages"
    if status == OK and scale == LOGIT:
        status = table.logit_status(groups if name == "I" else None)
    return Estimate(
        estimand=f"{name}{table.label}",
        scale=scale,
        estimator="permutation",
        status=status,
        note=_note(table) if status == OK else "",
        baseline_source=groups.source if name == "I" else "none",
        **{**table.shared, "unit": "languages"},
    )


def _by_language(table: GainTable, groups: BaselineGroups, name: str, scale: str) -> Floats:
    """Return the mean gain by language (L,), for I in weak models minus that in strong ones."""
    if name == "D":
        return np.asarray(table.gain[scale].mean(axis=0), np.float64)
    weak, strong = group_gains(table, groups, scale)
    return np.asarray(weak - strong, np.float64)


def _p_values(values: Floats, related: Bits, rng: np.random.Generator) -> Floats:
    """Return the two-sided p of each row of `values` (rows, L) under the same labelings."""
    labelings = n_labelings(int(related.sum()), int((~related).sum()))

    def difference(first: Floats, second: Floats, axis: int) -> Floats:
        found = first.mean(axis=axis) - second.mean(axis=axis)
        return np.asarray(np.round(found, _DECIMALS), np.float64)

    result = stats.permutation_test(
        (values[:, related], values[:, ~related]),
        difference,
        permutation_type="independent",
        vectorized=True,
        n_resamples=labelings if labelings <= MAX_LABELINGS else DRAWS,
        batch=10_000,
        axis=-1,
        rng=rng,
    )
    return np.asarray(result.pvalue, np.float64)


def _note(table: GainTable) -> str:
    """Return what a reader should know of the test."""
    labelings = n_labelings(int(table.related.sum()), int((~table.related).sum()))
    if labelings <= MAX_LABELINGS:
        how = (
            f"all {labelings:,} labelings of the languages, so the smallest possible two-sided p "
            f"is {2 / labelings:.2g}"
        )
    else:
        how = (
            f"{DRAWS:,} random labelings out of {labelings:,}, so the smallest possible two-sided "
            f"p is {2 / (DRAWS + 1):.2g}"
        )
    return f"{how}; it tests whether family matters among these languages, with these models"
