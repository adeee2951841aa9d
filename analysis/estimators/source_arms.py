"""Arms that differ in what they were tuned on: another source language, or shuffled labels.

What any tuning does to a language (its receptivity) is in both arms, so their difference is free
of it. What the control source does for its own kin is in one arm alone: where there are kin among
the languages, the difference is given without them, too. What tuning on shuffled labels does
cannot come from the answers: it is the format's share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from analysis.estimates import OK, ZERO_VARIANCE, Estimate
from analysis.estimators.contrasts import (
    FAMILIES,
    ONE_RELATED,
    TOP_FAMILIES,
    WELCH,
    family_row,
    language_row,
)
from analysis.estimators.primary import with_status
from analysis.estimators.rows import interaction_row, with_difference
from analysis.estimators.two_groups import fieller
from analysis.gains.baselines import BaselineGroups
from analysis.gains.folds import ADAPTERS_NOTE
from analysis.gains.gain_table import LOGIT, POINTS, PRIMARY, GainTable
from analysis.gains.grouped import group_gains

CONTROL_SOURCE = ("control-source", *PRIMARY[1:])
SHUFFLED = ("shuffled-labels", *PRIMARY[1:])
DIFFERENT_CELLS = "models or languages differ between the arms"
NO_GAIN = "gain of finetuned not distinguishable from zero"
LOST = "finetuned lost accuracy, so this is a share of that loss"
NO_SHARE_OF_GAIN = "shuffled labels lose accuracy where fine-tuning gains it, so there is no share"
NO_SHARE_OF_LOSS = "shuffled labels gain accuracy where fine-tuning loses it, so there is no share"
WITHOUT_KIN = "without kin of the control source"
_LISTED = 8
_ROUNDING = 1e-9
_ROUNDING_OF_MEANS = 2e-7  # as in two_groups: accuracies may have single precision
ARMS = "finetuned - control-source"


def source_arm_rows(
    tables: Mapping[tuple[str, ...], GainTable],
    groups: BaselineGroups,
    left_out: Collection[str] = (),
    kin: Collection[str] = (),
) -> list[Estimate]:
    """Estimate D and I of finetuned minus control-source, and the format's share of the gain.

    Args:
        tables: Gains by condition (arm, reasoning, scoring).
        groups: Weak and strong models, as for the primary arm.
        left_out: Target languages that the control-source arm was tuned on, besides those that
            its table is without. There the arms differ by more than transfer, so they enter
            neither D nor I.
        kin: Target languages that share a branch with one of those. If the control source helps
            its kin among the controls, that raises D as if the related source had helped the
            related languages.

    Returns:
        D (by languages and by families) and I on both scales if there is a control-source arm,
        and once more without its kin among the controls if there are any. The format's share if
        there is an arm with shuffled labels; no rows for an arm that is absent.
    """
    tuned = tables.get(PRIMARY)
    if tuned is None or not tuned.models:
        return []
    rows: list[Estimate] = []
    other, shuffled = tables.get(CONTROL_SOURCE), tables.get(SHUFFLED)
    if other is not None and other.models:
        gone = {*left_out, *other.left_out}
        control = {c for c, kin in zip(tuned.languages, tuned.related, strict=True) if not kin}
        akin = {code for code in tuned.languages if code in kin and code not in gone}
        arms = _alike(tuned, other, gone)
        notes = _arm_notes(tuned, other, gone)
        for scale in (POINTS, LOGIT):
            note = "; ".join(filter(None, [*notes, kin_note(tuned, akin)]))
            found = _difference_rows(arms, groups, scale, ARMS, note)
            rows += with_status(found, arms[0].subset)
        for scale in (POINTS, LOGIT) if akin & control else ():
            note = "; ".join([*notes, f"{WITHOUT_KIN}: {_listed(akin & control)}"])
            others = _alike(tuned, other, gone | akin & control)
            found = _difference_rows(others, groups, scale, f"{ARMS}, {WITHOUT_KIN}", note)
            rows += with_status(found, others[0].subset)
    if shuffled is not None and shuffled.models:
        unshared = other.left_out if other is not None and other.models else ()
        pair = _alike(tuned, shuffled)
        rows += with_status([_format_share_row(*pair, unshared)], pair[0].subset)
    return rows


def _arm_notes(tuned: GainTable, other: GainTable, left_out: Collection[str]) -> list[str]:
    """Say what the rows of two arms' difference share."""
    notes = ["what both arms do alike to a language cancels"]
    dropped = [code for code in tuned.languages if code in left_out]
    if dropped:
        notes.append(f"without {', '.join(dropped)}, on which control-source was tuned")
    notes.append(seeds_note((tuned, other)))
    if tuned.folds is not None:
        notes.append(ADAPTERS_NOTE)
    return [note for note in notes if note]


def _alike(
    tuned: GainTable, other: GainTable, left_out: Collection[str] = ()
) -> tuple[GainTable, GainTable]:
    """Restrict two arms to the models and languages that both have, without those left out."""
    models = [model for model in tuned.models if model in other.models]
    languages = [c for c in tuned.languages if c in other.languages and c not in left_out]
    first, second = (table.restricted(models, languages) for table in (tuned, other))
    gone = [m for m in (*tuned.models, *other.models) if m not in models]
    gone += [
        code
        for code in dict.fromkeys((*tuned.languages, *other.languages))
        if code not in languages and code not in left_out and code not in other.left_out
    ]
    if gone and not models:
        return replace(first, status=DIFFERENT_CELLS), second
    # What both lack already counts, too: each table is a complete subset of its own arm.
    own = [name for name in (*first.without, *second.without) if name not in left_out]
    without = tuple(dict.fromkeys((*own, *gone)))
    return replace(first, without=without), replace(second, without=without)


def kin_note(table: GainTable, kin: Collection[str]) -> str:
    """Say which languages of a table are kin of the control source; nothing without any."""
    if not kin:
        return ""
    kind = dict(zip(table.languages, table.related.tolist(), strict=True))
    related = sum(kind[code] for code in kin)
    return (
        f"{related} related and {len(kin) - related} control languages are kin of the control "
        f"source and may gain more from it ({_listed(kin)})"
    )


def _listed(codes: Collection[str]) -> str:
    """Join the first codes, and say how many more there are: a study may have dozens."""
    first, more = sorted(codes)[:_LISTED], len(codes) - _LISTED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def seeds_note(tables: Collection[GainTable]) -> str:
    """Say how many seeds each arm has, where arms differ in that; else nothing."""
    seeds = [(table.condition[0], table.shared["n_seeds"]) for table in tables]
    if len({number for _, number in seeds}) < 2:
        return ""
    return "seeds: " + ", ".join(f"{name} {number}" for name, number in seeds)


def _difference_rows(
    arms: tuple[GainTable, GainTable], groups: BaselineGroups, scale: str, label: str, note: str
) -> list[Estimate]:
    """Estimate D (by languages and by families) and I of the difference between two arms.

    Args:
        arms: Finetuned and control-source, with the same models and languages.
        groups: Weak and strong models.
        scale: `points` or `logit`.
        label: What stands in brackets after D and I.
        note: What a reader should know of the languages.
    """
    tuned, other = arms
    status = next((table.status for table in arms if table.status != OK), OK)
    if status == OK and scale == LOGIT:
        status = next((s for s in (table.logit_status() for table in arms) if s != OK), OK)
    shared = tuned.shared | {"n_seeds": min(table.shared["n_seeds"] for table in arms)}
    d = Estimate(f"D ({label})", scale, WELCH, status=status, note=note, **shared)
    families = replace(d, estimator=FAMILIES, unit=TOP_FAMILIES)
    groups = groups.of(tuned.models)
    i_status = groups.status if status == OK else status
    if i_status == OK and groups.changing and (tuned.folds is None or other.folds is None):
        i_status = tuned.item_status or other.item_status
    i = Estimate(
        f"I ({label})", scale, "mixed_anova", status=i_status,
        note="; ".join(filter(None, [note, groups.note])), baseline_source=groups.source, **shared,
    )  # fmt: skip
    if status != OK:
        return [d, families, i]
    by_language = (tuned.gain[scale] - other.gain[scale]).mean(axis=0)
    d = language_row(d, *tuned.split(by_language))
    families = family_row(families, tuned, by_language)
    if i_status != OK:
        return [d, families, i]
    weak, strong = (
        first - second
        for first, second in zip(
            group_gains(tuned, groups, scale), group_gains(other, groups, scale), strict=True
        )
    )
    i = interaction_row(i, tuned.split(weak), tuned.split(strong))
    if tuned.related.sum() < 2:
        i = replace(i, estimator=WELCH, note="; ".join(filter(None, [ONE_RELATED, i.note])))
    return [d, families, i]


def _format_share_row(tuned: GainTable, shuffled: GainTable, unshared: Collection[str]) -> Estimate:
    """Divide the mean gain with shuffled labels by that of finetuned.

    `unshared` are those that the parts of the gain are without.
    """
    over = f"over all {len(tuned.languages)} target languages"
    if unshared:
        over += f" (the parts of the gain are without {', '.join(unshared)})"
    row = Estimate(
        estimand="format share of the gain", scale="ratio", estimator="fieller",
        status=next((t.status for t in (tuned, shuffled) if t.status != OK), OK),
        note="; ".join(filter(None, [
            "mean gain with shuffled labels / mean gain of finetuned; Fieller's interval, paired "
            "by language", over, seeds_note((tuned, shuffled)),
        ])),
        **tuned.shared | {"n_seeds": min(tuned.shared["n_seeds"], shuffled.shared["n_seeds"])},
    )  # fmt: skip
    if row.status != OK:
        return row
    numerator, denominator = (arm.gain[POINTS].mean(axis=0) for arm in (shuffled, tuned))
    opposite = NO_SHARE_OF_LOSS if denominator.mean() < 0 else NO_SHARE_OF_GAIN
    noted = replace(row, note=f"{row.note}; {LOST}") if denominator.mean() < 0 else row
    if np.ptp(numerator) < _ROUNDING:
        if abs(denominator.mean()) < _ROUNDING:
            return replace(row, status=NO_GAIN)
        ratio = float(numerator.mean() / denominator.mean())
        if ratio < 0:
            return replace(row, status=opposite)
        return replace(noted, estimate=ratio, status=ZERO_VARIANCE)
    found = fieller(numerator, denominator)
    if found is None:
        return replace(row, status=NO_GAIN)
    if found.high < 0:
        return replace(row, status=opposite)
    # One the exact multiple of the other: the interval has no width, and says nothing.
    if np.ptp(numerator - found.estimate * denominator) < _ROUNDING_OF_MEANS:
        return replace(noted, estimate=found.estimate, status=ZERO_VARIANCE)
    return with_difference(noted, found)
