"""D, I and equivalence, against statsmodels and closed forms, and in simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW, ttost_ind

from analysis.estimators.two_groups import (
    equivalence,
    has_no_variance,
    interaction,
    mean_difference,
    welch_difference,
)


def groups(seed: int, n1: int = 3, n2: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.1, 0.03, n1), rng.normal(0.1, 0.03, n2)


@pytest.mark.parametrize("seed", range(4))
def test_difference_agrees_with_statsmodels(seed: int) -> None:
    related, control = groups(seed)
    found = mean_difference(related, control)
    compared = CompareMeans(DescrStatsW(related), DescrStatsW(control))
    _, p, df = compared.ttest_ind(usevar="pooled")
    assert found.p == pytest.approx(p, rel=1e-10)
    assert found.df == df == 5
    assert found.se == pytest.approx(compared.std_meandiff_pooledvar, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(compared.tconfint_diff(usevar="pooled"))


@pytest.mark.parametrize(("seed", "n1", "n2"), [(0, 3, 3), (1, 3, 4), (2, 6, 10), (3, 2, 5)])
def test_interaction_f_is_the_square_of_the_language_level_t(seed: int, n1: int, n2: int) -> None:
    weak, strong = groups(seed, n1, n2), groups(seed + 100, n1, n2)
    found = interaction(weak, strong)
    t, p = stats.ttest_ind(weak[0] - strong[0], weak[1] - strong[1])
    frame = pd.DataFrame(
        [
            {"language": f"{f}{i}", "family": f, "group": g, "gain": value}
            for g, pair in (("weak", weak), ("strong", strong))
            for f, values in zip("rc", pair, strict=True)
            for i, value in enumerate(values)
        ]
    )
    table = pingouin.mixed_anova(
        frame, dv="gain", within="group", between="family", subject="language"
    ).set_index("Source")
    assert table.loc["Interaction", "F"] == pytest.approx(t**2, rel=1e-8)
    assert found.p == pytest.approx(p, rel=1e-8)
    assert found.estimate / found.se == pytest.approx(t, rel=1e-8)


def test_nothing_global_is_left_changed() -> None:
    before = dict(pingouin.options)
    interaction(groups(0), groups(1))
    equivalence(mean_difference(*groups(2)), bound=0.05)
    assert dict(pingouin.options) == before


@pytest.mark.parametrize("seed", range(4))
def test_equivalence_agrees_with_statsmodels(seed: int) -> None:
    related, control = groups(seed)
    p, _, _ = ttost_ind(related, control, -0.05, 0.05, usevar="pooled")
    found = equivalence(mean_difference(related, control), np.float64(0.05))
    assert found.p == pytest.approx(p, rel=1e-10)
    at_smallest = ttost_ind(related, control, -found.smallest_bound, found.smallest_bound)[0]
    assert at_smallest == pytest.approx(0.05, abs=1e-10)


@pytest.mark.parametrize(("seed", "n1", "n2"), [(0, 3, 3), (1, 2, 5), (2, 6, 10)])
def test_welch_is_pingouins(seed: int, n1: int, n2: int) -> None:
    related, control = groups(seed, n1, n2)
    found = welch_difference(related, control)
    tested = pingouin.ttest(related, control, correction=True).iloc[0]
    assert (found.p, found.df) == pytest.approx((tested["p_val"], tested["dof"]), rel=1e-10)
    limits = stats.ttest_ind(related, control, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), rel=1e-10)
    for bound in (0.02, 0.05, 0.15):
        p = pingouin.tost(related, control, bound=bound, correction=True)["pval"].iloc[0]
        assert equivalence(found, bound).p == pytest.approx(p, rel=1e-10)


def test_one_related_language_has_the_variance_of_the_controls() -> None:
    related, control = groups(4, 1, 5)
    found = welch_difference(related, control)
    se = control.std(ddof=1) * np.sqrt(1 + 1 / 5)
    assert (found.se, found.df) == (pytest.approx(se), 4)
    t = (related[0] - control.mean()) / se
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    # The same as Student's test with a group of one, which has no variance of its own.
    assert found.p == pytest.approx(stats.ttest_ind(related, control).pvalue)
    with pytest.raises(ValueError, match="second group: needs 2 values, has 1"):
        welch_difference(control, related)


@pytest.mark.parametrize("bound", [0.0, -0.05, float("nan"), float("inf")])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="give a number above 0"):
        equivalence(mean_difference(*groups(0)), bound=bound)


def test_degenerate_groups_are_refused() -> None:
    good = groups(0)[0]
    with pytest.raises(ValueError, match="first group: needs 2 values, has 1"):
        mean_difference(good[:1], good)
    with pytest.raises(ValueError, match="second group: every value must be finite"):
        mean_difference(good, np.array([0.1, np.nan]))
    constant = np.array([0.1, 0.1 + 1e-17, 0.3 - 0.2])
    assert has_no_variance(constant, constant)
    with pytest.raises(ValueError, match="zero variance"):
        mean_difference(constant, constant + 0.2)
    with pytest.raises(ValueError, match="zero variance"):
        interaction((good, good), (good - 0.1, good - 0.1))


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(11)
    repeats, hits = 150, np.zeros(2)
    for _ in range(repeats):
        shift = rng.normal(0, 0.04, (2, 3))
        weak, strong = (shift + rng.normal([[0.15], [0.1]], 0.03, (2, 3)) for _ in range(2))
        d = mean_difference(*((weak + strong) / 2))
        i = interaction((weak[0], weak[1]), (strong[0], strong[1]))
        hits += [d.low <= 0.05 <= d.high, i.low <= 0 <= i.high]
    assert ((hits / repeats > 0.9) & (hits / repeats < 0.99)).all(), hits / repeats
