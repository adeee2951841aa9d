"""The verdict of a study in plain language, with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.estimates import Estimate
from analysis.estimators.two_groups import check_bound
from analysis.report.arm_sentences import arm_sentences
from analysis.report.classes import (
    BY_SCALE,
    CANNOT_TELL,
    DIFFERS,
    EXCLUDED,
    NO_NUMBER,
    SMALL,
    classify,
    only_in_points,
)
from analysis.tables.numbers import interval, on_scale, p_words, points, signed, unsigned_points

_ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """What a reader is told first: a headline, and sentences of plain text below it."""

    headline: str
    sentences: tuple[str, ...]


class _Contrast(NamedTuple):
    """The rows of D or of I, and the words for it."""

    name: str
    points: Estimate | None
    logit: Estimate | None
    tost: Estimate | None
    mde: Estimate | None
    bound: float

    @property
    def subject(self) -> str:
        return (
            "gain of related minus gain of control languages"
            if self.name == "D"
            else "that difference in weak models minus that in strong models"
        )

    @property
    def equivalent(self) -> bool:
        """Whether the pre-registered bound is met."""
        return self.tost is not None and self.tost.p is not None and self.tost.p < _ALPHA


def verdict(estimates: Sequence[Estimate], bound: float) -> Verdict:
    """Say whether gains follow family, how sure that is, and what the design could have seen.

    D and I each fall into one class: they differ where Holm's p is below 0.05 with one sign on
    both scales; beyond the bound a difference is excluded where the equivalence test's p is below
    0.05 (Lakens 2017). A difference of both kinds is small but real, one of neither cannot be
    told; where the scales disagree it depends on the scale (Loftus 1978). A D that holds in points
    and is not established in logits is said as just that.

    Args:
        estimates: All rows of an analysis; those of the primary arm count.
        bound: Pre-registered equivalence bound in proportion, above 0.

    Returns:
        The headline about D, and sentences about D, I, the arms that tell relatedness and format
        apart, and the published regression, each with its numbers.

    Raises:
        ValueError: If the bound is not above 0.
    """
    check_bound(bound)
    family, by_baseline = (_contrast(estimates, name, bound) for name in "DI")
    sentences = [
        *_numbers(family),
        *_reach(family),
        _interaction_headline(by_baseline),
        *_numbers(by_baseline),
        *_reach(by_baseline),
        *arm_sentences(estimates),
        *_published(estimates, family),
    ]
    return Verdict(_family_headline(family), tuple(sentences))


def _contrast(estimates: Sequence[Estimate], name: str, bound: float) -> _Contrast:
    """Return the primary rows of one contrast, so far as there are any."""
    estimator = {"D": "ttest", "I": "mixed_anova"}[name]

    def find(estimand: str, scale: str, estimator: str | None) -> Estimate | None:
        fitting = (
            row
            for row in estimates
            if (row.estimand, row.scale) == (estimand, scale)
            and estimator in (None, row.estimator)
            and (row.unit == "languages" or estimator is None)
        )
        return next(fitting, None)

    return _Contrast(
        name,
        find(name, "points", estimator),
        find(name, "logit", estimator),
        find(name, "points", "tost"),
        find(f"MDE of {name}", "points", None),
        bound,
    )


def _class(contrast: _Contrast) -> str:
    return classify(contrast.points, contrast.logit, contrast.tost, removable=contrast.name == "I")


def _short(contrast: _Contrast) -> str:
    """Estimate and interval in points, for a headline."""
    row = contrast.points
    if row is None or row.estimate is None:
        return ""
    return f"{points(row.estimate)} points (95 % interval {interval(row)})"


def _family_headline(contrast: _Contrast) -> str:
    """Say what the study shows of D."""
    short, bound = _short(contrast), unsigned_points(contrast.bound)
    row, kind = contrast.points, _class(contrast)
    if kind in (DIFFERS, SMALL):
        more = "more" if row is not None and (row.estimate or 0) > 0 else "less"
        first = f"Gains differ by family: related languages gained {more} than controls, {short}"
        first += f", by less than ±{bound} points" if kind == SMALL else ""
        return f"{first}{only_in_points(contrast.logit)}."
    if kind == EXCLUDED:
        return f"No family difference as large as ±{bound} points: {short}."
    if kind == BY_SCALE:
        return f"Whether gains differ by family depends on the scale: {short} in points."
    if kind == CANNOT_TELL:
        return f"These data cannot tell whether gains differ by family: {short}."
    return f"No verdict on family: {_missing(row)}."


def _interaction_headline(contrast: _Contrast) -> str:
    """Say what the study shows of I, in one sentence."""
    short, bound = _short(contrast), unsigned_points(contrast.bound)
    row, kind = contrast.points, _class(contrast)
    start = "Weak against strong models (I)"
    if kind in (DIFFERS, SMALL):
        larger = "weak" if row is not None and (row.estimate or 0) > 0 else "strong"
        end = f", by less than ±{bound} points" if kind == SMALL else ""
        return f"{start}: the family difference is greater in {larger} models, {short}{end}."
    return {
        EXCLUDED: f"{start}: no interaction as large as ±{bound} points: {short}.",
        BY_SCALE: f"{start}: it depends on the scale whether there is an interaction, {short} in "
        "points; a change of scale can remove it, so it is no finding.",
        CANNOT_TELL: f"{start}: the data cannot tell whether there is an interaction: {short}.",
        NO_NUMBER: f"{start}: no verdict, {_missing(row)}.",
    }[kind]


def _missing(row: Estimate | None) -> str:
    """Say why a row has no test."""
    if row is None:
        return "the analysis has no such estimate"
    if row.estimate is None:
        return f"no number, because: {row.status}"
    return f"{points(row.estimate)} points, but no interval, because: {row.status}"


def _numbers(contrast: _Contrast) -> list[str]:
    """Write estimate, interval, unit and Holm's p on both scales."""
    sentences = []
    for scale, row in (("points", contrast.points), ("logits", contrast.logit)):
        if row is None or row.estimate is None or row.p is None:
            if row is not None and scale == "logits" and _class(contrast) != NO_NUMBER:
                sentences.append(f"{contrast.name} on the logit scale: {_missing_status(row)}.")
            continue
        what = f" ({contrast.subject})" if scale == "points" else " on the guess-corrected scale"
        df = "" if row.df is None else f", {row.df:g} degrees of freedom"
        holm = p_words(row.p_holm, "Holm's p") or p_words(row.p)
        sampled = ""
        if scale == "points":
            sampled = (
                f"; sampling unit: {row.unit}, {row.n_related} related and {row.n_control} control"
                f", {row.n_models} model{'' if row.n_models == 1 else 's'}"
            )
        sentences.append(
            f"{contrast.name}{what} is {on_scale(row.estimate, row.scale)} {scale}, 95 % interval "
            f"{interval(row)}, {holm}{df}{sampled}."
        )
    return sentences


def _missing_status(row: Estimate) -> str:
    return f"no test, because: {row.status}"


def _reach(contrast: _Contrast) -> list[str]:
    """Say what is excluded, and what the design could have seen."""
    sentences = []
    tost, bound = contrast.tost, unsigned_points(contrast.bound)
    if tost is not None and tost.ci_low is not None and tost.ci_high is not None:
        smallest = max(abs(tost.ci_low), abs(tost.ci_high))
        met = "is met" if contrast.equivalent else "is not met"
        sentences.append(
            f"The smallest equivalence bound for {contrast.name} that these data can prove is "
            f"±{unsigned_points(smallest)} points (90 % interval {interval(tost)}); the "
            f"pre-registered bound of ±{bound} points {met} ({p_words(tost.p, 'TOST p')})."
        )
    if contrast.mde is not None and contrast.mde.estimate is not None:
        sentences.append(
            f"With these languages, models and items a true {contrast.name} of "
            f"{unsigned_points(contrast.mde.estimate)} points would be found 80 times in 100 "
            "(minimal detectable effect); a smaller one would more often be missed."
        )
    elif _class(contrast) == CANNOT_TELL and contrast.points is not None:
        low, high = contrast.points.ci_low, contrast.points.ci_high
        if low is not None and high is not None:
            sentences.append(
                f"Any {contrast.name} between {points(low)} and {points(high)} points is "
                "compatible with the data."
            )
    return sentences


def _published(estimates: Sequence[Estimate], family: _Contrast) -> list[str]:
    """Write the published regression beside D, and why they differ."""
    row = next(
        (
            row
            for row in estimates
            if row.estimand == "D (published regression)" and row.scale == "points"
        ),
        None,
    )
    if row is None or row.estimate is None:
        return []
    ours = family.points
    beside = ""
    if ours is not None and ours.estimate is not None:
        gap = signed(100 * (row.estimate - ours.estimate), 1)
        beside = f", {gap} points away from D ({points(ours.estimate)})"
    p = p_words(row.p)
    about = f" (95 % interval {interval(row)}{f', {p}' if p else ''})" if interval(row) else ""
    return [
        f"The published form of the analysis, one pooled regression of gain on family and "
        f"baseline, gives {points(row.estimate)} points{about}{beside}. It is not the same "
        "quantity: its baseline and its gain share the same held-out items, so that chance which "
        "lowers the one raises the other (regression to the mean), and it counts cells as "
        "independent, which makes its interval too narrow. In simulations of the published design "
        f"its bias is about {signed(-4, 0)} points; read D, not this."
    ]
