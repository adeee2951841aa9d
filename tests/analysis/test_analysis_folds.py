"""Cross-fitted studies: baselines from other folds, and what a pooled baseline would do instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from made_tables import answers, items_of, table_of_items
from simulated_records import CONTROL, FAMILY, RELATED, accuracies_of, study

from analysis.estimates import SCALE_DEPENDENT, Estimate
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.permutation import permutation_rows
from analysis.estimators.power import power_rows
from analysis.estimators.primary import find_row
from analysis.estimators.regression import regression_rows
from analysis.estimators.sampling_units import CHANGING, unit_rows
from analysis.estimators.slopes import slope_rows
from analysis.estimators.source_arms import CONTROL_SOURCE, source_arm_rows
from analysis.estimators.two_groups import Difference, mean_difference
from analysis.gains.baselines import (
    NEEDS_ITEMS,
    NEEDS_MODELS,
    BaselineGroups,
    baseline_groups,
    fold_groups,
    training_baselines,
)
from analysis.gains.comparisons import Comparisons, StudyDesign, compare_runs
from analysis.gains.gain_table import LOGIT, POINTS, PRIMARY, GainTable, guess_corrected_logit
from analysis.gains.grouped import group_gains
from analysis.gains.responses import encode_responses

USABLE = ("ok", SCALE_DEPENDENT)
NO_TRAINING = pd.DataFrame()
HALVES = np.array([True] * 6 + [False] * 6)
LEVELS = {"a": 0.45, "b": 0.55, "c": 0.55, "d": 0.55, "e": 0.55, "f": 0.65}


def folded_table(
    rng: np.random.Generator,
    before: np.ndarray,
    gain: np.ndarray,
    *,
    items: int = 60,
    folds: int = 5,
) -> GainTable:
    """Answers before and after, independent of each other, items dealt to the folds in turn."""
    drawn = (answers(rng, before, items), answers(rng, before + gain, items)[None])
    return table_of_items(items_of(*drawn, fold=np.arange(items) % folds), HALVES)


def groups_of(table: GainTable) -> BaselineGroups:
    assert table.folds is not None
    return fold_groups(table.folds, table.models)


def pooled_groups(table: GainTable) -> BaselineGroups:
    """Groups by the held-out accuracies themselves: what must not be done."""
    level = table.before.mean(axis=1)
    group = {
        model: "strong" if value > np.median(level) + 1e-9 else "weak"
        for model, value in zip(table.models, level, strict=True)
    }
    return BaselineGroups({}, group, "held-out", "ok", "")


def interaction_of(table: GainTable, groups: BaselineGroups, scale: str = POINTS) -> Difference:
    weak, strong = group_gains(table, groups, scale)
    return mean_difference(*table.split(weak - strong))


def flipping_table() -> tuple[GainTable, BaselineGroups]:
    """A table in which some models change groups, and some do not."""
    before = np.tile(np.array(list(LEVELS.values()))[:, None], (1, 12))
    table = folded_table(np.random.default_rng(0), before, np.full((6, 12), 0.1), items=120)
    groups = groups_of(table)
    assert 0 < len(groups.changing) < 6
    return table, groups


def compared(folds: int = 3, **changes: object) -> Comparisons:
    frame = study(np.random.default_rng(1), base=LEVELS, n_training=0, folds=folds, n_items=90,
                  language_sd=0.03, **changes)  # type: ignore[arg-type]  # fmt: skip
    return compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY))


def by_name(rows: list[Estimate]) -> dict[str, Estimate]:
    return {f"{row.estimand}/{row.scale}/{row.estimator}": row for row in rows}


def nulls(times: int, seed: int) -> Iterator[GainTable]:
    """No gain, and models so close to each other that chance groups most of them.

    Controls are near the ceiling, so chance in the baselines is larger in related languages.
    """
    level = np.array([0.46, 0.5, 0.5, 0.54])[:, None]
    before = np.where(HALVES, level, 0.9)
    for rng in np.random.default_rng(seed).spawn(times):
        yield folded_table(rng, before, np.zeros_like(before), items=40)


@pytest.mark.slow
def test_null_with_models_near_the_median_is_covered_and_a_pooled_baseline_is_biased() -> None:
    right: list[Difference] = []
    wrong: list[Difference] = []
    flips = 0
    for table in nulls(1200, 1):
        groups = groups_of(table)
        flips += bool(groups.changing)
        for found, of in ((right, groups), (wrong, pooled_groups(table))):
            if len(set(of.group.values())) == 2 or of.changing:  # else all models are level
                found.append(interaction_of(table, of))
    assert flips > 800 and min(len(right), len(wrong)) > 1100
    assert np.mean([each.estimate for each in right]) == pytest.approx(0, abs=0.006)
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in right]) <= 0.97
    # Weak by chance in the related languages, which then seem to gain.
    assert np.mean([each.estimate for each in wrong]) > 0.01


@pytest.mark.slow
def test_a_planted_interaction_is_recovered_through_changing_groups() -> None:
    before = np.tile(np.array([0.35, 0.35, 0.5, 0.5, 0.65, 0.65])[:, None], (1, 12))
    effect = np.array([0.1, 0.1, 0.05, 0.05, 0.0, 0.0])[:, None] * HALVES
    found = []
    for rng in np.random.default_rng(2).spawn(1000):
        table = folded_table(rng, before, effect)
        found.append(interaction_of(table, groups_of(table)).estimate)
    # One of the two middle models is weak in every fold, the other strong.
    truth = (0.1 + 0.1 + 0.05) / 3 - 0.05 / 3
    assert np.mean(found) == pytest.approx(truth, abs=0.006)


@pytest.mark.slow
def test_out_of_fold_slope_is_right_where_the_naive_one_is_not() -> None:
    """Weak models gain ten points everywhere: within models gain does not depend on baseline."""
    found: dict[str, list[float]] = {}
    for rng in np.random.default_rng(3).spawn(300):
        language = rng.normal(0, 0.04, 12)
        before = np.array([0.38, 0.42, 0.65, 0.7])[:, None] + language
        gain = np.repeat([[0.1], [0.1], [0.0], [0.0]], 12, axis=1)
        table = folded_table(rng, before, gain, items=100)
        rows = [*slope_rows(table, NO_TRAINING, rng, splits=1),
                *regression_rows(table, NO_TRAINING)]  # fmt: skip
        for name, row in by_name(rows).items():
            if row.estimate is None:  # near chance or clipped in some studies
                assert row.status != "ok"
                continue
            found.setdefault(name, []).append(row.estimate)
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean["slope naive/points/ols_model_fixed_effects"] < -0.15
    assert abs(mean["slope out-of-fold/points/ols_model_fixed_effects"]) < 0.03
    assert abs(mean["slope of baseline/points/ols_cluster_robust"]) < 0.03
    assert abs(mean["I continuous/points/ols_cluster_robust"]) < 0.03
    assert abs(mean["D at mean baseline/points/ols_cluster_robust"]) < 0.006


def test_a_changing_model_counts_in_each_fold_for_its_group_there() -> None:
    """Items of unequal folds, by hand."""
    rng = np.random.default_rng(4)
    fold = np.repeat([2, 5, 7], [10, 20, 30])
    before, after = (answers(rng, np.full((3, 12), 0.5), 60) for _ in range(2))
    table = table_of_items(items_of(before, after[None], fold=fold), HALVES)
    assert table.folds is not None and table.folds.numbers == (2, 5, 7)
    first = (before[:, :, fold != 2]).mean(axis=2)
    assert table.folds.out_of_fold[0] == pytest.approx(first)
    by_fold = {"m0": ("weak",) * 3, "m1": ("weak", "strong", "weak"), "m2": ("strong",) * 3}
    group = {"m0": "weak", "m1": "weak", "m2": "strong"}
    groups = BaselineGroups({}, group, "other folds", "ok", "", by_fold)
    weak, strong = group_gains(table, groups, POINTS)
    gain, mine = after - before, fold != 5
    share = 40 / 60
    expected = gain[0].mean(axis=1) + share * gain[1][:, mine].mean(axis=1)
    assert weak == pytest.approx(expected / (1 + share), abs=1e-7)
    expected = gain[2].mean(axis=1) + (1 - share) * gain[1][:, ~mine].mean(axis=1)
    assert strong == pytest.approx(expected / (2 - share), abs=1e-7)
    part = [guess_corrected_logit(values[1][:, mine].mean(axis=1, dtype=float))
            for values in (before, after)]  # fmt: skip
    whole = table.gain[LOGIT][0]
    logit, _ = group_gains(table, groups, LOGIT)
    assert logit == pytest.approx((whole + share * (part[1] - part[0])) / (1 + share))
    assert groups.changing == ("m1",)


def test_without_a_changing_model_folds_change_no_gain() -> None:
    before = np.tile(np.array([0.3, 0.35, 0.8, 0.85])[:, None], (1, 12))
    table = folded_table(np.random.default_rng(5), before, np.full((4, 12), 0.05))
    groups = groups_of(table)
    assert groups.changing == () and groups.group["m0"] == "weak" and groups.group["m3"] == "strong"
    for scale in (POINTS, LOGIT):
        weak, strong = group_gains(table, groups, scale)
        assert np.array_equal(weak, table.gain[scale][:2].mean(axis=0))
        assert np.array_equal(strong, table.gain[scale][2:].mean(axis=0))


def test_every_estimator_of_the_interaction_has_the_same_estimate() -> None:
    table, groups = flipping_table()
    rows = [*contrast_rows(table, groups, 0.05),
            *permutation_rows(table, groups, np.random.default_rng(0)),
            *unit_rows(table, groups, np.random.default_rng(0), draws=400)]  # fmt: skip
    found = [row for row in rows if row.estimand == "I"]
    for scale in (POINTS, LOGIT):
        same = [row.estimate for row in found if row.scale == scale and row.status in USABLE]
        # On points by anova, by both units (here languages alone), two TOSTs, ... and by items.
        assert len(same) == (6 if scale == POINTS else 4), [
            (row.estimator, row.unit) for row in found if row.scale == scale
        ]
        assert same == pytest.approx([same[0]] * len(same), abs=1e-9)
        of_models = [row for row in found if "models" in row.unit and row.scale == scale]
        said = f"{CHANGING}: {', '.join(groups.changing)}"
        assert len(of_models) >= 2 and {row.status for row in of_models} == {said}
    by_items = {row.estimator: row for row in found if row.unit == "items" and row.scale == POINTS}
    assert by_items["passage_bootstrap"].se == pytest.approx(by_items["cluster_t"].se, rel=0.15)
    d = [row for row in rows if row.estimand == "D" and row.unit == "models"]
    assert all(row.status == "ok" for row in d)


def test_continuous_regression_by_fold_is_least_squares_with_fixed_effects() -> None:
    rng = np.random.default_rng(6)
    table = folded_table(rng, rng.uniform(0.4, 0.7, (5, 12)), np.full((5, 12), 0.1), folds=3)
    folds = table.folds
    assert folds is not None
    place = np.indices(folds.before.shape)
    frame = pd.DataFrame({
        "fold": place[0].ravel(), "model": place[1].ravel(), "language": place[2].ravel(),
        "gain": (folds.after - folds.before).ravel(), "base": folds.out_of_fold.ravel(),
    })  # fmt: skip
    frame["related"] = HALVES[frame["language"]].astype(float)
    frame["base"] -= frame.groupby("fold")["base"].transform("mean")
    formula = "gain ~ 0 + (related + related:base + base + C(model)):C(fold)"
    fit = smf.ols(formula, frame).fit(
        cov_type="cluster", cov_kwds={"groups": frame[["model", "language"]].to_numpy()}
    )
    rows = by_name(regression_rows(table, NO_TRAINING))
    for estimand, name in (("D at mean baseline", "related"), ("I continuous", "related:base"),
                           ("slope of baseline", "base")):  # fmt: skip
        row = rows[f"{estimand}/points/ols_cluster_robust"]
        places = {f"C(fold)[{f}]" for f in range(3)}
        weights = np.array([set(term.split(":")) - places == set(name.split(":"))
                            for term in fit.params.index]) / 3  # fmt: skip
        assert np.count_nonzero(weights) == 3
        assert row.estimate == pytest.approx(fit.params @ weights, abs=1e-9)
        variance = weights @ fit.cov_params().to_numpy() @ weights
        assert row.se == pytest.approx(variance**0.5, rel=1e-7)
        assert (row.baseline_source, row.df) == ("other folds", 4)
        assert "a fit for each fold" in row.note and "share training items" in row.note


def test_runs_of_a_cross_fitted_study_are_compared_on_other_folds() -> None:
    primary = compared().primary
    assert primary.groups.source == "other folds" and primary.groups.status == "ok"
    assert "changing between folds: " in primary.groups.note
    assert all(model in primary.groups.note for model in primary.groups.changing)
    rows = contrast_rows(primary.table, primary.groups, 0.05)
    row = find_row(rows, "I", "mixed_anova", "languages")
    assert row is not None and (row.status, row.baseline_source) == ("ok", "other folds")
    assert "share training items" in row.note
    mde = by_name(power_rows(primary.table, primary.groups, rows))["MDE of I/points/noncentral_t"]
    assert mde.status == "ok" and "change groups" in mde.note
    # One split and no training-split answers: there is no baseline to group by.
    assert compared(folds=1).primary.groups.status == "needs training-split baseline"


def test_folds_without_item_records_have_no_groups() -> None:
    frame = study(np.random.default_rng(1), base=LEVELS, n_training=0, folds=3)
    accuracies = accuracies_of(frame)
    gone = ((frame["model"] == "b") & (frame["arm"] == "finetuned")).to_numpy()
    accuracies.loc[(accuracies["model"] == "b") & (accuracies["arm"] == "finetuned"),
                   "has_records"] = False  # fmt: skip
    primary = compare_runs(frame[~gone], accuracies, StudyDesign(FAMILY)).primary
    assert primary.groups.status == NEEDS_ITEMS and "no item records" in primary.groups.note
    rows = contrast_rows(primary.table, primary.groups, 0.05)
    assert rows[0].estimand == "D" and rows[0].status == "ok"
    of_i = [row for row in rows if row.estimand == "I" and row.scale == POINTS]
    assert len(of_i) == 5
    assert all(row.status == NEEDS_ITEMS and row.estimate is None for row in of_i)


def test_runs_of_two_splits_are_refused() -> None:
    frame = study(np.random.default_rng(1), base={"a": 0.5, "b": 0.6}, folds=3)
    assert encode_responses(frame).is_cross_fitted
    assert set(encode_responses(frame.drop(columns="fold")).fold) == {0}
    moved = (frame["model"] == "b") & (frame["arm"] == "finetuned") & (frame["fold"] == 2)
    frame.loc[moved, "fold"] = 1
    with pytest.raises(ValueError, match=r"item heldout-\d+ is held out in fold 2") as error:
        encode_responses(frame)
    for words in ("in fold 1", "b/finetuned/seed 0/direct", "evaluate one of them again"):
        assert words in str(error.value)


def test_equal_models_and_one_model_have_no_groups() -> None:
    table = folded_table(np.random.default_rng(7), np.full((1, 12), 0.5), np.zeros((1, 12)))
    groups = groups_of(table)
    assert groups.status == NEEDS_MODELS and groups.group == {}
    assert groups.note.endswith("weak: m0")
    frame = study(np.random.default_rng(1), base={"a": 0.5})
    codes = [*RELATED, *CONTROL]
    training = training_baselines(
        frame, reasoning="direct", scoring="answer-token", languages=codes
    )
    one = baseline_groups(training, models=["a"], languages=codes)
    assert one.group == {} and "weak" not in one.note


@pytest.mark.parametrize("folds", [1, 3])
def test_languages_that_the_control_source_arm_was_tuned_on_are_left_out(folds: int) -> None:
    frame = study(np.random.default_rng(8), base=LEVELS, arms=("finetuned", "control-source"),
                  folds=folds, language_sd=0.03)  # fmt: skip
    family = FAMILY | {"hau_Latn": "control"}
    extra = frame[frame["language"] == "jpn_Jpan"].assign(language="hau_Latn")
    frame = pd.concat([frame, extra], ignore_index=True)
    found = compare_runs(
        frame, accuracies_of(frame), StudyDesign(family, left_out=["jpn_Jpan", "xho_Latn"])
    )
    assert found.left_out == ("jpn_Jpan",)
    other = found.by_condition[CONTROL_SOURCE]
    assert "jpn_Jpan" not in other.table.languages and other.table.left_out == ("jpn_Jpan",)
    assert "jpn_Jpan" in found.primary.table.languages
    own = found.cells[(found.cells["arm"] == "control-source")
                      & (found.cells["language"] == "jpn_Jpan")]  # fmt: skip
    assert own["gain"].notna().all() and len(own) == len(LEVELS)
    for row in contrast_rows(other.table, other.groups, 0.05):
        assert "without jpn_Jpan" in row.note
        # Hausa shares the related languages' top family.
        assert row.n_control == (2 if row.unit == "families" else 3)
    d, _, i = source_arm_rows(found.tables, found.primary.groups, found.left_out)[:3]
    assert (d.status, i.status, d.n_control) == ("ok", "ok", 3)
    assert "without jpn_Jpan" in d.note
    kept = [code != "jpn_Jpan" for code in found.primary.table.languages]
    gap = found.primary.table.gain[POINTS][:, kept].mean(axis=0) - other.table.gain[POINTS].mean(0)
    related = other.table.related
    assert d.estimate == pytest.approx(gap[related].mean() - gap[~related].mean())
    # The tables say it themselves; a language that only one of them lacks is named.
    assert source_arm_rows(found.tables, found.primary.groups)[0].estimate == d.estimate
    hidden = found.tables | {CONTROL_SOURCE: replace(other.table, left_out=())}
    assert source_arm_rows(hidden, found.primary.groups)[0].status == (
        "complete subset: without jpn_Jpan"
    )


def test_base_conditions_are_known_from_accuracies_alone() -> None:
    frame = study(np.random.default_rng(9), base={"a": 0.5, "b": 0.6})
    accuracies = accuracies_of(frame)
    reasoned = accuracies[accuracies["arm"] == "base"].assign(reasoning="cot", has_records=False)
    found = compare_runs(
        frame, pd.concat([accuracies, reasoned], ignore_index=True), StudyDesign(FAMILY)
    )
    assert found.base_conditions == {PRIMARY[1:], ("cot", "answer-token")}
