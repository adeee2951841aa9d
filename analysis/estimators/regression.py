"""Gain regressed on family and baseline: by model and language, and in the published, pooled form.

The cluster-robust form takes its baseline from other questions than the gain: from the training
split, or in a cross-fitted study, fold by fold, from the other folds. The published one
takes it from the same ones and treats cells as independent; it is there to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
from scipy import linalg

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.rows import with_t_interval
from analysis.gains.baselines import NEEDS_BASELINE
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import CLIP, LOGIT, POINTS, GainTable, on_scale

NOT_POSITIVE = "cluster covariance not positive"
COLLINEAR = "collinear design"
PUBLISHED_NOTE = (
    "baseline and gain share the held-out items, and cells are taken as independent; shown for "
    "comparison, with its distance from D in three parts"
)


# Accuracies are multiples of 1 / n, so anything smaller is rounding.
ROUNDING = 2e-7
_TINY_VARIANCE = 1e-14
_FEW_CLUSTERS = 10
_CONTINUOUS = ("D at mean baseline", "I continuous", "slope of baseline")
_JACKKNIFE_NOTE = (
    "baseline in proportion, centred on its mean over cells; model fixed effects; cluster "
    "jackknife over languages"
)
_DISTANCES = {
    "shared items": "pooled on the held-out baseline - pooled on the training-split one",
    "missing model effects": "pooled - with model fixed effects, on the training-split baseline",
    "adjustment for baseline": "fixed effects - D: another estimand, no bias; noise in the "
    "training-split baseline makes it smaller, and the part of missing model effects larger",
}
_PUBLISHED = ("D (published regression)", "slope (published regression)")


@dataclass(frozen=True)
class Observations:
    """Gains and baselines that share no item, by fold F, model M and language L.

    F is 1 where there is one split.
    `gain` maps a scale to (F, M, L); `baseline` (F, M, L) is a proportion; `weight` (F,) is each
    fold's share of the items; `source` says where the baseline is from. `n_clipped` counts the
    accuracies that the logit clips.
    """

    gain: dict[str, Floats]
    baseline: Floats
    weight: Floats
    source: str
    n_clipped: int


@dataclass(frozen=True)
class _Fit:
    """Coefficients of related, related:baseline and baseline, shape (3,), and their variances."""

    coefficient: Floats
    variance: Floats
    exact: bool


def regression_rows(table: GainTable, training: pd.DataFrame) -> list[Estimate]:
    """Regress gain on family x baseline on both scales, and as published on points.

    Args:
        table: Gains of one arm.
        training: Base-model accuracy on training-split questions, models by languages, in
            proportion, as analysis.gains.baselines.training_baselines gives it; may lack cells.
            Not read where the table has folds.

    Returns:
        On each scale three rows by `ols_cluster_robust`: D at the mean baseline, I continuous
        (change of D per unit of baseline accuracy) and the baseline's slope in the controls.
        On points the same three by `ols_cr3`, languages left out one by one. Then two rows of the
        published regression, and three parts of its distance from D. A row without a number has a
        status. Of a cross-fitted study the continuous rows are fitted fold by fold, the baseline of
        the other folds, and averaged: within a fold gain and baseline share no item.
    """
    seen = observations(table, training) if table.status == OK else None
    rows = [row for scale in (POINTS, LOGIT) for row in _continuous_rows(table, seen, scale)]
    rows += _jackknife_rows(table, seen)
    return rows + _published_rows(table) + _distance_rows(table, training)


def observations(table: GainTable, training: pd.DataFrame) -> Observations | None:
    """Pair gains with a baseline of other items: the training split, or the other folds.

    Args:
        table: Gains of one arm.
        training: As regression_rows.

    Returns:
        The observations; None if a training-split accuracy is lacking.
    """
    folds = table.folds
    if folds is None:
        found = training.reindex(index=list(table.models), columns=list(table.languages))
        baseline = found.to_numpy(np.float64)
        if not np.isfinite(baseline).all():
            return None
        gain = {scale: values[None] for scale, values in table.gain.items()}
        return Observations(gain, baseline[None], np.ones(1), "training split",
                            int(table.clipped.sum()))  # fmt: skip
    pair = (folds.before, folds.after)
    gain = {scale: np.diff([on_scale(v, scale, table.chance) for v in pair], axis=0)[0]
            for scale in (POINTS, LOGIT)}  # fmt: skip
    chance = table.chance or 0.0
    inner = (np.stack(pair) - chance) / (1 - chance)
    return Observations(
        gain, folds.out_of_fold, folds.n_items / folds.n_items.sum(), "other folds",
        int(((inner < CLIP) | (inner > 1 - CLIP)).sum()),
    )  # fmt: skip


def _continuous_rows(table: GainTable, seen: Observations | None, scale: str) -> list[Estimate]:
    """Return the three coefficients of gain ~ related * baseline + model, on one scale."""
    n_models, n_languages = table.before.shape
    status = table.status
    if status == OK:
        status = NEEDS_BASELINE if seen is None else _design_status(table, seen)
    if status == OK and scale == LOGIT:
        status = table.logit_status()
    rows = [
        Estimate(
            estimand=f"{name}{table.label}", scale=scale, estimator="ols_cluster_robust",
            status=status, note=_continuous_note(table, seen, scale),
            baseline_source=_source(table, seen),
            **table.shared | {"unit": "languages and models" if n_models > 1 else "languages"},
        )
        for name in _CONTINUOUS
    ]  # fmt: skip
    if seen is None or status != OK:
        return rows
    fit = _fit(seen.gain[scale], _design(table.related, seen.baseline), seen.weight)
    df = (min(n_models, n_languages) if n_models > 1 else n_languages) - 1
    return [_with_coefficient(row, fit, place, df) for place, row in enumerate(rows)]


def _jackknife_rows(table: GainTable, seen: Observations | None) -> list[Estimate]:
    """Return the same coefficients on points with the cluster jackknife over languages."""
    rows = [
        replace(row, estimator="ols_cr3", unit="languages", note=_JACKKNIFE_NOTE)
        for row in _continuous_rows(table, seen, POINTS)
    ]
    lacking = [row for row in rows if row.status not in (OK, NOT_POSITIVE)]
    if seen is None or lacking:
        return rows
    rows = [replace(row, status=OK) for row in rows]
    found = cluster_jackknife(seen.gain[POINTS], seen.baseline, seen.weight, table.related)
    if found is None:
        few = "collinear design without one of the languages"
        return [
            replace(row, status=few, se=None, df=None, ci_low=None, ci_high=None, p=None, note="")
            for row in rows
        ]
    df = float(len(table.languages) - 1)
    return [
        with_t_interval(row, estimate, float(np.sqrt(variance)), df)
        for row, estimate, variance in zip(rows, *found, strict=True)
    ]


def cluster_jackknife(
    gain: Floats, baseline: Floats, weight: Floats, related: Bits
) -> tuple[list[float], list[float]] | None:
    """Return coefficients of gain ~ related * baseline + model, and their CR3 variances.

    Each language is left out in turn, and V = (G - 1) / G * sum (b_g - b)^2 over the G languages
    (Bell & McCaffrey 2002; CV3 in MacKinnon, Nielsen & Webb 2023), which is wide enough with few
    clusters where the sandwich is too narrow.

    Args:
        gain: By fold, model and language, shape (F, M, L).
        baseline: The same shape, of other items.
        weight: Share of the items of each fold, (F,).
        related: Shape (L,).

    Returns:
        Three coefficients (related, related x baseline, baseline) and their variances; None if the
        design is singular without some language.
    """
    # One centre for all, so that leaving a language out changes no estimand.
    centred = baseline - baseline.mean(axis=(1, 2), keepdims=True)

    def fit(used: Bits) -> Floats | None:
        columns = _columns(related[used], centred[..., used])
        response = within_groups(gain[..., used]).reshape(len(gain), -1)
        if (np.linalg.matrix_rank(columns, tol=1e-9) < 3).any():
            return None
        pairs = zip(columns, response, strict=True)
        return np.asarray(weight @ np.stack([np.linalg.lstsq(x, y)[0] for x, y in pairs]))

    n = len(related)
    everything = fit(np.ones(n, np.bool_))
    without = [fit(np.arange(n) != k) for k in range(n)]
    parts = [found for found in without if found is not None]
    if everything is None or len(parts) < n:
        return None
    variance = (n - 1) / n * ((np.stack(parts) - everything) ** 2).sum(axis=0)
    return everything.tolist(), variance.tolist()


def _with_coefficient(row: Estimate, fit: _Fit, place: int, df: int) -> Estimate:
    estimate, variance = float(fit.coefficient[place]), float(fit.variance[place])
    if fit.exact:
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    if variance < _TINY_VARIANCE:
        return replace(row, estimate=estimate, status=NOT_POSITIVE)
    return with_t_interval(row, estimate, float(np.sqrt(variance)), df)


def _source(table: GainTable, seen: Observations | None) -> str:
    if seen is not None:
        return seen.source
    return "none" if table.status == OK else "training split"


def _continuous_note(table: GainTable, seen: Observations | None, scale: str) -> str:
    notes = ["baseline in proportion, centred on its mean over cells; model fixed effects"]
    if table.folds is not None:
        notes += ["a fit for each fold, averaged", ADAPTERS_NOTE]
    clusters = min(table.before.shape) if len(table.models) > 1 else len(table.languages)
    if len(table.models) == 1:
        notes.append("one model: clustered by language only")
    if clusters < _FEW_CLUSTERS:
        notes.append(
            f"{clusters} clusters: cluster-robust intervals are too narrow with few clusters "
            "(Cameron & Miller 2015)"
        )
    if scale == LOGIT:
        clipped, size = int(table.clipped.sum()), table.before.size
        if seen is not None:
            clipped, size = seen.n_clipped, seen.baseline.size
        if clipped:
            notes.append(f"{clipped} of {2 * size} accuracies clipped at {CLIP}")
    return "; ".join(notes)


def _design(related: Bits, baseline: Floats) -> Floats:
    """Return columns related, related x baseline, baseline, model means taken out, for each fold.

    That is the same fit as with an indicator per model, of which there may be a hundred. The
    baseline (F, M, L) is centred by fold. Shape (F, M * L, 3).
    """
    return _columns(related, baseline - baseline.mean(axis=(1, 2), keepdims=True))


def _columns(related: Bits, centred: Floats) -> Floats:
    """Return the design's columns from baselines (F, M, L) that are centred already."""
    family = np.broadcast_to(related.astype(np.float64), centred.shape)
    columns = (family, family * centred, centred)
    return np.stack([within_groups(v).reshape(len(v), -1) for v in columns], axis=-1)


def within_groups(values: Floats) -> Floats:
    """Take the group means out of values of shape (..., groups, languages)."""
    return np.asarray(values - values.mean(axis=-1, keepdims=True), np.float64)


def _design_status(table: GainTable, seen: Observations) -> str:
    """Return `ok`, or why the design has no unique fit."""
    design = _design(table.related, seen.baseline)
    _, n_cells, n_columns = design.shape
    n_coefficients = n_columns + len(table.models)
    if n_cells <= n_coefficients:
        return f"needs more cells: {n_cells} for {n_coefficients} coefficients"
    size = np.linalg.norm(design, axis=1, keepdims=True)
    if (size <= ROUNDING).any():
        return COLLINEAR
    return OK if (np.linalg.matrix_rank(design / size) == n_columns).all() else COLLINEAR


def _fit(gain: Floats, design: Floats, weight: Floats) -> _Fit:
    """Fit OLS in each fold, and average the coefficients with these weights (F,).

    Given the other folds, the baseline of a fold is fixed and chance in its gains is not, so each
    fold's fit is free of the bias of a shared baseline. One fit over all folds would not be: the
    means that it takes out of a fold's baselines hold that fold's answers, by way of the others.
    The covariance is clustered by model and language, all folds of either being one cluster
    (Cameron, Gelbach & Miller 2011). The factor makes up for the model means, which the
    small-sample correction does not see.
    """
    n_folds, n_models, n_languages = gain.shape
    language = np.tile(np.arange(n_languages), n_folds * n_models)
    model = np.tile(np.repeat(np.arange(n_models), n_languages), n_folds)
    groups = np.column_stack([model, language]) if n_models > 1 else language
    blocks = linalg.block_diag(*design)
    fitted = sm.OLS(within_groups(gain).ravel(), blocks).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    n_cells, n_columns = blocks.shape
    factor = (n_cells - n_columns) / (n_cells - n_columns - n_folds * n_models)
    covariance = np.asarray(fitted.cov_params(), np.float64).reshape(n_folds, 3, n_folds, 3)
    return _Fit(
        np.asarray(weight @ np.asarray(fitted.params).reshape(n_folds, 3), np.float64),
        np.asarray(np.einsum("f,fjgj,g->j", weight, covariance, weight), np.float64) * factor,
        bool(np.abs(fitted.resid).max() < ROUNDING),
    )


def _published_rows(table: GainTable) -> list[Estimate]:
    """Fit the pooled regression of gain on family and held-out baseline, as published."""
    rows = [
        Estimate(
            estimand=f"{name}{table.label}", scale=POINTS, estimator="linear_regression",
            status=table.status, note=PUBLISHED_NOTE, baseline_source="held-out",
            **table.shared | {"unit": "cells"},
        )
        for name in _PUBLISHED
    ]  # fmt: skip
    if table.status != OK:
        return rows
    gain, before = table.gain[POINTS].ravel(), table.before.ravel()
    related = np.tile(table.related.astype(np.float64), len(table.models))
    status = _published_status(gain, before, related)
    if status != OK:
        return [replace(row, status=status) for row in rows]
    fitted = pingouin.linear_regression(
        pd.DataFrame({"related": related, "baseline": before}), gain, as_dataframe=False
    )
    return [
        with_t_interval(row, float(fitted["coef"][k]), float(fitted["se"][k]), fitted["df_resid"])
        for k, row in enumerate(rows, start=1)
    ]


def _published_status(gain: Floats, before: Floats, related: Floats) -> str:
    """Refuse a constant or collinear column, for which pingouin gives numbers, not errors."""
    if min(np.ptp(gain), np.ptp(before)) < ROUNDING:
        return ZERO_VARIANCE
    design = np.column_stack([np.ones_like(gain), related, before])
    if np.linalg.matrix_rank(design, tol=1e-9) < design.shape[1]:
        return COLLINEAR
    residual = gain - design @ np.linalg.lstsq(design, gain)[0]
    return ZERO_VARIANCE if np.abs(residual).max() < ROUNDING else OK


@dataclass(frozen=True)
class RegressionDistance:
    """What the pooled regression's family coefficient is away from D, in three parts (proportion).

    `shared_items`: pooled on the held-out baseline - pooled on a baseline of other items;
    `model_effects`: pooled - with model fixed effects, both on the other baseline; `adjustment`:
    fixed effects - D, which is -b times the families' difference in baseline.
    """

    shared_items: float
    model_effects: float
    adjustment: float


def regression_distance(
    gain: Floats, held_out: Floats, other: Floats, related: Bits
) -> RegressionDistance:
    """Split the distance of the published regression from D.

    Args:
        gain: By model and language, shape (M, L).
        held_out: Base accuracy on the items of the gain, (M, L).
        other: Base accuracy on other items, (M, L).
        related: Shape (L,).

    Returns:
        The parts; they add up to the pooled coefficient of `related` minus D.
    """
    family = np.broadcast_to(related.astype(np.float64), gain.shape)
    pooled, apart = (_family_coefficient(gain, family, x, ()) for x in (held_out, other))
    within = _family_coefficient(gain, family, other, (1,))
    by_language = gain.mean(axis=0)
    d = float(by_language[related].mean() - by_language[~related].mean())
    return RegressionDistance(pooled - apart, apart - within, within - d)


def _family_coefficient(
    gain: Floats, family: Floats, baseline: Floats, within: tuple[int, ...]
) -> float:
    """Regress gain on family and baseline, means taken out over all cells, or within models."""
    columns = [
        (values - values.mean(axis=within or None, keepdims=bool(within))).ravel()
        for values in (gain, family, baseline)
    ]
    return float(np.linalg.lstsq(np.column_stack(columns[1:]), columns[0])[0][0])


def _within_columns(baseline: Floats, related: Bits) -> Floats:
    """Return family and baseline, model means taken out, shape (M * L, 2)."""
    family = np.broadcast_to(related.astype(np.float64), baseline.shape)
    return np.column_stack([within_groups(values).ravel() for values in (family, baseline)])


def _distance_rows(table: GainTable, training: pd.DataFrame) -> list[Estimate]:
    """Return the parts of the published regression's distance from D."""
    rows = [
        Estimate(
            f"distance from D: {name}{table.label}", POINTS, "difference_of_regressions",
            status=table.status, baseline_source="training split", note=note,
            **table.shared | {"unit": "cells"},
        )
        for name, note in _DISTANCES.items()
    ]  # fmt: skip
    if table.status != OK:
        return rows
    baseline = training.reindex(index=list(table.models), columns=list(table.languages))
    other = baseline.to_numpy(np.float64)
    if not np.isfinite(other).all():
        return [replace(row, status=NEEDS_BASELINE, baseline_source="none") for row in rows]
    gain, before = table.gain[POINTS], table.before
    related = np.tile(table.related.astype(np.float64), len(table.models))
    status = _published_status(gain.ravel(), before.ravel(), related)
    if status == OK:
        status = _published_status(gain.ravel(), other.ravel(), related)
    if status == OK and np.linalg.matrix_rank(_within_columns(other, table.related), tol=1e-9) < 2:
        status = COLLINEAR
    if status != OK:
        return [replace(row, status=status) for row in rows]
    found = regression_distance(gain, before, other, table.related)
    values = (found.shared_items, found.model_effects, found.adjustment)
    return [replace(row, estimate=value) for row, value in zip(rows, values, strict=True)]
