"""Our numbers against those that R works out from the same answers (tests/data/reference)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pingouin
import pytest
import statsmodels.api as sm

from analysis.estimates import OK, Estimate
from analysis.estimators.power import minimal_detectable_effect
from analysis.estimators.regression import regression_rows
from analysis.estimators.two_groups import Difference, equivalence, interaction, mean_difference
from analysis.estimators.variance import variance_components
from analysis.gains.gain_table import LOGIT, POINTS, PRIMARY, GainTable, guess_corrected_logit
from analysis.gains.items import ItemGains
from analysis.gains.paired import mcnemar_exact, newcombe_interval

FOLDER = Path(__file__).resolve().parent.parent / "data" / "reference"
R = json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))
EXACT = {"rel": 1e-8, "abs": 1e-11}


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "answers.csv", dtype={"before": str, "after": str})


@pytest.fixture(scope="module")
def table(answers: pd.DataFrame) -> GainTable:
    models, languages = sorted(answers["model"].unique()), sorted(answers["language"].unique())
    rows = answers.set_index(["model", "language"])
    before, after = (
        np.array([[[int(c) for c in rows.loc[(m, c_), side]] for c_ in languages] for m in models],
                 np.float32)
        for side in ("before", "after")
    )  # fmt: skip
    shape = before.shape
    answered, mass = np.ones(shape, np.int8), np.ones(shape, np.float32)
    items = ItemGains(
        np.arange(shape[2]), before, after[None], answered, answered[None], mass, mass[None]
    )
    pre, post = (np.asarray(x, np.float64).mean(axis=2) for x in (before, after))
    related = np.array([code.startswith("r") for code in languages])
    shared = {"unit": "languages", "n_models": 7, "n_related": 3, "n_control": 3,
              "n_items": shape[2], "n_passages": shape[2], "n_seeds": 1}  # fmt: skip
    return GainTable(
        condition=PRIMARY, models=tuple(models), languages=tuple(languages), related=related,
        before=pre, after=post, after_by_seed=post[None],
        gain={POINTS: post - pre, LOGIT: guess_corrected_logit(post) - guess_corrected_logit(pre)},
        status=OK, top_family=tuple(languages), shared=shared, items=items, item_status="",
    )  # fmt: skip


def check_difference(found: Difference, expected: dict[str, float]) -> None:
    for name in ("estimate", "se", "df", "low", "high", "p"):
        assert getattr(found, name) == pytest.approx(expected[name], **EXACT), name


def test_d(table: GainTable) -> None:
    found = mean_difference(*table.split(table.gain[POINTS].mean(axis=0)))
    check_difference(found, R["D"])


def test_i_is_the_interaction_of_the_analysis_of_variance(table: GainTable) -> None:
    weak, strong = (table.split(table.gain[POINTS][part].mean(axis=0))
                    for part in (slice(0, 4), slice(4, 7)))  # fmt: skip
    found = interaction(weak, strong)
    check_difference(found, R["I"])
    assert found.p == pytest.approx(R["I"]["F_p"], **EXACT)
    assert (found.estimate / found.se) ** 2 == pytest.approx(R["I"]["F"], **EXACT)


@pytest.mark.parametrize(("bound", "p"), zip(R["tost"]["bound"], R["tost"]["p"], strict=True))
def test_equivalence(bound: float, p: float, table: GainTable) -> None:
    found = equivalence(mean_difference(*table.split(table.gain[POINTS].mean(axis=0))), bound)
    assert found.p == pytest.approx(p, **EXACT)
    assert found.difference.low == pytest.approx(R["tost"]["low_90"], **EXACT)
    assert found.difference.high == pytest.approx(R["tost"]["high_90"], **EXACT)


def test_the_reference_counts_the_same_pairs(table: GainTable) -> None:
    assert table.items is not None
    gain = {(m, c): g for m, row in zip(table.models, table.gain[POINTS], strict=True)
            for c, g in zip(table.languages, row, strict=True)}  # fmt: skip
    by_r = (np.array(R["paired"]["gained"]) - np.array(R["paired"]["lost"]))[:42] / 40
    order = [(m, c) for c in ("r1", "r2", "r3", "c1", "c2", "c3") for m in table.models]
    assert by_r == pytest.approx([gain[key] for key in order])


def test_newcombe_method_10() -> None:
    counts = [np.array(R["paired"][name]) for name in ("both", "gained", "lost", "neither")]
    found = newcombe_interval(*counts)
    # R finds Wilson's limits as roots of a polynomial, so double roots cost it some digits.
    assert found.low == pytest.approx(R["paired"]["low"], rel=0, abs=1e-8)
    assert found.high == pytest.approx(R["paired"]["high"], rel=0, abs=1e-8)


def test_exact_mcnemar() -> None:
    found = mcnemar_exact(np.array(R["paired"]["gained"]), np.array(R["paired"]["lost"]))
    assert found == pytest.approx(R["paired"]["p"], **EXACT)


@pytest.mark.parametrize(("method", "name"), [("holm", "holm"), ("fdr_bh", "bh")])
def test_adjusted_p(method: str, name: str) -> None:
    adjusted = pingouin.multicomp(R["paired"]["p"], method=method)[1]
    assert adjusted == pytest.approx(R["adjusted"][name], **EXACT)


def test_holm_over_d_and_i() -> None:
    adjusted = pingouin.multicomp([R["D"]["p"], R["I"]["p"]], method="holm")[1]
    assert adjusted == pytest.approx(R["adjusted"]["holm_primary"], **EXACT)


def test_cluster_robust_rows(table: GainTable, answers: pd.DataFrame) -> None:
    training = answers.pivot(index="model", columns="language", values="baseline")
    rows: dict[str, Estimate] = {
        row.estimand: row
        for row in regression_rows(table, training)
        if row.scale == POINTS and row.estimator == "ols_cluster_robust"
    }
    for name, term in (("D at mean baseline", "related"), ("I continuous", "related:centred"),
                       ("slope of baseline", "centred")):  # fmt: skip
        row, variance = rows[name], R["regression"]["two_way_variance"][term]
        assert row.estimate == pytest.approx(R["regression"]["coef"][term], **EXACT)
        if variance > 0:
            assert row.se == pytest.approx(variance**0.5, **EXACT)
        else:  # R's variance is below 0, too: there is no standard error to be had
            assert (row.se, row.p) == (None, None) and row.status != OK


@pytest.mark.parametrize(("cluster", "name"), [(0, "by_model"), (1, "by_language")])
def test_clusters_of_one_kind(
    cluster: int, name: str, table: GainTable, answers: pd.DataFrame
) -> None:
    baseline = answers.pivot(index="model", columns="language", values="baseline").to_numpy()
    family = np.tile(table.related.astype(float), 7)
    centred = (baseline - baseline.mean()).ravel()
    design = np.column_stack([family, centred, family * centred, np.repeat(np.eye(7), 6, axis=0)])
    groups = [np.repeat(np.arange(7), 6), np.tile(np.arange(6), 7)][cluster]
    model = sm.OLS(table.gain[POINTS].ravel(), design)
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert fitted.bse[:3] == pytest.approx(list(R["regression"][name].values()), **EXACT)
    assert model.fit().bse[:3] == pytest.approx(list(R["regression"]["iid_se"].values()), **EXACT)


def test_variance_components_are_those_of_reml(table: GainTable) -> None:
    # For balanced data REML solves the same equations (Searle, Casella & McCulloch 1992); lme4
    # gets there by numerical search.
    found, expected = variance_components(table), R["components"]
    assert found.language == pytest.approx(expected["language"], rel=1e-4)
    assert found.model_language == pytest.approx(expected["model:language"], rel=1e-4)
    assert found.item_language == pytest.approx(expected["item:language"], rel=1e-4)
    assert found.residual == pytest.approx(expected["Residual"], rel=1e-4)


@pytest.mark.parametrize(("n", "d"), zip(R["detectable"]["n"], R["detectable"]["d"], strict=True))
def test_detectable_difference_of_equal_groups(n: int, d: float) -> None:
    assert minimal_detectable_effect(1.0, n, n) == pytest.approx(d, rel=1e-8)
