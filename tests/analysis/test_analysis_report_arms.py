"""What the report says of the source arms, where the data are such that it is easily too much."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from planted_arms import EVEN, Gain, Row, arm_records, by_arm, planted, row_of
from simulated_records import FAMILY

from analysis.estimates import Estimate
from analysis.exhibits.exhibit import Evidence
from analysis.report.arm_sentences import arm_sentences
from analysis.tables.numbers import points

KIN = "without kin of the control source"
CLAIM = "related languages gain from the source being related"


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return arm_records()


def said(evidence: Evidence) -> tuple[str, str]:
    """The sentence on relatedness and that on format."""
    relatedness, form = arm_sentences(evidence.estimates)
    return relatedness, form


# Relatedness


def test_a_difference_that_the_controls_make_is_no_gain_of_related_languages(
    records: pd.DataFrame,
) -> None:
    kin = EVEN | {"control-source": 0.21}
    found = planted(records, by_arm(EVEN | {"control-source": 0.15}, kin))
    d = row_of(found, "D (finetuned - control-source)")
    part = row_of(found, "part of the gain: relatedness (related)")
    assert d.estimate == pytest.approx(0.06, abs=0.01) and (d.p or 1) < 0.001
    assert part.ci_low is not None and part.ci_high is not None and part.ci_low < 0 < part.ci_high
    sentence = said(found)[0]
    assert f": {CLAIM}" not in sentence
    assert f"that {CLAIM} is not established" in sentence and points(d.estimate or 0) in sentence


def test_a_gain_that_is_there_is_said_with_its_number(records: pd.DataFrame) -> None:
    sentence = said(planted(records, by_arm(EVEN, EVEN | {"control-source": 0.15})))[0]
    assert f": {CLAIM}, and not only" in sentence
    assert re.search(r"in related languages \+(6|7)\.\d points", sentence)


@pytest.mark.slow
def test_a_related_source_that_is_worse_everywhere_is_not_said_to_help(
    records: pd.DataFrame,
) -> None:
    worse = EVEN | {"finetuned": 0.05}
    sentence = said(
        planted(records, by_arm(worse | {"control-source": 0.10}, worse | {"control-source": 0.16}))
    )[0]
    assert CLAIM not in sentence
    assert "gain less from the related source than the control source gives them" in sentence
    helps = EVEN | {"control-source": 0.10}
    sentence = said(planted(records, by_arm(helps, helps | {"control-source": 0.04})))[0]
    assert "less in related languages than in controls" in sentence
    assert "though it adds there, too" in sentence
    harms = EVEN | {"control-source": 0.20}
    sentence = said(planted(records, by_arm(harms, harms | {"control-source": 0.14})))[0]
    assert "less in related languages than in controls" in sentence
    assert "they gain more from the control source" in sentence


def rows(d: Row, part: Row | None = None, families: Row | None = None) -> list[Estimate]:
    """Rows of D by languages and by families (as the languages unless given), and of the part."""
    name = "D (finetuned - control-source)"
    made = [
        Estimate(name, "points", "welch", "languages", **d),
        Estimate(name, "points", "random_effects", "families", **(families or d)),
    ]
    if part is not None:
        named = "part of the gain: relatedness (related)"
        made.append(Estimate(named, "points", "one_sample_ttest", "languages", **part))
    return made


UP = {"estimate": 0.08, "se": 0.02, "df": 30.0, "ci_low": 0.039, "ci_high": 0.121, "p": 0.001}
DOWN = {"estimate": -0.08, "se": 0.02, "df": 30.0, "ci_low": -0.121, "ci_high": -0.039, "p": 0.001}
NULL = {"estimate": 0.02, "se": 0.025, "df": 30.0, "ci_low": -0.03, "ci_high": 0.07, "p": 0.4}
# 95 % without zero, 98.33 % with it.
BETWEEN = {"estimate": 0.08, "se": 0.036, "df": 30.0, "ci_low": 0.006, "ci_high": 0.154, "p": 0.034}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (rows(UP, UP), [CLAIM, "+8.0"]),
        (rows(UP, UP, NULL), ["by families it cannot be told", "interval \N{MINUS SIGN}4.3 to +8.3",
                              "in these related languages +8.0 points"]),
        (rows(UP, UP, DOWN), ["by families it cannot be told"]),
        (rows(UP, UP, {"status": "needs 3 control families, has 2"}),
         ["by families it cannot be told", "(needs 3 control families, has 2)"]),
        (rows(BETWEEN, UP), ["cannot tell", "98.3 % interval \N{MINUS SIGN}1.1 to +17.1"]),
        (rows(UP), ["cannot be told"]),
        (rows(UP, {"status": "needs 2 related languages"}), ["needs 2 related languages"]),
        (rows(UP, NULL), ["is not established"]),
        (rows(DOWN, DOWN), ["less in related languages than in controls", "\N{MINUS SIGN}8.0"]),
        (rows(NULL, UP), ["cannot tell", "+2.0"]),
        (rows({"status": "needs 2 control languages"}), ["because: needs 2 control languages"]),
    ],
)  # fmt: skip
def test_what_each_pattern_is_called(made: list[Estimate], words: list[str]) -> None:
    (sentence,) = arm_sentences(made)
    for word in words:
        assert word in sentence
    assert (f": {CLAIM}" in sentence) == (CLAIM in words[0])


# Kin of the control source


SIX = FAMILY | {"xho_Latn": "control", "zul_Latn": "control"}


def with_kin(gain_of_kin: float) -> Gain:
    def gain(arm: str, code: str) -> float:
        kin = arm == "control-source" and code in ("fra_Latn", "xho_Latn")
        return EVEN[arm] + (gain_of_kin if kin else 0.0)

    return gain


@pytest.fixture(scope="module")
def more_records(records: pd.DataFrame) -> pd.DataFrame:
    again = [
        records[records["language"] == old].assign(language=new)
        for old, new in (("jpn_Jpan", "xho_Latn"), ("kor_Hang", "zul_Latn"))
    ]
    return pd.concat([records, *again], ignore_index=True)


def test_kin_of_the_control_source_do_not_decide(more_records: pd.DataFrame) -> None:
    """Relatedness is planted as nothing; two controls gain from the control source, their kin."""
    found = planted(more_records, with_kin(0.10), family=SIX, kin=["fra_Latn", "xho_Latn"])
    with_them = row_of(found, "D (finetuned - control-source)")
    without = row_of(found, f"D (finetuned - control-source, {KIN})")
    assert with_them.estimate == pytest.approx(0.04, abs=0.01)  # what kinship of controls makes
    assert "fra_Latn, xho_Latn" in with_them.note and "kin" in with_them.note
    assert without.estimate == pytest.approx(0, abs=0.01)
    assert (without.n_related, without.n_control) == (3, 3) and 2 <= (without.df or 0) <= 4
    assert "fra_Latn" in without.note
    logit = row_of(found, f"D (finetuned - control-source, {KIN})", "logit")
    assert logit.status == "needs n_options: chance is not known"
    sentence = said(found)[0]
    assert "cannot tell" in sentence and f", {KIN} (2 languages)" in sentence
    part = row_of(found, "part of the gain: relatedness (control)")
    assert "kin" in part.note


@pytest.mark.slow
def test_rows_without_kin_are_there_only_where_kin_are(more_records: pd.DataFrame) -> None:
    for kin in ([], ["deu_Latn"], ["arb_Arab"]):
        found = planted(more_records, with_kin(0.0), family=SIX, kin=kin)
        assert not any(KIN in row.estimand for row in found.estimates)
        assert "kin of the control source" not in said(found)[0]
    # A language that the control source is itself is left out before.
    found = planted(
        more_records, with_kin(0.0), family=SIX, left_out=["fra_Latn"], kin=["fra_Latn"]
    )
    assert not any(KIN in row.estimand for row in found.estimates)


def test_too_few_languages_without_kin_have_a_status(more_records: pd.DataFrame) -> None:
    kin = [code for code in SIX if SIX[code] == "control" and code != "kor_Hang"]
    found = planted(more_records, with_kin(0.10), family=SIX, kin=kin)
    without = row_of(found, f"D (finetuned - control-source, {KIN})")
    assert (without.status, without.estimate) == ("needs 2 control languages", None)
    sentence = said(found)[0]
    assert "kin of the control source" in sentence and "needs 2 control languages" in sentence


# Format


def test_the_share_of_a_loss_is_said_as_that(records: pd.DataFrame) -> None:
    lost = {"finetuned": -0.10, "control-source": -0.08, "shuffled-labels": -0.06}
    sentence = said(planted(records, by_arm(lost, lost)))[1]
    assert "of the gain" not in sentence and "of that loss" in sentence
    assert re.search(r"brings (5[789]|6[0123]) %", sentence)


@pytest.mark.parametrize("sign", [1, -1])
def test_arms_that_go_opposite_ways_have_no_share(records: pd.DataFrame, sign: int) -> None:
    change = {"finetuned": 0.10, "control-source": 0.08, "shuffled-labels": -0.06}
    change = {arm: sign * value for arm, value in change.items()}
    found = planted(records, by_arm(change, change))
    row = row_of(found, "format share of the gain", "ratio")
    assert row.estimate is None and "no share" in row.status
    sentence = said(found)[1]
    assert "%" not in sentence and row.status in sentence


def test_a_share_within_noise_of_none_keeps_its_number(records: pd.DataFrame) -> None:
    change = EVEN | {"shuffled-labels": -0.001}
    row = row_of(planted(records, by_arm(change, change)), "format share of the gain", "ratio")
    assert row.estimate is not None and row.ci_high is not None and row.ci_high > 0


def test_sentences_on_arms_say_which_cells_they_are_without(records: pd.DataFrame) -> None:
    found = planted(
        records, by_arm(EVEN, EVEN),
        without=lambda row: row["model"] == "b" and row["arm"] not in ("base", "finetuned"),
    )  # fmt: skip
    assert found.compared.primary.table.subset == ""
    relatedness, share = said(found)
    assert "(complete subset: without b)" in relatedness
    assert share.endswith("over 6 target languages (complete subset: without b).")
    assert "complete subset" not in " ".join(said(planted(records, by_arm(EVEN, EVEN))))


def test_the_share_says_which_languages_it_counts(records: pd.DataFrame) -> None:
    found = planted(records, by_arm(EVEN, EVEN), left_out=["jpn_Jpan"])
    row = row_of(found, "format share of the gain", "ratio")
    assert row.n_control == 3 and "all 6 target languages" in row.note and "jpn_Jpan" in row.note
    assert "over all 6 target languages" in said(found)[1]
    assert row_of(found, "part of the gain: format (control)").n_control == 2
