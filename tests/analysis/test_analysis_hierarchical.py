"""The hierarchical model: calibrated by simulation, and against another implementation."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_tables import answers, items_of, table_of_items
from scipy import stats

from analysis.estimates import OK, ZERO_VARIANCE
from analysis.estimators.hierarchical import (
    FEW_FAMILIES,
    FIXED,
    ONE_AND_ONE,
    SCALES,
    condition,
    fit,
    hierarchical_rows,
    rotate_gains,
    sampling_variance,
)
from analysis.gains.baselines import BaselineGroups

SOAK = int(os.environ.get("XLING_SOAK", "1")) > 1
REFERENCES = Path(__file__).parents[1] / "references"
SAMPLING = 0.03**2


def designed(n_models: int, n_related: int, families: list[int]) -> dict[str, object]:
    """Related languages of one family, and control families of these sizes."""
    names = ["R"] * n_related + [f"f{k}" for k, size in enumerate(families) for _ in range(size)]
    return {
        "related": np.arange(len(names)) < n_related,
        "families": tuple(names),
        "weak": np.arange(n_models) < (n_models + 1) // 2,
    }


def drawn(rng: np.random.Generator, design: dict) -> tuple[np.ndarray, dict[str, float]]:
    """Gains with every parameter drawn from its prior, and the true D, B and I."""
    related, weak = design["related"], design["weak"]
    r, c = related - related.mean(), weak - weak.mean()
    m, n = len(weak), len(related)
    _, place = np.unique(design["families"], return_inverse=True)
    mu, b, d, i = rng.normal(0, FIXED)
    model, language, family, mixed, residual = np.abs(rng.normal(0, SCALES))
    gain = (
        mu + b * c[:, None] + d * r + i * c[:, None] * r
        + rng.normal(0, model, m)[:, None] + rng.normal(0, language, n)
        + rng.normal(0, family, place.max() + 1)[place] + rng.normal(0, mixed, m)[:, None] * r
        + rng.normal(0, np.hypot(residual, SAMPLING**0.5), (m, n))
    )  # fmt: skip
    return gain, {"D": d, "B": b, "I": i}


def positions(design: dict, n: int, seed: int, n_points: int) -> dict[str, np.ndarray]:
    """Where the truth lies in the posterior (0 to 1), over data sets from the prior."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"D": [], "B": [], "I": []}
    for number in range(n):
        gain, truth = drawn(rng, design)
        data = rotate_gains(gain, design["related"], design["families"], design["weak"], SAMPLING)
        posterior = fit(data, SCALES, number, n_points)
        for name, value in truth.items():
            found[name].append(posterior[name].below(value))
    return {name: np.array(values) for name, values in found.items()}


def test_the_likelihood_is_that_of_the_whole_covariance() -> None:
    """By the M L x M L matrix, effects and all, instead of by rotation and families."""
    rng = np.random.default_rng(0)
    design = designed(4, 2, [2, 1, 3])
    gain, _ = drawn(rng, design)
    related, weak = design["related"], design["weak"]
    r, c = related - related.mean(), weak - weak.mean()
    _, place = np.unique(design["families"], return_inverse=True)
    m, n = gain.shape
    one, eye = np.ones, np.eye
    x = np.stack([np.ones((m, n)), c[:, None] * one(n), one(m)[:, None] * r, np.outer(c, r)])
    x = x.reshape(4, -1).T
    values = []
    spreads = np.abs(rng.normal(0, SCALES, (3, 5))) + 0.01
    for s in spreads**2:
        same = (place[:, None] == place).astype(float)
        v = (
            s[0] * np.kron(eye(m), one((n, n))) + s[1] * np.kron(one((m, m)), eye(n))
            + s[2] * np.kron(one((m, m)), same) + s[3] * np.kron(eye(m), np.outer(r, r))
            + (s[4] + SAMPLING) * eye(m * n)
        )  # fmt: skip
        prior = np.diag(FIXED**2)
        total = v + x @ prior @ x.T
        likelihood = stats.multivariate_normal(np.zeros(m * n), total).logpdf(gain.ravel())
        posterior = prior @ x.T @ np.linalg.solve(total, gain.ravel())
        covariance = prior - prior @ x.T @ np.linalg.solve(total, x @ prior)
        values.append((likelihood, *posterior[1:], *np.diag(covariance)[1:]))
    data = rotate_gains(gain, related, design["families"], weak, SAMPLING)
    given = condition(data, spreads)
    expected = np.array(values)
    found = given.log_likelihood - given.log_likelihood[0]
    assert found == pytest.approx(expected[:, 0] - expected[0, 0], abs=1e-8)
    for k, name in enumerate(("B", "D", "I")):
        assert given.mean[name] == pytest.approx(expected[:, 1 + k], abs=1e-10)
        assert given.variance[name] == pytest.approx(expected[:, 4 + k], abs=1e-12)


@pytest.mark.slow
def test_truths_from_the_prior_lie_anywhere_in_the_posterior() -> None:
    """Simulation-based calibration (Talts et al. 2018)."""
    n, points = (2000, 4096) if SOAK else (80, 1024)
    low, high = (0.935, 0.965) if SOAK else (0.88, 0.99)
    for name, at in positions(designed(7, 4, [1] * 6 + [2, 2]), n, 1, points).items():
        inside = np.mean((at > 0.025) & (at < 0.975))
        assert low <= inside <= high, (name, inside)
        assert stats.kstest(at, "uniform").pvalue > 0.005, name


@pytest.mark.slow
def test_b_and_i_are_covered_with_three_and_three_languages() -> None:
    n, points = (2000, 4096) if SOAK else (80, 1024)
    low, high = (0.935, 0.975) if SOAK else (0.88, 0.99)
    found = positions(designed(7, 3, [1, 1, 1]), n, 2, points)
    for name in ("B", "I"):
        inside = np.mean((found[name] > 0.025) & (found[name] < 0.975))
        assert low <= inside <= high, (name, inside)


def test_a_probabilistic_library_finds_the_same() -> None:
    """NumPyro's NUTS on one data set; tests/references/hierarchical.py made the numbers."""
    stored = json.loads((REFERENCES / "hierarchical.json").read_text())
    gain, related, weak = (np.array(stored[name]) for name in ("gain", "related", "weak"))
    data = rotate_gains(gain, related, tuple(stored["families"]), weak, stored["sampling"])
    posterior = fit(data, SCALES, 0)
    for name, numbers in stored["posterior"].items():
        found = posterior[name]
        error = numbers["mcmc_error"]
        assert found.estimate == pytest.approx(numbers["mean"], abs=4 * error)
        assert found.spread == pytest.approx(numbers["sd"], rel=0.03)
        for share in ("0.025", "0.5", "0.975"):
            assert found.quantile(float(share)) == pytest.approx(
                numbers["quantiles"][share], abs=8 * error
            )


def simulated(seed: int, families: int = 8) -> tuple:
    """A table of 6 models x (3 + families) languages with items, D 10, B 25 points."""
    rng = np.random.default_rng(seed)
    related = np.arange(3 + families) < 3
    weak = np.arange(6) < 3
    before = np.where(weak, 0.40, 0.70)[:, None] + rng.normal(0, 0.02, (6, len(related)))
    gain = np.where(weak, 0.30, 0.05)[:, None] + 0.1 * related
    drawn = items_of(answers(rng, before, 100), answers(rng, before + gain, 100)[None])
    table = table_of_items(drawn, related)
    names = ("R", "R", "R", *(f"f{k}" for k in range(families)))
    group = {m: "weak" if w else "strong" for m, w in zip(table.models, weak, strict=True)}
    return replace(table, top_family=names), BaselineGroups({}, group, "training split", OK, "")


def test_rows_find_what_is_planted_and_say_by_which_priors() -> None:
    table, groups = simulated(3)
    rows = {(row.estimand, row.estimator): row for row in hierarchical_rows(table, groups, 0)}
    assert len(rows) == 9
    for name, truth in (("D", 0.10), ("B", 0.25), ("I", 0.0)):
        row = rows[name, "hierarchical"]
        assert row.ci_low < truth < row.ci_high and row.p is None
        assert "effective sample" in row.note and "model 10" in row.note
        wide, narrow = (
            rows[name, "hierarchical, prior x 3"],
            rows[name, "hierarchical, prior x 1/2"],
        )
        assert narrow.ci_high - narrow.ci_low < wide.ci_high - wide.ci_low
    assert hierarchical_rows(table, groups, 0) == hierarchical_rows(table, groups, 0)


def test_few_families_groups_and_items_have_a_status() -> None:
    table, groups = simulated(4, families=5)
    rows = {row.estimand: row for row in hierarchical_rows(table, groups, 0)[:3]}
    assert rows["D"].status == FEW_FAMILIES and rows["D"].estimate is None
    assert rows["B"].status == OK and rows["B"].estimate is not None
    table, _ = simulated(4)
    none = BaselineGroups({}, {}, "none", "needs training-split baseline", "")
    rows = {row.estimand: row for row in hierarchical_rows(table, none, 0)[:3]}
    assert rows["D"].estimate is not None and rows["I"].status == none.status
    bare = replace(table, items=None, item_status="not available: a run has no item records")
    assert {row.status for row in hierarchical_rows(bare, groups, 0)} == {bare.item_status}


def test_the_sampling_variance_is_that_of_cells_beyond_items_languages_and_models() -> None:
    """Item effects common to cells, to a language or to a model are in no cell's own variance."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(60):
        own = rng.normal(0, 0.5, (5, 6, 80))
        shared = rng.normal(0, 1, 80) + rng.normal(0, 1, (5, 1, 80)) + rng.normal(0, 1, (1, 6, 80))
        items = items_of(np.zeros((5, 6, 80)), (own + shared)[None])
        found.append(sampling_variance(items))
    assert np.mean(found) == pytest.approx(0.25 / 80, rel=0.05)


def test_one_weak_and_one_strong_model_leave_b_and_i_at_their_priors() -> None:
    table, groups = simulated(3)
    two = replace(table.restricted(table.models[2:4], table.languages), top_family=table.top_family)
    rows = {row.estimand: row for row in hierarchical_rows(two, groups.of(two.models), 0)[:3]}
    assert [rows[name].status for name in "DBI"] == [OK, ONE_AND_ONE, ONE_AND_ONE]
    assert rows["B"].estimate is None
    three = replace(
        table.restricted(table.models[2:5], table.languages), top_family=table.top_family
    )
    rows = {row.estimand: row for row in hierarchical_rows(three, groups.of(three.models), 0)[:3]}
    assert rows["B"].status == OK and rows["B"].estimate is not None


@pytest.mark.parametrize("varies", ["model", "language"])
def test_gains_that_vary_by_model_or_by_language_alone_have_a_status(varies: str) -> None:
    table, groups = simulated(3)
    right = np.zeros((6, 11, 100), np.float32)
    for m in range(6):
        for k in range(11):
            right[m, k, : 10 + (m if varies == "model" else k)] = 1
    items = items_of(np.zeros_like(right), right[None])
    flat = replace(table_of_items(items, table.related), top_family=table.top_family)
    assert {row.status for row in hierarchical_rows(flat, groups, 0)} == {ZERO_VARIANCE}
