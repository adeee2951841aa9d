"""The power that a design is said to have, and what a study could have seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_records import FAMILY, accuracies_of, study

from analysis.estimates import OK, Estimate
from analysis.estimators.baseline_strength import strength_rows
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.power import (
    FAMILYWISE_ALPHA,
    POWER_COLUMNS,
    StandardError,
    detectable,
    minimal_detectable_effect,
    power_rows,
    power_table,
    provable,
    reach_of_difference,
    reach_row,
    smallest_provable_bound,
)
from analysis.estimators.primary import find_row
from analysis.estimators.variance import (
    DEFAULT_COMPONENTS,
    language_variance,
    variance_components,
)
from analysis.estimators.welch_power import welch_detectable, welch_provable
from analysis.figures.power import power_figure
from analysis.figures.style import save_figure
from analysis.gains.comparisons import StudyDesign, UnitComparison, compare_runs
from xling.records import check_records

FEW, MANY = (3, 3), (6, 10)


def test_the_expected_numbers() -> None:
    table = power_table(
        DEFAULT_COMPONENTS, items=[100, 900], languages=[FEW, MANY], models=[7], seeds=[1]
    ).set_index(["related", "items"])
    assert 100 * table.loc[(3, 100), "mde_d"] == pytest.approx(16.5, abs=0.2)
    assert 100 * table.loc[(3, 100), "mde_i"] == pytest.approx(20.7, abs=0.4)
    assert 100 * table.loc[(6, 900), "mde_d"] == pytest.approx(4.8, abs=0.1)
    assert 100 * table.loc[(6, 900), "mde_i"] == pytest.approx(5.2, abs=0.2)


@pytest.mark.parametrize("sizes", [(2, 2), FEW, MANY])
def test_power_at_the_detectable_effect_is_080(sizes: tuple[int, int]) -> None:
    rng, n = np.random.default_rng(10), 40_000
    effect = minimal_detectable_effect(0.04, *sizes)
    related, control = (rng.normal(0, 0.2, (n, size)) for size in sizes)
    p = stats.ttest_ind(related + effect, control, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize("sizes", [(2, 2), FEW, MANY])
def test_the_provable_bound_is_proved_in_80_of_100(sizes: tuple[int, int]) -> None:
    rng, n = np.random.default_rng(11), 40_000
    bound = smallest_provable_bound(0.04, *sizes)
    related, control = (rng.normal(0, 0.2, (n, size)) for size in sizes)
    above = stats.ttest_ind(related + bound, control, axis=1, alternative="greater").pvalue
    below = stats.ttest_ind(related - bound, control, axis=1, alternative="less").pvalue
    assert (np.maximum(above, below) < 0.05).mean() == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize("sizes", [(2, 3), FEW, MANY, (4, 105)])
def test_the_test_that_judges_d_finds_the_detectable_effect_in_80_of_100(
    sizes: tuple[int, int],
) -> None:
    """Welch's test at 5/3 %; the pooled test's effect it finds in 0.62 (3 + 3), 0.36 (4 + 105)."""
    rng, n = np.random.default_rng(12), 20_000
    related, control = (rng.normal(0, 1, (n, size)) for size in sizes)

    def p_values(shift: float, alternative: str = "two-sided") -> np.ndarray:
        tested = stats.ttest_ind(
            related + shift, control, axis=1, equal_var=False, alternative=alternative
        )
        return np.asarray(tested.pvalue)

    found = p_values(welch_detectable(*sizes, 0.8, FAMILYWISE_ALPHA)) < FAMILYWISE_ALPHA
    assert found.mean() == pytest.approx(0.80, abs=0.012)
    bound = welch_provable(*sizes, 0.8, 0.05)
    proved = np.maximum(p_values(bound, "greater"), p_values(-bound, "less")) < 0.05
    assert proved.mean() == pytest.approx(0.80, abs=0.012)
    variance = language_variance(DEFAULT_COMPONENTS, 7, 100, 1)
    reach = reach_of_difference(
        DEFAULT_COMPONENTS, models=7, related=sizes[0], control=sizes[1], items=100, seeds=1
    )
    assert reach.bound == pytest.approx(bound * variance**0.5)


def test_one_related_language_has_the_controls_variance() -> None:
    for controls in (3, 31):
        size = (1 + 1 / controls) ** 0.5
        assert welch_detectable(1, controls, 0.8, FAMILYWISE_ALPHA) == pytest.approx(
            detectable(controls - 1) * size, rel=1e-4
        )


def test_more_of_anything_sees_no_less() -> None:
    components = replace(DEFAULT_COMPONENTS, residual_seed=0.1, item_language=0.02)
    table = power_table(
        components, items=[50, 900], languages=[FEW, MANY], models=[1, 4, 7], seeds=[1, 3]
    )
    assert tuple(table.columns) == POWER_COLUMNS and len(table) == 24
    assert table.loc[table["models"] == 1, ["mde_i", "bound_i"]].isna().all(axis=None)
    seen = table[["mde_d", "bound_d", "mde_i", "bound_i"]]
    for name in ("items", "seeds", "models", "related"):
        others = [c for c in ("models", "related", "items", "seeds") if c != name]
        steps = seen.groupby([table[c] for c in others]).diff()
        assert (steps.dropna() < 0).all(axis=None), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n_related": 1}, "needs 2 related languages"),
        ({"variance": -1.0}, "variance is -1"),
        ({"variance": float("nan")}, "variance is nan"),
        ({"power": 0.04}, "alpha < power < 1"),
        ({"power": 1.0}, "alpha < power < 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, float], told: str) -> None:
    usual = {"variance": 0.01, "n_related": 3, "n_control": 3}
    for function in (minimal_detectable_effect, smallest_provable_bound):
        with pytest.raises(ValueError, match=told):
            function(**{**usual, **arguments})


def test_an_effect_beyond_the_solver_is_said() -> None:
    with pytest.raises(ValueError, match="ten standard deviations"):
        minimal_detectable_effect(0.01, 2, 2, power=0.999)
    with pytest.raises(ValueError, match="number of items is 0"):
        language_variance(DEFAULT_COMPONENTS, 7, 0, 1)
    with pytest.raises(ValueError, match="component seed is -1"):
        replace(DEFAULT_COMPONENTS, seed=-1.0)
    with pytest.raises(ValueError, match="residual_seed must not exceed"):
        replace(DEFAULT_COMPONENTS, residual_seed=0.5)


def records(**changes: object) -> pd.DataFrame:
    settings: dict = {"base": {"a": 0.3, "b": 0.35, "c": 0.6}, "n_items": 60} | changes
    return check_records(study(np.random.default_rng(2), **settings))


def judged(frame: pd.DataFrame, with_records: bool = True) -> list[Estimate]:
    """The power rows of a study, from the rows that judge it."""
    accuracies = accuracies_of(frame).assign(has_records=with_records)
    kept = frame if with_records else frame.iloc[:0]
    return rows_of(compare_runs(kept, accuracies, StudyDesign(FAMILY)).primary)


def rows_of(primary: UnitComparison) -> list[Estimate]:
    table, groups = primary.table, primary.groups
    rows = contrast_rows(table, groups, 0.05) + strength_rows(table, groups)
    return power_rows(table, groups, rows)


ESTIMANDS = [
    ("MDE of D", "languages"), ("MDE of D", "families"), ("MDE of B", "models"),
    ("MDE of I", "models, languages"), ("provable bound of D", "languages, families"),
    ("provable bound of I", "models, languages"),
]  # fmt: skip
FOUR = {"a": 0.3, "b": 0.35, "c": 0.6, "d": 0.65}


def test_a_study_says_what_it_could_have_seen() -> None:
    frame = records(base=FOUR, seeds=(0, 1), language_sd=0.05)
    primary = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary
    rows = rows_of(primary)
    assert [(row.estimand, row.unit) for row in rows] == ESTIMANDS
    assert {row.status for row in rows} == {OK}
    found = variance_components(primary.table)
    variance = language_variance(found, 4, 60, 2)
    expected = variance**0.5 * welch_detectable(3, 3, 0.8, FAMILYWISE_ALPHA)
    assert rows[0].estimate == pytest.approx(expected, rel=1e-4)
    by_row = contrast_rows(primary.table, primary.groups, 0.05)
    families = find_row(by_row, "D", "random_effects", "families")
    assert families is not None and families.se is not None and families.df is not None
    assert rows[1].estimate == pytest.approx(families.se * detectable(families.df))
    # A bound is proved by both units, so it is the larger of theirs.
    by_languages = variance**0.5 * welch_provable(3, 3, 0.8, 0.05)
    assert rows[4].estimate == pytest.approx(
        max(by_languages, families.se * provable(families.df)), rel=1e-6
    )
    assert all(row.p is None and row.ci_low < row.estimate < row.ci_high for row in rows)
    assert "standard deviations in points: language" in rows[0].note


def test_the_interval_of_a_detectable_effect_covers_the_true_one() -> None:
    """Components of known size: the effect that languages can see, in 95 of 100 studies."""
    rng, sd = np.random.default_rng(5), 0.04
    truth = sd * np.sqrt(2 / 3) * detectable(4)
    inside = 0
    for _ in range(1000):
        gain = rng.normal(0, sd, 6)
        pooled = (gain[:3].var(ddof=1) + gain[3:].var(ddof=1)) / 2
        error = StandardError(float(np.sqrt(pooled * 2 / 3)), 4, OK, "languages")
        row = reach_row(Estimate("MDE of D", "points", "noncentral_t", "languages"), [error])
        inside += row.ci_low <= truth <= row.ci_high
    assert 0.93 <= inside / 1000 <= 0.97


@pytest.mark.parametrize("df", [1, 2, 4, 14.5])
def test_an_effect_is_found_in_80_of_100(df: float) -> None:
    rng, n = np.random.default_rng(3), 100_000
    t = (rng.normal(size=n) + detectable(df)) / np.sqrt(rng.chisquare(df, n) / df)
    found = np.abs(t) > stats.t.isf(FAMILYWISE_ALPHA / 2, df)
    assert found.mean() == pytest.approx(0.80, abs=0.005)


@pytest.mark.slow
def test_what_cannot_be_known_has_a_status() -> None:
    def statuses(frame: pd.DataFrame, with_records: bool = True) -> list[str]:
        rows = judged(frame, with_records)
        assert [(row.estimand, row.unit) for row in rows] == ESTIMANDS
        assert all((row.estimate is None) == (row.status != OK) for row in rows)
        return [row.status for row in rows]

    few = "needs 2 models to tell the variance components apart"
    assert statuses(records(base={"a": 0.3}))[0] == few
    assert statuses(records(base=FOUR), with_records=False)[0].startswith("not available")
    no_groups = statuses(records(base=FOUR, n_training=0))
    assert no_groups == [OK, OK, *["needs training-split baseline"] * 2, OK,
                         "needs training-split baseline"]  # fmt: skip


def test_gains_that_never_vary_have_no_power() -> None:
    frame = records(base=FOUR)
    primary = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary
    assert primary.table.items is not None
    same = replace(primary.table.items, after=np.asarray(primary.table.items.before)[None])
    still = {scale: np.zeros_like(v) for scale, v in primary.table.gain.items()}
    rows = rows_of(replace(primary, table=replace(primary.table, items=same, gain=still)))
    assert {row.status for row in rows} == {"zero variance"}


@pytest.mark.slow
def test_the_figure_is_drawn_and_refuses_mixed_tables(tmp_path: Path) -> None:
    table = power_table(
        DEFAULT_COMPONENTS, items=[50, 100, 400], languages=[FEW, MANY], models=[1, 7], seeds=[1]
    )
    for models, texts in ((7, ["3 + 3", "6 + 10"]), (1, ["needs two models"])):
        rows = table[table["models"] == models]
        figure = power_figure(rows, title="what is seen", note="n", design=rows.iloc[0].to_dict())
        svg, png = save_figure(figure, tmp_path / f"power-{models}")
        assert svg.stat().st_size > 1000 and png.stat().st_size > 1000
        drawn_texts = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
        drawn_texts += [text.get_text() for axes in figure.axes for text in axes.texts]
        assert set(texts) <= set(drawn_texts)
    line = power_figure(table[table["models"] == 7], title="").axes[0].lines[0]
    chosen = table[(table["models"] == 7) & (table["related"] == 3)]
    assert line.get_ydata() == pytest.approx(100 * chosen["mde_d"])
    with pytest.raises(ValueError, match="several numbers of models"):
        power_figure(table, title="")
    with pytest.raises(ValueError, match="no rows"):
        power_figure(table.iloc[:0], title="")
