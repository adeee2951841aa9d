"""Every estimate of a study, in the order in which estimates.json lists them."""

from __future__ import annotations

import numpy as np

from analysis.estimates import Estimate
from analysis.estimators.chain_of_thought import chain_of_thought_arrays, chain_of_thought_rows
from analysis.estimators.contrasts import contrast_rows
from analysis.estimators.format_alignment import format_rows
from analysis.estimators.permutation import permutation_rows
from analysis.estimators.power import power_rows
from analysis.estimators.regression import regression_rows
from analysis.estimators.sampling_units import unit_rows
from analysis.estimators.slopes import slope_rows
from analysis.estimators.source_arms import source_arm_rows
from analysis.gains.cells import CONDITION
from analysis.gains.comparisons import Comparisons
from analysis.gains.gain_table import PRIMARY

DRAWS = 2000


def study_estimates(compared: Comparisons, *, bound: float, seed: int) -> list[Estimate]:
    """Primary and secondary estimates, and checks.

    Args:
        compared: As analysis.gains.comparisons.compare_runs gives it.
        bound: Equivalence bound in proportion, above 0.
        seed: Of the passage bootstrap, the halvings and the permutations that are drawn.

    Returns:
        The rows; what the runs cannot show has a status, and arms that were not run have none.

    Raises:
        ValueError: If the bound is not a positive number.
    """
    primary = compared.primary
    # A stream for each estimator: adding one leaves the others' draws as they were.
    streams = iter(np.random.default_rng(seed).spawn(4))
    rows = contrast_rows(primary.table, primary.groups, bound)
    rows += power_rows(primary.table, primary.groups)
    rows += unit_rows(primary.table, primary.groups, next(streams), draws=DRAWS)
    rows += permutation_rows(primary.table, primary.groups, next(streams))
    rows += regression_rows(primary.table, primary.training)
    rows += slope_rows(primary.table, primary.training, next(streams))
    for condition, comparison in compared.by_condition.items():
        if condition != primary.table.condition:
            rows += contrast_rows(comparison.table, comparison.groups, bound)
    rows += source_arm_rows(compared.tables, primary.groups)
    rows += _chain_of_thought(compared, bound, next(streams))
    return rows + format_rows(compared.tables, seed)


def _chain_of_thought(
    compared: Comparisons, bound: float, rng: np.random.Generator
) -> list[Estimate]:
    """Fine-tuning against chain-of-thought; no rows if no base model reasoned."""
    runs, table = compared.responses.runs, compared.primary.table
    if not ((runs["arm"] == "base") & (runs["reasoning"] == "cot")).any():
        return []
    primary = compared.cells[(compared.cells[list(CONDITION)] == list(PRIMARY)).all(axis=1)]
    answers, status = chain_of_thought_arrays(
        compared.responses, table.languages, table.models, sorted(primary["seed"].unique().tolist())
    )
    return chain_of_thought_rows(answers, status, bound, rng, table.shared)
