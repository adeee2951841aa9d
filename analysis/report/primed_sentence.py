"""What primed models say, in one plain sentence of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.estimates import Estimate
from analysis.estimators.primed import ADDED, BEYOND, GROUPS, RISE, estimand
from analysis.tables.numbers import in_points, interval, points

_ALL = GROUPS[0]


def primed_sentence(estimates: Sequence[Estimate]) -> str:
    """Say what the source adds after priming, and how much of that an unrelated language adds.

    It is about the first primed model of the study that has room; intervals are the wider ones of
    items and languages, since either could have been others.

    Args:
        estimates: All rows of an analysis.

    Returns:
        The sentence; empty where no model was primed.
    """
    models = [
        row.estimand.removeprefix(f"{RISE} (").removesuffix(f", {_ALL})")
        for row in estimates
        if row.estimand.startswith(f"{RISE} (") and row.estimand.endswith(f", {_ALL})")
        and row.estimator == "cluster_t"
    ]  # fmt: skip
    if not models:
        return ""
    found = {model: _wider(estimates, ADDED, model) for model in models}
    model = next((name for name, row in found.items() if row and row.estimate is not None), None)
    if model is None:
        row = found[models[0]]
        why = row.status if row else "the analysis has no such estimate"
        return f"After priming {models[0]}, what the source adds cannot be told: {why}."
    rise = _wider(estimates, RISE, model)
    start = f"After priming {model}"
    if rise is not None and rise.estimate is not None:
        start += f", which changed its baseline by {_numbers(rise)},"
    return f"{start} the source adds {_numbers(found[model])}{_beyond(estimates, model)}."


def _beyond(estimates: Sequence[Estimate], model: str) -> str:
    row = _wider(estimates, BEYOND, model)
    if row is None or row.estimate is None:
        why = row.status if row else "the analysis has no such estimate"
        return f"; how much of that an unrelated language adds is not known ({why})"
    than = "more" if row.estimate >= 0 else "less"
    much = in_points(abs(row.estimate))
    return (
        f"; that is {much} {than} than an unrelated language adds at equal amounts "
        f"({_interval(row)})"
    )


def _wider(estimates: Sequence[Estimate], name: str, model: str) -> Estimate | None:
    """Return the row of items or of languages whose interval is wider; one that has none last."""
    rows = [row for row in estimates if row.estimand == estimand(name, model, _ALL)]
    return max(rows, key=_width, default=None)


def _width(row: Estimate) -> float:
    return -1.0 if row.ci_low is None or row.ci_high is None else row.ci_high - row.ci_low


def _numbers(row: Estimate | None) -> str:
    if row is None or row.estimate is None:
        return "an unknown amount"
    return f"{points(row.estimate)} points ({_interval(row)})"


def _interval(row: Estimate) -> str:
    return f"95 % interval {interval(row)}, by {row.unit}" if interval(row) else row.status
