"""Fine-tuning against chain-of-thought: the null, truths, degenerate input."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_tables import answers
from scipy import stats
from simulated_records import CONTROL, RELATED, study

from analysis.estimators.chain_of_thought import (
    NO_HEADROOM,
    ChainOfThought,
    chain_of_thought_arrays,
    chain_of_thought_rows,
    split_half_gains,
)
from analysis.gains.responses import encode_responses
from xling.records import check_records

# `make soak` simulates ten times as many studies.
STUDIES = 400 if int(os.environ.get("XLING_SOAK", "1")) == 1 else 4000
SHARED = {"unit": "languages", "n_related": 3, "n_control": 3, "n_seeds": 1}


def thought(
    rng: np.random.Generator, tuned: np.ndarray, reasoned: np.ndarray, n_items: int = 60
) -> ChainOfThought:
    """Models with the given true headroom gains (M,) and unequal baselines."""
    base = np.linspace(0.4, 0.6, len(tuned))[:, None].repeat(4, axis=1)
    three = [base + gain * (1 - base) for gain in (0.0, tuned[:, None], reasoned[:, None])]
    return ChainOfThought(
        tuple(f"m{i}" for i in range(len(tuned))),
        ("a", "b", "c", "d"),
        np.arange(n_items) // 2,
        *(answers(rng, p, n_items) for p in three),
    )


@pytest.mark.slow
def test_independent_gains_do_not_correlate_over_halves_but_do_over_a_shared_baseline() -> None:
    rng = np.random.default_rng(8)
    r, p, shared = [], [], []
    for number in range(STUDIES):
        made = thought(rng, rng.normal(0.2, 0.05, 8), rng.normal(0.2, 0.05, 8))
        row = chain_of_thought_rows(made, "ok", 0.05, np.random.default_rng(number), SHARED)[0]
        r.append(row.estimate)
        p.append(row.p)
        before, *after = (
            values.mean(axis=(1, 2)) for values in (made.before, made.finetuned, made.reasoned)
        )
        gains = [(then - before) / (1 - before) for then in after]
        shared.append(np.corrcoef(*gains)[0, 1])
    assert abs(np.mean(r)) < 0.05
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
    assert np.mean(shared) > 0.15


def test_correlated_gains_are_found_and_the_row_is_the_median_of_halves() -> None:
    rng = np.random.default_rng(9)
    gain = rng.uniform(0, 0.6, 12)
    made = thought(rng, gain, gain, n_items=400)
    r, level = chain_of_thought_rows(made, "ok", 0.05, np.random.default_rng(3), SHARED)
    tuned, reasoned = split_half_gains(made, np.random.default_rng(3), 200)
    halves = [stats.pearsonr(x, y).statistic for x, y in zip(tuned, reasoned, strict=True)]
    assert r.estimate == pytest.approx(np.median(halves)) and r.estimate > 0.9
    # The jackknife by hand: halves of 11 models at a time.
    without = [
        np.median([stats.pearsonr(np.delete(x, m), np.delete(y, m)).statistic
                   for x, y in zip(tuned, reasoned, strict=True)])
        for m in range(12)
    ]  # fmt: skip
    z, se = np.arctanh(r.estimate), np.sqrt(12) * np.std(np.arctanh(without))
    assert r.p == pytest.approx(2 * stats.t.sf(z / se, 10)) and r.df == 10
    half = stats.t.ppf(0.975, 10) * se
    assert (r.ci_low, r.ci_high) == pytest.approx((np.tanh(z - half), np.tanh(z + half)), abs=1e-6)
    assert (r.scale, r.unit, r.n_models, r.n_items, r.n_passages) == (
        "correlation", "models", 12, 400, 200,
    )  # fmt: skip
    assert "inflated by its noise" in r.note and "200 random halvings" in r.note
    assert level.estimate == pytest.approx(0, abs=0.02)
    assert level.p is not None and level.p < 0.01


def test_the_equivalence_is_two_one_sided_paired_tests() -> None:
    rng = np.random.default_rng(10)
    made = thought(rng, rng.uniform(0.1, 0.3, 7), rng.uniform(0.1, 0.3, 7))
    level = chain_of_thought_rows(made, "ok", 0.05, rng, SHARED)[1]
    difference = (made.finetuned - made.reasoned).mean(axis=(1, 2), dtype=float)
    sides = (
        stats.ttest_1samp(difference, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(difference, 0.05, alternative="less").pvalue,
    )
    assert level.p == pytest.approx(max(sides))
    interval = stats.ttest_1samp(difference, 0).confidence_interval(0.9)
    assert (level.ci_low, level.ci_high, level.df) == pytest.approx((*interval, 6))
    assert level.estimate == pytest.approx(difference.mean())


def test_the_halves_share_no_passage() -> None:
    rng = np.random.default_rng(11)
    made = thought(rng, np.full(5, 0.2), np.full(5, 0.2))
    half = (np.random.default_rng(2).permuted(np.arange(30)[None], axis=1) < 15)[0][made.passage]
    tuned, reasoned = split_half_gains(made, np.random.default_rng(2))
    for found, after, used in (
        (tuned, made.finetuned, half), (reasoned, made.reasoned, ~half),
    ):  # fmt: skip
        base, then = (x[..., used].mean(axis=(1, 2), dtype=float) for x in (made.before, after))
        assert found[0] == pytest.approx((then - base) / (1 - base), abs=1e-6)


def test_chain_of_thought_without_numbers() -> None:
    rng = np.random.default_rng(12)
    two = thought(rng, np.full(2, 0.2), np.full(2, 0.3))
    for made, status, expected in ((two, "ok", "needs 3 models"), (None, "why", "why")):
        for row in chain_of_thought_rows(made, status, 0.05, rng, SHARED):
            assert (row.status, row.estimate, row.p) == (expected, None, None)
    made = thought(rng, np.full(4, 0.2), np.full(4, 0.3))
    sure = replace(made, before=np.ones_like(made.before))
    assert chain_of_thought_rows(sure, "ok", 0.05, rng, SHARED)[0].status == NO_HEADROOM
    same = replace(made, finetuned=made.before, reasoned=made.before)
    r, level = chain_of_thought_rows(same, "ok", 0.05, rng, SHARED)
    assert (r.status, r.p, level.status, level.p) == ("zero variance", None) * 2
    single = replace(made, passage=np.zeros_like(made.passage))
    assert chain_of_thought_rows(single, "ok", 0.05, rng, SHARED)[0].status == "needs 2 passages"
    three = thought(rng, np.array([0.1, 0.3, 0.5]), np.array([0.1, 0.3, 0.5]))
    r = chain_of_thought_rows(three, "ok", 0.05, rng, SHARED)[0]
    assert r.estimate is not None and (r.p, r.ci_low) == (None, None)
    assert "a test needs 4 models" in r.note
    for bound in (0.0, -0.05, float("nan")):
        with pytest.raises(ValueError, match="equivalence bound"):
            chain_of_thought_rows(made, "ok", bound, rng, SHARED)


def cot_records() -> pd.DataFrame:
    rng = np.random.default_rng(13)
    base = {"a": 0.4, "b": 0.6}
    frame = study(rng, base=base, n_items=20, n_training=0, seeds=(0, 1))
    reasoned = study(rng, base=base, n_items=20, n_training=0)
    reasoned = reasoned[reasoned["arm"] == "finetuned"].assign(arm="base", reasoning="cot")
    return check_records(pd.concat([frame, reasoned], ignore_index=True))


def test_arrays_come_from_the_three_kinds_of_run() -> None:
    frame = cot_records()
    languages = [*RELATED, *CONTROL]
    made, status = chain_of_thought_arrays(encode_responses(frame), languages, ["a", "b"], [0, 1])
    assert made is not None and status == "ok"
    assert made.before.shape == made.finetuned.shape == made.reasoned.shape == (2, 6, 20)
    assert made.n_passages == 10
    heldout = frame[frame["part"] == "heldout"]
    means = heldout.groupby(["arm", "reasoning", "model", "language"])["correct"].mean()
    for values, name in (
        (made.before, ("base", "direct")),
        (made.finetuned, ("finetuned", "direct")),
        (made.reasoned, ("base", "cot")),
    ):
        expected = means.loc[name].unstack("language").loc[["a", "b"], languages]
        assert values.mean(axis=2) == pytest.approx(expected.to_numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("arm_name", "reasoning", "said"),
    [
        ("base", "cot", "b base/cot"),
        ("base", "direct", "b base/direct"),
        ("finetuned", "direct", "b finetuned/direct/0"),
    ],
)
def test_a_missing_run_is_named(arm_name: str, reasoning: str, said: str) -> None:
    frame = cot_records()
    gone = (frame["model"] == "b") & (frame["arm"] == arm_name) & (frame["reasoning"] == reasoning)
    found = encode_responses(frame[~gone])
    made, status = chain_of_thought_arrays(found, [*RELATED, *CONTROL], ["a", "b"], [0, 1])
    assert made is None and status == f"not available: no item records of {said}"


def test_reasoning_on_other_items_is_refused() -> None:
    frame = cot_records()
    gone = (frame["reasoning"] == "cot") & (frame["item_id"] == frame["item_id"].iloc[0])
    found = encode_responses(frame[~gone])
    made, status = chain_of_thought_arrays(found, [*RELATED, *CONTROL], ["a", "b"], [0])
    assert made is None and "item sets differ" in status
    assert chain_of_thought_arrays(found, [], ["a"], [0])[0] is None
