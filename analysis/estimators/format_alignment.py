"""How much of a gain is learning the answer format: answer mass, option positions, cloze."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pingouin
from scipy import stats

from analysis.arrays import Bytes, Floats
from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.rows import one_sample
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable
from analysis.gains.items import ItemGains

CLOZE = (*PRIMARY[:2], "cloze")
NO_MASS = "no answer mass"
DIFFERENT_CELLS = "models or languages differ between the scorings"
NO_OWN_VARIANCE = "answer mass varies with tuning only"
_ROUNDING = 1e-9  # answer masses are float32
_DRAWS = 500
_NOT_RANDOMISED = (
    "the mediator is not randomised, so this describes and does not show a cause (Imai, Keele & "
    "Yamamoto 2010); cells before and after, model means taken out; the bootstrap takes cells as "
    "independent"
)


def format_rows(tables: Mapping[tuple[str, ...], GainTable], seed: int = 0) -> list[Estimate]:
    """Estimate the changes that tuning makes to the form of answers, for the primary arm.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        seed: Seed of the mediation's bootstrap.

    Returns:
        Changes in answer mass and in option-position entropy, gain by answer-token minus gain by
        cloze (if there is a cloze table), indirect and direct effect of tuning. No rows without
        the primary arm; a row without a number has a status.
    """
    table = tables.get(PRIMARY)
    if table is None or not table.models:
        return []
    rows = [_mass_row(table), _entropy_row(table)]
    cloze = tables.get(CLOZE)
    if cloze is not None and cloze.models:
        rows.append(_cloze_row(table, cloze))
    return rows + _mediation_rows(table, seed)


def position_entropies(prediction: Bytes) -> Floats:
    """Return the entropy of the predicted option positions, in bits, over the last axis.

    From 0 (always one position) to 2 (all equally often).
    """
    counts = np.stack([(prediction == k).sum(axis=-1) for k in range(1, 5)], axis=-1)
    return np.asarray(stats.entropy(counts, base=2, axis=-1), np.float64)


def _row(table: GainTable, name: str, scale: str, estimator: str, note: str = "") -> Estimate:
    return Estimate(name, scale, estimator, status=table.status, note=note, **table.shared)


def _mass_row(table: GainTable) -> Estimate:
    row = _row(table, "change in answer mass", "probability", "one_sample_ttest")
    if row.status != OK:
        return row
    if table.items is None:
        return replace(row, status=table.item_status)
    before, after = _masses(table.items)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return replace(row, status=NO_MASS)
    return one_sample(row, (after - before).mean(axis=0))


def _entropy_row(table: GainTable) -> Estimate:
    row = _row(
        table, "change in position entropy", "bits", "one_sample_ttest",
        "entropy of the predicted option positions by model and language, averaged over models",
    )  # fmt: skip
    if row.status != OK:
        return row
    if table.items is None:
        return replace(row, status=table.item_status)
    before = position_entropies(table.items.prediction_before)
    after = position_entropies(table.items.prediction_after).mean(axis=0)
    return one_sample(row, (after - before).mean(axis=0))


def _cloze_row(table: GainTable, cloze: GainTable) -> Estimate:
    row = _row(
        table, "gain answer-token - cloze", POINTS, "one_sample_ttest",
        "cloze scores the answers' text, which the format of labels does not help",
    )  # fmt: skip
    if row.status != OK or cloze.status != OK:
        return replace(row, status=row.status if row.status != OK else cloze.status)
    if (table.models, table.languages) != (cloze.models, cloze.languages):
        return replace(row, status=DIFFERENT_CELLS)
    return one_sample(row, (table.gain[POINTS] - cloze.gain[POINTS]).mean(axis=0))


def _masses(items: ItemGains) -> tuple[Floats, Floats]:
    """Return the mean answer mass before and after, each (models, languages)."""
    return (
        np.asarray(items.mass_before.mean(axis=2, dtype=np.float64)),
        np.asarray(items.mass_after.mean(axis=(0, 3), dtype=np.float64)),
    )


def _mediation_rows(table: GainTable, seed: int) -> list[Estimate]:
    """Estimate the effect of tuning on accuracy through answer mass, and beside it."""
    rows = {
        path: replace(
            _row(table, name, POINTS, "mediation_analysis", _NOT_RANDOMISED), unit="cells"
        )
        for path, name in (
            ("Indirect", "indirect effect of answer mass"),
            ("Direct", "direct effect beside answer mass"),
        )
    }
    status = table.status
    if status == OK and table.items is None:
        status = table.item_status
    if status != OK or table.items is None:
        return [replace(row, status=status) for row in rows.values()]
    data = _mediation_data(table, table.items)
    status = _mediation_status(data)
    if status != OK:
        return [replace(row, status=status) for row in rows.values()]
    found = pingouin.mediation_analysis(
        data=data, x="tuned", m="mass", y="accuracy", n_boot=_DRAWS, seed=seed
    ).set_index("path")
    return [_with_path(row, found.loc[path], path, len(data)) for path, row in rows.items()]


def _with_path(row: Estimate, found: pd.Series, path: str, n_cells: int) -> Estimate:
    p = float(found["pval"])
    note = row.note
    if path == "Indirect":
        # A share of draws: none of them on the other side of 0 means below 2 / draws, not 0.
        p = max(p, 2 / _DRAWS)
        note = f"{note}; {_DRAWS} draws, so p is not below {2 / _DRAWS:g}"
    return replace(
        row, estimate=float(found["coef"]), se=float(found["se"]), p=p, note=note,
        df=None if path == "Indirect" else float(n_cells - 3),
        ci_low=float(found["CI2.5"]), ci_high=float(found["CI97.5"]),
    )  # fmt: skip


def _mediation_data(table: GainTable, items: ItemGains) -> pd.DataFrame:
    """Return one row per model, language and time; model means taken out of mass and accuracy."""
    stacked = {"mass": np.stack(_masses(items)), "accuracy": np.stack([table.before, table.after])}
    data = {
        name: (values - values.mean(axis=(0, 2), keepdims=True)).ravel()
        for name, values in stacked.items()
    }
    return pd.DataFrame({"tuned": np.repeat([0.0, 1.0], table.before.size), **data})


def _mediation_status(data: pd.DataFrame) -> str:
    """Refuse what pingouin would not: NaN, which it drops, and values that do not vary."""
    if data["mass"].isna().any():
        return NO_MASS
    if min(np.ptp(data["mass"]), np.ptp(data["accuracy"])) < _ROUNDING:
        return ZERO_VARIANCE
    own = data.groupby("tuned")[["mass", "accuracy"]].agg(np.ptp).max()
    if own["mass"] < _ROUNDING or data["mass"].nunique() < 3:
        return NO_OWN_VARIANCE
    return ZERO_VARIANCE if own["accuracy"] < _ROUNDING else OK
