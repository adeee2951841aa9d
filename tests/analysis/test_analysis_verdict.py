"""The verdict: each claim at each level, and no word that contradicts its interval."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.estimates import FAMILYWISE, SCALE_DEPENDENT, Estimate
from analysis.estimators.contrasts import equivalence_row
from analysis.estimators.rows import with_t_interval
from analysis.gains.baselines import BASELINES_ALIKE
from analysis.report.verdict import (
    FAMILIES_DIFFER,
    LANGUAGES_DIFFER,
    NOT_TOLD,
    RELATEDNESS,
    FamilyRows,
    excluded_side,
    family_level,
    family_rows,
    verdict,
)

BOUND = 0.05
# `make soak` draws four times as many.
DRAWS = 2500 if int(os.environ.get("XLING_SOAK", "1")) == 1 else 10_000
ARMS = "D (finetuned - control-source)"
KINDS = {
    "languages": ("welch", "languages"),
    "families": ("random_effects", "families"),
    "models": ("welch", "models"),
    "mixed": ("mixed_anova", "languages"),
    "both": ("intersection_union", "models, languages"),
}


def row(
    name: str, kind: str, estimate: float, se: float = 0.01, df: float = 30.0, scale: str = "points"
) -> Estimate:
    """A row with its t interval."""
    estimator, unit = KINDS[kind]
    made = Estimate(name, scale, estimator, unit, n_models=7, n_related=3, n_control=3)
    return with_t_interval(made, estimate, se, df)


def study(
    d: float = 0.0,
    families: float | None = None,
    arms: tuple[float, float] | None = None,
    b: float = 0.0,
    i: float = 0.0,
    se: float = 0.01,
) -> list[Estimate]:
    """Rows of a study on points; without their own, families have the languages' D."""
    rows = [
        row("D", "languages", d, se),
        row("D", "families", d if families is None else families, se),
        row("B", "models", b, se),
        row("I", "models", i, se),
        row("I", "mixed", i, se),
        row("I", "both", i, se),
    ]
    rows += [equivalence_row(each, BOUND) for each in (rows[0], rows[1], rows[3], rows[4])]
    if arms is not None:
        rows += [row(ARMS, "languages", arms[0], se), row(ARMS, "families", arms[1], se)]
    return rows


def claims(rows: list[Estimate], bound: float = BOUND) -> list[str]:
    return [claim.sentence for claim in verdict(rows, bound).claims]


def changed(rows: list[Estimate], name: str, kind: str, **changes: object) -> list[Estimate]:
    """The rows with one of them changed."""
    key = (name, *KINDS[kind], "points")
    found = [(r.estimand, r.estimator, r.unit, r.scale) == key for r in rows]
    assert sum(found) == 1
    return [
        replace(r, **changes)  # type: ignore[arg-type]
        if it
        else r
        for r, it in zip(rows, found, strict=True)
    ]


def without_number(rows: list[Estimate], name: str, kind: str, status: str) -> list[Estimate]:
    return changed(
        rows, name, kind, status=status,
        estimate=None, se=None, df=None, ci_low=None, ci_high=None, p=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "level", "words"),
    [
        (study(0.01, se=0.03), NOT_TOLD, ["cannot be told apart", "1 point more", "to +8.6)"]),
        (study(0.10, families=0.02), LANGUAGES_DIFFER,
         ["These related languages gained 10 points more",
          "against the mean of 31 control families the difference is +2.0 points", "2.5 points"]),
        (changed(study(0.10), "D", "families", se=0.05), LANGUAGES_DIFFER,
         ["but with 31 control families only a difference above 12.7 points would count"]),
        (study(0.10, families=-0.10), LANGUAGES_DIFFER, ["the other way round"]),
        (study(0.10), FAMILIES_DIFFER, ["more than these differ among themselves"]),
        (study(-0.10), FAMILIES_DIFFER, ["10 points less than unrelated families"]),
        (study(0.10, arms=(0.08, 0.01)), FAMILIES_DIFFER, ["among themselves"]),
        (study(0.10, arms=(0.08, -0.08)), FAMILIES_DIFFER, ["among themselves"]),
        (study(0.10, arms=(0.08, 0.07)), RELATEDNESS,
         ["Gains follow relatedness to the source: the source adds 7 points more"]),
    ],
)  # fmt: skip
def test_each_level_of_the_family_claim(rows: list[Estimate], level: int, words: list[str]) -> None:
    assert family_level(family_rows(rows)) == level
    sentence = claims(rows)[0]
    for word in words:
        assert word in sentence, sentence


def test_the_interval_shown_is_that_of_the_deciding_row() -> None:
    rows = study(0.10, families=0.09, arms=(0.08, 0.07))
    low, high = row("x", "languages", 0.07).interval_at(FAMILYWISE) or (0, 0)
    assert f"98.3 % interval +{100 * low:.1f} to +{100 * high:.1f}" in claims(rows)[0]
    assert "+9.0" in " ".join(verdict(rows, BOUND).basis)  # families stand below


def test_what_the_arms_say_without_kin_comes_first() -> None:
    kin = f"{ARMS[:-1]}, without kin of the control source)"
    rows = study(0.10, arms=(0.08, 0.07))
    rows += [row(kin, "languages", 0.0), row(kin, "families", 0.0)]
    assert family_level(family_rows(rows)) == FAMILIES_DIFFER


@pytest.mark.parametrize("lacking", ["languages", "families"])
def test_a_null_of_d_needs_both_units(lacking: str) -> None:
    small = study(0.002, se=0.004)
    assert claims(small)[0].startswith("Gains do not follow language family")
    assert "less than 5 points" in claims(small)[0] and "90 % interval" in claims(small)[0]
    wide = [
        equivalence_row(row("D", lacking, 0.002, 0.03), BOUND)
        if (r.estimand, r.estimator, r.unit) == ("D", "tost", KINDS[lacking][1])
        else r
        for r in small
    ]
    assert "cannot be told apart" in claims(wide)[0]
    gone = [r for r in small if not (r.estimator == "tost" and r.unit == KINDS[lacking][1])]
    assert "cannot be told apart" in claims(gone)[0]


@pytest.mark.parametrize("unit", ["models", "languages"])
def test_a_null_of_i_needs_both_units(unit: str) -> None:
    small = study(i=0.002, se=0.004)
    assert claims(small)[2].startswith("Family matters alike in weak and strong models")
    wide = [
        equivalence_row(row("I", "models", 0.002, 0.03), BOUND)
        if (r.estimand, r.estimator, r.unit) == ("I", "tost", unit)
        else r
        for r in small
    ]
    assert claims(wide)[2].startswith("These data cannot tell")


def test_a_difference_may_be_small() -> None:
    assert "but by less than 5 points" in claims(study(0.02, se=0.003))[0]
    assert "but by less than 5 points" in claims(study(i=0.02, se=0.003))[2]
    assert "less than 5" not in claims(study(0.10))[0]


def test_a_difference_over_the_bound_by_its_own_interval_shows_the_one_below_it() -> None:
    """98.33 % limits reach over the bound of 5 points, the 90 % ones of the test do not."""
    for rows, claim in ((study(0.035, se=0.0085), 0), (study(i=0.035, se=0.0085), 2)):
        sentence = claims(rows)[claim]
        assert "98.3 % interval +1.3 to +5.7" in sentence
        assert "but by less than 5 points (90 % interval +2.1 to +4.9, by " in sentence


def test_the_gains_equivalence_says_nothing_of_the_arms_difference() -> None:
    sentence = claims(study(0.02, arms=(0.08, 0.08), se=0.003))[0]
    assert "the source adds 8 points more" in sentence and "less than 5" not in sentence


def beyond(estimate: float, alone: float = 0.05) -> list[Estimate]:
    made = Estimate("B beyond headroom", "points", "delta_method", "models")
    share = Estimate("B from headroom alone", "points", "ratio_of_sums", "models", estimate=alone)
    return [share, with_t_interval(made, estimate, 0.01, 30.0)]


def test_room_to_improve_explains_no_loss_and_no_smaller_gain() -> None:
    for rows in (beyond(0.0), beyond(-0.30), beyond(0.10)):
        sentence = claims(study(b=-0.25) + rows)[1]
        assert sentence.endswith(", although they have more room to improve.")
    for b in (0.25, -0.25):
        found = verdict(study(b=b) + beyond(0.0, alone=-0.04), BOUND)
        assert "fine-tuning adds errors on the whole" in found.claims[1].sentence
        assert "may explain" not in found.claims[1].sentence
        assert "Adding the same share of errors" in " ".join(found.basis)


def test_headroom_without_an_interval_is_said() -> None:
    none = Estimate("B beyond headroom", "points", "delta_method", "models", status="needs 2 weak")
    assert (
        "their larger room to improve is not known (needs 2 weak)"
        in claims([*study(b=0.25), none])[1]
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (study(b=0.25), "Weak models gained 25 points more than strong ones"),
        (study(b=-0.25), "Weak models gained 25 points less"),
        (study(b=0.25) + beyond(0.0), "may explain by itself"),
        (study(b=0.25) + beyond(0.10), "more than their larger room to improve explains"),
        (study(b=0.25) + beyond(-0.10), "less than their larger room to improve would give"),
        (study(b=0.01), "cannot tell whether gains follow baseline strength"),
        (changed(study(b=0.25), "B", "models", status=BASELINES_ALIKE), "too alike"),
    ],
)
def test_what_is_said_of_baseline_strength(rows: list[Estimate], words: str) -> None:
    assert words in claims(rows)[1]


def test_one_model_in_a_group_speaks_of_these_models() -> None:
    rows = without_number(study(), "B", "models", "needs 2 weak and 2 strong models")
    one = Estimate("B", "points", "one_sample_ttest", "languages", n_models=3)
    rows.append(with_t_interval(one, 0.2, 0.01, 5.0))
    rows = changed(rows, "I", "both", unit="languages", estimate=0.1)
    sentences = claims(rows)
    assert "20 points more" in sentences[1] and ", in these models)" in sentences[1]
    assert "10 points larger" in sentences[2] and ", in these models)" in sentences[2]
    # A null by languages alone counts, then, and is of these models.
    rows = changed(study(se=0.004), "I", "both", unit="languages")
    rows = [r for r in rows if not (r.estimand == "I" and r.unit == "models")]
    assert (
        claims(rows)[2].startswith("Family matters alike") and "in these models" in claims(rows)[2]
    )


def test_room_to_improve_is_named_where_it_may_be_all() -> None:
    unknown = "how much of that is their larger room to improve is not known"
    assert unknown in claims(study(b=0.25))[1]
    assert "room to improve" not in claims(study(b=0.01))[1]
    assert "room" not in claims(study(b=-0.25))[1]  # more room cannot explain a smaller gain


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (study(0.02, se=0.03), "The related language cannot be told apart from the controls: it"),
        (study(0.002, se=0.004), "points: the related language gained 0.2 points more"),
        (study(0.10, families=0.02), "This related language gained 10 points more than these"),
        (study(0.10), "The related language gained 10 points more than unrelated families"),
        (study(0.10, arms=(0.08, 0.07)), "7 points more in the related language than"),
    ],
)
def test_one_related_language_is_spoken_of_as_one(rows: list[Estimate], words: str) -> None:
    one = [replace(r, n_related=1) for r in rows]
    found = verdict(one, BOUND)
    assert words in found.claims[0].sentence
    assert "its variance is taken to be that of the controls" in found.basis[0]
    assert "all related languages" not in found.basis[0]


def test_a_difference_that_rounds_to_nothing_is_not_more_and_not_less() -> None:
    sentences = claims(study(0.0, b=0.0, i=0.0, se=0.2))
    for sentence, words in zip(
        sentences,
        ("related ones gained as much (", "weak models gained as much as strong ones (",
         "the family difference is as large in weak as in strong models ("),
        strict=True,
    ):  # fmt: skip
        assert words in sentence
    assert "gained as much as controls (90 %" in claims(study(0.0, se=0.004))[0]


def test_an_interaction_on_one_scale_is_no_finding() -> None:
    rows = changed(study(i=0.2), "I", "both", status=SCALE_DEPENDENT)
    assert claims(rows)[2].startswith("It depends on the scale, so it is no finding")


def test_without_numbers_it_says_why() -> None:
    assert all("no such estimate" in sentence for sentence in claims([]))
    assert len(claims([])) == 3
    rows = without_number(study(), "D", "languages", "needs 1 related language")
    assert claims(rows)[0] == "No verdict on family: needs 1 related language."
    rows = without_number(study(), "B", "models", "needs training-split baseline")
    assert "needs training-split baseline" in claims(rows)[1]
    rows = without_number(study(0.1), "D", "families", "needs 3 control families, has 2")
    assert "needs 3 control families, has 2" in claims(rows)[0]
    zero = changed(study(), "D", "languages", se=None, df=None, status="zero variance")
    assert "zero variance" in claims(zero)[0]
    with pytest.raises(ValueError, match="equivalence bound"):
        verdict([], 0.0)


def test_another_arms_rows_do_not_count() -> None:
    other = [replace(r, estimand=f"{r.estimand} (shuffled-labels)") for r in study(0.1, b=0.2)]
    assert all("no such estimate" in sentence for sentence in claims(other))


def test_the_basis_says_what_the_claims_rest_on() -> None:
    text = " ".join(verdict([*study(0.1), row("D", "languages", 0.41, scale="logit")], BOUND).basis)
    for said in (
        "3 related languages with 3 control languages in 7 models",
        "one family is treated",
        "There is no control-source arm",
        "The smallest bound for D that these data can prove, by languages and by families",
        "In logits D is +0.41",
    ):
        assert said in text
    assert "no control-source arm" not in " ".join(verdict(study(arms=(0, 0)), BOUND).basis)
    subset = changed(study(), "D", "languages", status="complete subset: without m3")
    assert "complete subset: without m3" in " ".join(verdict(subset, BOUND).basis)


# Over random rows.

INTERVAL = re.compile(r"\((98\.3|90) % interval (\S+) to ([^,;)\s]+)")
CLAIMED = (
    "These related", "Related languages", "Gains follow relatedness", "Weak models", "The family",
)  # fmt: skip


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def random_rows(rng: np.random.Generator) -> list[Estimate]:
    """Rows whose estimates, errors and degrees of freedom have nothing to do with each other."""
    kinds = [
        ("D", "languages"), ("D", "families"), ("B", "models"), ("I", "models"), ("I", "mixed"),
        ("I", "both"), (ARMS, "languages"), (ARMS, "families"),
    ]  # fmt: skip
    size = 10 ** rng.uniform(-3, -0.7)
    rows = [
        row(name, kind, rng.normal(0, size), 10 ** rng.uniform(-3.5, -1), rng.uniform(1.5, 40))
        for name, kind in kinds
    ]
    rows = rows if rng.random() < 0.5 else rows[:6]
    return [*rows, *(equivalence_row(rows[k], BOUND) for k in (0, 1, 3, 4))]


def check_family(sentence: str, rows: FamilyRows) -> None:
    """The level's words stand over a row that has them."""
    level = family_level(rows)
    assert ("cannot be told apart" in sentence or "do not follow" in sentence) == (level == 0)
    if level:
        side = excluded_side(rows.languages)
        assert re.search(rf"points? {'more' if side > 0 else 'less'}", sentence), sentence


def test_no_word_contradicts_its_interval() -> None:
    rng = np.random.default_rng(9)
    levels = set()
    for _ in range(DRAWS):
        rows = random_rows(rng)
        sentences = claims(rows)
        check_family(sentences[0], family_rows(rows))
        levels.add(family_level(family_rows(rows)))
        for sentence in sentences:
            assert "-0.0" not in sentence and "\N{MINUS SIGN}0.0 " not in sentence
            found = INTERVAL.search(sentence)
            assert found is not None, sentence
            coverage, low, high = found[1], number(found[2]), number(found[3])
            if "cannot" in sentence:
                assert coverage == "98.3" and low <= 0 <= high, sentence
            elif sentence.startswith(CLAIMED):
                assert coverage == "98.3" and not low < 0 < high, sentence
                if low != high:
                    word = re.search(r"\b(more|larger|less|smaller)\b", sentence)
                    assert word is not None
                    assert (low + high > 0) == (word[1] in ("more", "larger")), sentence
            else:
                assert sentence.startswith(("Gains do not follow", "Family matters alike"))
                assert coverage == "90" and max(-low, high) <= 100 * BOUND, sentence
    assert levels == {NOT_TOLD, LANGUAGES_DIFFER, FAMILIES_DIFFER, RELATEDNESS}
