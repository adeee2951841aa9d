"""Every estimate of a study, in the order in which estimates.json lists them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.baseline_strength import (
    BASELINE_GAP,
    are_alike,
    models_strength,
    strength_rows,
)
from analysis.estimators.branches import branch_rows
from analysis.estimators.calibration import calibration_rows
from analysis.estimators.chain_of_thought import chain_of_thought_arrays, chain_of_thought_rows
from analysis.estimators.contrasts import (
    DEVELOPERS,
    WELCH,
    contrast_rows,
    headroom_rows,
    models_row,
)
from analysis.estimators.format_alignment import format_rows
from analysis.estimators.gain_parts import gain_part_rows
from analysis.estimators.hierarchical import hierarchical_rows
from analysis.estimators.permutation import permutation_rows
from analysis.estimators.permuted import permuted_rows
from analysis.estimators.position_prior import position_prior_rows
from analysis.estimators.power import power_rows
from analysis.estimators.primary import with_holm, with_status
from analysis.estimators.primed import primed_rows
from analysis.estimators.regression import regression_rows
from analysis.estimators.rows import with_difference
from analysis.estimators.sampling_units import models_difference, unit_rows
from analysis.estimators.slopes import slope_rows
from analysis.estimators.source_arms import ARMS, source_arm_rows
from analysis.gains.baselines import BASELINES_ALIKE
from analysis.gains.cells import CONDITION
from analysis.gains.comparisons import Comparison, Comparisons
from analysis.gains.gain_table import POINTS, PRIMARY
from analysis.gains.weighted import contrast_of
from analysis.measures.formats import GoldShares

DRAWS = 2000


def study_estimates(
    compared: Comparisons, measures: pd.DataFrame, trained: GoldShares, *, bound: float, seed: int
) -> list[Estimate]:
    """Return primary and secondary estimates, and checks.

    Args:
        compared: As analysis.gains.comparisons.compare_runs gives it.
        measures: As analysis.measures.formats.format_measures gives them.
        trained: Positions of the right answers in training.
        bound: Equivalence bound in proportion, above 0.
        seed: Of the passage bootstrap, the halvings and the permutations that are drawn.

    Returns:
        The rows; what the runs cannot show has a status, and arms that were not run have none.

    Raises:
        ValueError: If the bound is not a positive number.
    """
    primary = compared.primary
    table, groups = primary.table, primary.groups
    # A stream for each estimator: adding one leaves the others' draws as they were.
    streams = iter(np.random.default_rng(seed).spawn(5))
    rows = contrast_rows(table, groups, bound)
    rows += headroom_rows(table, groups)
    rows += strength_rows(table, groups)
    rows += developer_rows(primary)
    rows += power_rows(table, groups, rows)
    rows += branch_rows(table, compared.sources, next(streams))
    rows += unit_rows(table, groups, next(streams), draws=DRAWS)
    rows += permutation_rows(table, groups, next(streams))
    rows += hierarchical_rows(table, groups, seed)
    rows += regression_rows(table, primary.training)
    rows += slope_rows(table, primary.training, next(streams))
    rows = with_status(rows, table.subset)
    for condition, comparison in compared.by_condition.items():
        if condition != table.condition:
            other = contrast_rows(comparison.table, comparison.groups, bound)
            rows += with_status(other, comparison.table.subset)
    rows += source_arm_rows(compared.tables, groups, compared.left_out, compared.kin)
    rows += gain_part_rows(compared.tables, compared.left_out, compared.kin)
    by_model = primary.by_model
    rows += with_status(_chain_of_thought(compared, bound, next(streams)), by_model.subset)
    rows += primed_rows(compared.primed)
    rows += with_status(format_rows(compared.tables_by_model), by_model.subset)
    rows += permuted_rows(compared.tables_by_model, measures)
    rows += calibration_rows(compared.tables_by_model, measures)
    rows += position_prior_rows(compared.tables_by_model, measures, trained)
    return with_holm(_alike(rows))


def developer_rows(primary: Comparison) -> list[Estimate]:
    """Return D, B and I with one unit for each developer; no rows where none has two models."""
    found = primary.by_developer
    table, groups = found.table, found.groups
    if len(table.models) == len(primary.table.models):
        return []
    contrast = contrast_of(table, None)
    d = Estimate(
        f"D{table.label}", POINTS, "ttest", status=table.status,
        **{**table.shared, "unit": DEVELOPERS},
    )  # fmt: skip
    if d.status == OK and len(table.models) < 2:
        d = replace(d, status="needs 2 developers")
    elif d.status == OK:
        tested = models_difference(table.gain[POINTS], contrast)
        d = replace(d, status=ZERO_VARIANCE) if tested is None else with_difference(d, tested)
    i = Estimate(
        f"I{table.label}", POINTS, WELCH, note=groups.note, baseline_source=groups.source,
        status=table.status if table.status != OK else groups.status,
        **{**table.shared, "unit": DEVELOPERS},
    )  # fmt: skip
    i = i if i.status != OK else models_row(i, table, groups, POINTS)
    return [d, models_strength(table, groups, POINTS, DEVELOPERS), i]


def _alike(rows: list[Estimate]) -> list[Estimate]:
    """Give B and I the status `baselines alike` where weak and strong models are not told apart.

    I of the difference of two arms goes by the same groups, so it has the status, too.
    """
    held_out = next((row for row in rows if row.estimand == BASELINE_GAP), None)
    if held_out is None or not are_alike(held_out):
        return rows
    return [
        with_status([row], BASELINES_ALIKE)[0]
        if row.estimand in ("B", "I") or row.estimand.startswith(f"I ({ARMS}")
        else row
        for row in rows
    ]


def _chain_of_thought(
    compared: Comparisons, bound: float, rng: np.random.Generator
) -> list[Estimate]:
    """Compare fine-tuning with chain-of-thought; no rows if no base model reasoned."""
    table = compared.primary.by_model
    if ("cot", "answer-token") not in compared.base_conditions:
        return []
    primary = compared.cells[(compared.cells[list(CONDITION)] == list(PRIMARY)).all(axis=1)]
    answers, status = chain_of_thought_arrays(
        compared.responses, table.languages, table.models, sorted(primary["seed"].unique().tolist())
    )
    return chain_of_thought_rows(answers, status, bound, rng, table.shared)
