"""B and what stands beside it, against known truth."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pingouin
import pytest
from made_tables import answers, items_of, table_of, table_of_items
from scipy import stats
from simulated_records import FAMILY, accuracies_of, study

from analysis.estimates import FAMILYWISE, OK, Estimate
from analysis.estimators import all_estimates, baseline_strength
from analysis.estimators.all_estimates import developer_rows
from analysis.estimators.baseline_strength import (
    BASELINE_GAP,
    BEYOND_HEADROOM,
    FROM_HEADROOM,
    GAP_CLOSED,
    GroupErrors,
    are_alike,
    beyond_headroom,
    strength_rows,
)
from analysis.estimators.contrasts import by_group, contrast_rows, headroom_rows
from analysis.estimators.primary import find_row
from analysis.estimators.source_arms import source_arm_rows
from analysis.estimators.two_groups import welch_difference
from analysis.gains.baselines import (
    BASELINES_ALIKE,
    BaselineGroups,
    accuracy_groups,
    baseline_groups,
)
from analysis.gains.bootstrap import passage_bootstrap
from analysis.gains.comparisons import Comparisons, StudyDesign, compare_runs
from analysis.gains.gain_table import GainTable
from analysis.report.headroom import family_headroom
from xling.records import check_records

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


def headroom_row(table: GainTable) -> Estimate:
    """B beyond headroom alone: pingouin takes long for the other rows."""
    return baseline_strength._headroom_rows(table, groups_of(table))[1]


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
    estimates, rejected, familywise, covered, told_apart = [], 0, 0, 0, 0
    for _ in range(STUDIES):
        base = rng.uniform(0.30, 0.45, 4), rng.uniform(0.6, 0.8, 3)
        before = np.concatenate(base)
        table = simulated(rng, before, before + 0.4 * (1 - before))
        rows = baseline_strength._headroom_rows(table, groups_of(table))
        row, closed = rows[1], rows[-1]
        estimates.append(row.estimate)
        told_apart += closed.ci_low is not None
        covered += closed.ci_low is not None and closed.ci_low <= 0.4 <= closed.ci_high
        rejected += not row.ci_low <= 0 <= row.ci_high
        low, high = row.interval_at(FAMILYWISE)
        familywise += not low <= 0 <= high
    assert 100 * abs(np.mean(estimates)) < 1
    assert 0.005 <= rejected / STUDIES <= 0.07  # wide enough, and not so wide that it says nothing
    assert familywise / STUDIES <= 0.035
    # The same share of errors everywhere is that share of the gap: Fieller's interval holds it.
    assert told_apart > 0.9 * STUDIES
    assert 0.93 <= covered / told_apart <= 0.99


def test_gains_beyond_headroom_are_found() -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(60):
        table = simulated(rng, LEVELS, LEVELS + GAINS)
        row = headroom_row(table)
        found.append(row.ci_low > 0)
        assert row.p is not None and row.df is not None and row.df >= 2
    assert np.mean(found) > 0.9


def test_the_item_variance_is_that_of_passages_drawn_anew() -> None:
    rng = np.random.default_rng(7)
    table = simulated(rng, LEVELS, LEVELS + GAINS, items=120)
    items = items_of(table.items.before, table.items.after, items_per_passage=2)
    table = table_of_items(items, RELATED)
    groups = groups_of(table)
    errors = baseline_strength.group_errors(table, groups)
    found = baseline_strength._item_variances(table, groups, errors)
    answers_of = np.stack([items.before, items.after[0]])
    drawn = []
    for means in passage_bootstrap(answers_of.astype(float), items.passage, 2000, rng):
        again = GroupErrors(
            *(((1 - m[:WEAK]).sum(axis=1), (1 - m[WEAK:]).sum(axis=1)) for m in means), 6
        )
        b = (again.gain[0].mean() - again.gain[1].mean()) / 6
        drawn.append(b - beyond_headroom(again)[0])
    assert found is not None and found.df == 59
    assert found.items == pytest.approx(np.var(drawn), rel=0.15)
    # Answers are independent: all that items do is done to each model apart.
    assert found.models_by_items == pytest.approx(found.items, rel=0.35)


def test_models_vary_as_in_welchs_test_where_errors_are_level() -> None:
    """With as many base errors in all models h moves nothing: B - B0 is B, its error Welch's."""
    before = (np.full(4, 3.0), np.full(3, 3.0))
    rng = np.random.default_rng(8)
    after = tuple(group - rng.uniform(0.2, 1.2, len(group)) for group in before)
    errors = GroupErrors(before, after, 6)
    b0, found = beyond_headroom(errors)
    welch = welch_difference(*(gain / 6 for gain in errors.gain))
    assert b0 == pytest.approx(0) and found is not None
    assert (found.estimate, found.se, found.df, found.p) == pytest.approx(
        (welch.estimate, welch.se, welch.df, welch.p)
    )


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
        row = baseline_strength._baseline_row(table, groups)
        assert (row.estimator, row.unit) == ("cluster_t", "items")
        missed += not row.ci_low <= 0 <= row.ci_high
    assert 0.01 <= missed / STUDIES <= 0.07


def test_few_models_far_apart_are_not_alike() -> None:
    """Over models they would be: with two in a group hardly any difference is told apart."""
    levels = np.array([0.35, 0.5, 0.6, 0.75])
    for seed in range(20):
        table = simulated(np.random.default_rng(seed), levels, levels)
        row = baseline_strength._baseline_row(table, groups_of(table, 2))
        assert not are_alike(row)
        weak, strong = by_group(table.before.mean(axis=1), table, groups_of(table, 2))
        assert row.estimate == pytest.approx(strong.mean() - weak.mean())
    bare = replace(table, items=None)
    over_models = baseline_strength._baseline_row(bare, groups_of(table, 2))
    assert (over_models.estimator, over_models.unit) == ("welch", "models")


def test_accuracies_that_made_the_groups_are_alike_unless_they_vary_by_more_than_chance() -> None:
    rng = np.random.default_rng(9)
    missed = 0
    for _ in range(STUDIES):
        before = rng.binomial(100, 0.5, (6, 6)) / 100
        table = replace(table_of(before, before + 0.1, RELATED), n_items=np.full((6, 6), 100.0))
        groups = accuracy_groups(before, np.full((6, 6), 100.0), table.models)
        row = baseline_strength._baseline_row(table, groups)
        assert (row.estimator, row.ci_low, row.df) == ("cochran_q", None, 5)
        missed += not are_alike(row)
    assert missed / STUDIES <= 0.07
    means = before.mean(axis=1)
    noise = ((before * 100 + 1) / 102 * (1 - (before * 100 + 1) / 102) / 100).sum(axis=1) / 36
    q = sum((means - np.average(means, weights=1 / noise)) ** 2 / noise)
    assert row.p == pytest.approx(stats.chi2.sf(q, 5))
    spread = np.linspace(0.4, 0.7, 6)[:, None] + np.zeros(6)
    table = replace(table, before=spread)
    row = baseline_strength._baseline_row(
        table, accuracy_groups(spread, np.full((6, 6), 100.0), table.models)
    )
    assert not are_alike(row) and row.estimate == pytest.approx(0.18)


def test_baselines_that_are_exactly_equal_are_alike() -> None:
    before = np.full((6, 6), 0.5)
    training = pd.DataFrame(before, [f"m{k}" for k in range(6)], [f"l{k}" for k in range(6)])
    groups = baseline_groups(training, models=list(training.index), languages=list(training))
    table = table_of(before, before + 0.1, RELATED)
    rows = strength_rows(table, groups)
    assert {row.status for row in rows} == {BASELINES_ALIKE}
    # Told apart in training alone: held out they are equal to the last answer.
    row = baseline_strength._baseline_row(table, groups_of(table))
    assert row.status == "zero variance" and are_alike(row)
    apart = np.where(np.arange(6) < WEAK, 0.4, 0.6)[:, None] + np.zeros(6)
    row = baseline_strength._baseline_row(replace(table, before=apart), groups_of(table))
    assert row.status == "zero variance" and not are_alike(row)


def study_of(base: dict[str, float], **more: Any) -> Comparisons:
    frame = check_records(study(np.random.default_rng(10), base=base, n_items=60, **more))
    developers = {"a1": "alpha", "a2": "alpha", "b1": "beta", "b2": "beta"}
    return compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY, developers=developers))


def test_alike_baselines_are_a_status_of_b_and_i_and_numbers_stay() -> None:
    base = {"a1": 0.5, "a2": 0.5, "b1": 0.5, "b2": 0.5, "c": 0.5, "d": 0.5}
    for levels, alike in ((base, True), (base | {"a1": 0.3, "b1": 0.32, "c": 0.34}, False)):
        found = study_of(levels, arms=("finetuned", "control-source"))
        primary = found.primary
        rows = contrast_rows(primary.table, primary.groups, 0.05)
        rows += strength_rows(primary.table, primary.groups)
        rows += source_arm_rows(found.tables, primary.groups)
        rows = all_estimates._alike(rows)
        for name, estimator, unit in (
            ("B", "welch", "models"), ("I", "welch", "models"),
            ("I (finetuned - control-source)", "mixed_anova", "languages"),
        ):  # fmt: skip
            row = find_row(rows, name, estimator, unit)
            assert row is not None and row.estimate is not None
            assert row.status == (BASELINES_ALIKE if alike else OK)
        assert next(r for r in rows if r.estimand == "D").status == OK


def test_developers_are_a_unit_where_one_has_two_models() -> None:
    base = {"a1": 0.4, "a2": 0.44, "b1": 0.6, "b2": 0.64, "c": 0.42, "d": 0.62}
    primary = study_of(base).primary
    rows = developer_rows(primary)
    assert [(r.estimand, r.estimator, r.unit) for r in rows] == [
        ("D", "ttest", "developers"), ("B", "welch", "developers"), ("I", "welch", "developers"),
    ]  # fmt: skip
    gain = primary.table.gain["points"]
    units = np.array([gain[:2].mean(axis=0), gain[2:4].mean(axis=0), gain[4], gain[5]])
    related = primary.table.related
    by_unit = units[:, related].mean(axis=1) - units[:, ~related].mean(axis=1)
    assert rows[0].estimate == pytest.approx(by_unit.mean())
    assert rows[0].p == pytest.approx(stats.ttest_1samp(by_unit, 0).pvalue)
    level = units.mean(axis=1)
    assert rows[1].estimate == pytest.approx(level[[0, 2]].mean() - level[[1, 3]].mean())
    welch = stats.ttest_ind(by_unit[[0, 2]], by_unit[[1, 3]], equal_var=False)
    assert rows[2].p == pytest.approx(welch.pvalue)
    alone = replace(primary, by_developer=primary)
    assert developer_rows(alone) == []


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
    gap = rows[BASELINE_GAP, "cluster_t"]
    assert gap.ci_low > 0 and gap.unit == "items"
    assert gap.estimate == pytest.approx(table.before[2].mean() - table.before[:2].mean())
    bare = replace(table, items=None)
    assert by_name(strength_rows(bare, groups_of(table, 2)))[BASELINE_GAP, "one_sample_ttest"].p
    flat = table_of_items(items_of(np.ones((2, 6, 20)), np.ones((1, 2, 6, 20))), RELATED)
    row = baseline_strength._baseline_row(flat, groups_of(flat, 1))
    assert row.status == "zero variance" and are_alike(row)


def test_two_models_of_one_baseline_are_alike_though_languages_share_items() -> None:
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(STUDIES):
        shared = rng.normal(0, 0.7, (2, 1, 80)) + rng.normal(0, 0.7, (2, 6, 80)) > 0
        right = shared.astype(np.float32)
        table = table_of_items(items_of(right, right[None]), RELATED)
        missed += not are_alike(baseline_strength._baseline_row(table, groups_of(table, 1)))
    assert 0.01 <= missed / STUDIES <= 0.07


def test_models_that_change_groups_between_folds_are_compared_over_items() -> None:
    for levels, alike in (
        (dict.fromkeys("abcd", 0.5), True), ({"a": 0.2, "b": 0.5, "c": 0.5, "d": 0.8}, False),
    ):  # fmt: skip
        frame = study(np.random.default_rng(3), base=levels, n_items=120, n_training=0, folds=3)
        frame = check_records(frame)
        primary = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary
        assert primary.groups.changing
        row = baseline_strength._baseline_row(primary.table, primary.groups)
        assert (row.estimator, row.unit) == ("cluster_t", "items")
        assert row.estimate is not None and are_alike(row) == alike


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


def test_families_that_began_apart_have_their_headroom_told_from_their_gains() -> None:
    """Where every language of a model loses one share of its errors, D and I are headroom alone."""
    rng = np.random.default_rng(5)
    before = rng.uniform(0.3, 0.9, (WEAK + STRONG, 6))
    removed = rng.uniform(0.2, 0.9, (WEAK + STRONG, 1))
    table = table_of(before, before + removed * (1 - before), RELATED)
    groups = groups_of(table)
    base, d, i = headroom_rows(table, groups)
    truth = {
        row.estimand: row for row in contrast_rows(table, groups, 0.05) if row.scale == "points"
    }
    assert d.estimate == pytest.approx(truth["D"].estimate, abs=1e-12)
    assert i.estimate == pytest.approx(truth["I"].estimate, abs=1e-12)
    apart = before[:, RELATED].mean() - before[:, ~RELATED].mean()
    assert base.estimate == pytest.approx(apart, abs=1e-12)
    (sentence,) = family_headroom([base, d, i])
    assert f"{100 * abs(apart):.1f} points {'higher' if apart > 0 else 'lower'}" in sentence


def test_headroom_of_families_has_a_status_without_errors_or_groups() -> None:
    full = table_of(np.ones((3, 6)), np.ones((3, 6)), RELATED)
    base, d, i = headroom_rows(full, groups_of(full, 1))
    assert base.estimate == 0 and d.estimate is None and i.estimate is None
    assert d.status == i.status == "a base model makes no errors"
    half = table_of(np.full((3, 6), 0.5), np.full((3, 6), 0.8), RELATED)
    base, d, i = headroom_rows(half, BaselineGroups({}, {}, "none", "no groups", ""))
    assert d.estimate == 0 and i.estimate is None and i.status == "no groups"
    (sentence,) = family_headroom([base, d, i])
    assert "Base accuracy was alike" in sentence and " I " not in sentence
