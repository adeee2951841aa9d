"""D and I from records: planted truths, statuses of degenerate designs, and Holm."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from simulated_records import CONTROL, FAMILY, RELATED, accuracies_of, study
from statsmodels.stats.multitest import multipletests

from analysis.estimates import FAMILYWISE, SCALE_DEPENDENT, Estimate
from analysis.estimators.baseline_strength import strength_rows
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.primary import with_holm
from analysis.gains.baselines import (
    NEEDS_BASELINE,
    NEEDS_MODELS,
    baseline_groups,
    training_baselines,
)
from analysis.gains.cells import gain_cells
from analysis.gains.comparisons import StudyDesign, compare_runs
from analysis.gains.gain_table import LOGIT, POINTS, guess_corrected_logit
from xling.records import check_records

BOTH = "intersection_union/models, languages"
BASE = {"a": 0.3, "b": 0.35, "c": 0.6, "d": 0.65}


def records(**changes: object) -> pd.DataFrame:
    settings: dict = {"base": BASE, "n_items": 80, "n_training": 200, "language_sd": 0.03} | changes
    return check_records(study(np.random.default_rng(2), **settings))


def contrasts_of(
    frame: pd.DataFrame, accuracies: pd.DataFrame, family: dict[str, str], bound: float = 0.05
) -> list[Estimate]:
    compared = compare_runs(frame, accuracies, StudyDesign(family)).by_condition.values()
    return [row for c in compared for row in contrast_rows(c.table, c.groups, bound)]


def rows_of(frame: pd.DataFrame, family: dict[str, str] = FAMILY) -> dict[str, Estimate]:
    return by_key(contrasts_of(frame, accuracies_of(frame), family))


def by_key(rows: list[Estimate]) -> dict[str, Estimate]:
    """Rows by estimand, scale, estimator and unit, each once."""
    found = {f"{r.estimand}/{r.scale}/{r.estimator}/{r.unit}": r for r in rows}
    assert len(found) == len(rows)
    return found


def gains(related: float, control: float, strong: float | None = None) -> dict:
    return {
        (m, code): (related if code in RELATED else control)
        if strong is None or m in "ab"
        else strong
        for m in BASE
        for code in FAMILY
    }


@pytest.mark.slow
def test_a_planted_family_effect_is_found() -> None:
    rows = rows_of(records(gain=gains(0.2, 0.1), n_items=3000, language_sd=0.0))
    for key in ("ttest/languages", "welch/languages", "random_effects/families"):
        d = rows[f"D/points/{key}"]
        assert d.estimate == pytest.approx(0.1, abs=0.02)
        assert d.ci_low is not None and d.ci_low > 0.05 and d.status == "ok"
    for key in ("welch/models", "mixed_anova/languages", BOTH):
        assert rows[f"I/points/{key}"].estimate == pytest.approx(0.0, abs=0.03)
    d = rows["D/points/ttest/languages"]
    assert (d.n_models, d.n_related, d.n_control, d.n_items, d.n_passages, d.n_seeds, d.df) == (
        4,
        3,
        3,
        3000,
        1500,
        1,
        4,
    )
    assert rows["D/points/tost/languages"].p > 0.9
    assert rows["D/points/tost/families"].p > 0.9


def test_a_planted_effect_in_weak_models_only_is_an_interaction() -> None:
    rows = rows_of(records(gain=gains(0.2, 0.1, strong=0.1), n_items=3000, language_sd=0.0))
    models, languages, both = (
        rows[f"I/points/{key}"] for key in ("welch/models", "mixed_anova/languages", BOTH)
    )
    for i in (models, languages, both):
        assert i.estimate == pytest.approx(0.1, abs=0.03)
        assert i.baseline_source == "training split"
        assert "weak: a, b; strong: c, d" in i.note
    assert both.p == max(models.p or 0, languages.p or 0)
    widths = [(r.ci_high or 0) - (r.ci_low or 0) for r in (models, languages)]
    assert (both.ci_high or 0) - (both.ci_low or 0) == pytest.approx(max(widths))


def test_d_is_the_difference_of_the_cells_means() -> None:
    frame = records(seeds=(0, 1, 2))
    cells = gain_cells(frame, accuracies_of(frame), FAMILY)
    mean = cells.groupby("language")["gain"].mean()
    expected = mean[list(RELATED)].mean() - mean[list(CONTROL)].mean()
    d = rows_of(frame)["D/points/ttest/languages"]
    assert d.estimate == pytest.approx(expected, abs=1e-12)
    assert d.n_seeds == 3


def test_the_source_language_and_the_order_of_rows_do_not_matter() -> None:
    frame = records()
    without = frame[frame["language"] != "arb_Arab"]
    assert rows_of(without) == rows_of(frame)
    shuffled = frame.sample(frac=1, random_state=3).reset_index(drop=True)
    assert rows_of(shuffled) == rows_of(frame)


@pytest.mark.slow
def test_holm_is_over_d_b_and_i_of_one_scale() -> None:
    frame = records()
    primary = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary
    made = contrast_rows(primary.table, primary.groups, 0.05)
    made += strength_rows(primary.table, primary.groups)
    rows = with_holm(made)
    found = by_key(rows)
    for scale in (POINTS, LOGIT):
        keys = (f"D/{scale}/welch/languages", f"B/{scale}/welch/models", f"I/{scale}/{BOTH}")
        three = [found[key] for key in keys]
        given = [1.0 if row.p is None else row.p for row in three]
        expected = multipletests(given, method="holm")[1]
        for row, p in zip(three, expected, strict=True):
            assert (row.p_holm is None) == (row.p is None)
            assert row.p_holm is None or row.p_holm == pytest.approx(p)
    assert all(found[key].p is not None for key in ("D/points/welch/languages", f"I/points/{BOTH}"))
    assert all(row.p_holm is None for row in rows if row.estimator in ("tost", "ttest"))
    # A claim without a number counts as p = 1, and the others are corrected for it all the same.
    one = by_key(with_holm([row for row in made if row.estimand == "D"]))
    d = one["D/points/welch/languages"]
    assert d.p_holm == pytest.approx(min(3 * (d.p or 0), 1))


@pytest.mark.slow
def test_an_interaction_on_one_scale_only_is_marked() -> None:
    # The same shift in log-odds of knowing is more points in the middle than at the ceiling.
    base = {"a": 0.40, "b": 0.40, "c": 0.85, "d": 0.85}
    know = {m: (p - 0.25) / 0.75 for m, p in base.items()}
    odds = {"r": 3.0, "c": 1.5}
    gain = {}
    for m, k in know.items():
        for code in FAMILY:
            o = k / (1 - k) * odds["r" if code in RELATED else "c"]
            gain[m, code] = 0.25 + 0.75 * o / (1 + o) - base[m]
    rows = rows_of(records(base=base, gain=gain, n_items=6000, language_sd=0.0))
    points, logit = rows[f"I/points/{BOTH}"], rows[f"I/logit/{BOTH}"]
    low, high = points.interval_at(FAMILYWISE) or (0, 0)
    assert low > 0 or high < 0
    low, high = logit.interval_at(FAMILYWISE) or (1, 1)
    assert low <= 0 <= high
    assert points.status == logit.status == SCALE_DEPENDENT
    assert "differs by scale" in points.note
    assert rows["D/points/ttest/languages"].status == "ok"


def test_guess_corrected_logit() -> None:
    values = guess_corrected_logit(np.array([0.625, 0.25, 0.1, 1.0, np.nan]))
    edge = np.log(0.02 / 0.98)
    assert values[:4] == pytest.approx([0.0, edge, edge, -edge], abs=1e-12)
    assert np.isnan(values[4])


@pytest.mark.parametrize(
    ("family", "status"),
    [
        ({**FAMILY, **dict.fromkeys(RELATED, "source")}, "needs 1 related language"),
        ({**FAMILY, "fra_Latn": "source", "jpn_Jpan": "source"}, "needs 2 control languages"),
    ],
)
def test_too_few_languages_in_a_family(family: dict[str, str], status: str) -> None:
    for row in rows_of(records(), family).values():
        assert row.status == status
        assert (row.estimate, row.p, row.ci_low, row.p_holm) == (None, None, None, None)


def test_one_related_language_has_rows_with_the_controls_variance() -> None:
    frame = records()
    rows = rows_of(frame, {**FAMILY, "heb_Hebr": "source", "amh_Ethi": "source"})
    d = rows["D/points/welch/languages"]
    mean = gain_cells(frame, accuracies_of(frame), FAMILY).groupby("language")["gain"].mean()
    control = mean[list(CONTROL)]
    assert d.estimate == pytest.approx(mean["mlt_Latn"] - control.mean())
    assert d.se == pytest.approx(control.std() * (1 + 1 / 3) ** 0.5)
    assert (d.df, d.n_related, d.status) == (2, 1, "ok") and "one related language" in d.note
    assert rows["D/points/ttest/languages"].status == "needs 2 related languages"
    # Models are a unit as before; languages have I by the controls' variance, too.
    assert rows["I/points/welch/models"].p is not None
    assert rows["I/points/welch/languages"].df == 2
    assert rows[f"I/points/{BOTH}"].p is not None


def test_a_missing_cell_leaves_the_largest_complete_subset() -> None:
    frame = records()
    gone = (
        (frame["model"] == "b") & (frame["language"] == "mlt_Latn") & (frame["arm"] == "finetuned")
    )
    found, without = rows_of(frame[~gone]), rows_of(frame[frame["language"] != "mlt_Latn"])
    assert found.keys() == without.keys()
    for key, row in found.items():
        assert row == without[key]
    assert found["D/points/welch/languages"].n_related == 2
    table = compare_runs(frame[~gone], accuracies_of(frame[~gone]), StudyDesign(FAMILY))
    assert table.primary.table.subset == "complete subset: without mlt_Latn"


def test_no_training_split_needs_one_for_the_interaction_alone() -> None:
    rows = rows_of(records(n_training=0))
    assert rows["D/points/ttest/languages"].status == "ok"
    i = rows["I/points/mixed_anova/languages"]
    assert (i.status, i.estimate, i.p, i.baseline_source) == (NEEDS_BASELINE, None, None, "none")


def test_one_model_or_equal_models_need_weak_and_strong() -> None:
    one = rows_of(records(base={"a": 0.3}))
    assert one["I/points/mixed_anova/languages"].status == NEEDS_MODELS
    assert one["D/points/ttest/languages"].status == "ok"
    assert "one model" in one["D/points/ttest/languages"].note


def test_zero_variance_gives_an_estimate_and_no_p() -> None:
    frame = records(language_sd=0.0)
    # Every tuned model is right everywhere; every base model wrong on the same items.
    frame["prediction"] = frame["gold"]
    wrong = (
        (frame["arm"] == "base")
        & (frame["part"] == "heldout")
        & frame["item_id"].str.endswith(("1", "2", "3"))
    )
    frame.loc[wrong, "prediction"] = frame.loc[wrong, "gold"] % 4 + 1
    training = frame["part"] == "training"
    weak = training & frame["model"].isin(["a", "b"])
    frame.loc[weak, "prediction"] = frame.loc[weak, "gold"] % 4 + 1
    frame["correct"] = frame["gold"] == frame["prediction"]
    # All right after tuning is clipped in logits.
    right = (frame["arm"] == "finetuned") & frame["item_id"].str.endswith("7")
    frame.loc[right, "prediction"] = frame.loc[right, "gold"] % 4 + 1
    frame["correct"] = frame["gold"] == frame["prediction"]
    for row in rows_of(check_records(frame)).values():
        assert row.status == "zero variance", row
        assert row.estimate == pytest.approx(0, abs=1e-12)
        assert (row.p, row.ci_low, row.se, row.p_holm) == (None, None, None, None)


def test_no_runs_of_the_primary_arm_and_other_arms_by_name() -> None:
    rows = rows_of(records(arms=("shuffled-labels",)))
    assert rows["D/points/ttest/languages"].status == "no gains of finetuned/direct/answer-token"
    other = rows["D (shuffled-labels, direct, answer-token)/points/ttest/languages"]
    assert other.status == "ok" and other.n_items == 80


def test_accuracies_alone_still_give_d() -> None:
    frame = records()
    accuracies = accuracies_of(frame).assign(has_records=False)
    rows, expected = by_key(contrasts_of(frame.iloc[:0], accuracies, FAMILY)), rows_of(frame)
    for key in ("welch/languages", "random_effects/families", "ttest/languages"):
        d = rows[f"D/points/{key}"]
        assert d.estimate == pytest.approx(expected[f"D/points/{key}"].estimate)
        assert d.n_items is None and d.status == "ok"
    assert {r.status for r in rows.values() if r.estimand == "I"} >= {NEEDS_BASELINE}
    assert rows["I/points/welch/models"].status == NEEDS_BASELINE
    # Of known size they can be split, too.
    sized = accuracies.assign(n_items=80, n_options=4)
    i = by_key(contrasts_of(frame.iloc[:0], sized, FAMILY))["I/points/welch/models"]
    assert i.baseline_source == "accuracies" and i.estimate is not None


def test_groups_are_split_at_the_median() -> None:
    frame = records(base={"a": 0.3, "b": 0.5, "c": 0.8}, n_training=400)
    languages = [*RELATED, *CONTROL]
    training = training_baselines(
        frame, reasoning="direct", scoring="answer-token", languages=languages
    )
    found = baseline_groups(training, models=["a", "b", "c"], languages=languages)
    assert found.group == {"a": "weak", "b": "weak", "c": "strong"}
    assert found.accuracy["c"] == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("bound", [0.0, -0.05, float("nan")])
def test_the_bound_must_be_positive(bound: float) -> None:
    frame = records()
    with pytest.raises(ValueError, match="equivalence bound"):
        contrasts_of(frame, accuracies_of(frame), FAMILY, bound)


def test_an_estimate_is_never_nan() -> None:
    with pytest.raises(ValueError, match="estimate D .*p is nan"):
        Estimate("D", "points", "ttest", "languages", p=float("nan"))


def test_a_seed_that_one_model_lacks_leaves_that_model_out() -> None:
    frame = records(seeds=(0, 1, 2))
    gone = (frame["model"] == "b") & (frame["arm"] == "finetuned") & (frame["seed"] == 1)
    found, without = rows_of(frame[~gone]), rows_of(frame[frame["model"] != "b"])
    assert found == without
    assert found["D/points/welch/languages"].n_models == 3


def test_accuracies_in_single_precision_are_no_variance() -> None:
    frame = records()
    accuracies = accuracies_of(frame).assign(has_records=False)
    base = accuracies["arm"] == "base"
    keys = ["model", "language"]
    level = accuracies[base].set_index(keys)["accuracy"]
    tuned = [level[m, c] + 0.1 for m, c in accuracies.loc[~base, keys].to_numpy()]
    accuracies.loc[~base, "accuracy"] = tuned
    accuracies["accuracy"] = accuracies["accuracy"].astype("float32").astype("float64")
    rows = by_key(contrasts_of(frame.iloc[:0], accuracies, FAMILY))
    for key in ("welch/languages", "random_effects/families", "tost/languages", "tost/families"):
        row = rows[f"D/points/{key}"]
        assert (row.status, row.p) == ("zero variance", None)
        assert row.estimate is None or row.estimate == pytest.approx(0, abs=1e-6)


def test_items_pair_each_seed_with_its_own_base_run() -> None:
    frame = records(seeds=(0, 1))
    other = records(seeds=(0, 1), base=dict.fromkeys(BASE, 0.5))
    second = other[other["arm"] == "base"].assign(seed=1)
    both = check_records(pd.concat([frame, second]))
    table = compare_runs(both, accuracies_of(both), StudyDesign(FAMILY)).primary.table
    assert table.items is not None
    np.testing.assert_allclose(table.items.gain.mean(axis=-1), table.gain[POINTS], atol=1e-6)
