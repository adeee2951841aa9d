"""Units that generalise: one base checkpoint, one developer, one language whatever its script.

Eleven tuned models of five base checkpoints are five draws from the models there are, and Hindi in
two scripts is one language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.arrays import Array, Floats
from analysis.estimates import OK
from analysis.gains.gain_table import GainTable, few_languages, on_scale
from analysis.gains.items import ItemGains
from xling.languages import get_language


def language_units(codes: Sequence[str]) -> dict[str, str]:
    """Map each code to the first one of the same ISO 639-3 language."""
    first: dict[str, str] = {}
    return {code: first.setdefault(get_language(code).iso639_3, code) for code in codes}


def model_units(models: Sequence[str], of: Mapping[str, str]) -> dict[str, str]:
    """Map each model to its unit: itself if no other model has the same value, else that value.

    Args:
        models: The models' names.
        of: What makes models one unit, by model: base checkpoint or developer; a model that is
            not in it is by itself.
    """
    values = [of.get(model, model) for model in models]
    names = [v if values.count(v) > 1 else m for m, v in zip(models, values, strict=True)]
    # A model may be called what others are versions of.
    clear = len(set(names)) == len(set(values))
    return dict(zip(models, names if clear else values, strict=True))


def unit_table(table: GainTable, models: Mapping[str, str]) -> GainTable:
    """Average a table over the scripts of a language and over the models of a unit.

    Accuracies are averaged before they are put on a scale, as over seeds.

    Args:
        table: Gains by model and language.
        models: Model to unit, as model_units gives it.

    Returns:
        The table of units; the same one if no two models or languages are one unit. Of options
        chosen, which no contrast uses, `items` has those of a unit's first member.
    """
    languages = language_units(table.languages)
    units = tuple(dict.fromkeys(models[model] for model in table.models))
    codes = tuple(dict.fromkeys(languages.values()))
    if len(units) == len(table.models) and len(codes) == len(table.languages):
        return replace(table, models=units)
    rows = _means([models[m] for m in table.models], units)
    columns = _means(list(languages.values()), codes)
    first = [table.languages.index(code) for code in codes]
    related = table.related[first]

    def mean(values: Floats) -> Floats:
        return np.asarray(rows @ values @ columns.T, np.float64)

    before, by_seed = mean(table.before), mean(table.after_by_seed)
    after = mean(table.after)
    status = (few_languages(related) or OK) if table.status == OK else table.status
    return replace(
        table,
        models=units, languages=codes, related=related,
        before=before, after=after, after_by_seed=by_seed,
        gain={scale: on_scale(after, scale, table.chance) - on_scale(before, scale, table.chance)
              for scale in table.gain},
        status=status,
        shared=table.shared | {
            "n_models": len(units), "n_related": int(related.sum()),
            "n_control": int((~related).sum()),
        },
        items=None if table.items is None else _unit_items(table.items, rows, columns),
        n_items=None if table.n_items is None else mean(table.n_items),
        top_family=tuple(table.top_family[k] for k in first),
    )  # fmt: skip


def unit_baselines(training: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Average training-split accuracies (models by languages) over the members of each unit.

    A unit lacks a number where one of its members does.
    """
    if training.empty:
        return training
    languages = language_units([str(code) for code in training.columns])
    by_model = training.groupby([models.get(str(m), str(m)) for m in training.index]).agg(_mean)
    whole = by_model.T.groupby([languages[str(code)] for code in by_model.columns]).agg(_mean).T
    return whole.rename_axis(index="model", columns="language")


def _mean(values: pd.Series) -> float:
    return float(values.mean(skipna=False))


def _means(member_of: Sequence[str], units: Sequence[str]) -> Floats:
    """Return weights (units, members) that average the members of each unit."""
    belongs = np.array([[name == unit for name in member_of] for unit in units], np.float64)
    return np.asarray(belongs / belongs.sum(axis=1, keepdims=True), np.float64)


def _unit_items(items: ItemGains, rows: Floats, columns: Floats) -> ItemGains:
    """Average answers and masses over the members of each unit."""
    cut = np.ix_(rows.argmax(axis=1), columns.argmax(axis=1))

    def mean(values: Array) -> Array:
        found = np.einsum("um,...mln,vl->...uvn", rows, values, columns, optimize=True)
        return np.asarray(found, np.float32)

    return replace(
        items,
        before=mean(items.before), after=mean(items.after),
        mass_before=mean(items.mass_before), mass_after=mean(items.mass_after),
        prediction_before=items.prediction_before[cut],
        prediction_after=items.prediction_after[:, cut[0], cut[1]],
    )  # fmt: skip
