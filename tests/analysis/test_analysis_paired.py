"""Newcombe's interval and the exact McNemar test, against other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from analysis.gains.paired import mcnemar_exact, newcombe_interval, wilson_interval

GRID = np.meshgrid([0, 1, 7, 40], [0, 1, 5, 20], [0, 2, 9], [0, 3, 60], indexing="ij")
TABLES = np.stack(GRID, axis=-1).reshape(-1, 4)[1:]  # without the empty table


def newcombe_by_hand(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Method 10 of Newcombe 1998, one table at a time, Wilson limits from statsmodels."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    l1, u1 = proportion_confint(a + b, n, method="wilson")
    l2, u2 = proportion_confint(a + c, n, method="wilson")
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    phi = 0.0
    if margins > 0:
        top = a * d - b * c
        if top > 0:
            top = max(top - n / 2, 0)
        phi = top / math.sqrt(margins)
    low = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    high = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return p1 - p2 - math.sqrt(max(low, 0)), p1 - p2 + math.sqrt(max(high, 0))


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Altman et al. 2000, Statistics with Confidence, table 6.2
        ((14, 5, 0, 22), 0.011, 0.226),
        # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness (Bentur et al. 2009)
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_published_examples(table: tuple[int, ...], low: float, high: float) -> None:
    interval = newcombe_interval(*(np.array([x]) for x in table))
    assert interval.low[0] == pytest.approx(low, abs=5e-4)
    assert interval.high[0] == pytest.approx(high, abs=5e-4)


def test_newcombe_agrees_with_one_table_at_a_time() -> None:
    interval = newcombe_interval(*TABLES.T)
    expected = np.array([newcombe_by_hand(*map(int, table)) for table in TABLES])
    np.testing.assert_allclose(interval.low, np.maximum(expected[:, 0], -1), atol=1e-12)
    np.testing.assert_allclose(interval.high, np.minimum(expected[:, 1], 1), atol=1e-12)


def test_swapping_before_and_after_mirrors_the_interval() -> None:
    a, b, c, d = TABLES.T
    one, other = newcombe_interval(a, b, c, d), newcombe_interval(a, c, b, d)
    np.testing.assert_allclose(one.low, -other.high, atol=1e-12)
    assert ((one.low <= (b - c) / (a + b + c + d)) & ((b - c) / (a + b + c + d) <= one.high)).all()


def test_wilson_agrees_with_statsmodels() -> None:
    n = np.array([1, 7, 100, 900])
    k = np.array([0, 3, 100, 451])
    low, high = proportion_confint(k, n, alpha=0.1, method="wilson")
    interval = wilson_interval(k, n, confidence=0.9)
    np.testing.assert_allclose(interval.low, low, atol=1e-12)
    np.testing.assert_allclose(interval.high, high, atol=1e-12)


def test_mcnemar_agrees_with_statsmodels() -> None:
    for a, b, c, d in TABLES:
        expected = mcnemar([[a, b], [c, d]], exact=True).pvalue if b + c else 1.0
        assert mcnemar_exact(np.array([b]), np.array([c]))[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "cells",
    [
        (0.30, 0.02, 0.02, 0.66),
        (0.50, 0.05, 0.01, 0.44),
        (0.25, 0.25, 0.05, 0.45),
    ],
)
def test_newcombe_covers(cells: tuple[float, ...]) -> None:
    rng = np.random.default_rng(7)
    tables = rng.multinomial(100, cells, size=20_000)
    interval = newcombe_interval(*tables.T)
    truth = cells[1] - cells[2]
    assert ((interval.low <= truth) & (truth <= interval.high)).mean() >= 0.93


def test_no_items_and_negative_counts() -> None:
    zero = np.array([0])
    assert np.isnan(newcombe_interval(zero, zero, zero, zero).low).all()
    with pytest.raises(ValueError, match="must not be negative"):
        newcombe_interval(zero - 1, zero, zero, zero)
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar_exact(zero - 1, zero)
