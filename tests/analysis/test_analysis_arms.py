"""Comparisons of source arms and of answer formats: truths, degenerate input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_tables import answers, items_of, table_of, table_of_items
from scipy import stats

from analysis.estimates import Estimate
from analysis.estimators.format_alignment import CLOZE, format_rows, position_entropies
from analysis.estimators.source_arms import (
    CONTROL_SOURCE,
    DIFFERENT_CELLS,
    NO_GAIN,
    SHUFFLED,
    source_arm_rows,
)
from analysis.estimators.two_groups import fieller
from analysis.gains.baselines import NEEDS_BASELINE, BaselineGroups
from analysis.gains.gain_table import PRIMARY, GainTable
from xling.records.metrics import position_entropy

FAMILY = np.array([True] * 3 + [False] * 3)
GROUPS = BaselineGroups(
    {}, {"m0": "weak", "m1": "weak", "m2": "strong", "m3": "strong"}, "training split", "ok", "g"
)
NO_GROUPS = BaselineGroups({}, {}, "none", NEEDS_BASELINE, "")


def by_name(rows: list[Estimate]) -> dict[str, Estimate]:
    """Rows by name and scale; where several units have one, that of languages, the first."""
    found: dict[str, Estimate] = {}
    for row in rows:
        found.setdefault(f"{row.estimand}/{row.scale}", row)
    return found


def arm(gain: np.ndarray, condition: tuple[str, ...] = PRIMARY, level: float = 0.4) -> GainTable:
    before = np.full(gain.shape, level)
    return table_of(before, before + gain, FAMILY, condition=condition)


# Source arms


def test_receptivity_cancels_between_source_arms() -> None:
    rng = np.random.default_rng(1)
    receptivity = rng.normal(0.1, 0.08, 6)  # by language, the same whatever is tuned on
    noise = rng.normal(0, 0.004, (2, 4, 6))
    transfer = 0.06 * FAMILY * np.array([1.0, 1.0, 0.0, 0.0])[:, None]
    tuned, other = arm(receptivity + transfer + noise[0]), arm(receptivity + noise[1])
    rows = by_name(source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: other}, GROUPS))
    d = rows["D (finetuned - control-source)/points"]
    i = rows["I (finetuned - control-source)/points"]
    assert d.estimate == pytest.approx(0.03, abs=0.006)
    assert i.estimate == pytest.approx(0.06, abs=0.012)
    assert d.se is not None and d.se < 0.005  # receptivity alone would give 0.065
    difference = (tuned.gain["points"] - other.gain["points"]).mean(axis=0)
    expected = stats.ttest_ind(difference[:3], difference[3:], equal_var=False)
    assert (d.p, d.df) == pytest.approx((expected.pvalue, expected.df))
    arms = source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: other}, GROUPS)
    families = next(row for row in arms if row.unit == "families" and row.scale == "points")
    assert families.estimate == pytest.approx(d.estimate)
    control = difference[3:]
    assert families.se == pytest.approx(control.std(ddof=1) * np.sqrt(4 / 3)) and families.df == 2
    assert (i.estimator, i.baseline_source) == ("mixed_anova", "training split")
    assert {name.split("/")[1] for name in rows} == {"points", "logit"}
    assert len(rows) == 4 and len(arms) == 6


def test_languages_that_the_control_source_was_tuned_on_are_left_out() -> None:
    rng = np.random.default_rng(2)
    gain = rng.normal(0.1, 0.01, (4, 6))
    other = gain + rng.normal(0, 0.01, (4, 6))
    other[:, 5] += 0.5
    tables = {PRIMARY: arm(gain), CONTROL_SOURCE: arm(other, CONTROL_SOURCE)}
    d = by_name(source_arm_rows(tables, GROUPS, left_out=["l5"]))[
        "D (finetuned - control-source)/points"
    ]
    assert d.estimate == pytest.approx(0, abs=0.02)
    assert (d.n_control, d.status) == (2, "ok") and "without l5" in d.note
    assert 1 < (d.df or 0) < 3
    short = by_name(source_arm_rows(tables, GROUPS, left_out=["l4", "l5"]))
    assert {row.status for row in short.values()} == {"needs 2 control languages"}


def test_what_both_arms_lack_stays_in_the_status_beside_what_one_lacks() -> None:
    rng = np.random.default_rng(6)
    gain = rng.normal(0.1, 0.05, (4, 6))
    tuned = replace(arm(gain), without=("m9", "l7"))
    other = replace(arm(rng.normal(0.1, 0.05, (3, 6)), CONTROL_SOURCE), without=("m3", "m9"))
    shuffled = replace(arm(rng.normal(0.1, 0.05, (4, 6)), SHUFFLED), without=("m9",))
    tables = {PRIMARY: tuned, CONTROL_SOURCE: other, SHUFFLED: shuffled}
    *arms, share = source_arm_rows(tables, GROUPS, left_out=["l7"])
    assert {row.status for row in arms if row.estimate is not None} == {
        "complete subset: without m9, m3"  # l7 is left out on purpose, as the note says
    }
    assert share.status == "complete subset: without m9, l7"


def test_one_related_language_has_the_controls_variance_in_the_arms_interaction_too() -> None:
    rng = np.random.default_rng(7)
    kept = [f"l{k}" for k in range(2, 6)]
    tuned, other = (
        arm(rng.normal(0.1, 0.05, (4, 6)), condition) for condition in (PRIMARY, CONTROL_SOURCE)
    )
    tables = {table.condition: table.restricted(table.models, kept) for table in (tuned, other)}
    i = by_name(source_arm_rows(tables, GROUPS))["I (finetuned - control-source)/points"]
    assert (i.estimator, i.df, i.n_related) == ("welch", 2, 1) and "one related language" in i.note


def test_absent_arms_give_no_rows_and_bad_ones_a_status() -> None:
    gain = np.random.default_rng(3).normal(0.1, 0.05, (4, 6))
    tuned = arm(gain)
    empty = table_of(np.empty((0, 6)), np.empty((0, 6)), FAMILY, status="no gains")
    assert source_arm_rows({}, GROUPS) == []
    assert source_arm_rows({PRIMARY: tuned}, GROUPS) == []
    assert source_arm_rows({PRIMARY: empty, CONTROL_SOURCE: tuned}, GROUPS) == []
    assert source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: empty}, GROUPS) == []
    stranger = replace(arm(gain[:3]), models=("x", "y", "z"))
    rows = source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: stranger}, GROUPS)
    assert {row.status for row in rows} == {DIFFERENT_CELLS}
    # A model that one arm lacks is left out of both.
    less = arm(gain[:3] + np.random.default_rng(5).normal(0, 0.02, (3, 6)))
    rows = source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: less}, GROUPS)
    d = rows[0]
    expected = (gain[:3] - less.gain["points"]).mean(axis=0)
    assert d.estimate == pytest.approx(expected[:3].mean() - expected[3:].mean())
    assert (d.status, d.n_models) == ("complete subset: without m3", 3)
    lost = replace(tuned, status="missing cell a/b")
    rows = source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: lost, SHUFFLED: lost}, GROUPS)
    assert {row.status for row in rows} == {"missing cell a/b"} and len(rows) == 7
    same = by_name(source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: tuned}, GROUPS))
    assert {(row.status, row.p) for row in same.values()} == {("zero variance", None)}
    noisy = arm(gain + np.random.default_rng(4).normal(0, 0.01, gain.shape))
    rows = by_name(source_arm_rows({PRIMARY: tuned, CONTROL_SOURCE: noisy}, NO_GROUPS))
    assert rows["D (finetuned - control-source)/points"].status == "ok"
    assert rows["I (finetuned - control-source)/points"].status == NEEDS_BASELINE


def test_fieller_limits_are_the_ratios_that_a_paired_t_test_just_rejects() -> None:
    rng = np.random.default_rng(5)
    bottom = rng.normal(0.12, 0.04, 8)
    top = 0.3 * bottom + rng.normal(0.0, 0.02, 8)
    found = fieller(top, bottom)
    assert found is not None and found.low < found.estimate < found.high
    assert found.estimate == pytest.approx(top.mean() / bottom.mean())
    for limit in (found.low, found.high):
        assert stats.ttest_1samp(top - limit * bottom, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(top, 0).pvalue)
    assert fieller(top, bottom - bottom.mean() + 0.01) is None


@pytest.mark.slow
def test_fieller_coverage() -> None:
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(600):
        bottom = rng.normal(0.12, 0.04, 6)
        found = fieller(0.4 * bottom + rng.normal(0, 0.02, 6), bottom)
        hits.append(found is None or found.low < 0.4 < found.high)
    assert 0.93 <= np.mean(hits) <= 0.97


def test_a_share_that_is_the_same_in_every_language_has_no_interval() -> None:
    before = np.full((2, 6), 0.4)
    gain = np.array([0.05, 0.08, 0.12, 0.06, 0.1, 0.09])
    related = np.array([True] * 3 + [False] * 3)
    tuned = table_of(before, before + gain, related)
    shuffled = table_of(before, before + 0.3 * gain, related, condition=SHUFFLED)
    row = source_arm_rows({PRIMARY: tuned, SHUFFLED: shuffled}, NO_GROUPS)[-1]
    assert (row.status, row.ci_low, row.p) == ("zero variance", None, None)
    assert row.estimate == pytest.approx(0.3)


def test_the_format_share_of_the_gain() -> None:
    rng = np.random.default_rng(7)
    gain = rng.normal(0.2, 0.01, (4, 6))
    tables = {PRIMARY: arm(gain), SHUFFLED: arm(0.25 * gain + rng.normal(0, 0.005, (4, 6)))}
    (row,) = source_arm_rows(tables, GROUPS)
    assert (row.estimand, row.estimator) == ("format share of the gain", "fieller")
    assert row.estimate == pytest.approx(0.25, abs=0.02)
    assert row.ci_low is not None and row.ci_low < 0.25 < row.ci_high
    wild = rng.normal(0, 0.2, (4, 6))
    (row,) = source_arm_rows({PRIMARY: arm(wild), SHUFFLED: arm(gain)}, GROUPS)
    assert (row.status, row.estimate, row.p) == (NO_GAIN, None, None)
    flat = np.full((4, 6), 0.1)
    (row,) = source_arm_rows({PRIMARY: arm(gain), SHUFFLED: arm(flat)}, GROUPS)
    assert (row.status, row.p) == ("zero variance", None)
    assert row.estimate == pytest.approx(0.1 / gain.mean())
    (row,) = source_arm_rows({PRIMARY: arm(0 * flat), SHUFFLED: arm(flat)}, GROUPS)
    assert (row.status, row.estimate) == (NO_GAIN, None)


# Format alignment


def formatted(rng: np.random.Generator, **changes: np.ndarray) -> GainTable:
    level = rng.uniform(0.3, 0.6, (3, 6))
    before, after = answers(rng, level, 80), answers(rng, level + 0.15, 80)[None]
    settings: dict = {
        "mass_before": np.clip(rng.normal(0.5, 0.1, (3, 6, 80)), 0, 1).astype("float32"),
        "mass_after": np.clip(rng.normal(0.9, 0.1, (1, 3, 6, 80)), 0, 1).astype("float32"),
        "prediction_before": rng.choice(
            np.arange(1, 5), p=[0.7, 0.1, 0.1, 0.1], size=before.shape
        ).astype("int8"),
        "prediction_after": rng.integers(1, 5, after.shape).astype("int8"),
    } | changes
    return table_of_items(items_of(before, after, **settings), FAMILY)


def test_entropies_are_those_of_the_runs_metric() -> None:
    prediction = np.random.default_rng(14).integers(1, 5, (2, 3, 9)).astype("int8")
    prediction[0, 0] = 2
    found = position_entropies(prediction)
    for place in np.ndindex(2, 3):
        assert found[place] == pytest.approx(position_entropy(prediction[place]), abs=1e-12)
    assert found[0, 0] == 0


def test_changes_of_mass_and_entropy_by_language() -> None:
    table = formatted(np.random.default_rng(15))
    items = table.items
    assert items is not None
    rows = by_name(format_rows({PRIMARY: table}))
    mass = (items.mass_after[0].astype(float) - items.mass_before).mean(axis=(0, 2))
    entropy = np.array(
        [
            np.mean(
                [
                    position_entropy(items.prediction_after[0, m, k])
                    - position_entropy(items.prediction_before[m, k])
                    for m in range(3)
                ]
            )
            for k in range(6)
        ]
    )
    for name, values in (
        ("change in answer mass/probability", mass),
        ("change in position entropy/bits", entropy),
    ):
        row, found = rows[name], stats.ttest_1samp(values, 0)
        interval = found.confidence_interval()
        assert (row.estimate, row.p, row.ci_low, row.ci_high, row.df) == pytest.approx(
            (values.mean(), found.pvalue, interval.low, interval.high, 5), abs=1e-6
        )
        assert row.unit == "languages"
    assert rows["change in position entropy/bits"].estimate > 0.4
    assert "gain answer-token - cloze/points" not in rows


def test_cloze_against_answer_token() -> None:
    table = formatted(np.random.default_rng(16))
    less = table_of(table.before, table.after - np.linspace(0.04, 0.06, 6), FAMILY, condition=CLOZE)
    row = by_name(format_rows({PRIMARY: table, CLOZE: less}))["gain answer-token - cloze/points"]
    assert row.estimate == pytest.approx(0.05) and row.p is not None and row.p < 0.001
    other = table_of(table.before[:2], table.after[:2], FAMILY, condition=CLOZE)
    rows = by_name(format_rows({PRIMARY: table, CLOZE: other}))
    assert "differ between the scorings" in rows["gain answer-token - cloze/points"].status


def test_format_rows_without_numbers() -> None:
    rng = np.random.default_rng(18)
    assert format_rows({}) == []
    nan = np.full((3, 6, 80), np.nan, "float32")
    rows = by_name(format_rows({PRIMARY: formatted(rng, mass_before=nan, mass_after=nan[None])}))
    assert rows["change in position entropy/bits"].status == "ok"
    row = rows["change in answer mass/probability"]
    assert (row.status, row.p) == ("no answer mass", None)
    flat = np.full((3, 6, 80), 0.5, "float32")
    rows = by_name(format_rows({PRIMARY: formatted(rng, mass_before=flat, mass_after=flat[None])}))
    row = rows["change in answer mass/probability"]
    assert (row.status, row.p) == ("zero variance", None)
    assert not any("effect" in name for name in rows)  # no mediation analysis
    moved = formatted(rng, mass_before=flat, mass_after=flat[None] + np.float32(0.3))
    rows = by_name(format_rows({PRIMARY: moved}))
    assert rows["change in answer mass/probability"].estimate == pytest.approx(0.3)
    bare = table_of(moved.before, moved.after, FAMILY)
    assert {row.status for row in format_rows({PRIMARY: bare})} == {
        "not available: a run has no item records"
    }
    lost = replace(moved, status="missing cell x/y")
    assert {row.status for row in format_rows({PRIMARY: lost})} == {"missing cell x/y"}
