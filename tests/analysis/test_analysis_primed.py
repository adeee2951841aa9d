"""Primed models: planted truths, and what the rows say of small and full designs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.analyze_run import primed_models
from analysis.estimators.primed import (
    ADDED,
    BEYOND,
    ENDS,
    MARGIN,
    RISE,
    WRONG,
    estimand,
    primed_rows,
)
from analysis.gains.primed import BASE, OTHER, TUNED, PrimedAnswers, PrimedModel, primed_answers
from analysis.report.primed_sentence import primed_sentence
from xling.records import LOGPROB_COLUMNS
from xling.study.load import load_study

HOW = PrimedModel("m", ("eng_Latn",), steps=48, items=0, labels="true")
LANGUAGES = ("amh_Ethi", "heb_Hebr", "mlt_Latn", "fra_Latn", "jpn_Jpan", "kor_Hang")
RELATED = np.arange(6) < 3
ALL = "related and control"


def answers(
    rng: np.random.Generator,
    *,
    base: float = 0.6,
    source: float = 0.1,
    other: float = 0.1,
    items: int = 100,
) -> PrimedAnswers:
    """Answers of which each item, passage and language has its own difficulty in all arms."""
    passage = np.arange(items) // 2
    hard = rng.normal(0, 0.12, (1, items)) + rng.normal(0, 0.12, passage.max() + 1)[passage]
    by_language = np.clip(hard + rng.normal(0, 0.1, (len(LANGUAGES), items)), -0.25, 0.25)

    def drawn(level: float) -> np.ndarray:
        return (rng.random(by_language.shape) < level + by_language).astype(float)

    def odds(level: float) -> np.ndarray:
        return level + 4 * by_language + rng.normal(0, 1, by_language.shape)

    arms = {BASE: base, TUNED: base + source, OTHER: base + other}
    correct = {(True, arm): drawn(level) for arm, level in arms.items()}
    correct |= {(False, BASE): drawn(0.3), (False, TUNED): drawn(base + source)}
    margin = {arm: odds(level) for arm, level in arms.items()}
    return PrimedAnswers("m-primed", HOW, LANGUAGES, RELATED, passage, correct, margin, 1)


def found(of: PrimedAnswers, name: str, estimator: str = "cluster_t", group: str = ALL):
    wanted = estimand(name, of.model, group)
    (row,) = [
        row for row in primed_rows([of]) if (row.estimand, row.estimator) == (wanted, estimator)
    ]
    return row


def test_what_the_source_only_teaches_again_is_zero_within_its_interval() -> None:
    names = (BEYOND, WRONG, MARGIN)
    drawn = [primed_rows([answers(np.random.default_rng([1, k]))]) for k in range(400)]
    for name in names:
        wanted = (estimand(name, "m-primed", ALL), "cluster_t")
        rows = [row for of in drawn for row in of if (row.estimand, row.estimator) == wanted]
        covered = np.mean([row.ci_low <= 0 <= row.ci_high for row in rows])
        assert 0.92 <= covered <= 0.985, name
        assert abs(np.mean([row.estimate for row in rows])) < 0.008, name


def test_what_the_source_adds_of_its_own_is_found() -> None:
    rows = [
        found(answers(np.random.default_rng([2, k]), source=0.2, other=0.05), BEYOND)
        for k in range(100)
    ]
    assert np.mean([row.estimate for row in rows]) == pytest.approx(0.15, abs=0.01)
    assert np.mean([row.ci_low > 0 for row in rows]) > 0.95
    assert np.mean([row.ci_low <= 0.15 <= row.ci_high for row in rows]) > 0.88


def test_a_common_ceiling_is_in_the_rise_and_not_in_the_ends() -> None:
    of = answers(np.random.default_rng(3), base=0.6, source=0.1)
    rise, ends, added = (found(of, name) for name in (RISE, ENDS, ADDED))
    assert rise.estimate == pytest.approx(0.3, abs=0.06)
    assert ends.ci_low < 0 < ends.ci_high
    # gain(unprimed) - gain(primed) is the rise less the difference of the ends: no finding.
    unprimed = (of.correct[False, TUNED] - of.correct[False, BASE]).mean()
    assert unprimed - added.estimate == pytest.approx(rise.estimate - ends.estimate, abs=1e-12)


def test_the_row_of_items_is_the_clustered_mean() -> None:
    from statsmodels.regression.linear_model import OLS

    of = answers(np.random.default_rng(4))
    row = found(of, BEYOND)
    share = (of.correct[True, TUNED] - of.correct[True, OTHER]).mean(axis=0)
    fit = OLS(share, np.ones(len(share))).fit(
        cov_type="cluster", cov_kwds={"groups": of.passage}, use_t=True
    )
    assert row.estimate == pytest.approx(float(fit.params[0]), abs=1e-12)
    assert row.se == pytest.approx(float(fit.bse[0]), rel=0.02)  # small-sample factors differ
    assert row.df == len(set(of.passage)) - 1


@pytest.mark.parametrize(("base", "items"), [(0.92, 100), (0.6, 10)])
def test_there_is_no_room_near_the_ceiling_or_with_few_errors(base: float, items: int) -> None:
    of = answers(np.random.default_rng(5), base=base, source=0, other=0, items=items)
    rows = {name: found(of, name) for name in (RISE, ENDS, ADDED, BEYOND, WRONG, MARGIN)}
    assert rows[RISE].status == rows[ENDS].status == "ok"
    for name in (ADDED, BEYOND, WRONG, MARGIN):
        assert rows[name].status.startswith("no room: the primed base is right in 0.")
        assert rows[name].estimate is None
    assert "cannot be told: no room" in primed_sentence(list(rows.values()))


def test_without_the_other_arm_only_what_the_source_adds_is_said() -> None:
    of = answers(np.random.default_rng(6))
    del of.correct[True, OTHER]
    assert found(of, BEYOND).status == "needs arm control-source"
    said = primed_sentence(primed_rows([of]))
    assert said.startswith("After priming m-primed, which changed its baseline by +")
    assert "is not known (needs arm control-source)" in said


def records(of: PrimedAnswers) -> pd.DataFrame:
    rows = []
    for (primed, arm), correct in of.correct.items():
        for code, line in zip(of.languages, correct, strict=True):
            for k, right in enumerate(line):
                gold = k % 4 + 1
                answer = gold if right else gold % 4 + 1
                logprobs = np.full(4, -3.0)
                logprobs[answer - 1] = -0.5
                rows.append(
                    {
                        "model": of.model if primed else of.how.unprimed,
                        "arm": arm,
                        "seed": 0,
                        "reasoning": "direct",
                        "scoring": "answer-token",
                        "language": code,
                        "item_id": f"i{k:03d}",
                        "passage_id": f"p{of.passage[k]:03d}",
                        "part": "heldout",
                        "gold": gold,
                        "prediction": answer,
                        "correct": bool(right),
                        **dict(zip(LOGPROB_COLUMNS, logprobs, strict=True)),
                    }
                )
    return pd.DataFrame(rows)


FAMILY = dict(zip(LANGUAGES, np.where(RELATED, "related", "control"), strict=True)) | {
    "eng_Latn": "control", "arb_Arab": "source",
}  # fmt: skip


def test_records_give_the_answers_without_the_languages_that_were_trained_on() -> None:
    of = answers(np.random.default_rng(7))
    frame = records(of)
    extra = [frame[frame["language"] == "fra_Latn"].assign(language=code) for code in FAMILY]
    frame = pd.concat([frame, *(e for e in extra if e["language"].iloc[0] not in LANGUAGES)])
    (got,) = primed_answers(frame, {of.model: HOW, "absent": HOW}, FAMILY, ["kor_Hang"])
    order = [code for code in sorted(LANGUAGES) if code != "kor_Hang"]
    assert got.languages == tuple(order)
    places = [LANGUAGES.index(code) for code in order]
    for key, correct in of.correct.items():
        np.testing.assert_array_equal(got.correct[key], correct[places])
    right = got.correct[True, TUNED] == 1
    chance = np.exp(-0.5) / (np.exp(-0.5) + 3 * np.exp(-3.0))
    np.testing.assert_allclose(got.margin[TUNED][right], np.log(chance / (1 - chance)))


def test_a_missing_arm_or_item_is_named() -> None:
    frame = records(answers(np.random.default_rng(8)))
    lost = frame[(frame["model"] == "m") & (frame["arm"] == BASE)].index[:1]
    (got,) = primed_answers(frame.drop(lost), {"m-primed": HOW}, FAMILY, [])
    assert got.status == "not available: no item records of m/base"
    assert {row.status for row in primed_rows([got])} == {got.status}


def test_a_primed_model_without_its_twin_is_no_model_like_others() -> None:
    """As when some models of a study are run alone."""
    frame = records(answers(np.random.default_rng(8)))
    frame = frame[frame["model"] == "m-primed"].assign(fold=0, answer_mass=0.9)
    alone = replace(HOW, unprimed="")
    (got,) = primed_answers(frame, {"m-primed": alone}, FAMILY, [])
    assert got.status == "not available: no item records of the unprimed model/base"
    assert primed_models(load_study("primed").only_models(["gemma3-270m-primed"])) == {
        "gemma3-270m-primed": PrimedModel("", ("eng_Latn",), 28, 0, "true")
    }


@pytest.mark.parametrize(("beyond", "words"), [(-0.05, "5 points less"), (0.05, "5 points more")])
def test_what_lies_beyond_an_unrelated_language_has_no_second_sign(beyond: float, words: str):
    rows = primed_rows([answers(np.random.default_rng(9))])
    shifted = [replace(r, estimate=beyond) if r.estimand.startswith(BEYOND) else r for r in rows]
    sentence = primed_sentence(shifted)
    assert f"; that is {words} than an unrelated language adds at equal amounts (95 %" in sentence
