"""Regressions of gain on family and baseline: second implementations, truths, degenerate input."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from made_tables import answers, items_of, table_of, table_of_items
from scipy import stats

from analysis.estimates import Estimate
from analysis.estimators import regression
from analysis.estimators.regression import (
    COLLINEAR,
    NOT_POSITIVE,
    cluster_jackknife,
    regression_distance,
    regression_rows,
)
from analysis.estimators.slopes import (
    cross_fitted_pairs,
    moment_slope,
    slope_rows,
    slope_variance,
    within_slopes,
)
from analysis.gains.baselines import NEEDS_BASELINE
from analysis.gains.gain_table import GainTable

# `make soak` simulates ten times as many studies.
STUDIES = 300 if int(os.environ.get("XLING_SOAK", "1")) == 1 else 3000
RELATED = np.array([True] * 3 + [False] * 3)


def training_of(values: np.ndarray) -> pd.DataFrame:
    m, n = values.shape
    return pd.DataFrame(values, [f"m{i}" for i in range(m)], [f"l{i}" for i in range(n)])


def by_name(rows: list[Estimate]) -> dict[str, Estimate]:
    return {f"{row.estimand}/{row.scale}": row for row in rows if row.estimator != "ols_cr3"}


def random_table(
    rng: np.random.Generator, n_models: int = 5, related: np.ndarray = RELATED
) -> tuple[GainTable, pd.DataFrame]:
    shape = n_models, len(related)
    before = rng.uniform(0.35, 0.75, shape)
    table = table_of(before, before + rng.normal(0.1, 0.05, shape), related)
    return table, training_of(before + rng.normal(0, 0.05, shape))


def long_frame(table: GainTable, training: pd.DataFrame) -> pd.DataFrame:
    models, languages = np.indices(table.before.shape)
    return pd.DataFrame(
        {
            "gain": table.gain["points"].ravel(),
            "related": table.related[languages.ravel()].astype(float),
            "base": training.to_numpy().ravel() - training.to_numpy().mean(),
            "heldout": table.before.ravel(),
            "model": models.ravel(),
            "language": languages.ravel(),
        }
    )


def two_way_by_hand(design: np.ndarray, residual: np.ndarray, *groups: np.ndarray) -> np.ndarray:
    """Cameron, Gelbach & Miller 2011, equation 2.11: V(first) + V(second) - V(both)."""
    n, k = design.shape
    bread = np.linalg.inv(design.T @ design)
    both = groups[0] * 1000 + groups[1]

    def sandwich(group: np.ndarray) -> np.ndarray:
        scores = np.array([design[group == g].T @ residual[group == g] for g in np.unique(group)])
        size = len(scores)
        return size / (size - 1) * (n - 1) / (n - k) * bread @ scores.T @ scores @ bread

    return sandwich(groups[0]) + sandwich(groups[1]) - sandwich(both)


def test_two_way_clustering_against_the_formula_by_hand() -> None:
    related = np.array([True] * 6 + [False] * 10)
    table, training = random_table(np.random.default_rng(1), 12, related)
    frame = long_frame(table, training)
    fit = smf.ols("gain ~ 0 + related + related:base + base + C(model)", frame).fit()
    names = list(fit.params.index)
    covariance = pd.DataFrame(
        two_way_by_hand(
            fit.model.exog, fit.resid.to_numpy(), frame["model"].to_numpy(),
            frame["language"].to_numpy(),
        ),
        names,
        names,
    )  # fmt: skip
    rows = by_name(regression_rows(table, training))
    for estimand, name in (
        ("D at mean baseline", "related"),
        ("I continuous", "related:base"),
        ("slope of baseline", "base"),
    ):
        row = rows[f"{estimand}/points"]
        se = np.sqrt(covariance.loc[name, name])
        assert row.estimate == pytest.approx(fit.params[name], abs=1e-10)
        assert row.se == pytest.approx(se, rel=1e-8)
        assert (row.df, row.unit, row.status) == (11, "languages and models", "ok")
        assert row.p == pytest.approx(2 * stats.t.sf(abs(row.estimate) / se, 11))
        assert row.ci_high == pytest.approx(row.estimate + stats.t.ppf(0.975, 11) * se)
        assert row.baseline_source == "training split"


def test_planted_coefficients_are_found_on_both_scales() -> None:
    rng = np.random.default_rng(2)
    before = rng.uniform(0.4, 0.7, (8, 6))
    centred = before - before.mean()
    gain = 0.1 + 0.05 * RELATED + centred * (-0.2 + 0.3 * RELATED) + rng.normal(0, 1e-5, (8, 6))
    table = table_of(before, before + gain, RELATED)
    rows = by_name(regression_rows(table, training_of(before)))
    assert rows["D at mean baseline/points"].estimate == pytest.approx(0.05, abs=1e-4)
    assert rows["I continuous/points"].estimate == pytest.approx(0.3, abs=1e-3)
    assert rows["slope of baseline/points"].estimate == pytest.approx(-0.2, abs=1e-3)
    # A step of 0.05 near the middle is 0.05 * 4 / 0.75 logits or more.
    assert 0.2 < rows["D at mean baseline/logit"].estimate < 0.6


def test_the_published_regression_is_pooled_ordinary_least_squares() -> None:
    table, training = random_table(np.random.default_rng(3))
    fit = smf.ols("gain ~ related + heldout", long_frame(table, training)).fit()
    rows = by_name(regression_rows(table, training))
    for estimand, name in (("D", "related"), ("slope", "heldout")):
        row = rows[f"{estimand} (published regression)/points"]
        low, high = fit.conf_int().loc[name]
        expected = (fit.params[name], fit.bse[name], fit.pvalues[name], low, high)
        assert (row.estimate, row.se, row.p, row.ci_low, row.ci_high) == pytest.approx(expected)
        assert (row.unit, row.baseline_source, row.df) == ("cells", "held-out", 27)
        assert "shown for comparison" in row.note


def test_the_published_regression_is_biased_and_the_other_is_not() -> None:
    """No family effect; weak models gain more; related languages start lower."""
    rng = np.random.default_rng(4)
    level = np.linspace(0.35, 0.75, 7)[:, None]
    pooled, robust = [], []
    for _ in range(60):
        chance = level - 0.12 * RELATED + rng.normal(0, 0.03, 6)
        gain = np.where(level < 0.5, 0.15, 0.0)
        before, after, training = (
            answers(rng, p, 100).mean(axis=2, dtype=float) for p in (chance, chance + gain, chance)
        )
        rows = by_name(regression_rows(table_of(before, after, RELATED), training_of(training)))
        pooled.append(rows["D (published regression)/points"].estimate)
        robust.append(rows["D at mean baseline/points"].estimate)
    assert np.mean(pooled) < -0.03
    assert abs(np.mean(robust)) < 0.01


def test_no_or_partial_baseline_and_one_model() -> None:
    table, training = random_table(np.random.default_rng(5))
    training.iloc[0, 0] = np.nan
    for lacking in (training, pd.DataFrame()):
        rows = by_name(regression_rows(table, lacking))
        row = rows["I continuous/logit"]
        assert (row.status, row.p, row.estimate) == (NEEDS_BASELINE, None, None)
        assert row.baseline_source == "none"
        assert rows["D (published regression)/points"].status == "ok"
    table, training = random_table(np.random.default_rng(6), n_models=1)
    row = by_name(regression_rows(table, training))["D at mean baseline/points"]
    fit = smf.ols("gain ~ related * base", long_frame(table, training)).fit(cov_type="HC1")
    assert (row.unit, row.df) == ("languages", 5)
    assert row.se == pytest.approx(fit.bse["related"])  # one cell a cluster: HC1
    assert "one model" in row.note


def test_degenerate_designs_get_a_status_and_no_p() -> None:
    rng = np.random.default_rng(7)
    table, _ = random_table(rng)
    same = training_of(np.tile(rng.uniform(0.4, 0.6, (5, 1)), (1, 6)))
    assert by_name(regression_rows(table, same))["I continuous/points"].status == COLLINEAR
    few, training = random_table(rng, 1, np.array([True, True, False, False]))
    row = by_name(regression_rows(few, training))["I continuous/points"]
    assert row.status == "needs more cells: 4 for 4 coefficients"
    flat = table_of(table.before, table.before + 0.1, RELATED)
    rows = by_name(regression_rows(flat, training_of(table.before)))
    for name in ("D at mean baseline/points", "D (published regression)/points"):
        assert (rows[name].status, rows[name].p) == ("zero variance", None)
    lost = table_of(table.before, table.after, RELATED, status="missing cell x/y")
    assert {row.status for row in regression_rows(lost, same)} == {"missing cell x/y"}


def test_a_covariance_that_is_not_positive_gives_an_estimate_and_no_p() -> None:
    found = []
    for seed in range(60):
        table, training = random_table(np.random.default_rng(seed), n_models=3)
        rows = by_name(regression_rows(table, training)).values()
        found += [row for row in rows if row.status == NOT_POSITIVE]
    assert found
    for row in found:
        assert row.estimate is not None
        assert (row.p, row.se, row.ci_low, row.ci_high) == (None, None, None, None)


def test_the_within_slope_is_that_of_model_indicators() -> None:
    table, training = random_table(np.random.default_rng(8))
    frame = long_frame(table, training)
    fit = smf.ols("gain ~ heldout + C(model)", frame).fit(
        cov_type="cluster", cov_kwds={"groups": frame["language"]}
    )
    row = by_name(slope_rows(table, training, np.random.default_rng(0)))["slope naive/points"]
    assert row.estimate == pytest.approx(fit.params["heldout"])
    assert row.se == pytest.approx(fit.bse["heldout"])
    assert (row.df, row.unit, row.baseline_source) == (5, "languages", "held-out")
    gain = table.gain["points"]
    assert row.estimate == pytest.approx(within_slopes(table.before, gain))
    assert row.se**2 == pytest.approx(slope_variance(table.before, gain))


def test_halves_share_no_passage_and_go_both_ways() -> None:
    rng = np.random.default_rng(9)
    before, after = (answers(rng, np.full((2, 3), 0.5), 10) for _ in range(2))
    items = items_of(before, after[None], items_per_passage=2)
    baseline, gain = cross_fitted_pairs(items, np.random.default_rng(1), 4)
    assert baseline.shape == gain.shape == (8, 2, 3)
    order = np.random.default_rng(1).permuted(np.tile(np.arange(5), (4, 1)), axis=1)
    for k in range(4):
        half = (order[k] < 2)[items.passage]
        assert half.sum() == 4  # two of five passages, two items each
        for place, own in ((k, half), (k + 4, ~half)):
            assert baseline[place] == pytest.approx(before[..., own].mean(axis=2))
            expected = (after - before)[..., ~own].mean(axis=2)
            assert gain[place] == pytest.approx(expected, abs=1e-6)


def test_a_constant_gain_has_a_naive_slope_and_no_cross_fitted_one() -> None:
    """+10 points in weak models, 0 in strong ones: no slope within any model."""
    rng = np.random.default_rng(10)
    level = np.array([0.35, 0.38, 0.41, 0.44, 0.55, 0.6, 0.65])[:, None]
    gain = np.where(level < 0.5, 0.1, 0.0)
    naive, crossed = [], []
    for _ in range(300):
        chance = np.clip(level + rng.normal(0, 0.08, 6), 0.05, 0.85)
        before, after = (answers(rng, p, 100) for p in (chance, chance + gain))
        items = items_of(before, after[None], items_per_passage=2)
        table = table_of_items(items, RELATED)
        naive.append(within_slopes(table.before, table.gain["points"]))
        crossed.append(within_slopes(*cross_fitted_pairs(items, rng, 20)).mean())
    assert np.mean(naive) < -0.15
    assert abs(np.mean(crossed)) < 0.03
    assert np.std(crossed) / np.sqrt(len(crossed)) < 0.01  # enough replicates to say so


def test_slope_rows_say_what_they_are_and_what_they_lack() -> None:
    rng = np.random.default_rng(11)
    before, after = (answers(rng, np.full((3, 6), 0.5), 40) for _ in range(2))
    items = items_of(before, after[None], items_per_passage=2)
    table = table_of_items(items, RELATED)
    rows = by_name(slope_rows(table, pd.DataFrame(), np.random.default_rng(1)))
    crossed = rows["slope cross-fitted/points"]
    assert (crossed.status, crossed.baseline_source) == ("ok", "other half of the items")
    again = by_name(slope_rows(table, pd.DataFrame(), np.random.default_rng(1)))
    assert again["slope cross-fitted/points"] == crossed
    assert rows["slope training-split/points"].status == NEEDS_BASELINE
    bare = table_of(table.before, table.after, RELATED)
    found = by_name(slope_rows(bare, training_of(table.before), rng))
    assert found["slope cross-fitted/points"].status.startswith("not available")
    naive = found["slope naive/points"].estimate
    assert found["slope training-split/points"].estimate == pytest.approx(naive)
    one = table_of_items(items_of(before, after[None], items_per_passage=40), RELATED)
    status = by_name(slope_rows(one, pd.DataFrame(), rng))["slope cross-fitted/points"].status
    assert status == "needs 2 passages"
    flat = table_of(np.full((3, 6), 0.5), table.after, RELATED)
    row = by_name(slope_rows(flat, pd.DataFrame(), rng))["slope naive/points"]
    assert (row.status, row.estimate, row.p) == ("zero variance", None, None)
    with pytest.raises(ValueError, match="splits is 0"):
        slope_rows(table, pd.DataFrame(), rng, splits=0)


def test_the_cross_fitted_variance_is_conservative() -> None:
    rng = np.random.default_rng(12)
    slopes, variances = [], []
    for _ in range(80):
        chance = np.clip(0.5 + rng.normal(0, 0.08, (5, 6)), 0.1, 0.9)
        items = items_of(answers(rng, chance, 60), answers(rng, chance, 60)[None])
        rows = slope_rows(table_of_items(items, RELATED), pd.DataFrame(), rng, splits=4)
        row = by_name(rows)["slope cross-fitted/points"]
        assert row.estimate is not None and row.se is not None
        slopes.append(row.estimate)
        variances.append(row.se**2)
    assert np.mean(variances) > np.var(slopes)


def test_the_t_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(13).normal(0.3, 1, 9)
    row = regression.with_t_interval(
        Estimate("x", "points", "e", "u"), float(values.mean()), float(stats.sem(values)), 8
    )
    found = stats.ttest_1samp(values, 0)
    interval = found.confidence_interval()
    assert (row.p, row.ci_low, row.ci_high) == pytest.approx(
        (found.pvalue, interval.low, interval.high)
    )


def test_the_jackknife_is_that_of_regressions_without_each_language() -> None:
    table, training = random_table(np.random.default_rng(20))
    frame = long_frame(table, training)
    formula = "gain ~ related * base + C(model)"
    terms = ("related", "related:base", "base")
    everything = smf.ols(formula, frame).fit().params
    without = [smf.ols(formula, frame[frame["language"] != k]).fit().params for k in range(6)]
    rows = [r for r in regression_rows(table, training) if r.estimator == "ols_cr3"]
    assert len(rows) == 3
    for row, term in zip(rows, terms, strict=True):
        variance = 5 / 6 * sum((params[term] - everything[term]) ** 2 for params in without)
        assert row.estimate == pytest.approx(everything[term])
        assert row.se == pytest.approx(variance**0.5)
        assert (row.df, row.unit) == (5, "languages")
    one = RELATED & (np.arange(6) == 0)
    table, training = random_table(np.random.default_rng(21), related=one)
    rows = [r for r in regression_rows(table, training) if r.estimator == "ols_cr3"]
    assert {row.status for row in rows} == {"collinear design without one of the languages"}


def test_the_jackknife_is_that_of_clubsandwich() -> None:
    """R 4.2: sqrt(diag(vcovCR(lm(gain ~ related * base + factor(model)), language, "CR3"))).

    clubSandwich 0.5.8 leaves out the factor (G - 1) / G.
    """
    table, training = random_table(np.random.default_rng(20), 7, np.arange(16) < 6)
    rows = [r for r in regression_rows(table, training) if r.estimator == "ols_cr3"]
    of_r = [
        (0.003880631163, 0.008599457431),
        (0.019247176692, 0.094807962292),
        (0.021578188494, 0.043994529082),
    ]
    for row, (coefficient, se) in zip(rows, of_r, strict=True):
        assert row.estimate == pytest.approx(coefficient, rel=1e-8)
        assert row.se == pytest.approx(se * (15 / 16) ** 0.5, rel=1e-8)


@pytest.mark.parametrize(("related", "control"), [(3, 3), (6, 10)])
def test_the_jackknife_keeps_its_level_with_few_languages(related: int, control: int) -> None:
    """No family effect; languages differ in gain and in its slope, in all models alike."""
    rng = np.random.default_rng(22)
    n = related + control
    kin = np.arange(n) < related
    rejected = np.zeros(3)
    for _ in range(STUDIES):
        before = np.linspace(0.35, 0.75, 7)[:, None] + rng.normal(0, 0.05, (7, n))
        gain = 0.1 + rng.normal(0, 0.03, n) + rng.normal(0, 0.2, n) * (before - 0.55)
        gain += rng.normal(0, 0.03, (7, n))
        training = before + rng.normal(0, 0.03, (7, n))
        found = cluster_jackknife(gain[None], training[None], np.ones(1), kin)
        assert found is not None
        t = np.array(found[0]) / np.sqrt(found[1])
        rejected += np.abs(t) > stats.t.ppf(0.975, n - 1)
    assert (rejected / STUDIES <= 0.08).all()
    assert rejected.sum() > 0


@pytest.mark.parametrize("gap", [-0.15, 0.0, 0.15])
def test_the_published_regression_comes_apart_as_with_a_million_items(gap: float) -> None:
    rng = np.random.default_rng(23)
    found, truth = [], []
    for _ in range(60):
        level = np.concatenate([rng.uniform(0.35, 0.45, 4), rng.uniform(0.65, 0.75, 3)])
        true = level[:, None] + rng.normal(0, 0.03, (7, 6)) + np.where(RELATED, gap / 2, -gap / 2)
        after = true + np.where(level < 0.5, 0.3, 0.05)[:, None] + rng.normal(0, 0.03, (7, 6))
        true, after = np.clip(true, 0.02, 0.98), np.clip(after, 0.02, 0.98)
        for n, parts in ((100, found), (1_000_000, truth)):
            before, other, then = (rng.binomial(n, p) / n for p in (true, true, after))
            distance = regression_distance(then - before, before, other, RELATED)
            parts.append((distance.shared_items, distance.model_effects, distance.adjustment))
            pooled = np.column_stack([np.ones(42), np.tile(RELATED, 7), before.ravel()])
            coefficient = np.linalg.lstsq(pooled.astype(float), (then - before).ravel())[0][1]
            gain = (then - before).mean(axis=0)
            d = gain[RELATED].mean() - gain[~RELATED].mean()
            assert sum(parts[-1]) == pytest.approx(coefficient - d, abs=1e-10)
    few, many = np.mean(found, axis=0), np.mean(truth, axis=0)
    assert many[0] == pytest.approx(0, abs=1e-3)
    # What is not chance in the shared items is attributed as with items without end.
    assert 100 * few[1:] == pytest.approx(100 * many[1:], abs=2)


def test_distances_are_rows_and_need_a_training_baseline() -> None:
    table, training = random_table(np.random.default_rng(24))
    rows = by_name(regression_rows(table, training))
    parts = [row for name, row in rows.items() if name.startswith("distance from D: ")]
    by_language = table.gain["points"].mean(axis=0)
    d = by_language[RELATED].mean() - by_language[~RELATED].mean()
    published = rows["D (published regression)/points"].estimate
    assert sum(row.estimate for row in parts) == pytest.approx(published - d, abs=1e-10)
    rows = by_name(regression_rows(table, pd.DataFrame()))
    assert {r.status for n, r in rows.items() if n.startswith("distance")} == {NEEDS_BASELINE}


def test_constant_gains_in_weak_models_are_no_slope_within_models() -> None:
    """Ten points in weak models alone: chance makes the naive slope negative, nothing else does."""
    rng = np.random.default_rng(25)
    naive, crossed, between = [], [], []
    for _ in range(40):
        level = np.array([0.40, 0.42, 0.44, 0.68, 0.70])
        chance = level[:, None] + rng.normal(0, 0.02, (5, 6))
        after = chance + np.where(level < 0.5, 0.1, 0.0)[:, None]
        items = items_of(answers(rng, chance, 100), answers(rng, after, 100)[None])
        training = training_of(rng.binomial(100, chance) / 100)
        rows = by_name(slope_rows(table_of_items(items, RELATED), training, rng, splits=5))
        naive.append(rows["slope naive/points"].estimate)
        crossed.append(rows["slope cross-fitted/points"].estimate)
        between.append(rows["slope between models/points"].estimate)
    assert np.mean(naive) < -0.15
    assert abs(np.mean(crossed)) < 0.03 + 2 * np.std(crossed) / 40**0.5
    x, y = level, np.where(level < 0.5, 0.1, 0.0)
    assert np.mean(between) == pytest.approx(stats.linregress(x, y).slope, abs=0.03)


def test_moments_take_the_known_noise_out_of_the_naive_slope() -> None:
    rng = np.random.default_rng(26)
    corrected, naive = [], []
    for _ in range(200):
        true = rng.uniform(0.35, 0.75, (6, 12))
        related = np.arange(12) < 6
        after = 0.1 + 0.8 * true + 0.1
        before = rng.binomial(200, true) / 200
        table = table_of(before, rng.binomial(200, after) / 200, related)
        table = replace(table, n_items=np.full(before.shape, 200.0))
        rows = by_name(slope_rows(table, pd.DataFrame(), rng))
        row = rows["slope moment-corrected/points"]
        corrected.append(row.estimate)
        assert (row.se, row.ci_low, row.p) == (None, None, None)
        naive.append(rows["slope naive/points"].estimate)
    assert np.mean(corrected) == pytest.approx(-0.2, abs=0.01)
    assert np.mean(naive) < -0.24
    flat = replace(table, before=np.full(before.shape, 0.5))
    noise = by_name(slope_rows(flat, pd.DataFrame(), rng))["slope moment-corrected/points"]
    assert (noise.status, noise.estimate) == ("baselines vary by hardly more than chance", None)
    unknown = by_name(slope_rows(replace(table, n_items=None), pd.DataFrame(), rng))
    assert unknown["slope moment-corrected/points"].status == "needs n_items of every accuracy"


def test_moments_take_out_too_much_where_answers_share_items() -> None:
    """No slope at all; an item that a model knew before it mostly knows after."""
    rng = np.random.default_rng(27)
    corrected, naive = [], []
    for _ in range(100):
        true = rng.uniform(0.35, 0.75, (6, 12))
        # The same draw decides both answers of half of the items.
        first, second = rng.random((6, 12, 100)), rng.random((6, 12, 100))
        second[..., :50] = first[..., :50]
        before, after = ((d < p[..., None]).mean(axis=-1) for d, p in
                         ((first, true), (second, true + 0.1)))  # fmt: skip
        found = moment_slope(before, after - before, np.full(true.shape, 100.0))
        assert found is not None
        corrected.append(found)
        naive.append(float(within_slopes(before, after - before)))
    assert np.mean(naive) < -0.04 and np.mean(corrected) > 0.04
