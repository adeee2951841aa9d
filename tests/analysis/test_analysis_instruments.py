"""Option orders, calibration, the position prior and the parts of the gain: planted truths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of
from scipy import stats

from analysis.estimates import Estimate
from analysis.estimators.calibration import NO_PROBABILITIES, calibration_rows
from analysis.estimators.gain_parts import DIFFERENT_MODELS, gain_part_rows, gain_parts
from analysis.estimators.permuted import NO_RECALLS, PERMUTED, permuted_rows
from analysis.estimators.position_prior import (
    EVEN_SHARES,
    NO_PRIOR,
    NO_SHARES,
    position_prior_rows,
    total_variation,
)
from analysis.estimators.source_arms import CONTROL_SOURCE, SHUFFLED
from analysis.gains.gain_table import PRIMARY, GainTable
from analysis.measures.formats import BALANCED, MEASURE_COLUMNS, GoldShares

FAMILY = np.array([True] * 3 + [False] * 3)
CODES = tuple(f"l{k}" for k in range(6))
TRAINED = GoldShares(np.array([0.1, 0.4, 0.3, 0.2]), "training-split questions")


def arm(gain: np.ndarray, condition: tuple[str, ...]) -> GainTable:
    before = np.full(gain.shape, 0.4)
    return table_of(before, before + gain, FAMILY, condition=condition)


def gains(rng: np.random.Generator, mean: float, sd: float = 0.01) -> np.ndarray:
    return rng.normal(mean, sd, (4, 6))


def measures(condition: tuple[str, ...], before: dict, after: dict) -> pd.DataFrame:
    """Measures of four models and six languages; values are (6,) arrays or numbers."""
    arm_name, reasoning, scoring = condition
    rows = [
        {"model": f"m{m}", "arm": name, "seed": 0, "reasoning": reasoning, "scoring": scoring,
         "language": code, **{key: np.broadcast_to(v, 6)[k] for key, v in values.items()}}
        for name, values in (("base", before), (arm_name, after))
        for m in range(4)
        for k, code in enumerate(CODES)
    ]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=list(MEASURE_COLUMNS))


def by_name(rows: list[Estimate]) -> dict[str, Estimate]:
    return {row.estimand: row for row in rows}


# Option orders


def test_a_bias_that_averaging_takes_away_is_seen() -> None:
    rng = np.random.default_rng(0)
    tables = {
        PRIMARY: arm(gains(rng, 0.20), PRIMARY),
        PERMUTED: arm(gains(rng, 0.12), PERMUTED),
    }
    spread = rng.normal(0, 0.01, (4, 6))
    noise = {"recall_noise": 0.05, "recall_std": 0.1}
    seen = pd.concat(
        [
            measures(PRIMARY, noise | {"recall_variance": (0.2 + spread[0]) ** 2},
                     noise | {"recall_variance": (0.1 + spread[1]) ** 2}),
            measures(PERMUTED, noise | {"recall_variance": (0.06 + spread[2]) ** 2},
                     noise | {"recall_variance": (0.06 + spread[3]) ** 2}),
        ]
    )  # fmt: skip
    rows = by_name(permuted_rows(tables, seen))
    assert set(rows) == {
        "change in squared RStd of recalls (answer-token)", "gain answer-token - permuted",
        "change in squared RStd of recalls (permuted)",
        "squared RStd of recalls answer-token - permuted (base)",
        "squared RStd of recalls answer-token - permuted (finetuned)",
    }  # fmt: skip
    gain = rows["gain answer-token - permuted"]
    values = (tables[PRIMARY].gain["points"] - tables[PERMUTED].gain["points"]).mean(axis=0)
    expected = stats.ttest_1samp(values, 0)
    assert gain.estimate == pytest.approx(0.08, abs=0.01)
    assert gain.p == pytest.approx(expected.pvalue) and gain.df == 5
    assert gain.ci_low == pytest.approx(expected.confidence_interval(0.95).low)
    assert "position bias and noise over orders" in gain.note
    change = rows["change in squared RStd of recalls (answer-token)"]
    assert change.scale == "squared points"
    assert change.estimate == pytest.approx(10**2 - 20**2, abs=40) and (change.p or 1) < 0.001
    assert "chance alone makes 5.0 and 5.0" in change.note
    before = rows["squared RStd of recalls answer-token - permuted (base)"]
    assert before.estimate == pytest.approx(20**2 - 6**2, abs=40)
    after = rows["squared RStd of recalls answer-token - permuted (finetuned)"]
    assert after.estimate == pytest.approx(10**2 - 6**2, abs=30)


def test_option_orders_without_what_they_need() -> None:
    rng = np.random.default_rng(1)
    plain, none = arm(gains(rng, 0.2), PRIMARY), measures(PRIMARY, {}, {})
    assert permuted_rows({}, none) == []
    (alone,) = permuted_rows({PRIMARY: plain}, none)
    assert (alone.status, alone.estimate) == (NO_RECALLS, None)
    short = arm(gains(rng, 0.1)[:3], PERMUTED)
    rows = by_name(permuted_rows({PRIMARY: plain, PERMUTED: short}, none))
    assert "models or languages differ" in rows["gain answer-token - permuted"].status
    lost = replace(plain, status="missing cell a/b")
    rows = by_name(permuted_rows({PRIMARY: lost, PERMUTED: arm(gains(rng, 0.1), PERMUTED)}, none))
    assert rows["gain answer-token - permuted"].status == "missing cell a/b"


# Calibration


def test_change_in_calibration_by_arm() -> None:
    rng = np.random.default_rng(2)
    tables = {
        PRIMARY: arm(gains(rng, 0.2), PRIMARY),
        SHUFFLED: arm(gains(rng, 0.1), SHUFFLED),
        PERMUTED: arm(gains(rng, 0.1), PERMUTED),
    }
    seen = measures(
        PRIMARY, {"ece": 0.2, "calibration_squared": 0.04 + rng.normal(0, 0.004, 6)},
        {"ece": 0.1, "calibration_squared": 0.01},
    )  # fmt: skip
    rows = by_name(calibration_rows(tables, seen))
    assert list(rows) == [
        "change in squared calibration error",
        "change in squared calibration error (shuffled-labels, direct, answer-token)",
    ]
    first = rows["change in squared calibration error"]
    assert first.estimate == pytest.approx(-300, abs=50) and (first.p or 1) < 0.001
    assert "from 0.200 to 0.100" in first.note
    other = rows["change in squared calibration error (shuffled-labels, direct, answer-token)"]
    assert (other.status, other.estimate) == (NO_PROBABILITIES, None)
    # What runs log is described, not tested.
    (logged,) = calibration_rows(
        {PRIMARY: tables[PRIMARY]}, seen.assign(calibration_squared=np.nan)
    )
    assert (logged.status, logged.estimate) == (NO_PROBABILITIES, None)
    assert "from 0.200 to 0.100" in logged.note


# The position prior


def test_a_model_that_learned_only_positions_shows_as_such() -> None:
    rng = np.random.default_rng(3)

    def prior(shares: np.ndarray) -> dict[str, np.ndarray]:
        noisy = rng.dirichlet(2000 * shares, 6)
        return {name: noisy[:, k] for k, name in enumerate(BALANCED)}

    even, skewed = np.full(4, 0.25), TRAINED.values
    tables = {SHUFFLED: arm(gains(rng, 0.05), SHUFFLED)}
    learned = measures(SHUFFLED, prior(even), prior(skewed))
    to_trained, to_even, change = position_prior_rows(tables, learned, TRAINED)
    apart = total_variation(skewed, even)
    assert apart == pytest.approx(0.2)
    assert to_trained.estimate == pytest.approx(0, abs=0.02) and to_trained.p is None
    assert to_even.estimate == pytest.approx(apart, abs=0.02)
    assert change.estimate == pytest.approx(apart, abs=0.03) and (change.p or 1) < 0.001
    assert "0.10, 0.40, 0.30, 0.20" in to_trained.note
    # And one that did not learn them does not.
    rows = position_prior_rows(tables, measures(SHUFFLED, prior(even), prior(even)), TRAINED)
    assert rows[0].estimate == pytest.approx(apart, abs=0.02)
    assert abs(rows[2].estimate or 1) < 0.01


def test_a_prior_without_records_or_shares_has_a_status() -> None:
    tables = {SHUFFLED: arm(gains(np.random.default_rng(4), 0.05), SHUFFLED)}
    nothing = measures(SHUFFLED, {}, {})
    assert position_prior_rows({}, nothing, TRAINED) == []
    assert {row.status for row in position_prior_rows(tables, nothing, TRAINED)} == {NO_PRIOR}
    shares = dict.fromkeys(BALANCED, 0.25)
    unknown = GoldShares(np.full(4, np.nan), "no questions")
    rows = position_prior_rows(tables, measures(SHUFFLED, shares, shares), unknown)
    assert [row.status for row in rows] == [NO_SHARES, "zero variance", NO_SHARES]
    even = GoldShares(np.full(4, 0.25), "all questions")
    assert position_prior_rows(tables, measures(SHUFFLED, shares, shares), even)[2].status == (
        EVEN_SHARES
    )


# The parts of the gain


def planted(rng: np.random.Generator) -> dict[tuple[str, ...], GainTable]:
    """Format 6 points, task 9, relatedness 5 in related languages only."""
    receptivity = rng.normal(0, 0.02, 6)
    shuffled = 0.06 + receptivity
    other = shuffled + 0.09
    tuned = other + 0.05 * FAMILY
    return {
        condition: arm(values + rng.normal(0, 0.003, (4, 6)), condition)
        for condition, values in ((PRIMARY, tuned), (CONTROL_SOURCE, other), (SHUFFLED, shuffled))
    }


def test_the_parts_are_those_planted_and_add_up() -> None:
    tables = planted(np.random.default_rng(5))
    rows = by_name(gain_part_rows(tables))
    assert len(rows) == 12

    def part(name: str, group: str) -> Estimate:
        return rows[f"part of the gain: {name} ({group})"]

    truth = {"format": (0.06, 0.06), "task in any language": (0.09, 0.09),
             "relatedness": (0.05, 0.0), "all of it": (0.20, 0.15)}  # fmt: skip
    for name, (related, control) in truth.items():
        wide = 0.04 if name in ("format", "all of it") else 0.006  # receptivity is in these
        assert part(name, "related").estimate == pytest.approx(related, abs=wide)
        assert part(name, "control").estimate == pytest.approx(control, abs=wide)
    d = part("relatedness", "related - control")
    assert d.estimate == pytest.approx(0.05, abs=0.006) and (d.p or 1) < 0.001 and d.df == 4
    for group in ("related", "control", "related - control"):
        parts = [part(name, group).estimate or 0 for name in list(truth)[:3]]
        assert sum(parts) == pytest.approx(part("all of it", group).estimate)
    assert "add up in points" in d.note


def test_parts_that_one_arm_cannot_tell_apart_stay_together() -> None:
    tables = planted(np.random.default_rng(6))
    names = {
        other: list(gain_parts({PRIMARY: tables[PRIMARY], other: tables[other]}).values)
        for other in (CONTROL_SOURCE, SHUFFLED)
    }
    assert names == {
        CONTROL_SOURCE: ["format and task", "relatedness", "all of it"],
        SHUFFLED: ["format", "task and relatedness", "all of it"],
    }
    assert gain_part_rows({PRIMARY: tables[PRIMARY]}) == []
    assert gain_part_rows({SHUFFLED: tables[SHUFFLED]}) == []


def test_the_control_sources_own_languages_enter_no_part() -> None:
    tables = planted(np.random.default_rng(7))
    rows = by_name(gain_part_rows(tables, left_out=["l5", "x"]))
    d = rows["part of the gain: relatedness (related - control)"]
    assert (d.n_related, d.n_control, d.df) == (3, 2, 3) and "without l5" in d.note
    total = rows["part of the gain: all of it (control)"]
    assert total.estimate == pytest.approx(tables[PRIMARY].gain["points"][:, 3:5].mean())
    few = by_name(gain_part_rows(tables, left_out=["l4", "l5"]))
    assert few["part of the gain: format (control)"].status == "needs 2 control languages"
    assert few["part of the gain: format (related)"].status == "ok"
    assert few["part of the gain: format (related - control)"].status == "needs 2 control languages"
    # Without the arm itself there is nothing to leave out.
    del tables[CONTROL_SOURCE]
    assert by_name(gain_part_rows(tables, left_out=["l5"]))[
        "part of the gain: format (control)"
    ].n_control == 3  # fmt: skip


def test_parts_say_which_cells_they_are_without() -> None:
    tables = planted(np.random.default_rng(9))
    assert {row.status for row in gain_part_rows(tables)} == {"ok"}
    # One arm has a complete subset of its own; another lacks a language.
    tuned = replace(tables[PRIMARY], without=("m9",))
    short = tables[SHUFFLED].restricted(tuned.models, tuned.languages[:5])
    rows = gain_part_rows({**tables, PRIMARY: tuned, SHUFFLED: short})
    assert {row.status for row in rows} == {"complete subset: without m9, l5"}
    # What the control source was tuned on is left out on purpose, and the note says so.
    rows = gain_part_rows({**tables, PRIMARY: tuned, SHUFFLED: short}, left_out=["l5"])
    assert {row.status for row in rows} == {"complete subset: without m9"}


def test_parts_of_unlike_arms_have_a_status() -> None:
    tables = planted(np.random.default_rng(8))
    lost = tables | {PRIMARY: replace(tables[PRIMARY], status="missing cell a/b")}
    assert {row.status for row in gain_part_rows(lost)} == {"missing cell a/b"}
    few = arm(tables[SHUFFLED].gain["points"][:3], SHUFFLED)
    rows = gain_part_rows({PRIMARY: tables[PRIMARY], SHUFFLED: few})
    assert {row.status for row in rows} == {DIFFERENT_MODELS} and len(rows) == 9
    assert all(row.estimate is None for row in rows)
    rows = gain_part_rows(tables | {SHUFFLED: few})
    assert {row.status for row in rows} == {"ok"} and len(rows) == 9
    assert f"shuffled-labels is left out: {DIFFERENT_MODELS}" in rows[0].note
    holed = tables[CONTROL_SOURCE].gain | {"points": np.full((4, 6), np.nan)}
    hole = replace(tables[CONTROL_SOURCE], status="needs 2 control languages", gain=holed)
    rows = gain_part_rows(tables | {CONTROL_SOURCE: hole})
    assert "control-source is left out: a cell has no number" in rows[0].note
