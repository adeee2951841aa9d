"""Gain regressed on family and baseline: by model and language, and in the published, pooled form.

The cluster-robust form takes its baseline from other questions than the gain. The published one
takes it from the same ones and treats cells as independent; it is there to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pingouin
import statsmodels.api as sm
from scipy import stats

from analysis.estimates import OK, Estimate
from analysis.estimators.contrasts import ZERO_VARIANCE
from analysis.gains.baselines import NEEDS_BASELINE
from analysis.gains.gain_table import CLIP, LOGIT, POINTS, GainTable

NOT_POSITIVE = "cluster covariance not positive"
COLLINEAR = "collinear design"
PUBLISHED_NOTE = (
    "baseline and gain share the held-out items, and cells are taken as independent: in this "
    "design biased by about -4 points; shown for comparison only"
)

Floats = npt.NDArray[np.float64]

# Accuracies are multiples of 1 / n, so anything smaller is rounding.
ROUNDING = 2e-7
_TINY_VARIANCE = 1e-14
_FEW_CLUSTERS = 10
_CONTINUOUS = ("D at mean baseline", "I continuous", "slope of baseline")
_PUBLISHED = ("D (published regression)", "slope (published regression)")


@dataclass(frozen=True)
class _Fit:
    """Coefficients of related, related:baseline and baseline, shape (3,), and their variances."""

    coefficient: Floats
    variance: Floats
    exact: bool


def regression_rows(table: GainTable, training: pd.DataFrame) -> list[Estimate]:
    """Family x continuous baseline on both scales, and the published regression on points.

    Args:
        table: Gains of one arm.
        training: Base-model accuracy on training-split questions, models by languages, in
            proportion, as analysis.gains.baselines.training_baselines gives it; may lack cells.

    Returns:
        On each scale three rows by `ols_cluster_robust`: D at the mean baseline, I continuous
        (change of D per unit of baseline accuracy) and the baseline's slope in the controls.
        Then two rows of the published regression. A row without a number has a status.
    """
    rows = [row for scale in (POINTS, LOGIT) for row in _continuous_rows(table, training, scale)]
    return rows + _published_rows(table)


def with_t_interval(row: Estimate, estimate: float, se: float, df: float) -> Estimate:
    """Fill a row with an estimate, its 95 % t interval and the p of a two-sided t test against 0.

    Args:
        row: The row to fill.
        estimate: The estimate.
        se: Its standard error, above 0.
        df: Degrees of freedom, above 0.

    Returns:
        The filled row.
    """
    half = float(stats.t.ppf(0.975, df)) * se
    p = float(2 * stats.t.sf(abs(estimate) / se, df))
    return replace(
        row, estimate=estimate, se=se, df=float(df), ci_low=estimate - half,
        ci_high=estimate + half, p=p,
    )  # fmt: skip


def baseline_of(table: GainTable, training: pd.DataFrame) -> Floats | None:
    """Training-split accuracies in the table's order.

    Args:
        table: Gains of one arm.
        training: As regression_rows.

    Returns:
        Shape (models, languages), proportions; None if a cell is lacking.
    """
    found = training.reindex(index=list(table.models), columns=list(table.languages))
    values = found.to_numpy(np.float64)
    return values if np.isfinite(values).all() else None


def _continuous_rows(table: GainTable, training: pd.DataFrame, scale: str) -> list[Estimate]:
    """The three coefficients of gain ~ related * baseline + model, on one scale."""
    n_models, n_languages = table.before.shape
    baseline = baseline_of(table, training) if table.status == OK else None
    status = table.status
    if status == OK:
        status = NEEDS_BASELINE if baseline is None else _design_status(table, baseline)
    rows = [
        Estimate(
            estimand=f"{name}{table.label}", scale=scale, estimator="ols_cluster_robust",
            status=status, note=_continuous_note(table, scale),
            baseline_source="none" if status == NEEDS_BASELINE else "training split",
            **table.shared | {"unit": "languages and models" if n_models > 1 else "languages"},
        )
        for name in _CONTINUOUS
    ]  # fmt: skip
    if baseline is None or status != OK:
        return rows
    fit = _fit(table.gain[scale], _design(table.related, baseline))
    df = (min(n_models, n_languages) if n_models > 1 else n_languages) - 1
    return [_with_coefficient(row, fit, place, df) for place, row in enumerate(rows)]


def _with_coefficient(row: Estimate, fit: _Fit, place: int, df: int) -> Estimate:
    estimate, variance = float(fit.coefficient[place]), float(fit.variance[place])
    if fit.exact:
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    if variance < _TINY_VARIANCE:
        return replace(row, estimate=estimate, status=NOT_POSITIVE)
    return with_t_interval(row, estimate, float(np.sqrt(variance)), df)


def _continuous_note(table: GainTable, scale: str) -> str:
    notes = ["baseline in proportion, centred on its mean over cells; model fixed effects"]
    clusters = min(table.before.shape) if len(table.models) > 1 else len(table.languages)
    if len(table.models) == 1:
        notes.append("one model: clustered by language only")
    if clusters < _FEW_CLUSTERS:
        notes.append(
            f"{clusters} clusters: cluster-robust intervals are too narrow with few clusters "
            "(Cameron & Miller 2015)"
        )
    if scale == LOGIT and table.n_clipped:
        notes.append(f"{table.n_clipped} of {2 * table.before.size} accuracies clipped at {CLIP}")
    return "; ".join(notes)


def _design(related: npt.NDArray[np.bool_], baseline: Floats) -> Floats:
    """Columns related, related x baseline, baseline, one indicator per model; rows are cells."""
    n_models, n_languages = baseline.shape
    family = np.tile(related.astype(np.float64), n_models)
    centred = (baseline - baseline.mean()).ravel()
    model = np.repeat(np.eye(n_models), n_languages, axis=0)
    return np.column_stack([family, family * centred, centred, model])


def _design_status(table: GainTable, baseline: Floats) -> str:
    """`ok`, or why the design has no unique fit."""
    design = _design(table.related, baseline)
    n_cells, n_coefficients = design.shape
    if n_cells <= n_coefficients:
        return f"needs more cells: {n_cells} for {n_coefficients} coefficients"
    size = np.linalg.norm(design, axis=0)
    full = bool((size > ROUNDING).all()) and np.linalg.matrix_rank(design / size) == n_coefficients
    return OK if full else COLLINEAR


def _fit(gain: Floats, design: Floats) -> _Fit:
    """OLS with a covariance clustered by model and language (Cameron, Gelbach & Miller 2011)."""
    n_models, n_languages = gain.shape
    language = np.tile(np.arange(n_languages), n_models)
    model = np.repeat(np.arange(n_models), n_languages)
    groups = np.column_stack([model, language]) if n_models > 1 else language
    fitted = sm.OLS(gain.ravel(), design).fit(cov_type="cluster", cov_kwds={"groups": groups})
    return _Fit(
        np.asarray(fitted.params[:3], np.float64),
        np.asarray(np.diag(fitted.cov_params())[:3], np.float64),
        bool(np.abs(fitted.resid).max() < ROUNDING),
    )


def _published_rows(table: GainTable) -> list[Estimate]:
    """Pooled regression of gain on family and held-out baseline, as published."""
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
