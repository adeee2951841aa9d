"""How much of a gain is learning the answer format: answer mass, option positions, cloze."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from analysis.arrays import Bytes, Floats
from analysis.estimates import OK, Estimate
from analysis.estimators.rows import one_sample
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable
from analysis.gains.items import ItemGains

CLOZE = (*PRIMARY[:2], "cloze")
NO_MASS = "no answer mass"
DIFFERENT_CELLS = "models or languages differ between the scorings"


def format_rows(tables: Mapping[tuple[str, ...], GainTable]) -> list[Estimate]:
    """Estimate the changes that tuning makes to the form of answers, for the primary arm.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).

    Returns:
        Changes in answer mass and in option-position entropy, gain by answer-token minus gain by
        cloze (if there is a cloze table). No rows without the primary arm; a row without a number
        has a status.
    """
    table = tables.get(PRIMARY)
    if table is None or not table.models:
        return []
    rows = [_mass_row(table), _entropy_row(table)]
    cloze = tables.get(CLOZE)
    if cloze is not None and cloze.models:
        rows.append(_cloze_row(table, cloze))
    return rows


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
