"""D and I with other things than languages drawn at random: models, both at once, or items.

The same estimate has another error under each, for each generalises to something else: to other
models, to other languages and models, or to other questions for the languages and models at hand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pingouin
from scipy import stats
from statsmodels.regression.linear_model import OLS

from analysis.arrays import Bits, Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.rows import with_difference
from analysis.estimators.two_groups import (
    Difference,
    t_difference,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.bootstrap import bootstrap_interval
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import LOGIT, POINTS, GainTable
from analysis.gains.items import ItemGains
from analysis.gains.weighted import Contrast, contrast_of, drawn_contrasts

NEEDS_MODELS = "needs 2 models"
NEEDS_GROUPS = "needs 2 weak and 2 strong models"
FEW_PASSAGES = "too few passages: some draws have none of a baseline group"
CHANGING = "models change baseline group between folds"
NEEDS_PASSAGES = "needs 2 passages"
# Gains are multiples of 1 / n, so a standard error below this is rounding.
_ROUNDING = 1e-12
_ROUNDING_OF_MEANS = 2e-7  # as in two_groups: accuracies may have single precision
_MODELS = "generalises to other models in these same languages"
_CROSSED = "generalises to other languages and other models at once"
_ITEMS = "generalises to other passages and questions for these same languages and models"


def unit_rows(
    table: GainTable, groups: BaselineGroups, rng: np.random.Generator, draws: int = 2000
) -> list[Estimate]:
    """Estimate D and I with models, languages and models, and items as the sampling unit.

    - `models`, `ttest`: the models' own family differences against 0 (`pingouin.ttest`); D alone,
      for I over models is among the contrasts (analysis.estimators.contrasts).
    - `languages and models`, `crossed_quasi_t`: see crossed_difference.
    - `items`, `cluster_t`: the items' contributions to the estimate, errors clustered by passage
      (statsmodels' OLS on a constant, df = passages - 1; Miller 2024). On points alone, for a
      logit is no mean over items. Where a model changes groups between folds, an item counts for
      the group that the model has in the item's fold; with models as a unit I has a status then,
      for no model belongs to a group.
    - `items`, `passage_bootstrap`: percentile interval, no p.

    Args:
        table: Gains by model and language.
        groups: Weak and strong models, for I.
        rng: Where the bootstrap's draws come from.
        draws: How many there are, at least 2.

    Returns:
        Twelve rows. A row without an interval has a status: that of the table, the groups or
        the items, or what is lacking.
    """
    contrasts = (contrast_of(table, None), contrast_of(table, groups))
    rows: list[Estimate] = []
    for unit, estimator, note, test in (
        ("models", "ttest", _MODELS, models_difference),
        ("languages and models", "crossed_quasi_t", _CROSSED, crossed_difference),
    ):
        for scale in (POINTS, LOGIT):
            for contrast in contrasts if unit != "models" else contrasts[:1]:
                row = _row(table, contrast, scale, estimator, unit, note)
                if row.status == OK:
                    row = _filled(row, table, contrast, test(contrast.gain(table, scale), contrast))
                rows.append(row)
    for contrast in contrasts:
        row = _row(table, contrast, POINTS, "cluster_t", "items", _ITEMS)
        if row.status == OK and table.items is not None:
            row = _filled(row, table, contrast, clustered_difference(table.items, contrast))
        rows.append(row)
    return rows + _bootstrap_rows(table, contrasts, rng, draws)


def models_difference(gain: Floats, contrast: Contrast) -> Difference | None:
    """Test D with models as the sampling unit; None if the models do not vary.

    Args:
        gain: Shape (M, L), finite, M >= 2.
        contrast: D.

    Returns:
        The difference with pingouin's p and a 95 % interval.
    """
    by_model = gain @ contrast.languages
    if np.ptp(by_model) < _ROUNDING_OF_MEANS:
        return None
    tested = pingouin.ttest(by_model, 0).iloc[0]
    se = float(stats.sem(by_model))
    found = t_difference(float(by_model.mean()), se, float(tested["dof"]))
    return replace(found, p=float(tested["p_val"]))


def crossed_difference(gain: Floats, contrast: Contrast) -> Difference | None:
    """Test D or I with languages and models both drawn at random (quasi-F, Clark 1973).

    Var = V_L + V_M - V_ML, not below the larger of V_L and V_M. V_L comes from the languages'
    contrasts within families, V_M from the models' contrasts within baseline groups. Each holds
    V_ML, the part of model × language, which is therefore taken off once. df is Satterthwaite's of
    the sum, but not below the smaller of V_L's and V_M's; where the larger one stands for the sum,
    it is that one's own.

    Args:
        gain: Shape (M, L), finite.
        contrast: D or I, with two models or more in each group and two languages in each family.

    Returns:
        The contrast with its 95 % t interval; None if neither languages nor models vary.
    """
    by_language, by_model = contrast.models @ gain, gain @ contrast.languages
    df_l = len(by_language) - len(contrast.families)
    df_m = len(by_model) - len(contrast.groups)
    k_l = float((1 / contrast.families.sum(axis=1)).sum())
    k_m = float((1 / contrast.groups.sum(axis=1)).sum())
    rest = _centred(_centred(gain, contrast.groups).T, contrast.families)
    v_l = k_l * float((_centred(by_language, contrast.families) ** 2).sum()) / df_l
    v_m = k_m * float((_centred(by_model, contrast.groups) ** 2).sum()) / df_m
    v_ml = k_l * k_m * float((rest**2).sum()) / (df_l * df_m)
    total = v_l + v_m - v_ml
    variance, df = max((v_l, float(df_l)), (v_m, float(df_m)))
    if max(total, variance) < _ROUNDING_OF_MEANS**2:
        return None
    if total > variance:
        spread = v_l**2 / df_l + v_m**2 / df_m + v_ml**2 / (df_l * df_m)
        variance, df = total, max(total**2 / spread, min(df_l, df_m))
    return t_difference(float(contrast.of(gain)), variance**0.5, df)


def clustered_difference(items: ItemGains, contrast: Contrast) -> Difference | None:
    """Test D or I in points with items as the sampling unit, clustered by passage.

    Args:
        items: Answers before and after, on two passages or more.
        contrast: D or I.

    Returns:
        The mean of the items' contributions with its 95 % t interval, df = passages - 1; None if
        no passage differs from the others.
    """
    gain = items.after.mean(axis=0, dtype=np.float64) - items.before
    by_model = np.tensordot(contrast.languages, gain, (0, 1))
    weights = contrast.models
    if contrast.parts is not None:
        by_model = by_model[contrast.parts.model] * contrast.parts.of_items(items)
        weights = weights / contrast.parts.share
    share = np.tensordot(weights, by_model, 1)
    off = np.bincount(items.passage, share - share.mean())
    if float(np.abs(off).max()) < _ROUNDING * len(share):
        return None
    fit = OLS(share, np.ones(len(share))).fit(
        cov_type="cluster", cov_kwds={"groups": items.passage}, use_t=True
    )
    found = t_difference(float(fit.params[0]), float(fit.bse[0]), items.n_passages - 1)
    return replace(found, p=float(fit.pvalues[0]))


def _bootstrap_rows(
    table: GainTable, contrasts: tuple[Contrast, ...], rng: np.random.Generator, draws: int
) -> list[Estimate]:
    """Bootstrap D and I on both scales, all from the same draws of passages."""
    note = f"{_ITEMS}; percentile interval of {draws:,} draws"
    keys = [(scale, contrast) for scale in (POINTS, LOGIT) for contrast in contrasts]
    rows = [_row(table, of, scale, "passage_bootstrap", "items", note) for scale, of in keys]
    if table.items is None or all(row.status != OK for row in rows):
        return rows
    drawn = drawn_contrasts(table.items, keys, rng, draws, table.chance)
    for k, (scale, contrast) in enumerate(keys):
        if rows[k].status != OK:
            continue
        if not np.isfinite(drawn[k]).all():
            rows[k] = replace(rows[k], status=FEW_PASSAGES)
            continue
        rows[k] = replace(rows[k], estimate=float(contrast.of(contrast.gain(table, scale))))
        se, limits = float(drawn[k].std(ddof=1)), bootstrap_interval(drawn[k])
        if se < _ROUNDING:
            rows[k] = replace(rows[k], status=ZERO_VARIANCE)
        else:
            rows[k] = replace(rows[k], se=se, ci_low=float(limits.low), ci_high=float(limits.high))
    return rows


def _row(
    table: GainTable, contrast: Contrast, scale: str, estimator: str, unit: str, note: str
) -> Estimate:
    """Return the row before its test, with the status of what it would be computed from."""
    status = table.status if table.status != OK else contrast.status
    if status == OK and unit == "items":
        if table.items is None:
            status = table.item_status
        elif table.items.n_passages < 2:
            status = NEEDS_PASSAGES
    elif status == OK and contrast.changing:
        status = f"{CHANGING}: {', '.join(contrast.changing)}"
    elif status == OK and contrast.groups.sum(axis=1).min() < 2:
        status = NEEDS_MODELS if contrast.name == "D" else NEEDS_GROUPS
    elif status == OK and unit != "models" and contrast.families.sum(axis=1).min() < 2:
        status = "needs 2 related languages"
    if status == OK and scale == LOGIT:
        status = table.logit_status(contrast.baseline)
    return Estimate(
        estimand=f"{contrast.name}{table.label}", scale=scale, estimator=estimator, status=status,
        note=_with_folds(table, note) if status == OK else "", baseline_source=contrast.source,
        **{**table.shared, "unit": unit},
    )  # fmt: skip


def _filled(
    row: Estimate, table: GainTable, contrast: Contrast, found: Difference | None
) -> Estimate:
    """Return the row with its numbers, or with the estimate alone where nothing varies."""
    if found is None:
        estimate = float(contrast.of(contrast.gain(table, row.scale)))
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    return with_difference(row, found)


def _with_folds(table: GainTable, note: str) -> str:
    return note if table.folds is None else f"{note}; {ADAPTERS_NOTE}"


def _centred(values: Floats, groups: Bits) -> Floats:
    """Take the mean of their group out of values, (n,) or (n, k), along the first axis."""
    belongs = groups.astype(np.float64)
    share = belongs / belongs.sum(axis=1, keepdims=True)
    return np.asarray(values - belongs.T @ (share @ values), np.float64)
