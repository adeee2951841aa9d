"""B and what stands beside it, against known truth."""

from __future__ import annotations

import os

import numpy as np
import pingouin
import pytest
from made_tables import answers, items_of, table_of_items
from scipy import stats

from analysis.estimates import FAMILYWISE, OK, Estimate
from analysis.estimators.baseline_strength import (
    BASELINE_GAP,
    BEYOND_HEADROOM,
    FROM_HEADROOM,
    GAP_CLOSED,
    strength_rows,
)
from analysis.estimators.contrasts import by_group
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import GainTable

# `make soak` simulates ten times as many studies.
STUDIES = 300 if int(os.environ.get("XLING_SOAK", "1")) == 1 else 3000
RELATED = np.arange(6) < 3
WEAK, STRONG = 4, 3


def groups_of(table: GainTable, weak: int = WEAK) -> BaselineGroups:
    group = {m: "weak" if k < weak else "strong" for k, m in enumerate(table.models)}
    return BaselineGroups({}, group, "training split", OK, "split at the median")


def simulated(
    rng: np.random.Generator, before: np.ndarray, after: np.ndarray, *, sd: float = 0.02,
    items: int = 100,
) -> GainTable:  # fmt: skip
    """A table of models x 6 languages with chance in models, cells and items."""
    shape = (len(before), 6)
    base = before[:, None] + rng.normal(0, sd, shape)
    tuned = after[:, None] + rng.normal(0, sd, (shape[0], 1)) + rng.normal(0, sd, shape)
    base, tuned = (np.clip(p, 0.02, 0.98) for p in (base, tuned))
    drawn = items_of(answers(rng, base, items), answers(rng, tuned, items)[None])
    return table_of_items(drawn, RELATED)


def by_name(rows: list[Estimate]) -> dict[tuple[str, str], Estimate]:
    return {(row.estimand, row.estimator): row for row in rows if row.scale != "logit"}


LEVELS = np.array([0.36, 0.39, 0.41, 0.44, 0.68, 0.70, 0.72])
GAINS = np.array([0.30] * WEAK + [0.05] * STRONG)


def test_b_is_welchs_test_of_the_models() -> None:
    table = simulated(np.random.default_rng(0), LEVELS, LEVELS + GAINS)
    rows = by_name(strength_rows(table, groups_of(table)))
    row = rows["B", "welch"]
    weak, strong = by_group(table.gain["points"].mean(axis=1), table, groups_of(table))
    tested = pingouin.ttest(weak, strong, correction=True).iloc[0]
    assert (row.p, row.df) == (float(tested["p_val"]), float(tested["dof"]))
    limits = stats.ttest_ind(weak, strong, equal_var=False).confidence_interval(0.95)
    assert (row.ci_low, row.ci_high) == pytest.approx((limits.low, limits.high))
    assert rows["B", "crossed_quasi_t"].estimate == pytest.approx(row.estimate)
    # Ratios are of sums over all cells of a group.
    errors, removed = 1 - table.before[:WEAK], table.gain["points"][:WEAK]
    share = rows["share of errors removed (weak)", "ratio_of_sums"]
    assert share.estimate == pytest.approx(removed.sum() / errors.sum())
    log = rows["log error ratio (weak)", "delta_method"]
    assert log.estimate == pytest.approx(np.log(1 - share.estimate))
    both = rows["log error ratio (weak - strong)", "delta_method"]
    strong_log = rows["log error ratio (strong)", "delta_method"]
    assert both.estimate == pytest.approx(log.estimate - strong_log.estimate)
    gap = table.before[WEAK:].mean() - table.before[:WEAK].mean()
    closed = rows[GAP_CLOSED, "fieller"]
    assert closed.estimate == pytest.approx(row.estimate / gap)
    assert closed.ci_low < closed.estimate < closed.ci_high
    alone, beyond = rows[FROM_HEADROOM, "ratio_of_sums"], rows[BEYOND_HEADROOM, "delta_method"]
    assert alone.estimate + beyond.estimate == pytest.approx(row.estimate)
    h = table.gain["points"].sum() / (1 - table.before).sum()
    assert alone.estimate == pytest.approx(h * gap)


def test_planted_gains_of_weak_and_strong_models_are_found() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(40):
        table = simulated(rng, LEVELS, LEVELS + GAINS)
        found.append(by_name(strength_rows(table, groups_of(table)))["B", "welch"].estimate)
    assert 100 * np.mean(found) == pytest.approx(25, abs=1.5)


def test_equal_removal_of_errors_is_nothing_beyond_headroom() -> None:
    rng = np.random.default_rng(2)
    estimates, rejected, familywise = [], 0, 0
    for _ in range(STUDIES):
        base = rng.uniform(0.30, 0.45, 4), rng.uniform(0.6, 0.8, 3)
        before = np.concatenate(base)
        table = simulated(rng, before, before + 0.4 * (1 - before))
        row = by_name(strength_rows(table, groups_of(table)))[BEYOND_HEADROOM, "delta_method"]
        estimates.append(row.estimate)
        rejected += not row.ci_low <= 0 <= row.ci_high
        low, high = row.interval_at(FAMILYWISE)
        familywise += not low <= 0 <= high
    assert 100 * abs(np.mean(estimates)) < 1
    assert rejected / STUDIES <= 0.07
    assert familywise / STUDIES <= 0.035


def test_models_of_one_true_baseline_are_alike() -> None:
    """Grouped by answers of their own, compared on held-out ones."""
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(STUDIES):
        before = np.full(6, 0.5)
        training = before + rng.normal(0, 0.02, 6)
        table = simulated(rng, before, before + 0.1, sd=0.01, items=60)
        strong = np.argsort(training)[3:]
        group = {m: "strong" if k in strong else "weak" for k, m in enumerate(table.models)}
        groups = BaselineGroups({}, group, "training split", OK, "")
        row = by_name(strength_rows(table, groups))[BASELINE_GAP, "welch"]
        missed += not row.ci_low <= 0 <= row.ci_high
    assert missed / STUDIES <= 0.07


def test_one_model_in_a_group_speaks_of_these_models() -> None:
    levels = np.array([0.4, 0.42, 0.7])
    table = simulated(np.random.default_rng(4), levels, levels + np.array([0.3, 0.3, 0.05]))
    rows = by_name(strength_rows(table, groups_of(table, 2)))
    assert rows["B", "welch"].status == "needs 2 weak and 2 strong models"
    row = rows["B", "one_sample_ttest"]
    gain = table.gain["points"]
    tested = stats.ttest_1samp(gain[:2].mean(axis=0) - gain[2], 0)
    assert row.unit == "languages" and row.p == pytest.approx(tested.pvalue)
    assert "in these models" in row.note
    assert rows[BEYOND_HEADROOM, "delta_method"].estimate is None
    assert rows[BASELINE_GAP, "one_sample_ttest"].ci_low > 0


def test_few_errors_no_gap_and_no_groups_have_a_status() -> None:
    rng = np.random.default_rng(5)
    high = np.array([0.995] * 4 + [0.999] * 3)
    table = simulated(rng, high, high, sd=0, items=20)
    row = by_name(strength_rows(table, groups_of(table)))[FROM_HEADROOM, "ratio_of_sums"]
    assert row.status.startswith("fewer than 10 base errors in")
    same = np.full(7, 0.5)
    table = simulated(rng, same, same + 0.1)
    row = by_name(strength_rows(table, groups_of(table)))[GAP_CLOSED, "fieller"]
    assert row.status == "baselines of weak and strong models not told apart"
    none = BaselineGroups({}, {}, "none", "needs training-split baseline", "")
    rows = strength_rows(table, none)
    assert {row.status for row in rows} == {"needs training-split baseline"}
    assert all(row.estimate is None for row in rows)
