"""D and I by sampling unit and by permutation: closed forms, coverage, statuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pingouin
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis.estimates import Estimate
from analysis.estimators import permutation
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.permutation import n_labelings, permutation_rows
from analysis.estimators.sampling_units import (
    NEEDS_GROUPS,
    NEEDS_MODELS,
    NEEDS_PASSAGES,
    ZERO_VARIANCE,
    crossed_difference,
    unit_rows,
)
from analysis.gains.baselines import NEEDS_BASELINE, BaselineGroups
from analysis.gains.gain_table import LOGIT, POINTS, PRIMARY, GainTable, guess_corrected_logit
from analysis.gains.items import ItemGains
from analysis.gains.weighted import contrast_of


def table_of(
    before: np.ndarray, after: np.ndarray, n_related: int, items: ItemGains | None = None
) -> GainTable:
    """A table of models by languages, the related ones first."""
    m, n = before.shape
    related = np.arange(n) < n_related
    return GainTable(
        condition=PRIMARY,
        models=tuple(f"m{k}" for k in range(m)),
        languages=tuple(f"l{k:02d}_Latn" for k in range(n)),
        related=related,
        before=before,
        after=after,
        after_by_seed=after[None],
        gain={POINTS: after - before,
              LOGIT: guess_corrected_logit(after) - guess_corrected_logit(before)},
        status="ok",
        shared={"unit": "languages", "n_models": m, "n_related": int(related.sum()),
                "n_control": int((~related).sum()), "n_seeds": 1},
        items=items,
        item_status="" if items is not None else "not available: a run has no item records",
        n_items=np.full((m, n), 2000.0),
        top_family=tuple(f"l{k:02d}" for k in range(n)),
    )  # fmt: skip


def item_table(seed: int = 0, *, n_models: int = 4, n_items: int = 60, seeds: int = 1) -> GainTable:
    """A table whose accuracies are means of answers; two items per passage that depend on it."""
    rng = np.random.default_rng(seed)
    passage = np.arange(n_items) // 2
    hard = rng.normal(0, 0.2, n_items // 2)[passage]
    shape = (n_models, 6, n_items)
    before = (rng.random(shape) < 0.45 + hard).astype(np.float32)
    after = (rng.random((seeds, *shape)) < 0.6 + 1.5 * hard).astype(np.float32)
    none, mass = np.ones(shape, np.int8), np.full(shape, np.nan, np.float32)
    items = ItemGains(passage, before, after, none, none[None], mass, mass[None])
    return table_of(
        before.mean(-1, dtype=np.float64), after.mean((0, -1), dtype=np.float64), 3, items
    )


def groups_of(table: GainTable, n_weak: int | None = None) -> BaselineGroups:
    n_weak = len(table.models) // 2 if n_weak is None else n_weak
    group = {m: "weak" if k < n_weak else "strong" for k, m in enumerate(table.models)}
    return BaselineGroups(dict.fromkeys(group, 0.5), group, "training split", "ok", "")


def units(table: GainTable, groups: BaselineGroups | None = None) -> dict[str, Estimate]:
    found = unit_rows(table, groups or groups_of(table), np.random.default_rng(1), draws=400)
    assert len(found) == 12
    return {f"{r.estimand}/{r.scale}/{r.estimator}": r for r in found}


def permuted(table: GainTable, groups: BaselineGroups | None = None) -> dict[str, Estimate]:
    found = permutation_rows(table, groups or groups_of(table), np.random.default_rng(1))
    return {f"{r.estimand}/{r.scale}": r for r in found}


def numbers(row: Estimate) -> tuple[float | None, ...]:
    return row.se, row.df, row.ci_low, row.ci_high, row.p


@pytest.mark.parametrize("scale", [POINTS, LOGIT])
def test_models_as_unit_are_pingouins_t_tests(scale: str) -> None:
    table = item_table()
    gain = table.gain[scale]
    d = gain[:, :3].mean(axis=1) - gain[:, 3:].mean(axis=1)
    rows = units(table)
    one = rows[f"D/{scale}/ttest"]
    expected = pingouin.ttest(d, 0).iloc[0]
    assert (one.p, one.df) == pytest.approx((expected["p_val"], expected["dof"]), rel=1e-10)
    limits = stats.ttest_1samp(d, 0).confidence_interval()
    assert (one.estimate, one.ci_low, one.ci_high) == pytest.approx((d.mean(), *limits), rel=1e-10)
    assert (one.unit, one.baseline_source) == ("models", "none")
    two = next(
        row
        for row in contrast_rows(table, groups_of(table), 0.05)
        if (row.estimand, row.unit, row.scale, row.estimator) == ("I", "models", scale, "welch")
    )
    expected = pingouin.ttest(d[:2], d[2:], correction=True).iloc[0]
    assert (two.p, two.df) == pytest.approx((expected["p_val"], expected["dof"]), rel=1e-10)
    assert two.estimate == pytest.approx(d[:2].mean() - d[2:].mean())
    assert two.baseline_source == "training split"


def normal_gain(
    rng: np.random.Generator, m: int, n: int, sd_language: float, sd_model: float, sd_both: float
) -> np.ndarray:
    """No family effect; languages, the models' family differences, and their product vary."""
    signs = np.where(np.arange(n) < n // 2, 1, -1)
    return (
        rng.normal(0, sd_language, n)
        + rng.normal(0, 0.3, (m, 1))
        + signs * rng.normal(0, sd_model, (m, 1))
        + rng.normal(0, sd_both, (m, n))
    )


@pytest.mark.parametrize("name", ["D", "I"])
@pytest.mark.parametrize(
    ("sds", "least"),
    [
        ((0.05, 0.02, 0.05), 0.95),
        ((0.0, 0.05, 0.05), 0.95),
        ((0.0, 0.0, 0.05), 0.95),
        # Languages outweigh all else: an exact t test, 0.95 but for the chance of 1,000 draws.
        ((0.05, 0.0, 0.02), 0.94),
    ],
)
def test_quasi_t_covers_the_null(name: str, sds: tuple[float, ...], least: float) -> None:
    rng = np.random.default_rng(5)
    table = table_of(np.full((6, 6), 0.5), np.full((6, 6), 0.5), 3)
    contrast = contrast_of(table, None if name == "D" else groups_of(table))
    found = [crossed_difference(normal_gain(rng, 6, 6, *sds), contrast) for _ in range(1000)]
    inside = np.mean([f is not None and f.low <= 0 <= f.high for f in found])
    assert inside >= least
    # It must not cover by being endless: small p are rarer than in an exact test, not unheard of.
    assert np.mean([f is not None and f.p < 0.5 for f in found]) > 0.2


@pytest.mark.parametrize("name", ["D", "I"])
def test_quasi_t_variance_is_that_of_the_estimate(name: str) -> None:
    rng = np.random.default_rng(6)
    table = table_of(np.full((8, 12), 0.5), np.full((8, 12), 0.5), 6)
    contrast = contrast_of(table, None if name == "D" else groups_of(table))
    found = [crossed_difference(normal_gain(rng, 8, 12, 0.05, 0.03, 0.05), contrast)
             for _ in range(2000)]  # fmt: skip
    estimated = np.mean([f.se**2 for f in found if f is not None])
    true = np.var([f.estimate for f in found if f is not None])
    assert estimated == pytest.approx(true, rel=0.12)


def test_quasi_t_by_hand() -> None:
    gain = np.array([[0.1, 0.3, 0.0, 0.1], [0.2, 0.2, 0.1, 0.0], [0.4, 0.3, 0.1, 0.2]])
    row = units(table_of(np.full((3, 4), 0.4), 0.4 + gain, 2))["D/points/crossed_quasi_t"]
    language = gain.mean(axis=0)
    v_l = (np.var(language[:2], ddof=1) + np.var(language[2:], ddof=1)) / 2  # × (1/2 + 1/2)
    d = gain[:, :2].mean(axis=1) - gain[:, 2:].mean(axis=1)
    v_m = np.var(d, ddof=1) / 3
    rest = 0.0
    for half in (gain[:, :2], gain[:, 2:]):
        off = half - half.mean(1, keepdims=True) - half.mean(0) + half.mean()
        rest += (off**2).sum()
    v_ml = rest / 4 / 3
    variance = max(v_l + v_m - v_ml, v_l, v_m)
    if v_l + v_m - v_ml > max(v_l, v_m):
        df = max(variance**2 / (v_l**2 / 2 + v_m**2 / 2 + v_ml**2 / 4), 2)
    else:
        df = 2  # of the larger of both, which has two here
    assert (row.estimate, row.se, row.df) == pytest.approx((d.mean(), variance**0.5, df))
    assert row.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / variance**0.5, df))
    assert row.ci_high == pytest.approx(d.mean() + stats.t.ppf(0.975, df) * variance**0.5)


@pytest.mark.parametrize("seeds", [1, 3])
def test_cluster_t_is_statsmodels_and_the_closed_form(seeds: int) -> None:
    table = item_table(2, seeds=seeds)
    items = table.items
    assert items is not None
    gain = items.after.astype(float).mean(axis=0) - items.before
    by_model = gain[:, :3].mean(axis=1) - gain[:, 3:].mean(axis=1)
    for name, share in (
        ("D", by_model.mean(0)),
        ("I", by_model[:2].mean(0) - by_model[2:].mean(0)),
    ):
        row = units(table)[f"{name}/points/cluster_t"]
        fit = sm.OLS(share, np.ones(len(share))).fit(
            cov_type="cluster",
            cov_kwds={"groups": items.passage, "use_correction": True, "df_correction": True},
            use_t=True,
        )
        low, high = fit.conf_int()[0]
        assert (row.estimate, row.se, row.ci_low, row.ci_high, row.p) == pytest.approx(
            (fit.params[0], fit.bse[0], low, high, fit.pvalues[0]), abs=1e-10
        )
        assert row.df == items.n_passages - 1 == 29
        off = np.bincount(items.passage, share - share.mean())
        assert row.se == pytest.approx(np.sqrt(30 / 29 * (off**2).sum()) / 60, abs=1e-10)
        assert row.estimate == pytest.approx(
            contrast_of(table, None if name == "D" else groups_of(table)).of(table.gain[POINTS]),
            abs=1e-10,
        )


def test_bootstrap_rows_stand_beside_the_clustered_ones() -> None:
    table = item_table(3, n_items=400)
    rows = unit_rows(table, groups_of(table), np.random.default_rng(2), draws=3000)
    found = {f"{r.estimand}/{r.scale}/{r.estimator}": r for r in rows}
    for name in "DI":
        drawn, clustered = (
            found[f"{name}/points/{kind}"] for kind in ("passage_bootstrap", "cluster_t")
        )
        assert drawn.se == pytest.approx(clustered.se, rel=0.06)
        assert (drawn.ci_low, drawn.ci_high) == pytest.approx(
            (clustered.ci_low, clustered.ci_high), abs=0.01
        )
        assert drawn.estimate == pytest.approx(clustered.estimate, abs=1e-10)
        assert drawn.p is None and "3,000 draws" in drawn.note
        logit = found[f"{name}/logit/passage_bootstrap"]
        assert logit.ci_low is not None and logit.ci_low < logit.estimate < logit.ci_high


def test_bootstrap_rows_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    table = item_table()
    whole = units(table)
    monkeypatch.setattr("analysis.gains.weighted._BLOCK", 48 * 7)
    parts = units(table)
    for key in ("D/points/passage_bootstrap", "I/logit/passage_bootstrap"):
        assert parts[key].ci_low == pytest.approx(whole[key].ci_low, abs=1e-12)


def test_every_row_says_what_it_generalises_to() -> None:
    rows = units(item_table())
    assert all("generalises to" in row.note and row.status == "ok" for row in rows.values())
    assert {row.unit for row in rows.values()} == {"models", "languages and models", "items"}


def test_one_model() -> None:
    rows = units(item_table(n_models=1))
    for key, row in rows.items():
        if row.unit == "items" and row.estimand == "D":
            assert row.status == "ok", key
        elif row.unit != "items":
            assert row.status == (NEEDS_MODELS if row.estimand == "D" else NEEDS_GROUPS)
            assert numbers(row) == (None,) * 5 and row.estimate is None


def test_one_strong_model_leaves_no_interaction_over_models() -> None:
    table = item_table()
    rows = units(table, groups_of(table, n_weak=3))
    assert rows["I/points/crossed_quasi_t"].status == NEEDS_GROUPS
    assert rows["I/logit/crossed_quasi_t"].status == NEEDS_GROUPS
    assert rows["D/points/ttest"].status == rows["I/points/cluster_t"].status == "ok"


def test_no_groups_leave_d_alone() -> None:
    none = BaselineGroups({}, {}, "none", NEEDS_BASELINE, "")
    table = item_table()
    for row in [*units(table, none).values(), *permuted(table, none).values()]:
        assert row.status == ("ok" if row.estimand == "D" else NEEDS_BASELINE)
        assert (row.estimate is None) == (row.estimand == "I")


def test_no_items_and_one_passage() -> None:
    table = item_table()
    assert table.items is not None
    one = replace(table.items, passage=np.zeros(60, np.int64))
    for changed, status in (
        (replace(table, items=None, item_status="not available: x"), "not available: x"),
        (replace(table, items=one), NEEDS_PASSAGES),
    ):
        for row in units(changed).values():
            assert row.status == (status if row.unit == "items" else "ok")


def test_a_missing_cell_is_named_in_every_row() -> None:
    table = item_table()
    lacking = replace(table, status="missing cell m1/l02_Latn (base)")
    rows = [*units(lacking).values(), *permuted(lacking).values()]
    assert {row.status for row in rows} == {lacking.status}
    assert all(row.estimate is None for row in rows)


def test_zero_variance_has_no_p() -> None:
    shape = (4, 6, 20)
    before = np.zeros(shape, np.float32)
    before[..., ::2] = 1
    after = np.ones((1, *shape), np.float32)
    after[..., 1::4] = 0
    same, mass = np.ones(shape, np.int8), np.zeros(shape, np.float32)
    items = ItemGains(np.arange(20) // 2, before, after, same, same[None], mass, mass[None])
    table = table_of(before.mean(-1), after.mean((0, -1)), 3, items)
    for row in [*units(table).values(), *permuted(table).values()]:
        assert row.status == ZERO_VARIANCE
        assert row.estimate == pytest.approx(0, abs=1e-9)
        assert numbers(row) == (None,) * 5


def test_labels_of_other_arms_are_kept() -> None:
    table = replace(item_table(), condition=("shuffled-labels", "direct", "answer-token"))
    names = {row.estimand for row in [*units(table).values(), *permuted(table).values()]}
    assert names == {f"{n} (shuffled-labels, direct, answer-token)" for n in "DI"}


def test_number_of_labelings() -> None:
    assert (n_labelings(3, 3), n_labelings(6, 10)) == (20, 8008)


def by_language(table: GainTable, name: str, scale: str) -> np.ndarray:
    gain = table.gain[scale]
    return gain.mean(axis=0) if name == "D" else gain[:2].mean(axis=0) - gain[2:].mean(axis=0)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_permutation_p_by_brute_force(seed: int) -> None:
    table = item_table(seed)
    rows = permuted(table)
    for name in "DI":
        for scale in (POINTS, LOGIT):
            values = by_language(table, name, scale)
            drawn = []
            for chosen in combinations(range(6), 3):
                rest = [k for k in range(6) if k not in chosen]
                drawn.append(values[list(chosen)].mean() - values[rest].mean())
            row = rows[f"{name}/{scale}"]
            assert row.estimate == pytest.approx(drawn[0])
            above, below = (
                np.mean(np.round(s * np.array(drawn), 10) >= np.round(s * drawn[0], 10))
                for s in (1, -1)
            )
            assert row.p == pytest.approx(min(1, 2 * min(above, below)))
            assert (row.se, row.ci_low, row.estimator) == (None, None, "permutation")
            assert "all 20 labelings" in row.note and "p is 0.1;" in row.note


def test_the_smallest_p_at_three_and_three_is_a_tenth() -> None:
    gain = np.tile([0.5, 0.4, 0.3, 0.05, 0.02, 0.01], (4, 1))
    before = np.full((4, 6), 0.3)
    assert permuted(table_of(before, before + gain, 3))["D/points"].p == pytest.approx(0.1)


def test_labelings_at_six_and_ten_are_all_gone_through() -> None:
    gain = np.tile(np.linspace(0.4, 0.0, 16), (4, 1))
    before = np.full((4, 16), 0.3)
    row = permuted(table_of(before, before + gain, 6))["D/points"]
    assert row.p == pytest.approx(2 / 8008)
    assert "8,008 labelings" in row.note


def test_too_many_labelings_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    table = item_table(1)
    exact = permuted(table)["D/points"]
    monkeypatch.setattr(permutation, "MAX_LABELINGS", 19)
    monkeypatch.setattr(permutation, "DRAWS", 18)
    few = permuted(table)["D/points"]
    assert "18 random labelings out of 20" in few.note
    assert few.p is not None and 2 / 19 - 1e-12 <= few.p <= 1
    assert few.estimate == exact.estimate
