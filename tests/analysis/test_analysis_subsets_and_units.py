"""Complete subsets, units of models and languages, chance, unpaired intervals, families."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of
from scipy import stats
from simulated_records import CONTROL, FAMILY, RELATED, accuracies_of, study
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis.estimators.all_estimates import study_estimates
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.families import families_difference
from analysis.estimators.primary import find_row, with_status
from analysis.estimators.specifications import specification_rows, specifications
from analysis.gains.baselines import BaselineGroups
from analysis.gains.cells import NOT_AVAILABLE, UNPAIRED, gain_cells
from analysis.gains.comparisons import Comparison, StudyDesign, compare_runs
from analysis.gains.complete import largest_complete
from analysis.gains.gain_table import (
    CHANCE_UNKNOWN,
    LOGIT,
    NO_FLOOR,
    POINTS,
    GainTable,
    guess_corrected_logit,
    top_family,
)
from analysis.gains.units import language_units, model_units
from analysis.measures.formats import format_measures, trained_shares
from xling.languages import belebele_codes, get_language
from xling.records import check_records

MODELS = tuple("abcdefg")
SORTED = np.argsort([*RELATED, *CONTROL])
NO_RECORDS = check_records(study(np.random.default_rng(0), base={"a": 0.5}, n_items=4))[:0]


def accuracies(
    gain: np.ndarray,
    languages: tuple[str, ...] = (*RELATED, *CONTROL),
    *,
    models: tuple[str, ...] = MODELS,
    base: float = 0.5,
    **columns: object,
) -> pd.DataFrame:
    """Accuracies alone of base and tuned models; gain (models, languages), NaN where missing."""
    rows = [
        {"model": model, "arm": arm, "seed": 0, "reasoning": "direct", "scoring": "answer-token",
         "language": code, "accuracy": base + (gain[m, k] if arm == "finetuned" else 0.0),
         "has_records": False, "run_id": "r"}
        for m, model in enumerate(models)
        for k, code in enumerate(languages)
        for arm in ("base", "finetuned")
    ]  # fmt: skip
    return pd.DataFrame(rows).dropna(subset="accuracy").assign(**columns)


def primary_of(
    table: pd.DataFrame, family: dict[str, str] | None = None, **design: object
) -> Comparison:
    known = StudyDesign(FAMILY if family is None else family, **design)  # type: ignore[arg-type]
    return compare_runs(NO_RECORDS, table, known).primary


# Complete subsets.


def test_one_missing_cell_of_42_costs_one_model() -> None:
    rng = np.random.default_rng(1)
    gain = rng.normal(0.1, 0.02, (7, 6)) + 0.1 * np.array([1, 1, 1, 0, 0, 0])
    gain[2, 4] = np.nan
    found = primary_of(accuracies(gain))
    assert found.table.subset == "complete subset: without c"
    assert found.table.models == tuple("abdefg")
    rows = contrast_rows(found.table, found.groups, 0.05)
    d = with_status(rows, found.table.subset)[0]
    kept = np.delete(gain, 2, axis=0).mean(axis=0)
    tested = stats.ttest_ind(kept[:3], kept[3:], equal_var=False)
    assert d.estimate == pytest.approx(kept[:3].mean() - kept[3:].mean())
    assert d.p == pytest.approx(tested.pvalue) and (d.n_models, d.n_control) == (6, 3)
    assert d.status == "complete subset: without c"


def test_a_language_without_any_gain_is_what_is_left_out() -> None:
    gain = np.full((7, 6), 0.1) + np.arange(6) * 0.01
    gain[:6, 1] = np.nan
    assert primary_of(accuracies(gain)).table.subset == "complete subset: without amh_Ethi"


@pytest.mark.parametrize("seed", range(20))
def test_a_complete_subset_has_no_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random((7, 8)) > rng.choice([0.02, 0.1, 0.3])
    related = np.arange(8) < 3
    models, languages = largest_complete(present, related)
    assert present[np.ix_(models, languages)].all()
    if not present.all():
        # Never fewer cells than by leaving out models alone, or languages alone.
        by_model = present.all(axis=1).sum() * 8
        by_language = present.all(axis=0).sum() * 7
        kept = models.sum() * languages.sum()
        usable = (related & languages).any() and (~related & languages).sum() >= 2
        assert usable or kept >= max(by_model, by_language)


def test_a_contrast_is_worth_more_than_cells() -> None:
    """The most cells would be without the one related language; then there is no D."""
    present = np.ones((6, 6), np.bool_)
    present[:4, 0] = False
    related = np.arange(6) == 0
    models, languages = largest_complete(present, related)
    assert languages.all() and models.tolist() == [False] * 4 + [True] * 2
    # With another related language the most cells are kept.
    models, languages = largest_complete(present, np.arange(6) < 2)
    assert models.all() and languages.sum() == 5


def test_every_row_says_that_it_is_of_a_complete_subset() -> None:
    rng = np.random.default_rng(3)
    base, arms = dict.fromkeys("abcd", 0.5), ("finetuned", "control-source", "shuffled-labels")
    frame, *others = (
        study(rng, base=base, n_items=24, n_training=n, arms=arms) for n in (24, 0, 0, 0)
    )
    others[0] = others[0][others[0]["arm"] == "base"].assign(reasoning="cot")
    for k, scoring in ((1, "cloze"), (2, "permuted")):
        others[k]["scoring"] = scoring
    frame = pd.concat([frame, *others], ignore_index=True)
    gone = (frame["model"] == "b") & (frame["language"] == "mlt_Latn") & (frame["arm"] != "base")
    frame = check_records(frame[~gone])
    compared = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY))
    rows = study_estimates(
        compared, format_measures(frame), trained_shares(frame), bound=0.05, seed=0
    )
    curve = specifications(compared.primary.table, compared.primary.groups, ())
    rows += specification_rows(curve, compared.primary.table, {"D": 0.1, "B": 0.1, "I": 0.1})
    assert {row.estimand for row in rows if row.estimate is not None} >= {
        "D", "gain answer-token - cloze", "gain answer-token - permuted",
        "r (fine-tuning gain, chain-of-thought gain)", "specifications of D with p below 0.05",
        "part of the gain: relatedness (related)", "change in squared calibration error",
    }  # fmt: skip
    for row in rows:
        said = row.status if row.status.startswith("complete subset") else row.note
        assert row.estimate is None or "complete subset: without mlt_Latn" in said, row


# Units.


def test_all_of_belebele_has_four_related_languages_and_105_controls() -> None:
    source = {"arb", "ars", "arz", "acm", "apc", "ary"}
    family = {}
    for code in belebele_codes():
        language = get_language(code)
        semitic = any(node.name == "Semitic" for node in language.lineage)
        kind = "related" if semitic else "control"
        family[code] = "source" if language.iso639_3 in source else kind
    targets = tuple(code for code, kind in family.items() if kind != "source")
    gain = np.random.default_rng(2).normal(0.1, 0.03, (2, len(targets)))
    found = primary_of(accuracies(gain, targets, models=("a", "b")), family)
    table = found.table
    assert (table.related.sum(), (~table.related).sum()) == (4, 105)
    assert (table.shared["n_related"], table.shared["n_control"]) == (4, 105)
    # Oromo, Hausa and Somali are kin of Semitic: controls among languages, not among families.
    assert table.unrelated.sum() == 102
    assert {table.languages[k] for k in np.flatnonzero(~table.unrelated & ~table.related)} == {
        "gaz_Latn", "hau_Latn", "som_Latn",
    }  # fmt: skip
    # Two scripts of a language are averaged.
    hindi = [k for k, code in enumerate(targets) if code.startswith("hin_")]
    place = next(k for k, code in enumerate(table.languages) if code.startswith("hin_"))
    assert len(hindi) == 2
    np.testing.assert_allclose(table.gain[POINTS][:, place], gain[:, hindi].mean(axis=1))
    rows = contrast_rows(table, found.groups, 0.05)
    families = find_row(rows, "D", "random_effects", "families")
    assert families is not None and families.n_control == 102
    assert (
        families.df == len({top_family(c) for c in table.languages} - {top_family("heb_Hebr")}) - 1
    )
    assert "without 3 controls of the related top family" in families.note


def test_scripts_are_one_language() -> None:
    assert language_units(["hin_Deva", "eng_Latn", "hin_Latn"]) == {
        "hin_Deva": "hin_Deva", "eng_Latn": "eng_Latn", "hin_Latn": "hin_Deva",
    }  # fmt: skip


def test_eleven_tuned_models_of_five_bases_are_five_units() -> None:
    names = tuple(f"t{k:02d}" for k in range(11))
    bases = {name: f"base-{k % 4}" for k, name in enumerate(names[:10])}  # t10 is by itself
    gain = np.random.default_rng(3).normal(0.1, 0.02, (11, 6))
    found = primary_of(accuracies(gain, models=names), bases=bases)
    assert found.table.models == ("base-0", "base-1", "base-2", "base-3", "t10")
    assert found.by_model.models == names and found.table.shared["n_models"] == 5
    of = Counter(bases.values())
    assert sorted(of.values()) == [2, 2, 3, 3]
    np.testing.assert_allclose(found.table.gain[POINTS][0], gain[[0, 4, 8]].mean(axis=0)[SORTED])
    np.testing.assert_allclose(found.table.gain[POINTS][4], gain[10][SORTED])
    # One unit a developer: two of the bases are of one house.
    developers = {name: "house" for name, base in bases.items() if base in ("base-0", "base-1")}
    more = primary_of(accuracies(gain, models=names), bases=bases, developers=developers)
    assert more.table.models == found.table.models
    assert more.by_developer.table.models == ("house", "base-2", "base-3", "t10")


def test_names_of_units() -> None:
    assert model_units(["a", "b", "c"], {"a": "x", "b": "x", "c": "y"}) == {
        "a": "x", "b": "x", "c": "c",
    }  # fmt: skip
    # A model by itself that is called what others are versions of.
    clash = model_units(["a", "b", "x"], {"a": "x", "b": "x", "x": "other"})
    assert len(set(clash.values())) == 2 and clash["a"] == clash["b"] == "x"
    assert clash["x"] == "other"
    assert model_units(["a", "b"], {}) == {"a": "a", "b": "b"}


# Chance, and where logits are noise.


def test_chance_comes_from_the_number_of_options() -> None:
    gain = np.random.default_rng(4).normal(0.1, 0.02, (7, 6))
    two = primary_of(accuracies(gain, base=0.7, n_options=2)).table
    assert two.chance == 0.5
    expected = guess_corrected_logit(0.7 + gain, 0.5) - guess_corrected_logit(np.array(0.7), 0.5)
    np.testing.assert_allclose(two.gain[LOGIT], expected[:, SORTED])
    for unknown in (accuracies(gain), accuracies(gain).assign(n_options=[2, 4] * 42)):
        table = primary_of(unknown).table
        assert table.chance is None and np.isnan(table.gain[LOGIT]).all()
        assert table.logit_status() == CHANCE_UNKNOWN and table.status == "ok"
        rows = contrast_rows(table, BaselineGroups({}, {}, "none", "no groups", ""), 0.05)
        d = find_row(rows, "D", "welch", "languages", LOGIT)
        assert d is not None and (d.status, d.estimate) == (CHANCE_UNKNOWN, None)
        assert rows[0].status == "ok" and rows[0].estimate is not None


def plain(before: np.ndarray | float, after: np.ndarray | float, n: float = 900) -> GainTable:
    shape = (4, 6)
    made = table_of(np.broadcast_to(before, shape).astype(float),
                    np.broadcast_to(after, shape).astype(float), np.arange(6) < 3)  # fmt: skip
    return replace(made, n_items=np.full(shape, float(n)))


GROUPS = BaselineGroups(
    {}, {"m0": "weak", "m1": "weak", "m2": "strong", "m3": "strong"}, "training split", "ok", ""
)


def test_clipped_cells_leave_no_logits_by_group_and_by_family() -> None:
    assert plain(0.5, 0.7).logit_status(GROUPS) == "ok"
    after = np.full((4, 6), 0.7)
    after[3, 0] = 0.999  # one of 12 related cells; one of 6 of the strong models
    table = plain(0.5, after)
    assert table.logit_status() == "ok"
    assert table.logit_status(GROUPS) == (
        "17 % of tuned accuracies clipped (strong models, related languages)"
    )
    after[2, 0] = 0.999
    assert (
        plain(0.5, after).logit_status() == "17 % of tuned accuracies clipped (related languages)"
    )
    base = np.full((4, 6), 0.5)
    base[:2, 4] = 0.25
    assert plain(base, 0.7).logit_status() == "17 % of base accuracies clipped (control languages)"
    rng = np.random.default_rng(11)
    gain = {scale: values + rng.normal(0, 0.01, (4, 6)) for scale, values in table.gain.items()}
    rows = contrast_rows(replace(table, gain=gain), GROUPS, 0.05)
    i = find_row(rows, "I", "welch", "models", LOGIT)
    d = find_row(rows, "D", "welch", "languages", LOGIT)
    assert i is not None and "strong models" in i.status and i.estimate is None
    assert d is not None and d.estimate is not None


def test_a_base_at_chance_leaves_no_logits() -> None:
    base = np.full((4, 6), 0.5)
    base[1, 2] = 0.27
    # 27 of 100 are not above a quarter; 2,700 of 10,000 are.
    assert plain(base, 0.7, 100).logit_status() == "base accuracy not above chance in m1/l2"
    assert plain(base, 0.7, 10_000).logit_status() == "ok"
    base[2, 3] = 0.28
    assert plain(base, 0.7, 100).logit_status().endswith("m1/l2 and 1 more")
    # Without numbers of items only a clipped base says it.
    unknown = replace(plain(base, 0.7), n_items=None)
    assert unknown.logit_status() == "ok"
    base[1, 2] = 0.26
    unknown = replace(plain(base, 0.7), n_items=None)
    assert unknown.logit_status() == "base accuracy not above chance in m1/l2"


def test_accuracies_after_reasoning_have_no_floor() -> None:
    gain = np.random.default_rng(5).normal(0.1, 0.02, (7, 6))
    table = accuracies(gain, n_options=4, n_items=900).assign(reasoning="cot")
    found = compare_runs(NO_RECORDS, table, StudyDesign(FAMILY))
    reasoned = found.by_condition["finetuned", "cot", "answer-token"].table
    assert reasoned.logit_status() == NO_FLOOR


# Unpaired intervals.


def test_accuracies_of_known_size_have_newcombes_unpaired_interval() -> None:
    gain = np.round(np.random.default_rng(6).normal(0.1, 0.05, (2, 6)), 2)
    table = accuracies(gain, models=("a", "b"), n_items=100, n_options=4)
    cells = gain_cells(NO_RECORDS, table, FAMILY)
    assert (cells["status"] == UNPAIRED).all() and (cells["n_items"] == 100).all()
    for cell in cells.itertuples():
        low, high = confint_proportions_2indep(
            round(100 * cell.accuracy), 100, round(100 * cell.accuracy_base), 100,
            method="newcomb", compare="diff",
        )  # fmt: skip
        assert (cell.ci_low, cell.ci_high) == pytest.approx((low, high), abs=1e-9)
    assert cells[["p", "p_bh"]].isna().all(axis=None)


def test_standard_errors_give_a_normal_interval() -> None:
    gain = np.full((1, 6), 0.1)
    cells = gain_cells(NO_RECORDS, accuracies(gain, models=("a",), stderr=0.03), FAMILY)
    half = stats.norm.ppf(0.975) * 0.03 * np.sqrt(2)
    assert (cells["status"] == UNPAIRED).all()
    np.testing.assert_allclose(cells["ci_low"], 0.1 - half)
    np.testing.assert_allclose(cells["ci_high"], 0.1 + half)
    # One end alone says nothing of the gain.
    half_known = accuracies(gain, models=("a",))
    half_known["n_items"] = np.where(half_known["arm"] == "base", 100.0, np.nan)
    cells = gain_cells(NO_RECORDS, half_known, FAMILY)
    assert (cells["status"] == NOT_AVAILABLE).all() and cells["ci_low"].isna().all()


# D by families.


def test_families_of_one_language_by_hand() -> None:
    rng = np.random.default_rng(7)
    related, control = rng.normal(0.2, 0.02, 3), rng.normal(0.1, 0.03, 5)
    found = families_difference(related, control, list("abcde"))
    assert found is not None
    se = control.std(ddof=1) * np.sqrt(1 + 1 / 5)
    estimate = related.mean() - control.mean()
    assert (found.estimate, found.se, found.df) == pytest.approx((estimate, se, 4))
    half = stats.t.ppf(0.975, 4) * se
    assert (found.low, found.high) == pytest.approx((estimate - half, estimate + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(estimate / se), 4))


def test_families_of_several_languages_are_a_random_effects_mean() -> None:
    rng = np.random.default_rng(8)
    names = np.array(list("aaaabbbccd"))
    control = rng.normal(0.1, 0.02, 10) + np.repeat(rng.normal(0, 0.03, 4), [4, 3, 2, 1])
    related = rng.normal(0.2, 0.02, 4)
    found = families_difference(related, control, names.tolist())
    groups = [control[names == name] for name in "abcd"]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (10 - 4)
    means = np.array([g.mean() for g in groups])
    variances = within / np.array([4, 3, 2, 1])
    combined = combine_effects(means, variances, method_re="iterated", use_t=True)
    # The mean and its Hartung-Knapp error by hand, at the fitted variance between families.
    weights = 1 / (variances + max(combined.tau2, 0))
    mean = (weights * means).sum() / weights.sum()
    error = (weights * (means - mean) ** 2).sum() / 3 / weights.sum()
    assert found is not None and found.df == 3
    assert found.estimate == pytest.approx(related.mean() - mean)
    assert found.se**2 == pytest.approx(error + combined.tau2 + within / 4)


def test_few_families_and_no_variance() -> None:
    related = np.array([0.2, 0.3])
    with pytest.raises(ValueError, match="needs 3 control families, has 2"):
        families_difference(related, np.array([0.1, 0.2, 0.1]), ["a", "a", "b"])
    assert families_difference(related, np.full(3, 0.1), list("abc")) is None
    # A family more does not hide behind languages of one family.
    gain = np.random.default_rng(9).normal(0.1, 0.02, (7, 6))
    languages = ("heb_Hebr", "amh_Ethi", "mlt_Latn", "fra_Latn", "deu_Latn", "jpn_Jpan")
    family = {**FAMILY, "deu_Latn": "control"}
    found = primary_of(accuracies(gain, languages), family)
    rows = contrast_rows(found.table, found.groups, 0.05)
    row = find_row(rows, "D", "random_effects", "families")
    assert row is not None and (row.status, row.p) == ("needs 3 control families, has 2", None)
    tested = find_row(rows, "D", "tost", "families")
    assert tested is not None and tested.p is None and tested.status == row.status


def test_records_of_a_study_have_their_families() -> None:
    frame = check_records(study(np.random.default_rng(10), base={"a": 0.4, "b": 0.6}))
    table = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary.table
    assert table.chance == 0.25 and table.subset == "" and table.has_floor
    assert table.top_family == tuple(top_family(code) for code in table.languages)
    assert table.n_items is not None and bool(np.all(table.n_items == 100))
    assert table.unrelated.tolist() == (~table.related).tolist()
