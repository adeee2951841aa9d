"""The passage bootstrap against a plain loop, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.gains import bootstrap
from analysis.gains.bootstrap import bootstrap_interval, passage_bootstrap


def uneven(rng: np.random.Generator, n_passages: int = 12) -> np.ndarray:
    """Passages with one to four items, in no order."""
    passage = np.repeat(np.arange(n_passages), rng.integers(1, 5, n_passages))
    return np.asarray(rng.permutation(passage), np.int64)


def test_each_draw_is_a_plain_mean_of_the_items_drawn() -> None:
    rng = np.random.default_rng(0)
    passage = uneven(rng)
    values = rng.normal(size=(2, 3, len(passage)))
    found = passage_bootstrap(values, passage, 50, np.random.default_rng(7))
    assert found.shape == (50, 2, 3)
    weights = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=50)
    for draw, weight in zip(found, weights, strict=True):
        items = [i for p, times in enumerate(weight) for _ in range(times)
                 for i in np.flatnonzero(passage == p)]  # fmt: skip
        assert draw == pytest.approx(values[..., items].mean(axis=-1), abs=1e-12)


def test_singles_keep_six_digits_and_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    passage = np.arange(900) // 2
    values = rng.normal(size=(30, 900))
    whole = passage_bootstrap(values, passage, 40, np.random.default_rng(3))
    single = passage_bootstrap(values.astype(np.float32), passage, 40, np.random.default_rng(3))
    assert single == pytest.approx(whole, abs=1e-6)
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", 2000)
    parts = passage_bootstrap(values, passage, 40, np.random.default_rng(3))
    np.testing.assert_array_equal(parts, whole)


def test_its_spread_is_that_of_a_mean_of_passages() -> None:
    rng = np.random.default_rng(2)
    passage = np.arange(400) // 2
    values = rng.normal(size=200)[passage] + rng.normal(size=400)
    draws = passage_bootstrap(values, passage, 4000, rng)
    means = values.reshape(200, 2).mean(axis=1)
    assert draws.std() == pytest.approx(means.std() / 200**0.5, rel=0.05)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)
    interval = bootstrap_interval(draws, 0.90)
    assert interval.low == pytest.approx(np.percentile(draws, 5))
    assert interval.high == pytest.approx(np.percentile(draws, 95))


def test_the_interval_keeps_the_leading_shape() -> None:
    draws = np.random.default_rng(3).normal(size=(500, 2, 4))
    interval = bootstrap_interval(draws)
    assert interval.low.shape == interval.high.shape == (2, 4)
    assert interval.low[1, 3] == pytest.approx(np.quantile(draws[:, 1, 3], 0.025))


@pytest.mark.parametrize(
    ("values", "passage", "draws", "said"),
    [
        (np.zeros((2, 0)), np.zeros(0, np.int64), 5, "needs draws, items"),
        (np.zeros((2, 3)), np.zeros(2, np.int64), 5, "passages of shape"),
        (np.zeros((2, 3)), np.zeros(3, np.int64), 0, "it got 0 draws"),
        (np.zeros((2, 3)), np.array([0, 2, 2]), 5, "passage 1 has no items"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    values: np.ndarray, passage: np.ndarray, draws: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        passage_bootstrap(values, passage, draws, np.random.default_rng(0))
