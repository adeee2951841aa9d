"""What the estimators show where the truth is known: coverage, bias, false alarms.

Simulated studies of 7 models; every seed is fixed. The limits are those of the specification.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import pytest
from simulated_tables import simulated_table, training_accuracy

from analysis.estimates import SCALE_DEPENDENT, Estimate
from analysis.estimators.contrasts import contrast_rows, equivalence_row, models_row
from analysis.estimators.primary import primary_row
from analysis.estimators.sampling_units import crossed_difference
from analysis.estimators.two_groups import (
    Difference,
    equivalence,
    interaction,
    mean_difference,
    welch_difference,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import LOGIT, POINTS, GainTable
from analysis.gains.weighted import contrast_of
from analysis.report.verdict import excluded_side
from analysis.simulation.answers import simulate_correct
from analysis.simulation.design import Design

pytestmark = pytest.mark.slow

# `make soak` simulates three times as many studies; the limits are the same.
MORE = 1 if int(os.environ.get("XLING_SOAK", "1")) == 1 else 3


def studies(design: Design, times: int, seed: int) -> Iterator[tuple[GainTable, BaselineGroups]]:
    """Gain tables and groups (split at the median training-split accuracy) of simulated studies."""
    for rng in np.random.default_rng(seed).spawn(times):
        answers = simulate_correct(design, rng)
        table = simulated_table(answers, design)
        level = training_accuracy(answers, design).mean(axis=1)
        group = {
            model: "strong" if value > np.median(level) + 1e-9 else "weak"
            for model, value in zip(table.models, level, strict=True)
        }
        accuracy = dict(zip(table.models, map(float, level), strict=True))
        yield table, BaselineGroups(accuracy, group, "training split", "ok", "")


def by_models(table: GainTable, groups: BaselineGroups) -> tuple[float, float]:
    """The limits of I over models."""
    row = Estimate("I", POINTS, "welch", "models")
    found = models_row(row, table, groups, POINTS)
    assert found.ci_low is not None and found.ci_high is not None
    return found.ci_low, found.ci_high


def family(table: GainTable, scale: str = POINTS) -> Difference:
    return welch_difference(*table.split(table.gain[scale].mean(axis=0)))


def by_group(table: GainTable, groups: BaselineGroups, scale: str) -> list[np.ndarray]:
    gain = table.gain[scale]
    return [
        gain[[groups.group[model] == name for model in table.models]].mean(axis=0)
        for name in ("weak", "strong")
    ]


def family_by_baseline(table: GainTable, groups: BaselineGroups, scale: str = POINTS) -> Difference:
    """I; its interval is that of `interaction`, without the F test that takes most time."""
    weak, strong = by_group(table, groups, scale)
    return mean_difference(*table.split(weak - strong))


def covered(found: Difference, truth: float) -> bool:
    return found.low <= truth <= found.high


def test_the_quick_interaction_is_the_one_that_is_reported() -> None:
    table, groups = next(studies(Design(), 1, 0))
    weak, strong = by_group(table, groups, POINTS)
    quick = family_by_baseline(table, groups)
    reported = interaction(table.split(weak), table.split(strong))
    assert astuple(quick) == pytest.approx(astuple(reported), rel=1e-8)


def test_null_coverage_by_languages_and_by_models() -> None:
    inside = []
    for table, groups in studies(Design(), 400 * MORE, 1):
        low, high = by_models(table, groups)
        inside.append([
            covered(family(table), 0.0), covered(family_by_baseline(table, groups), 0.0),
            low <= 0 <= high,
        ])  # fmt: skip
    d, i_languages, i_models = np.mean(inside, axis=0)
    assert 0.93 <= d <= 0.985
    assert 0.93 <= i_languages <= 0.985
    assert 0.93 <= i_models <= 0.985


def test_null_coverage_of_the_crossed_quasi_t() -> None:
    inside: dict[str, list[bool]] = {"D": [], "I": []}
    for table, groups in studies(Design(), 400 * MORE, 2):
        for name, of in (("D", None), ("I", groups)):
            found = crossed_difference(table.gain[POINTS], contrast_of(table, of))
            assert found is not None and found.df >= 1
            inside[name].append(covered(found, 0.0))
    for values in inside.values():
        # On item records I is covered in 0.9885 of 2,000 studies, D in 0.967.
        assert 0.94 <= np.mean(values) <= 0.995


def test_a_planted_effect_is_estimated_without_bias() -> None:
    found = [family(t).estimate for t, _ in studies(Design(effect=0.10), 340 * MORE, 3)]
    assert np.mean(found) == pytest.approx(0.10, abs=0.005)


def test_an_effect_in_weak_models_only_is_the_interaction() -> None:
    design = Design(weak_effect=0.10)
    found = [family_by_baseline(t, g).estimate for t, g in studies(design, 340 * MORE, 4)]
    assert np.mean(found) == pytest.approx(0.10, abs=0.006)


def test_a_shift_of_log_odds_is_no_interaction_in_logits_and_is_marked_in_points() -> None:
    design = Design(scale="latent", effect=1.0, items=900, sd_language=0.005,
                    sd_model_language=0.01, sd_language_base=0.02)  # fmt: skip
    found = [family_by_baseline(t, g, LOGIT) for t, g in studies(design, 170 * MORE, 5)]
    assert np.mean([not covered(each, 0.0) for each in found]) <= 0.08
    marked = []
    for table, groups in studies(design, 25 * MORE, 6):
        rows = contrast_rows(table, groups, 0.05)
        points, logit = (primary_row(rows, "I", scale) for scale in (POINTS, LOGIT))
        assert points is not None and logit is not None
        sides = [excluded_side(row) for row in (points, logit)]
        assert (points.status == SCALE_DEPENDENT) == (sides[0] != sides[1])
        assert points.status == logit.status or logit.estimate is None
        marked.append(points.status == SCALE_DEPENDENT)
    # By models and by languages, at 98.33 %: not every study has the power to see it in points.
    assert np.mean(marked) >= 0.5


def test_equivalence_is_not_declared_at_its_bound() -> None:
    for design in (Design(effect=0.05), Design(effect=0.05, related=6, control=10, items=300)):
        declared = [
            equivalence(family(t), 0.05).p < 0.05
            for t, _ in studies(design, 1000 if MORE == 1 else 1500, 7)
        ]
        assert np.mean(declared) <= 0.06


def test_a_true_null_of_the_interaction_is_shown() -> None:
    """3,000 items, 8 models, 4 + 10 languages: models and languages both say less than 5 points."""
    design = Design(items=3000, models=8, related=4, control=10)
    shown = []
    for table, groups in studies(design, 12 * MORE, 8):
        row = Estimate("I", POINTS, "welch", "models")
        models = equivalence_row(models_row(row, table, groups, POINTS), 0.05)
        languages = equivalence(family_by_baseline(table, groups), 0.05)
        shown.append(models.p is not None and max(models.p, languages.p) < 0.05)
    assert np.mean(shown) > 0.5
