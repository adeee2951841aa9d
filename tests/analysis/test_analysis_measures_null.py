"""Measures of positions and calibration where only accuracy rises: nothing else may be found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of
from scipy import stats

from analysis.estimates import Estimate
from analysis.estimators.calibration import calibration_rows
from analysis.estimators.permuted import PERMUTED, permuted_rows
from analysis.estimators.position_prior import position_prior_rows
from analysis.estimators.source_arms import SHUFFLED
from analysis.gains.gain_table import PRIMARY, GainTable
from analysis.measures.formats import BALANCED, GoldShares, before_and_after, format_measures
from xling.records import LOGPROB_COLUMNS

REPLICATES, MODELS, LANGUAGES, ITEMS = 250, 3, 8, 40
TRAINED = GoldShares(np.array([0.1, 0.4, 0.3, 0.2]), "training-split questions")
BASE = ("base", *PRIMARY[1:])
NOISY, SURE = 1.0, 3.0
"""Spread of an option's logit; calibrated models are right in 52 and 77 % of items."""


def calibrated(
    rng: np.random.Generator, condition: tuple[str, ...], sharp: float, gold: np.ndarray
) -> pd.DataFrame:
    """Records of calibrated models with no liking for a position, (replicates x cells x items)."""
    cells = REPLICATES * MODELS * LANGUAGES
    n = cells * ITEMS
    p = np.exp(rng.normal(0, sharp, (n, 4)))
    p /= p.sum(axis=1, keepdims=True)
    right = (p.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1).clip(0, 3)
    place = np.tile(gold, cells)
    p = np.take_along_axis(p, (np.arange(4) + (right - place + 1)[:, None]) % 4, axis=1)
    prediction = p.argmax(axis=1) + 1
    model = pd.Categorical.from_codes(
        np.repeat(np.arange(REPLICATES * MODELS), LANGUAGES * ITEMS),
        [f"m{k:04d}" for k in range(REPLICATES * MODELS)],
    )
    language = pd.Categorical.from_codes(
        np.tile(np.repeat(np.arange(LANGUAGES), ITEMS), REPLICATES * MODELS),
        [f"l{k}" for k in range(LANGUAGES)],
    )
    return pd.DataFrame(
        {
            "model": model, "language": language, "seed": 0, "part": "heldout", "gold": place,
            "prediction": prediction, "correct": prediction == place,
            **{name: np.log(0.9 * p[:, k]) for k, name in enumerate(LOGPROB_COLUMNS)},
        }
    ).assign(arm=condition[0], reasoning=condition[1], scoring=condition[2])  # fmt: skip


def table(condition: tuple[str, ...], replicates: int = REPLICATES) -> GainTable:
    """The cells of the first replicates."""
    nothing = np.zeros((replicates * MODELS, LANGUAGES))
    whole = table_of(nothing, nothing, np.arange(LANGUAGES) < 4, condition=condition)
    return replace(whole, models=tuple(f"m{k:04d}" for k in range(replicates * MODELS)))


def measures_of(seed: int, gold: np.ndarray, *arms: tuple[tuple[str, ...], float]) -> pd.DataFrame:
    """Measures of every replicate."""
    rng = np.random.default_rng(seed)
    frames = [calibrated(rng, *arm, gold) for arm in arms]
    whole = format_measures(pd.concat(frames, ignore_index=True))
    return whole.astype({"model": str, "language": str})


def assert_nothing_found(values: np.ndarray, row: Estimate, *, scale: float = 1.0) -> None:
    """Rejections of a true null at about 5 %, no bias; and the row tests these very values.

    Args:
        values: Shape (replicates * models, languages).
        row: The estimator's row of the first replicate.
        scale: From the values' units to those of the row.
    """
    means = scale * values.reshape(REPLICATES, MODELS, LANGUAGES).mean(axis=1)
    tested = stats.ttest_1samp(means, 0, axis=1)
    centre = means.mean(axis=1)
    z = centre.mean() / (centre.std(ddof=1) / np.sqrt(REPLICATES))
    found = (tested.pvalue < 0.05).mean()
    assert found <= 0.08 and abs(z) < 3, f"{row.estimand}: rejected {found}, z {z:.1f}"
    assert row.status == "ok" and row.estimate == pytest.approx(centre[0])
    assert row.p == pytest.approx(tested.pvalue[0]) and (row.ci_low or 0) < centre[0]


GOLD = np.arange(ITEMS) % 4 + 1


@pytest.fixture(scope="module")
def risen() -> pd.DataFrame:
    return measures_of(
        0, GOLD, (BASE, NOISY), (PRIMARY, SURE), (("base", *PERMUTED[1:]), 1.5 * NOISY),
        (PERMUTED, 1.5 * SURE),
    )  # fmt: skip


@pytest.mark.slow
def test_recalls_that_differ_by_chance_alone_do_not_change(risen: pd.DataFrame) -> None:
    rows = permuted_rows({c: table(c, 1) for c in (PRIMARY, PERMUTED)}, risen)
    before, after, base, both = (
        part[..., 0]
        for condition in (PRIMARY, PERMUTED)
        for part in before_and_after(risen, table(condition), ["recall_variance"])
    )
    for values, row in (
        (after - before, rows[0]), (both - base, rows[2]), (before - base, rows[3]),
        (after - both, rows[4]),
    ):  # fmt: skip
        assert_nothing_found(values, row, scale=1e4)


def test_calibrated_models_do_not_change_in_calibration(risen: pd.DataFrame) -> None:
    (row,) = calibration_rows({PRIMARY: table(PRIMARY, 1)}, risen)
    before, after = before_and_after(risen, table(PRIMARY), ["calibration_squared"])
    assert_nothing_found((after - before)[..., 0], row, scale=1e4)


def test_more_right_answers_are_no_position_prior() -> None:
    gold = np.random.default_rng(1).permutation(np.repeat([1, 2, 3, 4], [4, 16, 12, 8]))
    seen = measures_of(1, gold, (BASE, NOISY), (SHUFFLED, SURE))
    row = position_prior_rows({SHUFFLED: table(SHUFFLED, 1)}, seen, TRAINED)[2]
    before, after = before_and_after(seen, table(SHUFFLED), BALANCED)
    assert_nothing_found((after - before)[..., 1:3].sum(axis=-1), row)


@pytest.mark.parametrize(("plain", "row_of"), [
    ("recall_std", "squared RStd"), ("ece", "squared calibration"), ("prior_2", "towards"),
])  # fmt: skip
def test_the_plain_measures_do_change(risen: pd.DataFrame, plain: str, row_of: str) -> None:
    """Why the tests are of others: the null simulation would find them out."""
    seen = risen
    if plain == "prior_2":
        gold = np.repeat([1, 2, 3, 4], [4, 16, 12, 8])
        seen = measures_of(2, gold, (BASE, NOISY), (PRIMARY, SURE))
    before, after = before_and_after(seen, table(PRIMARY), [plain])
    row = Estimate(row_of, "x", "x", "languages")
    with pytest.raises(AssertionError, match="rejected"):
        assert_nothing_found((after - before)[..., 0], row)


def test_chance_alone_makes_the_rstd_in_the_column_by_chance(risen: pd.DataFrame) -> None:
    for _, rows in risen.groupby(["arm", "scoring"]):
        assert rows["recall_noise"].mean() == pytest.approx(rows["recall_std"].mean(), rel=0.02)


def cells(p: np.ndarray, gold: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Measures of one cell for each row of `correct`; option probabilities are p."""
    n, items = correct.shape
    found = pd.DataFrame(
        {"model": np.repeat(np.arange(n), items), "arm": "base", "seed": 0, "reasoning": "direct",
         "scoring": "answer-token", "language": "x", "part": "heldout", "gold": np.tile(gold, n),
         "prediction": 1, "correct": correct.reshape(-1),
         **{name: np.log(p[k]) for k, name in enumerate(LOGPROB_COLUMNS)}}
    )  # fmt: skip
    return format_measures(found)


def test_squared_measures_have_no_bias_where_there_is_something_to_measure() -> None:
    rng = np.random.default_rng(3)
    gold = np.repeat([1, 2, 3, 4], [4, 5, 6, 7])
    recall = np.array([0.9, 0.5, 0.5, 0.3])
    right = rng.random((20_000, len(gold))) < recall[gold - 1]
    found = cells(np.array([0.7, 0.1, 0.1, 0.1]), gold, right)
    assert found["recall_variance"].mean() == pytest.approx(recall.var(), rel=0.03)
    assert (found["recall_std"] ** 2).mean() > 1.5 * recall.var()
    wrong_by = recall[gold - 1].mean() - 0.7
    pairs = (recall[gold - 1] - 0.7)[:, None] * (recall[gold - 1] - 0.7)
    np.fill_diagonal(pairs, 0)
    expected = pairs.sum() / (len(gold) * (len(gold) - 1))
    assert found["calibration_squared"].mean() == pytest.approx(expected, rel=0.03)
    assert expected == pytest.approx(wrong_by**2, rel=0.15)
    assert found["ece"].mean() > abs(wrong_by)


def test_one_right_answer_in_a_position_gives_no_variance() -> None:
    found = cells(np.array([0.7, 0.1, 0.1, 0.1]), np.array([1, 1, 2, 2, 3, 3, 4]),
                  np.ones((1, 7), bool)).iloc[0]  # fmt: skip
    assert found["recall_std"] == 0 and np.isnan(found["recall_variance"])


def test_a_learned_prior_is_found_through_the_answers_that_are_known() -> None:
    """Half of the answers are known; in the others probability follows the trained shares."""
    rng = np.random.default_rng(4)
    gold = rng.permutation(np.repeat([1, 2, 3, 4], [4, 16, 12, 8]))
    seen = measures_of(5, gold, (BASE, NOISY), (SHUFFLED, NOISY))
    learned = seen["arm"] == "shuffled-labels"
    prior = 0.5 * TRAINED.values + 0.5 * 0.25
    seen.loc[learned, list(BALANCED)] = prior
    row = position_prior_rows({SHUFFLED: table(SHUFFLED, 1)}, seen, TRAINED)[2]
    assert row.estimate == pytest.approx(0.1, abs=0.03) and (row.p or 1) < 0.01
