"""What the source arms say, in the plain sentences of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.estimates import FAMILYWISE, Estimate
from analysis.estimators.contrasts import FAMILIES, TOP_FAMILIES
from analysis.estimators.primary import find_row
from analysis.estimators.source_arms import LOST, WITHOUT_KIN
from analysis.tables.numbers import fixed, interval, p_words, points

_ARMS = "finetuned - control-source"
_DIFFERENCE, _OF_OTHERS = f"D ({_ARMS})", f"D ({_ARMS}, {WITHOUT_KIN})"
_PART = "part of the gain: relatedness (related)"


def arm_sentences(estimates: Sequence[Estimate]) -> list[str]:
    """Write a sentence on relatedness against receptivity, and one on format.

    The sentence on relatedness rests on the languages that are no kin of the control source,
    where these give a number, and calls it relatedness only where families bear it out, as the
    family claim does. That the groups differ does not say that related languages gain:
    controls may gain less from the related source than from the control source. So that they
    gain is said only where their own part of the gain is above 0 with its interval.

    Args:
        estimates: All rows of an analysis.

    Returns:
        Sentences with their numbers; where an arm has no number, why.
    """
    share = _find(estimates, "format share of the gain", "ratio")
    sentences = [] if _find(estimates, _DIFFERENCE) is None else [_relatedness(estimates)]
    return sentences if share is None else [*sentences, _format(share)]


def _find(estimates: Sequence[Estimate], estimand: str, scale: str = "points") -> Estimate | None:
    return next((row for row in estimates if (row.estimand, row.scale) == (estimand, scale)), None)


def _relatedness(estimates: Sequence[Estimate]) -> str:
    whole, others = (_find(estimates, name) for name in (_DIFFERENCE, _OF_OTHERS))
    row = whole if others is None or others.p is None else others
    start = "Relatedness or receptivity"
    if row is None or row.estimate is None or row.p is None:
        return f"{start}: no verdict, because: {'' if row is None else row.status}."
    limits = row.interval_at(FAMILYWISE)
    shown = "no interval" if limits is None else (
        f"98.3 % interval {points(limits[0])} to {points(limits[1])}"
    )  # fmt: skip
    measured = (
        "what the source language adds to the same tuning in an unrelated language differs "
        f"between related and control languages by {points(row.estimate)} points ({shown}, "
        f"{p_words(row.p)}){_about_kin(whole, others)}{_about_subset(row)}"
    )
    part = _find(estimates, _PART)
    if limits is None or limits[0] <= 0 <= limits[1]:
        return (
            f"{start}: the data cannot tell whether related languages gain from the source being "
            f"related or would gain as much from tuning in any language; {measured}."
        )
    more = row.estimate > 0
    said = _more(part, _not_by_families(estimates, row)) if more else _less(part)
    return f"{start}: {said}; {measured}."


def _not_by_families(estimates: Sequence[Estimate], row: Estimate) -> str:
    """Return what families say of a difference above 0 if they do not bear it out; else nothing."""
    families = find_row(estimates, row.estimand, FAMILIES, TOP_FAMILIES)
    limits = None if families is None else families.interval_at(FAMILYWISE)
    if families is None or limits is None:
        return "no such estimate" if families is None else families.status
    if limits[0] > 0:
        return ""
    return f"98.3 % interval {points(limits[0])} to {points(limits[1])}"


def _about_kin(whole: Estimate | None, others: Estimate | None) -> str:
    """Say whether kin of the control source are counted, if there are any."""
    if whole is None or others is None:
        return ""
    if others.p is None:
        return (
            ", kin of the control source among them, which may make that difference; without them "
            f"there is no number ({others.status})"
        )
    n = whole.n_related + whole.n_control - others.n_related - others.n_control
    return f", {WITHOUT_KIN} ({n} language{'' if n == 1 else 's'})"


def _about_subset(row: Estimate) -> str:
    """Say what a row is without where cells are missing."""
    return f" ({row.status})" if row.status.startswith("complete subset") else ""


def _sides(part: Estimate) -> int:
    """Return 1 if the whole interval is above 0, -1 if it is below, else 0."""
    if part.ci_low is not None and part.ci_low > 0:
        return 1
    return -1 if part.ci_high is not None and part.ci_high < 0 else 0


def _more(part: Estimate | None, not_by_families: str) -> str:
    """Say what it means that a related source adds more in related languages.

    `not_by_families` is what families say where they do not bear that out.
    """
    if part is None or part.estimate is None or not interval(part):
        why = "" if part is None else f", because: {part.status}"
        return (
            "the arms differ by family, but whether related languages gain from the source being "
            f"related, or controls lose by it, cannot be told{why}"
        )
    adds = f"{points(part.estimate)} points (95 % interval {interval(part)})"
    if _sides(part) > 0 and not_by_families:
        return (
            "the source adds more in these related languages than in these controls, but by "
            f"families it cannot be told whether that is relatedness ({not_by_families}); in these "
            f"related languages {adds}"
        )
    if _sides(part) > 0:
        return (
            "related languages gain from the source being related, and not only from tuning in "
            f"any language; in related languages {adds}"
        )
    if _sides(part) < 0:
        return (
            "the arms differ by family, but related languages, too, gain less from the related "
            f"source than the control source gives them: {adds}"
        )
    return (
        "the arms differ by family, but that related languages gain from the source being related "
        f"is not established: in them it adds {adds}, and controls may gain less from it than "
        "from the control source"
    )


def _less(part: Estimate | None) -> str:
    """Say what it means that a related source adds less in related languages."""
    first = "a related source adds less in related languages than in controls"
    if part is None or part.estimate is None or not interval(part):
        return first
    adds = f"{points(part.estimate)} points (95 % interval {interval(part)})"
    return {
        1: f"{first}, though it adds there, too: {adds}",
        0: f"{first}; in related languages {adds}",
        -1: f"{first}: they gain more from the control source, by {adds}",
    }[_sides(part)]


def _format(row: Estimate) -> str:
    start = "Format"
    if row.estimate is None:
        return f"{start}: what share of the gain it is cannot be told, because: {row.status}."
    said = _percent(row.estimate)
    about = "" if _about_subset(row) else f", {row.status}"
    if row.ci_low is not None and row.ci_high is not None:
        about = f", 95 % interval {_percent(row.ci_low)} to {_percent(row.ci_high)} %"
    lost = LOST in row.note
    of = "of that loss" if lost else "of the gain of fine-tuning"
    return (
        f"{start}: {'fine-tuning loses accuracy, and ' if lost else ''}tuning on shuffled labels, "
        "from which only the form of the task and the frequencies of positions can be learned, "
        f"brings {said} % {of}{about}; over {'' if _about_subset(row) else 'all '}"
        f"{row.n_related + row.n_control} target languages{_about_subset(row)}."
    )


def _percent(share: float) -> str:
    return fixed(100 * share, 0)
