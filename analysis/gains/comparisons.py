"""Every comparison of an arm with the base model that a study's runs allow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.gains.baselines import (
    MEDIAN,
    NEEDS_ITEMS,
    BaselineGroups,
    accuracy_groups,
    baseline_groups,
    fold_groups,
    training_baselines,
)
from analysis.gains.cells import CONDITION, gain_cells
from analysis.gains.gain_table import PRIMARY, GainTable, gain_table
from analysis.gains.primed import PrimedAnswers, PrimedModel, primed_answers
from analysis.gains.responses import Responses, encode_responses
from analysis.gains.units import model_units, unit_baselines, unit_table

Condition = tuple[str, ...]

_CONTROL_SOURCE = "control-source"


@dataclass(frozen=True)
class StudyDesign:
    """How a study's runs are to be compared.

    `family` maps each language to `related`, `control` or `source`, `sources` are those trained
    on, whether tested or not; `left_out` are the languages
    that the control-source arm was tuned on: they are that arm's own sources, so its contrasts are
    without them. `kin` share a top family with one of those, so what the control-source arm does to
    them may be transfer within their family. `bases` and `developers` map a model to its base
    checkpoint and to who made it; a model that is not in them is by itself. `split` is where weak
    models end: `median`, or an accuracy. `primed` says of the models that were primed how.
    """

    family: Mapping[str, str]
    left_out: Collection[str] = ()
    kin: Collection[str] = ()
    bases: Mapping[str, str] = field(default_factory=dict)
    developers: Mapping[str, str] = field(default_factory=dict)
    split: float | str = MEDIAN
    sources: Collection[str] = ()
    primed: Mapping[str, PrimedModel] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitComparison:
    """Gains of units, their baseline groups, and their training-split accuracies.

    `training` has units as rows and target languages as columns (proportions); it lacks what
    the base model did not answer, and may be empty. It is empty for a cross-fitted study, whose
    baselines are in the table's `folds`.
    """

    table: GainTable
    groups: BaselineGroups
    training: pd.DataFrame


@dataclass(frozen=True)
class Comparison(UnitComparison):
    """One arm, reasoning and scoring, with base checkpoints and languages as units.

    `by_model` is the table of single models and of languages in each script, `baseline` the
    training-split accuracies of these; `by_developer` is the comparison with one unit for each
    developer.
    """

    by_model: GainTable
    baseline: pd.DataFrame
    by_developer: UnitComparison


@dataclass(frozen=True)
class Comparisons:
    """Cells (analysis.gains.cells.CELL_COLUMNS), held-out answers, and comparisons by condition.

    The primary condition is always there, if only with a status. `left_out` are the target
    languages that the control-source arm was tuned on, sorted: its tables are without them, its
    cells are not. `kin` are the other target languages that are akin to one of those, sorted; all
    tables have them. `sources` are those of the primary arm. `base_conditions` are the
    (reasoning, scoring) that any base model was run with, with item records or without. `primed`
    are the answers of primed models, which are in nothing else.
    """

    cells: pd.DataFrame
    responses: Responses
    by_condition: dict[Condition, Comparison]
    left_out: tuple[str, ...] = ()
    kin: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    base_conditions: frozenset[Condition] = frozenset()
    primed: tuple[PrimedAnswers, ...] = ()

    @property
    def primary(self) -> Comparison:
        """Fine-tuned against base, answered directly, scored by the answer's token."""
        return self.by_condition[PRIMARY]

    @property
    def tables(self) -> dict[Condition, GainTable]:
        """The gain tables of units alone."""
        return {condition: found.table for condition, found in self.by_condition.items()}

    @property
    def tables_by_model(self) -> dict[Condition, GainTable]:
        """The gain tables of single models, and of languages in each script."""
        return {condition: found.by_model for condition, found in self.by_condition.items()}


def compare_runs(
    records: pd.DataFrame, accuracies: pd.DataFrame, design: StudyDesign
) -> Comparisons:
    """Make every comparison that records and accuracies allow.

    Args:
        records: Item records of all runs (xling.records), possibly none.
        accuracies: Columns of analysis.runs.pull.ACCURACY_COLUMNS.
        design: Families, units, and what the control-source arm was tuned on.

    Returns:
        The comparisons, the primary one first, the others sorted.

    Raises:
        ValueError: If a language has no family, or an item stands on two passages or is held out
            in two folds.
    """
    primed = primed_answers(records, design.primed, design.family, design.left_out)
    if design.primed:
        records = records[~records["model"].isin(list(design.primed))]
        accuracies = accuracies[~accuracies["model"].isin(list(design.primed))]
    responses = encode_responses(records)
    cells = gain_cells(responses, accuracies, design.family)
    found = [tuple(map(str, row)) for row in cells[list(CONDITION)].drop_duplicates().to_numpy()]
    others = sorted(condition for condition in found if condition != PRIMARY)
    targets = cells.loc[cells["family"] != "source", "language"].unique().tolist()
    gone = tuple(sorted(set(design.left_out) & set(targets)))
    base = accuracies.loc[accuracies["arm"] == "base", list(CONDITION[1:])].drop_duplicates()
    comparisons = {}
    for condition in (PRIMARY, *others):
        dropped = gone if condition[0] == _CONTROL_SOURCE else ()
        table = gain_table(cells, responses, design.family, condition, dropped)
        comparisons[condition] = _comparison(table, records, responses, design)
    return Comparisons(
        cells,
        responses,
        comparisons,
        left_out=gone,
        kin=tuple(sorted(set(design.kin) & set(targets) - set(gone))),
        sources=tuple(design.sources),
        base_conditions=frozenset(tuple(map(str, row)) for row in base.to_numpy()),
        primed=tuple(primed),
    )


def _comparison(
    by_model: GainTable, records: pd.DataFrame, responses: Responses, design: StudyDesign
) -> Comparison:
    """Put one arm's models and languages together by unit, and split the units by baseline."""
    _, reasoning, scoring = by_model.condition
    baseline = training_baselines(
        records, reasoning=reasoning, scoring=scoring, languages=by_model.languages
    )
    crossed = responses.is_cross_fitted
    units, developers = (
        _by_unit(by_model, baseline, of, design.split, crossed=crossed)
        for of in (design.bases, {**design.bases, **design.developers})
    )
    return Comparison(
        units.table, units.groups, units.training,
        by_model=by_model, baseline=baseline, by_developer=developers,
    )  # fmt: skip


def _by_unit(
    by_model: GainTable,
    baseline: pd.DataFrame,
    of: Mapping[str, str],
    split: float | str,
    *,
    crossed: bool,
) -> UnitComparison:
    """Average over the models that have the same value in `of`, and group these units."""
    units = model_units(by_model.models, of)
    table, training = unit_table(by_model, units), unit_baselines(baseline, units)
    if table.folds is not None:
        groups = fold_groups(table.folds, table.models)
    elif crossed:
        groups = BaselineGroups({}, {}, "none", NEEDS_ITEMS, table.item_status)
    elif training.empty and table.items is None and table.models and _sizes_known(table):
        groups = accuracy_groups(table.before, np.asarray(table.n_items), table.models, split)
    else:
        groups = baseline_groups(
            training, models=table.models, languages=table.languages, split=split
        )
    return UnitComparison(table, groups, training)


def _sizes_known(table: GainTable) -> bool:
    return table.n_items is not None and bool(np.isfinite(table.n_items).all())
