"""B: do weak models gain more than strong ones, and by more than their room to improve?

A strong model has less room. Equal accuracy after training makes B as large as the distance of the
baselines, and the same share of errors removed everywhere makes it half of that, so B stands
beside what headroom alone gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pingouin
from scipy import stats

from analysis.arrays import Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.contrasts import LANGUAGES, MODELS, WELCH, by_group
from analysis.estimators.rows import one_sample, with_difference, with_t_interval
from analysis.estimators.sampling_units import clustered_difference, crossed_difference
from analysis.estimators.two_groups import (
    Difference,
    has_no_variance,
    t_difference,
    welch_difference,
)
from analysis.gains.baselines import ACCURACIES, BaselineGroups
from analysis.gains.gain_table import LOGIT, POINTS, GainTable
from analysis.gains.grouped import group_gains
from analysis.gains.weighted import contrast_of

BASELINE_GAP = "baseline strong - weak"
FROM_HEADROOM, BEYOND_HEADROOM = "B from headroom alone", "B beyond headroom"
GAP_CLOSED = "share of the gap closed"
LEAST_ERRORS = 10
ITEMS = "items"
_GROUPS = ("weak", "strong")
_BOTH = "weak - strong"
NO_GAP = "baselines of weak and strong models not told apart"
_ONE = "one model in a group: in these models"
_NEEDS = "needs 2 weak and 2 strong models"
_TINY = 1e-9
_LEVEL = 0.05


@dataclass(frozen=True)
class GroupErrors:
    """Errors of each model of both groups, shares of items summed over languages.

    `before` and `after` hold the errors of the weak and of the strong models, each of shape
    (models of the group,); `languages` is how many languages they are summed over.
    """

    before: tuple[Floats, Floats]
    after: tuple[Floats, Floats]
    languages: int

    @property
    def gain(self) -> tuple[Floats, Floats]:
        """Errors removed, by model: gains summed over languages."""
        weak, strong = (b - a for b, a in zip(self.before, self.after, strict=True))
        return weak, strong


@dataclass(frozen=True)
class ItemVariances:
    """Variance of B - B0 from passages, and the part of it by which models differ in passages.

    The second one is in the models' variance, too. `df` is the number of passages - 1.
    """

    items: float
    models_by_items: float
    df: float


def strength_rows(table: GainTable, groups: BaselineGroups) -> list[Estimate]:
    """Return B, what headroom alone would give, and what the groups' errors and baselines are.

    Args:
        table: Gains by unit.
        groups: Weak and strong models.

    Returns:
        `B` on points and logits by `welch` (unit models), by `one_sample_ttest` (languages, where
        a group has one model) and by `crossed_quasi_t` (both at once); on points `B from headroom
        alone` and `B beyond headroom` (see beyond_headroom), `share of errors removed` of each
        group (ratio of sums, a status below 10 base errors), `log error ratio` of each group and
        of both, `share of the gap closed` (B / difference of the baselines, Fieller's interval)
        and `baseline strong - weak` on held-out answers (over items by `cluster_t`; without
        item records by `welch` over models, or by `cochran_q` where these answers made the groups).
        A row without a number has a status.
    """
    rows = [
        row
        for scale in (POINTS, LOGIT)
        for row in (
            models_strength(table, groups, scale),
            *_language_rows(table, groups, scale),
            _crossed_row(table, groups, scale),
        )
    ]
    return [*rows, *_headroom_rows(table, groups), _baseline_row(table, groups)]


def models_strength(
    table: GainTable, groups: BaselineGroups, scale: str, unit: str = MODELS
) -> Estimate:
    """Test the mean gain of weak minus that of strong models over models (Welch).

    Args:
        table: Gains by unit.
        groups: Weak and strong models.
        scale: `points` or `logit`.
        unit: What the table's models are.
    """
    row = _row(table, groups, "B", WELCH, scale, unit)
    if row.status != OK:
        return row
    weak, strong = by_group(table.gain[scale].mean(axis=1), table, groups)
    row = _welch(row, weak, strong)
    if row.se is None or scale != POINTS:
        return row
    tested = pingouin.ttest(weak, strong, correction=True).iloc[0]
    return replace(row, df=float(tested["dof"]), p=float(tested["p_val"]))


def beyond_headroom(
    errors: GroupErrors, items: ItemVariances | None = None
) -> tuple[float, Difference | None]:
    """Return B from headroom alone, and B beyond it.

    h = sum of gains / sum of base errors over all models is the share of errors removed; the same
    share everywhere gives B0 = h (err_weak - err_strong), mean errors of a language. B - B0 is the
    weak minus the strong models' mean of z = gain - h * error, the linear form sum w z with
    w = +-1 / n_group - (err_weak - err_strong) / sum of errors, h being estimated (delta method).
    Models and items are both random: Var = V_M + V_I - V_MI, not below the larger of V_M and V_I
    (as in sampling_units.crossed_difference; Clark 1973). V_M has the models' variances apart in
    both groups, as Welch's test.

    Args:
        errors: Of at least two models in each group, with base errors.
        items: What the choice of items does; None where there are accuracies alone.

    Returns:
        B0 in proportion, and B - B0 with its 95 % t interval, df by Satterthwaite and not below
        the models' own; None where nothing varies.
    """
    h, distance, weights = _headroom(errors)
    n, v_m, parts = errors.languages, 0.0, []
    z = [gain - h * error for gain, error in zip(errors.gain, errors.before, strict=True)]
    for weight, group in zip(weights, z, strict=True):
        part = float(group.var(ddof=1)) * weight**2 * len(group) / n**2
        v_m += part
        parts.append(part**2 / (len(group) - 1))
    estimate = float(z[0].mean() - z[1].mean()) / n
    terms = [(v_m, v_m**2 / sum(parts) if v_m > _TINY**2 else 1.0)]
    total, spread = v_m, 0.0
    if items is not None:
        terms.append((items.items, items.df))
        total += items.items - items.models_by_items
        df = items.df * (sum(map(len, z)) - 2)
        spread = items.items**2 / items.df + items.models_by_items**2 / df
    variance, df = max(terms)
    if max(total, variance) < _TINY**2:
        return h * distance / n, None
    if total > variance:
        variance, df = total, max(total**2 / (sum(parts) + spread), min(of for _, of in terms))
    return h * distance / n, t_difference(estimate, float(np.sqrt(variance)), df)


def _headroom(errors: GroupErrors) -> tuple[float, float, tuple[float, float]]:
    """Return the share of errors removed, err_weak - err_strong, and the groups' weights."""
    total = float(sum(group.sum() for group in errors.before))
    h = float(sum(group.sum() for group in errors.gain)) / total
    distance = float(errors.before[0].mean() - errors.before[1].mean())
    weak, strong = (
        sign / len(group) - distance / total
        for sign, group in zip((1.0, -1.0), errors.before, strict=True)
    )
    return h, distance, (weak, strong)


def _row(
    table: GainTable, groups: BaselineGroups, name: str, estimator: str, scale: str, unit: str
) -> Estimate:
    """Return a row before its test, with the status of what it would be computed from."""
    status = table.status if table.status != OK else groups.status
    if status == OK and groups.changing and unit not in (LANGUAGES, ITEMS):
        status = f"models change baseline group between folds: {', '.join(groups.changing)}"
    if status == OK and scale == LOGIT:
        status = table.logit_status(groups)
    return Estimate(
        f"{name}{table.label}", scale, estimator, status=status, note=groups.note,
        baseline_source=groups.source, **{**table.shared, "unit": unit},
    )  # fmt: skip


def _welch(row: Estimate, weak: Floats, strong: Floats) -> Estimate:
    """Fill a row with Welch's test of two groups of models."""
    if min(len(weak), len(strong)) < 2:
        return replace(row, status=_NEEDS)
    if has_no_variance(weak, strong):
        return replace(row, estimate=float(weak.mean() - strong.mean()), status=ZERO_VARIANCE)
    return with_difference(row, welch_difference(weak, strong))


def _language_rows(table: GainTable, groups: BaselineGroups, scale: str) -> list[Estimate]:
    """Test B over languages where models are no unit; no row where they are."""
    row = _row(table, groups, "B", "one_sample_ttest", scale, LANGUAGES)
    one = groups.changing or min(groups.sizes(table.models)) < 2
    if row.status != OK or not one:
        return []
    weak, strong = group_gains(table, groups, scale)
    note = "; ".join(filter(None, [_ONE if not groups.changing else "", row.note]))
    return [one_sample(replace(row, note=note), weak - strong)]


def _crossed_row(table: GainTable, groups: BaselineGroups, scale: str) -> Estimate:
    """Test B with models and languages both drawn at random."""
    row = _row(table, groups, "B", "crossed_quasi_t", scale, "languages and models")
    if row.status != OK:
        return row
    contrast = contrast_of(table, groups, "B")
    if contrast.groups.sum(axis=1).min() < 2:
        return replace(row, status=_NEEDS)
    found = crossed_difference(table.gain[scale], contrast)
    if found is None:
        estimate = float(contrast.of(table.gain[scale]))
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    return with_difference(row, found)


def group_errors(table: GainTable, groups: BaselineGroups) -> GroupErrors:
    """Sum the errors of each model over languages, before and after."""
    before, after = (
        by_group((1 - accuracy).sum(axis=1), table, groups)
        for accuracy in (table.before, table.after)
    )
    return GroupErrors(before, after, len(table.languages))


def _headroom_rows(table: GainTable, groups: BaselineGroups) -> list[Estimate]:
    """Return the rows on errors: B0, B - B0, shares removed, log ratios, gap closed."""

    def empty(name: str, estimator: str, scale: str) -> Estimate:
        return _row(table, groups, name, estimator, scale, MODELS)

    rows = [
        empty(FROM_HEADROOM, "ratio_of_sums", POINTS),
        empty(BEYOND_HEADROOM, "delta_method", POINTS),
        *(empty(f"share of errors removed ({g})", "ratio_of_sums", "ratio") for g in _GROUPS),
        *(empty(f"log error ratio ({g})", "delta_method", "log") for g in (*_GROUPS, _BOTH)),
        empty(GAP_CLOSED, "fieller", "ratio"),
    ]
    if rows[0].status != OK:
        return rows
    errors = group_errors(table, groups)
    counts = _error_counts(table, groups)
    few = [
        f"fewer than {LEAST_ERRORS} base errors in {name} models"
        for name, count in zip(_GROUPS, counts, strict=True)
        if count < LEAST_ERRORS
    ]
    if few or min(map(len, errors.before)) < 1:
        return [replace(row, status=few[0] if few else _NEEDS) for row in rows]
    filled = [*_b0_rows(rows[0], rows[1], table, groups, errors)]
    for row, before, gain in zip(rows[2:4], errors.before, errors.gain, strict=True):
        filled.append(replace(row, estimate=float(gain.sum() / before.sum())))
    filled += _log_rows(rows[4:7], errors)
    return [*filled, _gap_row(rows[7], errors)]


def _error_counts(table: GainTable, groups: BaselineGroups) -> tuple[float, float]:
    """Count the base errors of both groups; infinite where numbers of items are not known."""
    if table.n_items is None or not np.isfinite(table.n_items).all():
        return np.inf, np.inf
    by_model = ((1 - table.before) * table.n_items).sum(axis=1)
    weak, strong = by_group(by_model, table, groups)
    return float(weak.sum()), float(strong.sum())


def _b0_rows(
    alone: Estimate, beyond: Estimate, table: GainTable, groups: BaselineGroups, errors: GroupErrors
) -> list[Estimate]:
    """Fill B0 and B - B0."""
    if min(map(len, errors.before)) < 2:
        return [replace(row, status=_NEEDS) for row in (alone, beyond)]
    b0, found = beyond_headroom(errors, _item_variances(table, groups, errors))
    alone = replace(alone, estimate=b0)
    if found is None:
        return [alone, replace(beyond, status=ZERO_VARIANCE)]
    said = "models and items drawn anew" if table.items is not None else "models drawn anew"
    note = "; ".join(filter(None, [said, beyond.note]))
    return [alone, with_difference(replace(beyond, note=note), found)]


def _item_variances(
    table: GainTable, groups: BaselineGroups, errors: GroupErrors
) -> ItemVariances | None:
    """Return the variances of B - B0 from the choice of passages; None without two passages."""
    items = table.items
    if items is None or items.n_passages < 2:
        return None
    h, _, weights = _headroom(errors)
    z = (np.asarray(items.gain, np.float64) - h * (1 - np.asarray(items.before, np.float64))).mean(
        axis=1
    )
    off = np.stack([np.bincount(items.passage, row - row.mean()) for row in z]) / z.shape[1]
    form, apart = np.zeros(off.shape[1]), 0.0
    for weight, group in zip(weights, by_group(off, table, groups), strict=True):
        form += weight * group.sum(axis=0)
        rest = float(((group - group.mean(axis=0)) ** 2).sum())
        apart += weight**2 * rest * len(group) / (len(group) - 1)
    factor = len(form) / (len(form) - 1)
    return ItemVariances(factor * float((form**2).sum()), factor * apart, float(len(form) - 1))


def _log_rows(rows: list[Estimate], errors: GroupErrors) -> list[Estimate]:
    """Fill log(errors after / errors before) of each group and of both (delta method)."""
    found: list[tuple[float, float, float]] = []
    filled: list[Estimate] = []
    for row, before, after in zip(rows[:2], errors.before, errors.after, strict=True):
        if after.sum() <= _TINY:
            filled.append(replace(row, status="no errors left"))
            continue
        ratio, n = float(after.sum() / before.sum()), len(before)
        row = replace(row, estimate=float(np.log(ratio)))
        if n < 2:
            filled.append(replace(row, status=_NEEDS))
            continue
        rest = (after - ratio * before) / after.sum()
        variance = float((rest**2).sum()) * n / (n - 1)
        found.append((float(np.log(ratio)), variance, n - 1))
        filled.append(_log_row(row, variance, n - 1))
    if len(found) < 2:
        lacking = next(row.status for row in filled if row.status != OK)
        return [*filled, replace(rows[2], status=lacking)]
    (weak, v_weak, df_weak), (strong, v_strong, df_strong) = found
    variance = v_weak + v_strong
    spread = v_weak**2 / df_weak + v_strong**2 / df_strong
    df = variance**2 / spread if spread > 0 else df_weak + df_strong
    return [*filled, _log_row(replace(rows[2], estimate=weak - strong), variance, df)]


def _log_row(row: Estimate, variance: float, df: float) -> Estimate:
    if variance < _TINY**2:
        return replace(row, status=ZERO_VARIANCE)
    return with_t_interval(row, row.estimate or 0.0, float(np.sqrt(variance)), df)


def _gap_row(row: Estimate, errors: GroupErrors) -> Estimate:
    """Fill B / (baseline of strong - baseline of weak) with Fieller's interval (Fieller 1954)."""
    if min(map(len, errors.before)) < 2:
        return replace(row, status=_NEEDS)
    n = errors.languages
    mean, covariance, spread, df = np.zeros(2), np.zeros((2, 2)), 0.0, 0.0
    for sign, gain, before in zip((1.0, -1.0), errors.gain, errors.before, strict=True):
        pairs = np.stack([gain, before]) / n
        mean = mean + sign * pairs.mean(axis=1)
        part = np.cov(pairs) / pairs.shape[1]
        covariance = covariance + part
        df += float(np.trace(part)) ** 2 / (pairs.shape[1] - 1)
    spread = float(np.trace(covariance)) ** 2
    df = spread / df if df > 0 else 1.0
    critical = float(stats.t.ppf(0.975, df)) ** 2
    a = mean[1] ** 2 - critical * covariance[1, 1]
    if mean[1] <= 0 or a <= _TINY**2:
        return replace(row, status=NO_GAP)
    b = mean[0] * mean[1] - critical * covariance[0, 1]
    c = mean[0] ** 2 - critical * covariance[0, 0]
    root = float(np.sqrt(max(b**2 - a * c, 0.0)))
    if root < _TINY:
        return replace(row, estimate=float(mean[0] / mean[1]), status=ZERO_VARIANCE)
    return replace(
        row, estimate=float(mean[0] / mean[1]), df=df,
        ci_low=float((b - root) / a), ci_high=float((b + root) / a),
    )  # fmt: skip


def _baseline_row(table: GainTable, groups: BaselineGroups) -> Estimate:
    """Compare the groups' baselines on held-out answers, by which they were not told apart.

    Only chance in these answers can make models of one baseline differ, so it is what the groups
    are tested against: over models, those with baselines of 0.35, 0.50 | 0.60, 0.75 would be alike
    in all simulated studies, over items in none, and models of one baseline in 0.95.
    """
    has_items = table.items is not None and table.items.n_passages > 1
    row = _row(table, groups, BASELINE_GAP, WELCH, POINTS, ITEMS if has_items else MODELS)
    row = replace(row, baseline_source="held-out")
    if row.status != OK:
        return row
    if has_items:
        return _item_gap(row, table, groups)
    weak, strong = by_group(table.before.mean(axis=1), table, groups)
    if groups.source == ACCURACIES:
        row = replace(row, estimate=float(strong.mean() - weak.mean()))
        return _spread_row(row, table)
    if min(len(weak), len(strong)) >= 2:
        return _welch(row, strong, weak)
    weak, strong = (part.mean(axis=0) for part in _models_of(table, groups))
    row = replace(row, estimator="one_sample_ttest", unit=LANGUAGES)
    return one_sample(row, strong - weak)


def _item_gap(row: Estimate, table: GainTable, groups: BaselineGroups) -> Estimate:
    """Test the difference of the groups' baselines over items, clustered by passage.

    Items are the same in all languages: over languages two models of one baseline were told apart
    in 0.2 to 0.3 of simulated studies.
    """
    row = replace(row, estimator="cluster_t")
    items, contrast = table.items, contrast_of(table, groups, "B")
    if items is None:
        return replace(row, status=table.item_status)
    # The gain over a base that is 0 after is the base with its sign changed.
    found = clustered_difference(replace(items, after=np.zeros_like(items.after)), contrast)
    if found is None:
        gap = None if contrast.parts is not None else float(contrast.of(-table.before))
        return replace(row, estimate=gap, status=ZERO_VARIANCE)
    return with_difference(row, found)


def _spread_row(row: Estimate, table: GainTable) -> Estimate:
    """Test whether the models' baselines differ by more than chance (Cochran 1954).

    Where the groups were made by these same accuracies their difference is above 0 by choice, so
    it has no interval; what can be tested is whether all baselines are one.
    """
    note = "the groups were made by these accuracies: p is of all baselines being one (Cochran's Q)"
    row = replace(row, estimator="cochran_q", unit=ITEMS, baseline_source=ACCURACIES, note=note)
    n = np.asarray(table.n_items, np.float64)
    # One right and one wrong answer more, so that an accuracy of 0 or 1 has some variance.
    p = (table.before * n + 1) / (n + 2)
    weight = table.before.shape[1] ** 2 / (p * (1 - p) / n).sum(axis=1)
    means = table.before.mean(axis=1)
    q = float(weight @ (means - weight @ means / weight.sum()) ** 2)
    df = len(means) - 1
    return replace(row, df=float(df), p=float(stats.chi2.sf(q, df)))


def are_alike(row: Estimate) -> bool:
    """Return whether weak and strong models are not told apart by their held-out baselines.

    Args:
        row: The one called BASELINE_GAP.
    """
    if row.status == ZERO_VARIANCE:
        return row.estimate is not None and abs(row.estimate) < _TINY
    if row.ci_low is not None and row.ci_high is not None:
        return row.ci_low <= 0 <= row.ci_high
    return row.p is not None and row.p >= _LEVEL


def _models_of(table: GainTable, groups: BaselineGroups) -> tuple[Floats, Floats]:
    """Return base accuracies of the weak and of the strong models, (models, languages)."""
    named = np.array([groups.group.get(model, "") for model in table.models], np.str_)
    return table.before[named == "weak"], table.before[named == "strong"]
