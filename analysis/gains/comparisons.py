"""Every comparison of an arm with the base model that a study's runs allow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.gains.baselines import (
    NEEDS_ITEMS,
    BaselineGroups,
    baseline_groups,
    fold_groups,
    training_baselines,
)
from analysis.gains.cells import CONDITION, gain_cells
from analysis.gains.gain_table import PRIMARY, GainTable, gain_table
from analysis.gains.responses import Responses, encode_responses

Condition = tuple[str, ...]

_CONTROL_SOURCE = "control-source"


@dataclass(frozen=True)
class Comparison:
    """One arm, reasoning and scoring: its gains, baseline groups and training-split accuracies.

    `training` has models as rows and target languages as columns (proportions); it lacks what
    the base model did not answer, and may be empty. It is empty for a cross-fitted study, whose
    baselines are in the table's `folds`.
    """

    table: GainTable
    groups: BaselineGroups
    training: pd.DataFrame


@dataclass(frozen=True)
class Comparisons:
    """Cells (analysis.gains.cells.CELL_COLUMNS), held-out answers, and comparisons by condition.

    The primary condition is always there, if only with a status. `left_out` are the target
    languages that the control-source arm was tuned on, sorted: its tables are without them, its
    cells are not. `kin` are the other target languages that are akin to one of those, sorted; all
    tables have them. `base_conditions` are the (reasoning, scoring) that any base model was run
    with, with item records or without.
    """

    cells: pd.DataFrame
    responses: Responses
    by_condition: dict[Condition, Comparison]
    left_out: tuple[str, ...] = ()
    kin: tuple[str, ...] = ()
    base_conditions: frozenset[Condition] = frozenset()

    @property
    def primary(self) -> Comparison:
        """Fine-tuned against base, answered directly, scored by the answer's token."""
        return self.by_condition[PRIMARY]

    @property
    def tables(self) -> dict[Condition, GainTable]:
        """The gain tables alone."""
        return {condition: found.table for condition, found in self.by_condition.items()}


def compare_runs(
    records: pd.DataFrame,
    accuracies: pd.DataFrame,
    family: Mapping[str, str],
    left_out: Collection[str] = (),
    kin: Collection[str] = (),
) -> Comparisons:
    """Make every comparison that records and accuracies allow.

    Args:
        records: Item records of all runs (xling.records), possibly none.
        accuracies: Columns of analysis.runs.pull.ACCURACY_COLUMNS.
        family: Language code to `related`, `control` or `source`.
        left_out: Languages that the control-source arm was tuned on. They are that arm's own
            sources, so its contrasts are without them.
        kin: Languages that share a branch with one of those. What the control-source arm does to
            them may be transfer within their family.

    Returns:
        The comparisons, the primary one first, the others sorted.

    Raises:
        ValueError: If a language has no family, or an item stands on two passages or is held out
            in two folds.
    """
    responses = encode_responses(records)
    cells = gain_cells(responses, accuracies, family)
    found = [tuple(map(str, row)) for row in cells[list(CONDITION)].drop_duplicates().to_numpy()]
    others = sorted(condition for condition in found if condition != PRIMARY)
    targets = cells.loc[cells["family"] != "source", "language"].unique().tolist()
    gone = tuple(sorted(set(left_out) & set(targets)))
    base = accuracies.loc[accuracies["arm"] == "base", list(CONDITION[1:])].drop_duplicates()
    return Comparisons(
        cells,
        responses,
        {
            condition: _comparison(cells, responses, records, family, condition, gone)
            for condition in (PRIMARY, *others)
        },
        left_out=gone,
        kin=tuple(sorted(set(kin) & set(targets) - set(gone))),
        base_conditions=frozenset(tuple(map(str, row)) for row in base.to_numpy()),
    )


def _comparison(
    cells: pd.DataFrame,
    responses: Responses,
    records: pd.DataFrame,
    family: Mapping[str, str],
    condition: Condition,
    left_out: tuple[str, ...],
) -> Comparison:
    arm, reasoning, scoring = condition
    dropped = left_out if arm == _CONTROL_SOURCE else ()
    table = gain_table(cells, responses, family, condition, dropped)
    if table.folds is not None:
        groups = fold_groups(table.folds, table.models)
    elif responses.is_cross_fitted:
        groups = BaselineGroups({}, {}, "none", NEEDS_ITEMS, table.item_status)
    else:
        groups = baseline_groups(
            records,
            models=table.models,
            languages=table.languages,
            reasoning=reasoning,
            scoring=scoring,
        )
    training = training_baselines(
        records, reasoning=reasoning, scoring=scoring, languages=table.languages
    )
    return Comparison(table, groups, training)
