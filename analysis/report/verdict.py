"""The verdict of a study: one sentence for each claim, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.estimates import FAMILYWISE, SCALE_DEPENDENT, Estimate
from analysis.estimators.chain_of_thought import AGREEMENT
from analysis.estimators.power import WELCH_POWER
from analysis.estimators.primary import find_row, primary_row
from analysis.estimators.source_arms import WITHOUT_KIN
from analysis.estimators.two_groups import check_bound
from analysis.gains.baselines import BASELINES_ALIKE
from analysis.report.arm_sentences import arm_sentences
from analysis.report.findings import StudyContext
from analysis.report.headroom import family_headroom, headroom_basis, headroom_words
from analysis.report.primed_sentence import primed_sentence
from analysis.tables.numbers import in_points, on_scale, p_words, points, unsigned_points

_ALPHA = 0.05
_ARMS = "finetuned - control-source"
NOT_TOLD, LANGUAGES_DIFFER, FAMILIES_DIFFER, RELATEDNESS = range(4)
"""Levels of the family claim, from `not told apart` to `with relatedness to the source`."""


@dataclass(frozen=True)
class Claim:
    """One claim of the study: its question, and the sentence that answers it."""

    question: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What a reader is told first: the claims, and below them what they rest on."""

    claims: tuple[Claim, ...]
    basis: tuple[str, ...]


class FamilyRows(NamedTuple):
    """The rows that the family claim goes by; None where there is no such row."""

    languages: Estimate | None
    families: Estimate | None
    arms_languages: Estimate | None
    arms_families: Estimate | None


def verdict(
    estimates: Sequence[Estimate], bound: float, scale: str = "points", given: str = ""
) -> Verdict:
    """Say what a study shows of its claims, each in one sentence with its numbers.

    A difference is claimed where the 98.33 % interval excludes zero (Bonferroni over D, B and I),
    and that is the interval shown. A null is claimed where the equivalence tests of both units
    have p below 0.05; the interval shown is the wider of their 90 % ones. The family claim has
    four levels (see family_level).

    Args:
        estimates: All rows of an analysis; those of the primary arm count.
        bound: Equivalence bound in proportion, above 0.
        scale: Scale of the claims, `points` or `logit`.
        given: When the bound was settled, such as `registered on 2026-12-01, before the first
            training`.

    Returns:
        The claims on family, baseline strength, both, and, where they were run, reasoning and
        primed models; and what they rest on.

    Raises:
        ValueError: If the bound is not above 0.
    """
    check_bound(bound)
    claims = [
        Claim("Do gains follow language family?", _family_sentence(estimates, bound, scale)),
        Claim("Do gains follow baseline strength?", _strength_sentence(estimates, scale)),
        Claim(
            "Does family matter more in weak models than in strong ones?",
            _interaction_sentence(estimates, bound, scale),
        ),
    ]
    for question, sentence in (
        ("Does reasoning help the same models?", _reasoning_sentence(estimates)),
        ("What does the source add once the task is known?", primed_sentence(estimates)),
    ):
        if sentence:
            claims.append(Claim(question, sentence))
    basis = [
        *_family_basis(estimates, scale),
        *_strength_basis(estimates),
        *_interaction_basis(estimates, scale),
        *_equivalence_basis(estimates, bound, given),
        *arm_sentences(estimates),
        *_published(estimates),
    ]
    return Verdict(tuple(claims), tuple(basis))


def verdict_of(estimates: Sequence[Estimate], context: StudyContext) -> Verdict:
    """Return the verdict by what the study settled: bound and scale."""
    registration = context.registration
    return verdict(estimates, context.bound, registration.settings.scale, registration.sentence)


def family_rows(estimates: Sequence[Estimate], scale: str = "points") -> FamilyRows:
    """Return the rows of the family claim; of the arms those without kin, where there are any."""
    arms = f"D ({_ARMS}, {WITHOUT_KIN})"
    if find_row(estimates, arms, "welch", "languages", scale) is None:
        arms = f"D ({_ARMS})"
    return FamilyRows(
        *(
            find_row(estimates, name, estimator, unit, scale)
            for name in ("D", arms)
            for estimator, unit in (("welch", "languages"), ("random_effects", "families"))
        )
    )


def family_level(rows: FamilyRows) -> int:
    """Return how far the family claim goes.

    0: Welch's interval over languages holds zero. 1: it does not. 2: nor does that over families,
    on the same side. 3: both also hold for finetuned - control-source. Intervals are 98.33 %.
    """
    side = excluded_side(rows.languages)
    if not side:
        return NOT_TOLD
    if excluded_side(rows.families) != side:
        return LANGUAGES_DIFFER
    arms = (rows.arms_languages, rows.arms_families)
    return RELATEDNESS if all(excluded_side(row) == side for row in arms) else FAMILIES_DIFFER


def excluded_side(row: Estimate | None) -> int:
    """Return 1 if a row's 98.33 % interval lies above 0, -1 if below, else (or without one) 0."""
    limits = None if row is None else row.interval_at(FAMILYWISE)
    if limits is None:
        return 0
    return int(limits[0] > 0) - int(limits[1] < 0)


def equivalent(first: Estimate | None, second: Estimate | None) -> bool:
    """Return whether both units' equivalence tests reject a difference as large as the bound."""
    return all(row is not None and row.p is not None and row.p < _ALPHA for row in (first, second))


def _tost(estimates: Sequence[Estimate], name: str, *units: str) -> list[Estimate | None]:
    return [find_row(estimates, name, "tost", unit) for unit in units]


def _interval(row: Estimate, confidence: float = FAMILYWISE) -> str:
    """Write the interval of a row with its coverage, such as `98.3 % interval −2.0 to +3.1`."""
    limits = row.interval_at(confidence)
    if limits is None:
        return f"no interval: {row.status}"
    low, high = (on_scale(value, row.scale) for value in limits)
    return f"{_coverage(confidence)} interval {low} to {high}"


def _coverage(confidence: float) -> str:
    return f"{100 * confidence:.1f}".removesuffix(".0") + " %"


def _amount(row: Estimate) -> str:
    """Write the size of an estimate without its sign, with its unit."""
    value = abs(row.estimate or 0.0)
    return in_points(value) if row.scale == "points" else f"{value:.2f} logits"


def _gained(row: Estimate, than: str = "") -> str:
    """Write how a gain compares where no difference is claimed: one that rounds to 0 is none."""
    amount = _amount(row)
    some = float(amount.split()[0]) > 0
    much, word = (f"{amount} {_more(row)}", "than") if some else ("as much", "as")
    return f"gained {much} {word} {than}" if than else f"gained {much}"


def _more(row: Estimate) -> str:
    return "more" if (row.estimate or 0.0) > 0 else "less"


def _wider(rows: Sequence[Estimate | None]) -> Estimate:
    """Return the row whose 90 % interval reaches farther from zero."""
    there = [row for row in rows if row is not None]
    return max(there, key=lambda row: max(map(abs, row.interval_at(0.90) or (0.0, 0.0))))


def _family_sentence(estimates: Sequence[Estimate], bound: float, scale: str) -> str:
    """Say what the study shows of D."""
    rows = family_rows(estimates, scale)
    row = rows.languages
    if row is None or row.estimate is None or row.interval_at(0.95) is None:
        return f"No verdict on family: {_missing(row)}."
    level, tests = family_level(rows), _tost(estimates, "D", "languages", "families")
    more, one = _more(row), row.n_related == 1
    if level == NOT_TOLD:
        return _not_told_sentence(estimates, row, tests, bound)
    if level == LANGUAGES_DIFFER:
        return (
            f"{'This related language' if one else 'These related languages'} gained "
            f"{_amount(row)} {more} than these controls ({_interval(row)}), "
            f"{_short_of_relatedness(row, rows.families)}{_branches(estimates)}."
        )
    deciding = rows.arms_families if level == RELATEDNESS else rows.families
    if deciding is None:
        return f"No verdict on family: {_missing(deciding)}."
    if level == FAMILIES_DIFFER:
        return (
            f"{'The related language' if one else 'Related languages'} gained "
            f"{_amount(deciding)} {more} than unrelated families did, more than these differ among "
            f"themselves ({_interval(deciding)}){_but_small(tests, bound)}."
        )
    return (
        f"Gains follow relatedness to the source: the source adds {_amount(deciding)} {more} in "
        f"{'the related language' if one else 'related languages'} than in unrelated families, "
        f"compared with training on an unrelated language ({_interval(deciding)})."
    )


def _not_told_sentence(
    estimates: Sequence[Estimate], row: Estimate, tests: Sequence[Estimate | None], bound: float
) -> str:
    """Say that there is no difference, where both units show that, or that none was found."""
    one = row.n_related == 1
    if equivalent(*tests):
        widest, who = _wider(tests), "the related language" if one else "related languages"
        return (
            f"Gains do not follow language family, or by less than {in_points(bound)}: {who} "
            f"{_gained(widest, 'controls')} ({_interval(widest, 0.90)}, by {widest.unit})."
        )
    apart = (
        "The related language cannot be told apart from the controls: it" if one
        else "Related and control languages cannot be told apart: related ones"
    )  # fmt: skip
    return f"{apart} {_gained(row)} ({_interval(row)}){_could_have_seen(estimates)}."


def _but_small(tests: Sequence[Estimate | None], bound: float) -> str:
    """Say that a difference is below the bound, with the interval that shows it.

    It is the 90 % one of the same estimate: the 98.33 % one may reach over the bound.
    """
    if not equivalent(*tests):
        return ""
    widest = _wider(tests)
    return f", but by less than {in_points(bound)} ({_interval(widest, 0.90)}, by {widest.unit})"


def _could_have_seen(estimates: Sequence[Estimate]) -> str:
    found = _detectable(estimates)
    return f"; a difference of {found} would be found 4 times in 5" if found else ""


def _detectable(estimates: Sequence[Estimate]) -> str:
    """Write the minimal detectable effect of D by languages with its interval, if there is one."""
    row = find_row(estimates, "MDE of D", WELCH_POWER, "languages")
    if row is None or row.estimate is None or row.ci_low is None or row.ci_high is None:
        return ""
    low, high = unsigned_points(row.ci_low), unsigned_points(row.ci_high)
    return f"{unsigned_points(row.estimate)} points ({low} to {high})"


def _short_of_relatedness(row: Estimate, families: Estimate | None) -> str:
    """Say why a difference of languages is not yet one of families."""
    limits = None if families is None else families.interval_at(FAMILYWISE)
    if families is None or limits is None or families.df is None:
        why = "" if families is None else f" ({families.status})"
        return f"but whether families differ cannot be told{why}"
    half = (limits[1] - limits[0]) / 2
    size = in_points(half) if families.scale == "points" else f"{half:.2f} logits"
    count = f"{int(families.df) + 1} control families"
    needed = f"only a difference above {size} would count as relatedness"
    if abs(row.estimate or 0.0) < half:
        return f"but with {count} {needed}"
    # The languages' difference is that large, but it is not the one that is judged.
    unit = "points" if families.scale == "points" else "logits"
    estimate = f"{on_scale(families.estimate or 0.0, families.scale)} {unit}"
    judged = f"but against the mean of {count} the difference is {estimate}"
    if excluded_side(families):
        return f"{judged} ({_interval(families)}), the other way round"
    return f"{judged}, and {needed}"


def _branches(estimates: Sequence[Estimate]) -> str:
    """Say how many unrelated branches differ as much from the rest."""
    row = next((row for row in estimates if row.estimator == "placebo_branches"), None)
    if row is None or row.estimate is None or row.n_control == 0:
        return ""
    as_much = int(row.estimate) - 1
    return f"; {as_much} of {row.n_control} unrelated branches differ as much from the others"


def _strength_sentence(estimates: Sequence[Estimate], scale: str) -> str:
    """Say what the study shows of B."""
    row = primary_row(estimates, "B", scale)
    if row is None or row.estimate is None or row.interval_at(0.95) is None:
        return f"No verdict on baseline strength: {_missing(row)}."
    these = ", in these models" if row.unit == "languages" else ""
    limits = f"({_interval(row)}{these})"
    numbers = f"weak models {_gained(row, 'strong ones')} {limits}"
    if _alike(row):
        return f"The models' baselines are too alike to say whether gains follow them: {numbers}."
    side = excluded_side(row)
    if not side:
        return f"These data cannot tell whether gains follow baseline strength: {numbers}."
    return (
        f"Weak models gained {_amount(row)} {_more(row)} than strong ones {limits}"
        f"{headroom_words(estimates, side)}."
    )


def _alike(row: Estimate) -> bool:
    """Return whether weak and strong models were not told apart by their baselines."""
    return BASELINES_ALIKE in (row.status, row.note.split("; ")[0])


def _interaction_sentence(estimates: Sequence[Estimate], bound: float, scale: str) -> str:
    """Say what the study shows of I."""
    row = primary_row(estimates, "I", scale)
    if row is None or row.estimate is None or row.interval_at(0.95) is None:
        return f"No verdict on family and baseline together: {_missing(row)}."
    larger = "larger" if row.estimate > 0 else "smaller"
    these = ", in these models" if row.unit == "languages" else ""
    size = f"{_amount(row)} {larger} in weak than"
    if not excluded_side(row) and not float(_amount(row).split()[0]):
        size = "as large in weak as"
    numbers = f"the family difference is {size} in strong models ({_interval(row)}{these})"
    if _alike(row):
        return (
            "The models' baselines are too alike to say whether family matters more in weak "
            f"ones: {numbers}."
        )
    if row.status == SCALE_DEPENDENT:
        return f"It depends on the scale, so it is no finding: {numbers}."
    tests = _tost(estimates, "I", "models", "languages")
    if row.unit == "languages":
        tests = [tests[1], tests[1]]
    within = f"±{in_points(bound)}"
    if excluded_side(row):
        return f"{numbers[0].upper()}{numbers[1:]}{_but_small(tests, bound)}."
    if equivalent(*tests):
        widest = _wider(tests)
        return (
            "Family matters alike in weak and strong models: the difference of the two differences "
            f"is {on_scale(widest.estimate or 0.0, widest.scale)} points "
            f"({_interval(widest, 0.90)}, by {widest.unit}{these}), within {within}."
        )
    return f"These data cannot tell whether family matters more in weak models: {numbers}."


def _reasoning_sentence(estimates: Sequence[Estimate]) -> str:
    """Say whether fine-tuning and reasoning help the same models; empty where none reasoned."""
    row = next((row for row in estimates if row.estimand == AGREEMENT), None)
    if row is None:
        return ""
    if row.estimate is None or row.ci_low is None or row.ci_high is None:
        return f"No verdict on reasoning: {_missing(row)}."
    numbers = f"r = {row.estimate:+.2f} (95 % interval {row.ci_low:+.2f} to {row.ci_high:+.2f})"
    numbers = numbers.replace("-", "\N{MINUS SIGN}")
    n = f"over {row.n_models} models"
    if row.ci_low > 0:
        return f"Reasoning helps the models that fine-tuning helps: {numbers} {n}."
    if row.ci_high < 0:
        return f"Reasoning helps the models that fine-tuning helps least: {numbers} {n}."
    return (
        "These data cannot tell whether reasoning helps the models that fine-tuning helps: "
        f"{numbers} {n}."
    )


def _missing(row: Estimate | None) -> str:
    """Say why a row has no interval."""
    if row is None:
        return "the analysis has no such estimate"
    if row.estimate is None:
        return row.status
    return f"{on_scale(row.estimate, row.scale)}, but no interval ({row.status})"


def _family_basis(estimates: Sequence[Estimate], scale: str) -> list[str]:
    """Say what the family claim rests on."""
    rows = family_rows(estimates, scale)
    row, families = rows.languages, rows.families
    if row is None or row.estimate is None:
        return []
    models = f"{row.n_models} model{'' if row.n_models == 1 else 's'}"
    treated = (
        "one language stands for its family, and its variance is taken to be that of the controls"
        if row.n_related == 1
        else "all related languages are one branch, so one family is treated"
    )
    said = [
        f"D (family) compares {_languages(row.n_related, 'related')} with "
        f"{_languages(row.n_control, 'control')} in {models}; {treated}{_by_families(families)}."
    ]
    if row.status.startswith("complete subset"):
        said.append(f"These numbers are of a {row.status}.")
    if rows.arms_languages is None:
        said.append(
            "There is no control-source arm, so D cannot tell relatedness from whatever else the "
            "related languages share."
        )
    said += family_headroom(estimates)
    found = _detectable(estimates)
    if found and family_level(rows) > NOT_TOLD:
        said.append(f"By languages a true D of {found} would be found 4 times in 5.")
    return said


def _languages(n: int, family: str) -> str:
    return f"{n} {family} language{'' if n == 1 else 's'}"


def _by_families(row: Estimate | None) -> str:
    if row is None or row.estimate is None or row.interval_at(0.95) is None:
        return "" if row is None else f" (by families: {row.status})"
    return f" (by families: {on_scale(row.estimate, row.scale)}, {_interval(row)})"


def _strength_basis(estimates: Sequence[Estimate]) -> list[str]:
    """Say which models are weak and strong, and what their headroom alone would give."""
    row = primary_row(estimates, "B")
    if row is None:
        return []
    said = [f"B (baseline): {row.note}."] if row.note and row.estimate is not None else []
    return [*said, *headroom_basis(estimates)]


def _interaction_basis(estimates: Sequence[Estimate], scale: str) -> list[str]:
    """Say by which unit I is judged, and what the other scale says."""
    said = []
    row, other = (
        primary_row(estimates, "I", of)
        for of in (scale, "logit" if scale == "points" else "points")
    )
    if row is not None and row.interval_at(0.95) is not None:
        numbers = ""
        if other is not None and other.estimate is not None:
            numbers = f"; in {'logits' if other.scale == 'logit' else 'points'} it is "
            numbers += f"{on_scale(other.estimate, other.scale)} ({_interval(other)})"
        units = row.unit.replace(", ", " and by ")
        said.append(f"I (both) is judged by {units}: {p_words(row.p)}{numbers}.")
    logit = primary_row(estimates, "D", "logit")
    if logit is not None and logit.estimate is None:
        said.append(f"There is no verdict in logits: {logit.status}.")
    elif logit is not None:
        clipped = [part for part in logit.note.split("; ") if "clipped" in part]
        numbers = f"In logits D is {on_scale(logit.estimate or 0, 'logit')} ({_interval(logit)})"
        said.append(f"{'; '.join([numbers, *clipped])}.")
    return said


def _equivalence_basis(estimates: Sequence[Estimate], bound: float, given: str) -> list[str]:
    """Say which bound these data could prove, of D and of I: the larger of both units'."""
    said = []
    about = f" ({given})" if given else ""
    for name, units in (("D", ("languages", "families")), ("I", ("models", "languages"))):
        rows = [row for row in _tost(estimates, name, *units) if row is not None]
        limits = [row.interval_at(0.90) for row in rows]
        if len(rows) < 2 or None in limits:
            continue
        smallest = max(max(map(abs, pair)) for pair in limits if pair is not None)
        met = "is met" if equivalent(*rows) else "is not met"
        said.append(
            f"The smallest bound for {name} that these data can prove, by {units[0]} and by "
            f"{units[1]}, is ±{in_points(smallest)}; that of "
            f"±{in_points(bound)}{about} {met}."
        )
    return said


def _published(estimates: Sequence[Estimate]) -> list[str]:
    """Write the published regression beside D, and the parts of their distance."""
    row = find_row(estimates, "D (published regression)", "linear_regression", "cells")
    ours = primary_row(estimates, "D")
    if row is None or row.estimate is None or ours is None or ours.estimate is None:
        return []
    start = "distance from D: "
    parts = [
        f"{points(part.estimate)} from {part.estimand.removeprefix(start)}"
        for part in estimates
        if part.estimand.startswith(start) and part.estimate is not None
    ]
    made_of = f": {', '.join(parts)}" if parts else ""
    return [
        "The published form of the analysis, one pooled regression of gain on family and baseline, "
        f"gives {points(row.estimate)} points, {points(row.estimate - ours.estimate)} away from D"
        f"{made_of}. Its baseline and its gain share the held-out items, and it counts cells as "
        "independent; read D."
    ]
