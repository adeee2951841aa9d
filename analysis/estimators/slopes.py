"""Slope of gain on baseline within models: naive, cross-fitted, and on a baseline of other items.

Chance that makes a held-out baseline low makes the gain over it high, so the naive slope is
negative even where gains do not depend on the baseline (Tu & Gilthorpe 2007; Chiolero et al.
2013). A baseline from other items than the gain is free of that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from analysis.arrays import Bits, Floats, Singles
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.regression import ROUNDING, observations, within_groups
from analysis.estimators.rows import with_t_interval
from analysis.gains.baselines import NEEDS_BASELINE
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import POINTS, GainTable
from analysis.gains.items import ItemGains

NEEDS_PASSAGES = "needs 2 passages"
_TINY_VARIANCE = 1e-14
_NAIVE = "baseline and gain share the held-out items: chance alone makes this slope negative"
_AT_MOST = (
    "naive slope less all binomial noise of the baselines; at most this, for answers before and "
    "after share items: no interval"
)
_NOISY = "noise in the baseline draws the slope towards 0"


def slope_rows(
    table: GainTable, training: pd.DataFrame, rng: np.random.Generator, splits: int = 20
) -> list[Estimate]:
    """Estimate slopes of gain on baseline, in points per point, within models and between them.

    Args:
        table: Gains of one arm; the source languages are not in it.
        training: Base-model accuracy on training-split questions, models by languages; not read
            where the table has folds.
        rng: Draws the halves of the passages.
        splits: How many random halvings the cross-fitted slope is averaged over, at least 1.

    Returns:
        Rows `slope naive`, `slope cross-fitted` and `slope training-split`, clustered by
        language, df = languages - 1. Of a cross-fitted study the last is `slope out-of-fold`:
        gains of a fold on accuracies in the other folds, with fixed effects of model x fold, and
        the other two leave folds aside. The cross-fitted variance is the mean over halvings, an
        upper bound of the variance of their mean. Then `slope between models`: of the models' mean
        gains on their mean training-split baselines, df = models - 2. Where there are accuracies
        alone, `slope moment-corrected`: the naive slope less the known binomial noise of the
        baseline, which is the most it can be, without an interval. A row without a number has a
        status.

    Raises:
        ValueError: If `splits` is below 1.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; give the number of random halvings, at least 1")
    rows = [
        _naive_row(table),
        _cross_fitted_row(table, rng, splits),
        _other_items_row(table, training),
        _between_row(table, training),
    ]
    return rows if table.items is not None else [*rows, _moment_row(table)]


def cross_fitted_pairs(
    items: ItemGains, rng: np.random.Generator, splits: int
) -> tuple[Floats, Floats]:
    """Take baselines from one half of the passages, gains from the other, in both directions.

    Args:
        items: Answers before and after, with at least two passages.
        rng: Draws the halves.
        splits: How many halvings.

    Returns:
        Baseline and gain (accuracy after minus before, averaged over seeds), each of shape
        (2 * splits, models, languages), in proportion.
    """
    order = rng.permuted(np.tile(np.arange(items.n_passages), (splits, 1)), axis=1)
    first = (order < items.n_passages // 2)[:, items.passage]
    before = _half_means(items.before, first)
    gain = _half_means(items.gain, first)
    return np.concatenate(before), np.concatenate(gain[::-1])


def within_slopes(baseline: Floats, gain: Floats) -> Floats:
    """Return the slope of gain on baseline with model fixed effects.

    Args:
        baseline: Shape (..., models, languages).
        gain: The same shape.

    Returns:
        Slopes of shape (...); NaN where the baseline does not vary within models.
    """
    x, y = within_groups(baseline), within_groups(gain)
    size = (x * x).sum(axis=(-2, -1))
    varies = np.abs(x).max(axis=(-2, -1)) > ROUNDING
    return np.asarray((x * y).sum(axis=(-2, -1)) / np.where(varies, size, np.nan), np.float64)


def slope_variance(baseline: Floats, gain: Floats) -> float:
    """Return the variance of the within-model slope, clustered by language.

    The fit on values centred by model has the slope and residuals of the one with an indicator
    per model; the factor makes up for the indicators that the small-sample correction then
    does not see.

    Args:
        baseline: Shape (models M, languages L), varying within models; models may be models by
            fold.
        gain: Shape (M, L).

    Returns:
        The variance, 0 where the line fits exactly.
    """
    n_models, n_languages = baseline.shape
    n = baseline.size
    fitted = sm.OLS(within_groups(gain).ravel(), within_groups(baseline).ravel()).fit(
        cov_type="cluster", cov_kwds={"groups": np.tile(np.arange(n_languages), n_models)}
    )
    clustered: float = np.asarray(fitted.cov_params(), np.float64)[0, 0]
    return float(clustered * (n - 1) / (n - n_models - 1))


def _half_means(values: Singles, first: Bits) -> list[Floats]:
    """Return means in and outside each half (K, N) of the items: (M, L, N) to two of (K, M, L)."""
    return [
        np.moveaxis(
            np.asarray(values @ half.T.astype(np.float32), np.float64) / half.sum(axis=1), -1, 0
        )
        for half in (first, ~first)
    ]


def _row(table: GainTable, name: str, source: str, *notes: str) -> Estimate:
    return Estimate(
        estimand=f"{name}{table.label}", scale=POINTS, estimator="ols_model_fixed_effects",
        status=table.status, baseline_source=source, note="; ".join(notes), **table.shared,
    )  # fmt: skip


def _naive_row(table: GainTable) -> Estimate:
    row = _row(table, "slope naive", "held-out", _NAIVE)
    if row.status != OK:
        return row
    return _filled(row, table.before[None], table.gain[POINTS][None])


def _other_items_row(table: GainTable, training: pd.DataFrame) -> Estimate:
    """Estimate the slope on the training split, or on the other folds."""
    row = _row(table, "slope training-split", "training split", _NOISY)
    if table.folds is not None:
        row = _row(table, "slope out-of-fold", "other folds", _NOISY, ADAPTERS_NOTE)
    if row.status != OK:
        return row
    seen = observations(table, training)
    if seen is None:
        return replace(row, status=NEEDS_BASELINE, baseline_source="none")
    # Each fold of a model is a row with a mean of its own, so no fold is compared with another.
    rows = (1, -1, len(table.languages))
    return _filled(row, seen.baseline.reshape(rows), seen.gain[POINTS].reshape(rows))


def _between_row(table: GainTable, training: pd.DataFrame) -> Estimate:
    """Estimate the slope over models: strong models against weak ones, not cell against cell."""
    row = _row(table, "slope between models", "training split", _NOISY)
    row = replace(row, estimator="ols", unit="models")
    if table.folds is not None:
        row = replace(row, baseline_source="other folds")
    if row.status != OK:
        return row
    seen = observations(table, training)
    if seen is None:
        return replace(row, status=NEEDS_BASELINE, baseline_source="none")
    if len(table.models) < 3:
        return replace(row, status="needs 3 models")
    x, y = (
        np.tensordot(seen.weight, values, 1).mean(axis=1)
        for values in (seen.baseline, seen.gain[POINTS])
    )
    if min(np.ptp(x), np.ptp(y)) < ROUNDING:
        return replace(row, status=ZERO_VARIANCE)
    fitted = stats.linregress(x, y)
    if fitted.stderr < ROUNDING:
        return replace(row, estimate=float(fitted.slope), status=ZERO_VARIANCE)
    return with_t_interval(row, float(fitted.slope), float(fitted.stderr), len(x) - 2)


def _moment_row(table: GainTable) -> Estimate:
    """Correct the naive slope for the binomial noise of accuracies (Fuller 1987, section 1.2)."""
    row = replace(
        _row(table, "slope moment-corrected", "accuracies", _AT_MOST), estimator="moments"
    )
    if row.status != OK:
        return row
    if table.n_items is None or not np.isfinite(table.n_items).all():
        return replace(row, status="needs n_items of every accuracy")
    found = moment_slope(table.before, table.gain[POINTS], table.n_items)
    if found is None:
        return replace(row, status="baselines vary by hardly more than chance")
    return replace(row, estimate=found)


def moment_slope(baseline: Floats, gain: Floats, n_items: Floats) -> float | None:
    """Return the within-model slope less the binomial noise of the baselines.

    Chance in a baseline enters the gain with the other sign: with noise variance s2 the covariance
    is too small by s2 and the baseline's variance too large by it. That is all of it only if
    answers before and after share no chance and languages no items. Where they do, less noise is
    left to take out, by an amount that accuracies do not show, and the result is too high: +0.04
    to +0.16 with no slope, and agreement of 0.32 between answers before and after, where an
    interval would exclude 0 in 0.11 to 0.22 of studies. So it has none.

    Args:
        baseline: Accuracies, shape (models, languages).
        gain: Accuracy after minus before, the same shape.
        n_items: Items behind each baseline, the same shape.

    Returns:
        The slope; None where less than half of the baselines' variance is more than noise.
    """
    x, y = within_groups(baseline), within_groups(gain)
    share = 1 - 1 / baseline.shape[1]
    noise = share * float((baseline * (1 - baseline) / np.maximum(n_items - 1, 1)).sum())
    size = float((x * x).sum()) - noise
    if size < noise + _TINY_VARIANCE:
        return None
    slope: float = (float((x * y).sum()) + noise) / size
    return slope


def _cross_fitted_row(table: GainTable, rng: np.random.Generator, splits: int) -> Estimate:
    said = (
        f"mean over {splits} random halvings of the passages, both directions; the variance is "
        "the mean of theirs, so the interval is too wide rather than too narrow"
    )
    row = _row(table, "slope cross-fitted", "other half of the items", said, _NOISY)
    if row.status != OK:
        return row
    if table.items is None:
        return replace(row, status=table.item_status)
    if table.items.n_passages < 2:
        return replace(row, status=NEEDS_PASSAGES)
    return _filled(row, *cross_fitted_pairs(table.items, rng, splits))


def _filled(row: Estimate, baseline: Floats, gain: Floats) -> Estimate:
    """Fill the mean slope and variance over pairs of shape (K, models, languages)."""
    slopes = within_slopes(baseline, gain)
    if np.isnan(slopes).any():
        return replace(row, status=ZERO_VARIANCE)
    variance = float(np.mean([slope_variance(*pair) for pair in zip(baseline, gain, strict=True)]))
    estimate = float(slopes.mean())
    if variance < _TINY_VARIANCE:
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    return with_t_interval(row, estimate, float(np.sqrt(variance)), baseline.shape[2] - 1)
