"""Results that are more often mistakes than findings are marked, by the run and in the report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.gains.responses import encode_responses
from analysis.report.findings import StudyContext
from analysis.report.warnings import find_warnings, warning_notes
from analysis.runs.pull import PulledRuns
from analysis.study_analysis import analyze_records
from tests.analysis.simulated_records import FAMILY, accuracies_of, study
from xling.records import (
    LEAST_CONSTANT,
    check_records,
    suspicious_languages,
    unchanged_languages,
    warning_text,
)

ALL = tuple(sorted(FAMILY))


@dataclass(frozen=True)
class Run:
    run_id: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def run_of(arm: str, **metrics: float) -> Run:
    params = {"model": "m", "arm": arm, "seed": "0", "reasoning": "direct"}
    params["scoring"] = "answer-token"
    named = {f"cfg.{key}": value for key, value in params.items()}
    return Run(f"id-{arm}", f"evaluate m/{arm}", named, metrics)


@pytest.fixture
def frame() -> pd.DataFrame:
    """A base model and a tuned one, in seven languages; nothing is suspicious."""
    rows = study(np.random.default_rng(0), base={"m": 0.5}, n_items=40, n_training=10)
    rng = np.random.default_rng(1)  # numbers of each run's own, as of real models
    for name in ("logprob_1", "logprob_2", "logprob_3", "logprob_4"):
        rows[name] -= rng.random(len(rows)) * 1e-3
    return rows


def of(frame: pd.DataFrame, arm: str, *codes: str) -> pd.Series:
    return (frame["arm"] == arm) & frame["language"].isin(codes) & (frame["part"] == "heldout")


def constant(frame: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    rows = frame.copy()
    rows.loc[chosen, "prediction"] = 2
    rows["correct"] = rows["gold"] == rows["prediction"]
    return rows


def as_base(frame: pd.DataFrame, *codes: str) -> pd.DataFrame:
    """The tuned run's records of some languages are the base's."""
    rows = frame[~of(frame, "finetuned", *codes)]
    return pd.concat([rows, frame[of(frame, "base", *codes)].assign(arm="finetuned")])


def found(frame: pd.DataFrame, accuracies: pd.DataFrame | None = None, **more) -> set:
    accuracies = accuracies_of(frame) if accuracies is None else accuracies
    pulled = PulledRuns("s", frame, accuracies, (), (), **more)
    result = find_warnings(pulled, encode_responses(frame))
    return {(each.run[1], each.kind, each.languages) for each in result}


def test_good_results_are_not_suspicious(frame):
    assert found(frame) == set()
    base, tuned = (check_records(frame[frame["arm"] == arm]) for arm in ("base", "finetuned"))
    assert suspicious_languages(base, ALL) == {} == suspicious_languages(tuned, ALL)
    assert unchanged_languages(tuned, base) == () and warning_text({}) == ""


@pytest.mark.parametrize(("mass", "suspicious"), [(0.0099, True), (0.0101, False), (0.0, True)])
def test_answer_mass_near_zero(frame, mass, suspicious):
    frame.loc[of(frame, "base", "heb_Hebr", "kor_Hang"), "answer_mass"] = mass
    expected = {("base", "answer_mass", ("heb_Hebr", "kor_Hang"))} if suspicious else set()
    assert found(frame) == expected
    alone = suspicious_languages(check_records(frame[frame["arm"] == "base"]), ALL)
    assert warning_text(alone) == ("answer_mass: heb_Hebr kor_Hang" if suspicious else "")


def test_cloze_has_no_answer_mass_and_is_not_suspicious(frame):
    assert found(frame.assign(scoring="cloze", answer_mass=np.nan)) == set()


def test_constant_predictions_of_enough_questions(frame):
    rows = constant(frame, of(frame, "finetuned", "fra_Latn"))
    assert found(rows) == {("finetuned", "constant", ("fra_Latn",))}
    tuned = check_records(rows[rows["arm"] == "finetuned"])
    assert warning_text(suspicious_languages(tuned)) == "constant: fra_Latn"
    few = tuned[tuned.groupby("language").cumcount() < LEAST_CONSTANT - 1]
    assert suspicious_languages(few) == {}
    enough = tuned[tuned.groupby("language").cumcount() < LEAST_CONSTANT]
    assert warning_text(suspicious_languages(enough)) == "constant: fra_Latn"


def test_a_language_without_questions_is_named(frame):
    rows = check_records(frame[(frame["arm"] == "base") & (frame["language"] != "mlt_Latn")])
    assert suspicious_languages(rows, ALL) == {"empty": ("mlt_Latn",)}
    training = frame[(frame["arm"] == "base") & (frame["part"] == "training")]
    assert suspicious_languages(check_records(training), ALL) == {"empty": ALL}


def test_an_adapter_without_effect_in_some_or_all_languages(frame):
    rows = as_base(frame, "heb_Hebr", "arb_Arab")
    assert found(rows) == {("finetuned", "same_as_base", ("arb_Arab", "heb_Hebr"))}
    assert found(as_base(frame, *ALL)) == {("finetuned", "same_as_base", ALL)}
    one = of(rows, "finetuned", "heb_Hebr").to_numpy().nonzero()[0][0]
    rows.iloc[one, rows.columns.get_loc("logprob_3")] -= 9e-5  # as another batch makes of it
    assert found(rows) == {("finetuned", "same_as_base", ("arb_Arab", "heb_Hebr"))}
    rows.iloc[one, rows.columns.get_loc("logprob_3")] -= 2e-5
    assert found(rows) == {("finetuned", "same_as_base", ("arb_Arab",))}


def test_equal_choices_with_other_probabilities_are_not_suspicious(frame):
    rows = as_base(frame, *ALL)
    rows.loc[rows["arm"] == "finetuned", "logprob_1"] -= 2e-4
    assert found(rows) == set()


def test_accuracies_alone_that_equal_the_bases(frame):
    bare = accuracies_of(as_base(frame, *ALL)).assign(has_records=False)
    none = frame.iloc[:0]
    assert found(none, bare) == {("finetuned", "same_accuracy", ALL)}
    few = bare[bare["language"].isin(ALL[:2])]
    assert found(none, few) == set()  # two may be equal by chance
    other = bare.copy()
    other.loc[other["arm"] == "finetuned", "accuracy"] += np.where(np.arange(7) == 3, 1e-12, 0)
    assert found(none, other) == set()


def test_a_foreign_run_without_records_is_judged_by_what_it_logged(frame):
    bare = accuracies_of(frame).assign(has_records=False, run_id="id-base")
    metrics = {"answer_mass/heb_Hebr": 0.002, "answer_mass/fra_Latn": 0.9, "n_items/kor_Hang": 0.0}
    shape = pd.DataFrame(
        {"language": ["fra_Latn", "mlt_Latn"], "n_items": [40.0, 40.0],
         "predicted_1": [1.0, 0.5], "predicted_2": [0.0, 0.5]}
    )  # fmt: skip
    logged = found(
        frame.iloc[:0],
        bare[bare["arm"] == "base"],
        runs=(run_of("base", **metrics),),
        formats={"id-base": shape},
    )
    assert logged == {
        ("base", "answer_mass", ("heb_Hebr",)),
        ("base", "constant", ("fra_Latn",)),
        ("base", "empty", ("kor_Hang",)),
    }


def test_the_report_says_so_first_and_again_in_the_notes(frame, tmp_path: Path, undrawn):
    rows = as_base(frame, *ALL)
    rows.loc[of(rows, "base", "heb_Hebr"), "answer_mass"] = 0.001
    pulled = PulledRuns(
        "s", check_records(rows), accuracies_of(rows), ("id-base", "id-finetuned"),
        ("two runs for one cell",), (run_of("base"), run_of("finetuned")),
    )  # fmt: skip
    reading = StudyContext(family=FAMILY, bound=0.05, names={code: code for code in FAMILY})
    analysis = analyze_records(pulled, reading, tmp_path / "bad")
    page = (tmp_path / "bad" / "report.html").read_text()
    heading = page.index('<h2 id="warnings">')
    assert '<a href="#warnings">Warnings</a>' in page[:heading]
    said = (
        "run evaluate m/finetuned (id-finetuned), model m/finetuned/0/direct/answer-token: no "
        "log-probability differs from the base model&#39;s by more than 0.0001 in amh_Ethi, arb"
    )
    assert page.count(said) == 2 and heading < page.index(said) < page.index('id="gains"')
    assert "less than 1% of the probability (mean answer mass) in heb_Hebr: " in page
    text = "\n".join(analysis.summary)
    assert (
        "Note: run evaluate m/base (id-base), model m/base/0/direct/answer-token: the four" in text
    )
    assert "Note: two runs for one cell" in text
    good = replace(pulled, records=check_records(frame), accuracies=accuracies_of(frame), notes=())
    analyze_records(good, reading, tmp_path / "good")
    page = (tmp_path / "good" / "report.html").read_text()
    assert "warnings" not in page.replace("There are no warnings.", "")
    assert "There are no warnings." in page


def test_many_languages_are_counted_and_not_all_named(frame):
    codes = [f"l{n:02d}_Latn" for n in range(30)]
    one = frame[of(frame, "base", "fra_Latn")].assign(answer_mass=0.0)
    rows = check_records(pd.concat([one.assign(language=code) for code in codes]))
    pulled = PulledRuns("s", rows, accuracies_of(rows), (), ())
    (note,) = warning_notes(pulled, find_warnings(pulled, encode_responses(rows)))
    assert "l11_Latn and 18 more: " in note and "l12_Latn" not in note
