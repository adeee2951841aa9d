"""Rows of estimates.json, filled from tests over languages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats

from analysis.arrays import Floats
from analysis.estimates import ZERO_VARIANCE, Estimate
from analysis.estimators.two_groups import (
    Difference,
    has_no_variance,
    interaction,
    mean_difference,
    t_difference,
)

_ROUNDING = 1e-9  # answer masses are float32


def with_difference(row: Estimate, found: Difference) -> Estimate:
    """Fill a row with what a test found."""
    return replace(
        row, estimate=found.estimate, se=found.se, df=found.df, ci_low=found.low,
        ci_high=found.high, p=found.p,
    )  # fmt: skip


def with_t_interval(row: Estimate, estimate: float, se: float, df: float) -> Estimate:
    """Fill a row with an estimate, its 95 % t interval and the p of a t test against 0."""
    return with_difference(row, t_difference(estimate, se, float(df)))


def two_sample(
    row: Estimate,
    related: Floats,
    control: Floats,
    test: Callable[[Floats, Floats], Difference] = mean_difference,
) -> Estimate:
    """Fill a row with the mean of related minus that of control languages.

    Args:
        row: The row without numbers, its status `ok`.
        related: Shape (n1,), n1 >= 2, finite.
        control: Shape (n2,), n2 >= 2, finite.
        test: Of the difference.

    Returns:
        The row with its numbers; where neither group varies, the estimate and that status.
    """
    if has_no_variance(related, control):
        estimate = float(related.mean() - control.mean())
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    if len(related) < 2 and test is mean_difference:
        return replace(row, status="needs 2 related languages")
    return with_difference(row, test(related, control))


def interaction_row(
    row: Estimate, weak: tuple[Floats, Floats], strong: tuple[Floats, Floats]
) -> Estimate:
    """Fill a row with I from the gains of (related, control) in weak and in strong models."""
    related, control = (w - s for w, s in zip(weak, strong, strict=True))
    return two_sample(row, related, control, lambda *_: interaction(weak, strong))


def one_sample(row: Estimate, values: Floats, *, test: bool = True) -> Estimate:
    """Fill a row with the mean over languages and its 95 % t interval.

    Args:
        row: The row without numbers, its status `ok`.
        values: Shape (languages,), finite.
        test: Whether 0 is a value that the mean could have, so that a test against it says
            something; a distance has none.

    Returns:
        The row with its numbers; without variance or with one language it has the mean and says
        why there is no interval.
    """
    row = replace(row, estimate=float(values.mean()))
    if len(values) < 2:
        return replace(row, status="needs 2 languages")
    if np.ptp(values) < _ROUNDING:
        return replace(row, status=ZERO_VARIANCE)
    tested = stats.ttest_1samp(values, 0)
    limits = tested.confidence_interval(0.95)
    return replace(
        row, se=float(stats.sem(values)), df=float(len(values) - 1),
        ci_low=float(limits.low), ci_high=float(limits.high),
        p=float(tested.pvalue) if test else None,
    )  # fmt: skip
