"""Analyses of source arms whose gains are planted, for tests of what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
from simulated_records import FAMILY, RELATED, accuracies_of, study

from analysis.estimates import Estimate
from analysis.estimators.all_estimates import study_estimates
from analysis.estimators.specifications import SPECIFICATION_COLUMNS
from analysis.exhibits.exhibit import Evidence
from analysis.gains.comparisons import StudyDesign, compare_runs
from analysis.measures.formats import format_measures, trained_shares
from xling.records import check_records

ARMS = ("finetuned", "control-source", "shuffled-labels")
LEVELS = {"a": 0.45, "b": 0.45, "c": 0.45, "d": 0.45}

NO_SPECIFICATIONS = pd.DataFrame(columns=list(SPECIFICATION_COLUMNS))

Gain = Callable[[str, str], float]
Row = dict[str, Any]


def arm_records() -> pd.DataFrame:
    """Records of four models and three arms, from which the cells are taken."""
    rng = np.random.default_rng(0)
    return check_records(study(rng, base=LEVELS, n_items=24, n_training=24, arms=ARMS))


def planted(
    records: pd.DataFrame,
    gain: Gain,
    *,
    family: dict[str, str] = FAMILY,
    left_out: Collection[str] = (),
    kin: Collection[str] = (),
    without: Callable[[Row], bool] = lambda row: False,
) -> Evidence:
    """An analysis of accuracies: gain(arm, language) over 45 %, and a little noise of models."""
    rng = np.random.default_rng(1)
    rows = accuracies_of(records).to_dict("records")
    kept = [row for row in rows if row["language"] in family and not without(row)]
    for row in kept:
        more = 0.0 if row["arm"] == "base" else gain(row["arm"], row["language"])
        row["accuracy"] = 0.45 + more + rng.normal(0, 0.006)
    accuracies = pd.DataFrame(kept).assign(has_records=False)
    compared = compare_runs(records[:0], accuracies, StudyDesign(family, left_out, kin))
    measures, trained = format_measures(records[:0]), trained_shares(records[:0])
    estimates = study_estimates(compared, measures, trained, bound=0.05, seed=0)
    return Evidence(
        compared, estimates, measures, trained, [], pd.DataFrame(), family, {}, NO_SPECIFICATIONS
    )


def row_of(evidence: Evidence, estimand: str, scale: str = "points") -> Estimate:
    """The row of that name; where several units have one, that of languages."""
    rows = [r for r in evidence.estimates if (r.estimand, r.scale) == (estimand, scale)]
    assert rows and [r.unit for r in rows] in (
        [r.unit for r in rows[:1]],
        ["languages", "families"],
    )
    return rows[0]


def by_arm(related: dict[str, float], control: dict[str, float]) -> Gain:
    return lambda arm, code: (related if code in RELATED else control)[arm]


EVEN = {"finetuned": 0.15, "control-source": 0.08, "shuffled-labels": 0.05}
