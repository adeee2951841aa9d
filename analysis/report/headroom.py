"""What different room to improve explains of B, D and I, in the words of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.estimates import FAMILYWISE, OK, Estimate
from analysis.estimators.baseline_strength import BEYOND_HEADROOM, FROM_HEADROOM
from analysis.estimators.contrasts import BASE_D
from analysis.estimators.contrasts import FROM_HEADROOM as OF_FAMILIES
from analysis.tables.numbers import points, unsigned_points


def headroom_words(estimates: Sequence[Estimate], side: int) -> str:
    """Say whether headroom explains B, as the end of a sentence.

    Room to improve explains why weak models gain more, and nothing else: not why they gain less,
    and nothing at all where fine-tuning adds errors.

    Args:
        estimates: All rows of an analysis.
        side: 1 where weak models gained more, -1 where they gained less.
    """
    alone, beyond = _row(estimates, FROM_HEADROOM), _row(estimates, BEYOND_HEADROOM)
    if alone is not None and alone.estimate is not None and alone.estimate < 0:
        return "; fine-tuning adds errors on the whole, which no room to improve explains"
    if side < 0:
        return "" if beyond is None else ", although they have more room to improve"
    limits = None if beyond is None else beyond.interval_at(FAMILYWISE)
    if limits is None:
        why = "" if beyond is None or beyond.status == OK else f" ({beyond.status})"
        return f"; how much of that is their larger room to improve is not known{why}"
    if limits[0] <= 0 <= limits[1]:
        return ", which their larger room to improve may explain by itself"
    if limits[0] > 0:
        return ", more than their larger room to improve explains"
    return ", but less than their larger room to improve would give"


def headroom_basis(estimates: Sequence[Estimate]) -> list[str]:
    """Write what the same share of errors everywhere would give, and what is beyond that."""
    alone, beyond = _row(estimates, FROM_HEADROOM), _row(estimates, BEYOND_HEADROOM)
    if alone is None or alone.estimate is None or beyond is None or beyond.estimate is None:
        return []
    limits = beyond.interval_at(FAMILYWISE)
    shown = f"no interval: {beyond.status}" if limits is None else (
        f"98.3 % interval {points(limits[0])} to {points(limits[1])}"
    )  # fmt: skip
    does = "Adding" if alone.estimate < 0 else "Removing"
    return [
        f"{does} the same share of errors in every model would give B = {points(alone.estimate)} "
        f"points; what is beyond that is {points(beyond.estimate)} points ({shown})."
    ]


def family_headroom(estimates: Sequence[Estimate]) -> list[str]:
    """Write how far families began apart, and what that alone would give of D and I."""
    base, d, i = (_row(estimates, name) for name in (BASE_D, *OF_FAMILIES))
    if base is None or base.estimate is None or d is None or d.estimate is None:
        return []
    found = f"D = {points(d.estimate)}"
    if i is not None and i.estimate is not None:
        found += f" and I = {points(i.estimate)}"
    apart = unsigned_points(abs(base.estimate))
    began = (
        f"{apart} points {'higher' if base.estimate > 0 else 'lower'} in related than in control "
        "languages" if float(apart) else "alike in related and control languages"
    )  # fmt: skip
    return [
        f"Base accuracy was {began}. If each model had lost the same share of its errors in every "
        f"language, that alone would give {found} points."
    ]


def _row(estimates: Sequence[Estimate], name: str) -> Estimate | None:
    return next((row for row in estimates if row.estimand == name), None)
