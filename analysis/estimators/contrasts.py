"""The contrasts: D, related against control, and I, family by baseline group.

D = mean gain of the related languages - mean gain of the controls; I = D of the weak models - D
of the strong ones. Languages are the sampling unit. The source languages enter neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pingouin

from analysis.estimates import OK, SCALE_DEPENDENT, Estimate
from analysis.estimators.rows import interaction_row, two_sample, with_difference
from analysis.estimators.two_groups import check_bound, equivalence, has_no_variance
from analysis.gains.baselines import BaselineGroups
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import CLIP, LOGIT, POINTS, GainTable
from analysis.gains.grouped import group_gains

_ALPHA = 0.05


def contrast_rows(table: GainTable, groups: BaselineGroups, bound: float) -> list[Estimate]:
    """Return D and I on both scales, and the equivalence test of D, for one arm.

    Args:
        table: Gains of the arm.
        groups: Weak and strong models.
        bound: Equivalence bound of D in proportion, above 0.

    Returns:
        Five rows: D by `ttest` and I by `mixed_anova` on each scale, D by `tost` on points. The
        primary arm's are called `D` and `I`; others carry arm, reasoning and scoring in
        brackets. Holm's correction is over {D, I} of one scale. A row without a number has a
        status.

    Raises:
        ValueError: If the bound is not a positive number.
    """
    check_bound(bound)
    label = table.label
    pairs = [
        holm(_family_row(table, scale, label), _interaction_row(table, groups, scale, label))
        for scale in (POINTS, LOGIT)
    ]
    interactions = _mark_scale([pair[1] for pair in pairs])
    d_rows = [pair[0] for pair in pairs]
    return [
        d_rows[0],
        interactions[0],
        d_rows[1],
        interactions[1],
        _equivalence_row(table, label, bound),
    ]


def _family_row(table: GainTable, scale: str, label: str) -> Estimate:
    """Estimate D by pingouin.ttest on the languages' mean gains."""
    row = Estimate(
        estimand=f"D{label}",
        scale=scale,
        estimator="ttest",
        status=table.status,
        note=_notes(table, scale),
        **table.shared,
    )
    if table.status != OK:
        return row
    return two_sample(row, *table.split(table.gain[scale].mean(axis=0)))


def _interaction_row(table: GainTable, groups: BaselineGroups, scale: str, label: str) -> Estimate:
    """Estimate I by pingouin.mixed_anova on the languages' mean gains in weak and strong models."""
    status = table.status if table.status != OK else groups.status
    row = Estimate(
        estimand=f"I{label}",
        scale=scale,
        estimator="mixed_anova",
        status=status,
        note=_notes(table, scale, groups.note),
        baseline_source=groups.source,
        **table.shared,
    )
    if status != OK:
        return row
    weak, strong = (table.split(gains) for gains in group_gains(table, groups, scale))
    return interaction_row(row, weak, strong)


def _equivalence_row(table: GainTable, label: str, bound: float) -> Estimate:
    """Estimate D by pingouin.tost on the languages' mean gains, in points."""
    said = f"equivalence bound {bound:g}; the interval is the 90 % one that TOST goes with"
    said = "; ".join([said, *_data_notes(table)])
    row = Estimate(
        estimand=f"D{label}",
        scale=POINTS,
        estimator="tost",
        status=table.status,
        note=said,
        **table.shared,
    )
    if table.status != OK:
        return row
    related, control = table.split(table.gain[POINTS].mean(axis=0))
    if has_no_variance(related, control):
        return two_sample(row, related, control)
    result = equivalence(related, control, bound)
    proved = f"{said}; smallest bound that can be proved {result.smallest_bound:.4f}"
    return replace(with_difference(row, result.difference), p=result.p, note=proved)


def _notes(table: GainTable, scale: str, *more: str) -> str:
    """Return what a reader should know of a row."""
    notes = [text for text in more if text]
    if len(table.models) == 1:
        notes.append("one model: the interval says nothing of other models")
    notes += _data_notes(table)
    if scale == LOGIT and table.n_clipped:
        notes.append(
            f"{table.n_clipped} of {2 * table.gain[scale].size} accuracies clipped at {CLIP}"
        )
    return "; ".join(notes)


def _data_notes(table: GainTable) -> list[str]:
    """Return what any row of these data should say."""
    notes = []
    if table.left_out:
        notes.append(f"without {', '.join(table.left_out)}, which the arm was tuned on")
    if table.folds is not None:
        notes.append(ADAPTERS_NOTE)
    return notes


def holm(*rows: Estimate) -> list[Estimate]:
    """Add Holm's p over the rows that have a p."""
    with_p = [row.p for row in rows if row.p is not None]
    if not with_p:
        return list(rows)
    adjusted = iter(pingouin.multicomp(with_p, method="holm")[1])
    return [row if row.p is None else replace(row, p_holm=float(next(adjusted))) for row in rows]


def _mark_scale(rows: Sequence[Estimate]) -> list[Estimate]:
    """Mark an interaction that holds (Holm's p below 0.05) on one scale only, or with two signs."""
    if any(row.estimate is None or row.p_holm is None for row in rows):
        return list(rows)
    holds = [np.sign(row.estimate or 0) if (row.p_holm or 0) < _ALPHA else 0 for row in rows]
    if len(set(holds)) == 1:
        return list(rows)
    where = ", ".join(f"{row.scale}: Holm's p {row.p_holm:.3f}" for row in rows)
    return [
        replace(
            row,
            status=SCALE_DEPENDENT,
            note="; ".join(filter(None, [row.note, f"differs by scale ({where})"])),
        )
        for row in rows
    ]
