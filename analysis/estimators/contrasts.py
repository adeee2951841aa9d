"""The contrasts: D, related against control, and I, family by baseline group.

D = mean gain of the related languages - mean gain of the controls; I = D of the weak models - D
of the strong ones. The source languages enter neither. D is tested over languages, which are no
random sample of families, and over families; I over models and over languages, and it is what both
of them say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pingouin

from analysis.arrays import Floats
from analysis.estimates import (
    FAMILYWISE,
    OK,
    SCALE_DEPENDENT,
    ZERO_VARIANCE,
    Estimate,
)
from analysis.estimators.families import families_difference
from analysis.estimators.rows import interaction_row, with_difference
from analysis.estimators.two_groups import (
    Difference,
    check_bound,
    equivalence,
    has_no_variance,
    mean_difference,
    welch_difference,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import CLIP, LOGIT, POINTS, GainTable
from analysis.gains.grouped import group_gains

BASE_D, FROM_HEADROOM = "D of base accuracy", ("D from headroom alone", "I from headroom alone")
WELCH, FAMILIES, RATIO = "welch", "random_effects", "ratio_of_sums"
BOTH_UNITS = "intersection_union"
LANGUAGES, MODELS, BOTH = "languages", "models", "models, languages"
TOP_FAMILIES, DEVELOPERS = "families", "developers"
ONE_RELATED = "one related language: its variance is taken to be that of the controls"
_TWO_RELATED = "needs 2 related languages"
_IN_THESE = "one model in a group: in these models"


def contrast_rows(table: GainTable, groups: BaselineGroups, bound: float) -> list[Estimate]:
    """Return D and I of one arm on both scales, and their equivalence tests.

    Args:
        table: Gains of the arm, by unit.
        groups: Weak and strong models.
        bound: Equivalence bound of D and of I in proportion, above 0.

    Returns:
        On each scale six rows: D by `welch` (unit languages), by `random_effects` (families) and
        by `ttest` (languages, pooled variance); I by `welch` (models), `mixed_anova` (languages)
        and `intersection_union` (models, languages), which has the larger p and the wider interval
        of both and is the one to read. Then D by `tost` (languages, families) and I by `tost`
        (models, languages), on points. The primary arm's are called `D` and `I`; others carry arm,
        reasoning and scoring in brackets. A row without a number has a status.

    Raises:
        ValueError: If the bound is not a positive number.
    """
    check_bound(bound)
    rows = {scale: _on_scale(table, groups, scale) for scale in (POINTS, LOGIT)}
    pair = _mark_scale([rows[scale][-1] for scale in (POINTS, LOGIT)])
    for scale, marked in zip((POINTS, LOGIT), pair, strict=True):
        rows[scale][-1] = marked
    d_languages, d_families, _, i_models, i_languages, _ = rows[POINTS]
    tested = [equivalence_row(row, bound) for row in (d_languages, d_families, i_models)]
    return [*rows[POINTS], *rows[LOGIT], *tested, equivalence_row(i_languages, bound)]


def _on_scale(table: GainTable, groups: BaselineGroups, scale: str) -> list[Estimate]:
    """Return D and I on one scale."""
    status = table.status if scale == POINTS or table.status != OK else table.logit_status()
    notes = _notes(table, scale)
    d = Estimate(f"D{table.label}", scale, WELCH, status=status, note=notes, **table.shared)
    pooled = replace(d, estimator="ttest", note=_join("pooled variance", notes))
    families = replace(d, estimator=FAMILIES, unit=TOP_FAMILIES)
    if status == OK:
        gain = table.gain[scale].mean(axis=0)
        related, control = table.split(gain)
        d = language_row(d, related, control, tested=True)
        pooled = language_row(pooled, related, control, mean_difference)
        families = family_row(families, table, gain)
    return [d, families, pooled, *_interaction_rows(table, groups, scale, notes)]


def language_row(
    row: Estimate,
    related: Floats,
    control: Floats,
    test: Callable[[Floats, Floats], Difference] = welch_difference,
    *,
    tested: bool = False,
) -> Estimate:
    """Fill a row with the mean of related minus that of control languages.

    Args:
        row: The row without numbers, its status `ok`.
        related: Shape (n1,), n1 >= 1, finite. A single one has the controls' variance.
        control: Shape (n2,), n2 >= 2, finite.
        test: Of the difference; one that needs two related languages gives a status without.
        tested: Whether df and p come from `pingouin.ttest(correction=True)`, the same Welch test.

    Returns:
        The row with its numbers; where neither group varies, the estimate and that status.
    """
    estimate = float(related.mean() - control.mean())
    if has_no_variance(related, control):
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    if len(related) < 2:
        if test is not welch_difference:
            return replace(row, status=_TWO_RELATED)
        row = replace(row, note=_join(ONE_RELATED, row.note))
    filled = with_difference(row, test(related, control))
    if not tested or len(related) < 2:
        return filled
    found = pingouin.ttest(related, control, correction=True).iloc[0]
    return replace(filled, df=float(found["dof"]), p=float(found["p_val"]))


def family_row(row: Estimate, table: GainTable, gain: Floats) -> Estimate:
    """Fill a row with the related languages against unrelated top families.

    Controls of the related languages' own top family are left out.

    Args:
        row: The row without numbers, its status `ok`.
        table: Whose languages they are.
        gain: By language, shape (L,), finite.
    """
    control = table.unrelated
    names = [family for family, used in zip(table.top_family, control, strict=True) if used]
    own = int((~table.related & ~control).sum())
    said = f"{len(set(names))} control families"
    said += f", without {own} controls of the related top family" if own else ""
    row = replace(row, n_control=int(control.sum()), note=_join(said, row.note))
    try:
        found = families_difference(gain[table.related], gain[control], names)
    except ValueError as error:
        return replace(row, status=str(error))
    if found is None:
        estimate = float(gain[table.related].mean() - gain[control].mean())
        return replace(row, estimate=estimate, status=ZERO_VARIANCE)
    return with_difference(row, found)


def _interaction_rows(
    table: GainTable, groups: BaselineGroups, scale: str, notes: str
) -> list[Estimate]:
    """Return I by models, by languages, and by both."""
    status = table.status if table.status != OK else groups.status
    if status == OK and scale == LOGIT:
        status = table.logit_status(groups)
    row = Estimate(
        f"I{table.label}", scale, "mixed_anova", status=status,
        note=_join(notes, groups.note), baseline_source=groups.source, **table.shared,
    )  # fmt: skip
    models = replace(row, estimator=WELCH, unit=MODELS)
    if status != OK:
        return [models, row, replace(row, estimator=BOTH_UNITS, unit=BOTH)]
    models = models_row(models, table, groups, scale)
    weak, strong = (table.split(gains) for gains in group_gains(table, groups, scale))
    languages = interaction_row(row, weak, strong)
    if table.related.sum() < 2:
        languages = replace(languages, estimator=WELCH, note=_join(ONE_RELATED, languages.note))
    return [models, languages, both_units(models, languages)]


def models_row(row: Estimate, table: GainTable, groups: BaselineGroups, scale: str) -> Estimate:
    """Fill a row with I over models: Welch on each model's own D, weak against strong.

    Args:
        row: The row without numbers, its status `ok`.
        table: Gains by unit.
        groups: Weak and strong models, with status `ok`.
        scale: `points` or `logit`.

    Returns:
        The row with its numbers, or with the reason why models are no unit here.
    """
    if groups.changing:
        names = ", ".join(groups.changing)
        return replace(row, status=f"models change baseline group between folds: {names}")
    related, control = (part.mean(axis=0) for part in table.split(table.gain[scale].T))
    weak, strong = by_group(related - control, table, groups)
    if min(len(weak), len(strong)) < 2:
        return replace(row, status="needs 2 weak and 2 strong models")
    if has_no_variance(weak, strong):
        return replace(row, estimate=float(weak.mean() - strong.mean()), status=ZERO_VARIANCE)
    return with_difference(row, welch_difference(weak, strong))


def headroom_rows(table: GainTable, groups: BaselineGroups) -> list[Estimate]:
    """Return what different room to improve would give by itself, were errors all that counted.

    A model that loses the same share h = sum of gains / sum of base errors of its errors in every
    language gains more where it began lower: by h times the difference of the errors.

    Args:
        table: Gains of an arm by unit.
        groups: Weak and strong models.

    Returns:
        On points, without intervals: `D of base accuracy` (related - control, mean over models),
        `D from headroom alone` (mean over models of each one's h times its difference of errors)
        and `I from headroom alone` (that of weak - that of strong models). A row without a number
        has a status; so has I where a model changes its group between folds.
    """
    names = (BASE_D, *FROM_HEADROOM)
    rows = [
        Estimate(f"{name}{table.label}", POINTS, RATIO, status=table.status, **table.shared)
        for name in names
    ]
    if table.status != OK:
        return rows
    errors = 1 - table.before
    total = errors.sum(axis=1)
    if not (total > 0).all():
        full = "a base model makes no errors"
        return [_base_row(rows[0], table), *(replace(row, status=full) for row in rows[1:])]
    share = table.gain[POINTS].sum(axis=1) / total
    difference = errors[:, table.related].mean(axis=1) - errors[:, ~table.related].mean(axis=1)
    alone = share * difference
    d = replace(rows[1], estimate=float(alone.mean()))
    i = replace(rows[2], note=groups.note, baseline_source=groups.source)
    if groups.status != OK or groups.changing:
        changing = f"models change baseline group between folds: {', '.join(groups.changing)}"
        i = replace(i, status=groups.status if groups.status != OK else changing)
    else:
        weak, strong = by_group(alone, table, groups)
        i = replace(i, estimate=float(weak.mean() - strong.mean()))
    return [_base_row(rows[0], table), d, i]


def _base_row(row: Estimate, table: GainTable) -> Estimate:
    related, control = table.split(table.before.mean(axis=0))
    return replace(row, estimator="mean", estimate=float(related.mean() - control.mean()))


def by_group(values: Floats, table: GainTable, groups: BaselineGroups) -> tuple[Floats, Floats]:
    """Split values (models,) into those of the weak and of the strong models."""
    named = np.array([groups.group.get(model, "") for model in table.models], np.str_)
    return values[named == "weak"], values[named == "strong"]


def both_units(models: Estimate, languages: Estimate) -> Estimate:
    """Return what both units say: the larger p, and the wider of the two intervals.

    Both must reject (intersection-union test, Berger 1982). Without models as a unit the
    languages speak alone, and for these models only.
    """
    row = replace(languages, estimator=BOTH_UNITS, unit=BOTH)
    if models.se is None or languages.se is None:
        if models.se is None and languages.se is not None:
            return replace(row, unit=LANGUAGES, note=_join(_IN_THESE, languages.note))
        return replace(row, status=languages.status if languages.se is None else models.status)
    # Wider where the words are decided, so that no word contradicts its interval.
    wider = max((models, languages), key=lambda found: _half_width(found, FAMILYWISE))
    p = max(models.p or 0.0, languages.p or 0.0)
    return replace(
        wider, estimator=BOTH_UNITS, unit=BOTH, p=p,
        note=_join(f"interval by {wider.unit}, the wider one", languages.note),
    )  # fmt: skip


def _half_width(row: Estimate, confidence: float) -> float:
    limits = row.interval_at(confidence)
    return 0.0 if limits is None else limits[1] - limits[0]


def equivalence_row(row: Estimate, bound: float) -> Estimate:
    """Turn a row with a t interval into its equivalence test (two one-sided tests).

    Args:
        row: With estimate, se and df, or with a status.
        bound: In the row's own scale, above 0.
    """
    said = f"equivalence bound {bound:g}; the interval is the 90 % one that TOST goes with"
    tested = replace(row, estimator="tost", p_holm=None, note=_join(said, row.note))
    if row.estimate is None or row.se is None or row.df is None:
        return tested
    found = equivalence(Difference(row.estimate, row.se, row.df, 0.0, 0.0, 0.0), bound)
    return replace(
        with_difference(tested, found.difference), p=found.p,
        note=_join(said, f"smallest bound that can be proved {found.smallest_bound:.4f}", row.note),
    )  # fmt: skip


def _notes(table: GainTable, scale: str) -> str:
    """Return what a reader should know of a row."""
    notes = []
    if len(table.models) == 1:
        notes.append("one model: the interval says nothing of other models")
    if table.left_out:
        notes.append(f"without {', '.join(table.left_out)}, which the arm was tuned on")
    if table.folds is not None:
        notes.append(ADAPTERS_NOTE)
    if scale == LOGIT and table.clipped.any():
        clipped = f"{int(table.clipped.sum())} of {table.clipped.size}"
        notes.append(f"{clipped} accuracies clipped at {CLIP}")
    return _join(*notes)


def _join(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _mark_scale(rows: Sequence[Estimate]) -> list[Estimate]:
    """Mark an interaction that holds on one scale only, or with two signs."""
    intervals = [row.interval_at(FAMILYWISE) for row in rows]
    if None in intervals:
        return list(rows)
    holds = [_side(limits) for limits in intervals]
    if len(set(holds)) == 1:
        return list(rows)
    where = ", ".join(
        f"{row.scale}: {'holds' if side else 'does not hold'}"
        for row, side in zip(rows, holds, strict=True)
    )
    return [
        replace(row, status=SCALE_DEPENDENT, note=_join(row.note, f"differs by scale ({where})"))
        for row in rows
    ]


def _side(limits: tuple[float, float] | None) -> int:
    """Return 1 for an interval above 0, -1 for one below it, else 0."""
    if limits is None:
        return 0
    return int(limits[0] > 0) - int(limits[1] < 0)
