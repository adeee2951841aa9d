"""Option positions and calibration by run and language: truths, folds, runs without records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of
from scipy.special import softmax
from simulated_records import frame_of

from analysis.exhibits.exhibit import Evidence
from analysis.exhibits.options import positions_exhibit
from analysis.figures.before_after import before_after_table
from analysis.gains.gain_table import PRIMARY
from analysis.measures.formats import (
    BALANCED,
    MEASURE_COLUMNS,
    PRIOR,
    RECALL,
    before_and_after,
    format_measures,
    logged_measures,
    trained_shares,
)
from analysis.runs.run_files import read_format_file
from xling.records import LOGPROB_COLUMNS, check_records, describe_format
from xling.scoring.option_orders import recall_std
from xling.tracking import LoggedRun


def records(rng: np.random.Generator, **changes: object) -> pd.DataFrame:
    """Answers whose probabilities, predictions and right options hang together."""
    frames = []
    for language in ("heb_Hebr", "fra_Latn"):
        frame = frame_of(np.ones(60, bool), model="m", language=language)
        logs = rng.normal(0, 1.5, (60, 4))
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True)) + 0.1
        gold = rng.integers(1, 5, 60)
        frames.append(
            frame.assign(
                **{name: logs[:, k] for k, name in enumerate(LOGPROB_COLUMNS)},
                gold=gold, prediction=logs.argmax(axis=1) + 1,
                correct=logs.argmax(axis=1) + 1 == gold, answer_mass=np.exp(-0.1),
            )
        )  # fmt: skip
    return check_records(pd.concat(frames, ignore_index=True).assign(**changes))


def test_measures_are_those_that_runs_log() -> None:
    rng = np.random.default_rng(0)
    one, two = records(rng), records(rng, model="n", arm="finetuned", seed=3)
    training = records(rng, part="training", item_id=[f"t{k}" for k in range(120)])
    got = format_measures(pd.concat([two, training, one], ignore_index=True))
    assert tuple(got.columns) == MEASURE_COLUMNS and len(got) == 4
    for model, frame in (("m", one), ("n", two)):
        want = describe_format(frame).set_index("language")
        mine = got[got["model"] == model].set_index("language").loc[want.index]
        shared = [name for name in want.columns if name in mine.columns]
        assert {"ece", "prior_3", "gold_1", "predicted_4"} <= set(shared)
        np.testing.assert_allclose(mine[shared], want[shared], atol=1e-12)
        for code, rows in frame.groupby("language"):
            expected = recall_std(rows["gold"].to_numpy(), rows["prediction"].to_numpy())
            assert mine.loc[code, "recall_std"] == pytest.approx(expected)


def test_an_answer_always_in_one_place_has_the_recalls_of_it() -> None:
    frame = records(np.random.default_rng(1))
    logs = np.tile(np.log([0.1, 0.6, 0.2, 0.05]), (len(frame), 1))
    frame[list(LOGPROB_COLUMNS)] = logs
    frame = check_records(frame.assign(prediction=2, correct=frame["gold"] == 2))
    row = format_measures(frame).iloc[0]
    assert row[list(RECALL)].tolist() == [0, 1, 0, 0]
    assert row["recall_std"] == pytest.approx(np.sqrt(3) / 4)
    np.testing.assert_allclose(row[list(PRIOR)].astype(float), softmax(logs[0]))


def test_recall_noise_is_the_spread_that_chance_alone_makes() -> None:
    rng = np.random.default_rng(2)
    gold = np.arange(80) % 4 + 1
    right = rng.random((4000, 80)) < 0.6
    spreads = np.std([right[:, gold == k].mean(axis=1) for k in range(1, 5)], axis=0)
    frame = frame_of(np.arange(80) % 5 < 3, model="m", language="heb_Hebr")
    noise = format_measures(check_records(frame))["recall_noise"].item()
    assert noise == pytest.approx(spreads.mean(), rel=0.02)


def test_no_records_and_a_position_without_right_answers() -> None:
    empty = format_measures(check_records(frame_of(np.ones(4, bool), model="m", language="x")[:0]))
    assert empty.empty and tuple(empty.columns) == MEASURE_COLUMNS
    one = check_records(frame_of(np.ones(3, bool), model="m", language="heb_Hebr"))
    row = format_measures(one).iloc[0]
    assert np.isnan(row["recall_4"]) and np.isnan(row["recall_std"]) and row["gold_4"] == 0


def test_answers_without_any_probability_count_as_even() -> None:
    frame = records(np.random.default_rng(5))
    frame[list(LOGPROB_COLUMNS)] = -np.inf
    frame = check_records(frame.assign(prediction=1, correct=frame["gold"] == 1, answer_mass=0.0))
    for _, row in format_measures(frame).iterrows():
        np.testing.assert_allclose(row[[*PRIOR, *BALANCED]].to_numpy(float), 0.25)
        assert row["ece"] == pytest.approx(abs(row["gold_1"] - 0.25))


def test_a_balanced_prior_does_not_follow_the_right_answers() -> None:
    frame = frame_of(np.ones(60, bool), model="m", language="heb_Hebr")
    gold = np.repeat([1, 2, 3, 4], [6, 24, 18, 12])
    logs = np.log(np.where(np.arange(1, 5) == gold[:, None], 0.7, 0.1))
    frame = frame.assign(gold=gold, prediction=gold, correct=True)
    frame[list(LOGPROB_COLUMNS)] = logs
    row = format_measures(check_records(frame)).iloc[0]
    np.testing.assert_allclose(
        row[list(PRIOR)].to_numpy(float), 0.1 + 0.6 * np.array([0.1, 0.4, 0.3, 0.2])
    )
    np.testing.assert_allclose(row[list(BALANCED)].to_numpy(float), 0.25)


def test_trained_shares_come_from_training_questions_or_from_folds() -> None:
    rng = np.random.default_rng(3)
    heldout = records(rng)
    training = records(rng, part="training", gold=2, prediction=2, correct=True)
    training["item_id"] = "t" + training["item_id"]
    both = trained_shares(pd.concat([heldout, check_records(training)], ignore_index=True))
    assert both.values.tolist() == [0, 1, 0, 0] and both.source == "training-split questions"
    alone = trained_shares(heldout)
    assert np.isnan(alone.values).all() and alone.source == "no questions"
    folds = trained_shares(heldout.assign(fold=np.arange(len(heldout)) % 60 % 3))
    first = heldout[heldout["language"] == "heb_Hebr"]
    np.testing.assert_allclose(
        folds.values, np.bincount(first["gold"], minlength=5)[1:] / 60, atol=1e-12
    )
    assert folds.source == "all questions"
    assert np.isnan(trained_shares(heldout[:0]).values).all()


def run(run_id: str, **metrics: float) -> LoggedRun:
    params = {"model": "m", "arm": "base", "seed": "0", "reasoning": "direct",
              "scoring": "answer-token"}  # fmt: skip
    named = {f"cfg.{key}": value for key, value in params.items()}
    return LoggedRun(run_id, run_id, named, metrics, {}, 0, "FINISHED")


def test_runs_without_records_give_what_they_logged() -> None:
    bare = run("a", **{"ece/heb_Hebr": 0.2, "ece_other/x": 1.0, "accuracy/heb_Hebr": 0.5})
    table = describe_format(records(np.random.default_rng(4)))
    got = logged_measures([bare, run("b")], {"b": table})
    assert tuple(got.columns) == MEASURE_COLUMNS and len(got) == 3
    assert got.loc[0, "ece"] == 0.2 and np.isnan(got.loc[0, "prior_1"])
    assert got["prior_1"].tolist()[1:] == table["prior_1"].tolist()
    assert logged_measures([], {}).empty


def test_an_arm_is_compared_with_the_base_run_of_its_seed_else_the_lowest() -> None:
    rows = [
        ("m0", "base", 0, 1.0), ("m0", "base", 1, 2.0), ("m0", "finetuned", 0, 5.0),
        ("m0", "finetuned", 1, 7.0), ("m1", "base", 4, 3.0), ("m1", "base", 6, 9.0),
        ("m1", "finetuned", 0, 4.0), ("m1", "finetuned", 1, 4.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["model", "arm", "seed", "ece"]).assign(
        reasoning="direct", scoring="answer-token", language="l0"
    )
    table = table_of(np.full((2, 1), 0.4), np.full((2, 1), 0.5), np.array([True]))
    before, after = before_and_after(frame, table, ["ece"])
    assert before[:, 0, 0].tolist() == [1.5, 3.0] and after[:, 0, 0].tolist() == [6.0, 4.0]
    gone = before_and_after(frame[frame["arm"] == "base"], table, ["ece"])[1]
    assert np.isnan(gone).all()
    missing = before_and_after(frame[frame["seed"] != 1], table, ["ece"])
    assert missing[1][:, 0, 0].tolist() == [5.0, 4.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No columns"),
        ("ece,prior_1\n0.1,0.4\n", "column 'language' is missing"),
        ("language,ece\n", "there is no row"),
        ("language,ece\nheb_Hebr,0.1\n,0.1\n", "without a language"),
        ("language,ece\nheb_Hebr,0.1\nheb_Hebr,0.2\n", "heb_Hebr appears twice"),
        ("language,ece\nheb_Hebr,0.1\nfra_Latn,much\n", "ece of language fra_Latn is 'much'"),
        ("language,prior_1\nheb_Hebr,40\n", "prior_1 of language heb_Hebr is .*from 0 to 1"),
        ("language,ece\nheb_Hebr,inf\n", "ece of language heb_Hebr is"),
        ("language,n_items\nheb_Hebr,-3\n", "a number of items"),
    ],
)
def test_a_broken_format_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "format.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_format_file(path)


def test_a_format_table_may_lack_numbers_and_hold_more(tmp_path: Path) -> None:
    path = tmp_path / "format.csv"
    path.write_text("language,n_items,ece,note\nheb_Hebr,7,,x\nfra_Latn,7,1,\n")
    table = read_format_file(path)
    assert list(table.columns) == ["language", "n_items", "ece"]
    assert table["ece"].isna().tolist() == [True, False]
    whole = describe_format(records(np.random.default_rng(6)))
    whole.to_csv(path, index=False)
    assert read_format_file(path)["prior_4"].tolist() == whole["prior_4"].tolist()


def test_a_language_without_a_family_is_not_drawn() -> None:
    rows = [(code, arm, 0.1) for code in ("zzz_Latn", "fra_Latn") for arm in ("base", "finetuned")]
    frame = pd.DataFrame(rows, columns=["language", "arm", "ece"]).assign(
        model="m", seed=0, reasoning="direct", scoring="answer-token"
    )
    table = before_after_table(frame, "ece", {"fra_Latn": "control"}, PRIMARY)
    assert table["language"].tolist() == ["fra_Latn"]
    assert before_after_table(frame, "ece", {}, PRIMARY).empty


def test_the_positions_speak_of_the_arms_that_are_there() -> None:
    frame = records(np.random.default_rng(7))
    family = {"heb_Hebr": "related", "fra_Latn": "control"}
    for arm, scoring in (("finetuned", "permuted"), ("shuffled-labels", "answer-token")):
        seen = format_measures(pd.concat([frame, frame.assign(arm=arm, scoring=scoring)]))
        known = Evidence(None, [], seen, trained_shares(frame), [], None, family, {}, None)  # type: ignore[arg-type]
        exhibit = positions_exhibit(known)
        assert exhibit is not None
        assert ("shuffled" in " ".join(exhibit.text)) is (arm == "shuffled-labels")
        assert "Black bars" not in exhibit.caption and "counts alike" in exhibit.caption
        # Tables that runs log have the plain prior alone.
        logged = replace(known, measures=seen.assign(balanced_1=np.nan))
        plain = positions_exhibit(logged)
        assert plain is not None and "counts alike" not in plain.caption
    folds = trained_shares(frame.assign(fold=1))
    exhibit = positions_exhibit(replace(known, trained=folds))
    assert exhibit is not None and "shares among all questions" in exhibit.caption
    assert "the form of an answer and how often" in exhibit.text[0]


def test_logged_label_shares_come_before_those_of_training_questions() -> None:
    run = LoggedRun(
        "r", "r", {}, {f"label_share_{k}": v for k, v in enumerate((0.1, 0.2, 0.3, 0.4), 1)}, {}, 0,
        "FINISHED",
    )  # fmt: skip
    found = trained_shares(records(np.random.default_rng(0)), [run])
    np.testing.assert_allclose(found.values, [0.1, 0.2, 0.3, 0.4])
    assert found.source == "training labels"
