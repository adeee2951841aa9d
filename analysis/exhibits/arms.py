"""The arms beside each other, and what part of the gain is what."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from analysis.arrays import Floats
from analysis.estimates import OK, Estimate
from analysis.estimators.gain_parts import ASSUMPTIONS, GROUPS, PART, TOTAL, gain_parts
from analysis.estimators.source_arms import CONTROL_SOURCE
from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.figures.family_dots import family_dots_plot
from analysis.gains.gain_table import POINTS, PRIMARY, GainTable
from analysis.tables.fields import Field, Table, make_table
from analysis.tables.numbers import interval, p_value, points
from xling.records import ARMS

_ROUNDING = 1e-9
_PART_WORDS = {
    "format": "format: shuffled labels",
    "task in any language": "task in any language: control source \N{MINUS SIGN} shuffled labels",
    "relatedness": "relatedness: fine-tuned \N{MINUS SIGN} control source",
    "format and task": "format and task: control source",
    "task and relatedness": "task and relatedness: fine-tuned \N{MINUS SIGN} shuffled labels",
    TOTAL: "whole gain: fine-tuned",
}


def arms_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the mean gain by arm, reasoning and scoring, in related and in control languages.

    Returns:
        The exhibit; None where there is the primary arm alone.
    """
    tables = sorted(
        (table for table in evidence.compared.tables.values() if table.models),
        key=lambda table: (ARMS.index(table.condition[0]), table.condition != PRIMARY),
    )
    rows = [row for table in tables if table.status == OK for row in _family_means(table)]
    if not rows or all(table.condition == PRIMARY for table in tables):
        return None
    frame = pd.DataFrame(rows)
    gone = {
        code for table in tables if table.condition[0] == CONTROL_SOURCE[0]
        for code in table.left_out
    }  # fmt: skip
    text = _left_out_text(evidence, gone, "its row leaves out")
    return Exhibit(
        "arms", "Arms beside each other", "Arms", text,
        "Mean gain over the base model under the same reasoning and scoring, over languages and "
        "models; lines are 95 % t intervals over languages.",
        "Mean gain of each arm in related and in control languages",
        partial(family_dots_plot, frame, axis="mean gain (points)"),
    )  # fmt: skip


def parts_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show the parts of the gain, in related and in control languages, and their difference.

    Returns:
        The exhibit; None where no arm takes the gain apart.
    """
    found = [row for row in evidence.estimates if row.estimand.startswith(PART)]
    if not found:
        return None
    parts: dict[str, dict[str, Estimate]] = {}
    for row in found:
        name, _, group = row.estimand.removeprefix(PART).rpartition(" (")
        parts.setdefault(name, {})[group.rstrip(")")] = row
    rows = [
        {
            "label": _PART_WORDS.get(name, name), "family": group, "estimate": row.estimate,
            "low": np.nan if row.ci_low is None else row.ci_low,
            "high": np.nan if row.ci_high is None else row.ci_high,
        }
        for name, groups in parts.items()
        for group, row in groups.items()
        if group in GROUPS[:2] and row.estimate is not None
    ]  # fmt: skip
    draw = partial(family_dots_plot, pd.DataFrame(rows), axis="part of the gain (points)")
    text = (
        "The parts add up to the gain of the fine-tuned arm. Relatedness is what the related "
        "source adds to an unrelated one: if it is related languages that gain from it, it "
        "shows in the difference of related and control languages.",
        f"This reading {ASSUMPTIONS}.",
        *_parts_left_out(evidence),
    )
    return Exhibit(
        "parts", "What part of the gain is what", "Parts", text,
        "Parts of the gain in related and in control languages; lines are 95 % intervals over "
        "languages. Intervals and p are of each part alone, not corrected for there being several.",
        "Parts of the gain in related and in control languages; the numbers are in the table",
        draw if rows else None, _parts_table(parts),
    )  # fmt: skip


def _parts_table(parts: dict[str, dict[str, Estimate]]) -> Table:
    columns = [
        ("part", False),
        *((f"{group}, points".replace("-", "\N{MINUS SIGN}"), True) for group in GROUPS),
        ("p of that", True),
    ]
    rows = []
    for name, groups in parts.items():
        fields = [Field(_PART_WORDS.get(name, name))]
        fields += [_estimate_field(groups.get(group)) for group in GROUPS]
        row = groups.get(GROUPS[2])
        p = None if row is None else row.p
        rows.append((*fields, Field(p_value(p), "" if p is None else p)))
    return make_table(columns, rows)


def _estimate_field(row: Estimate | None) -> Field:
    """Estimate and interval, or why there are none."""
    if row is None:
        return Field("", "")
    if row.estimate is None:
        return Field(row.status, "")
    limits = f" [{interval(row)}]" if interval(row) else f" ({row.status})"
    return Field(f"{points(row.estimate)}{limits}", row.estimate)


def _family_means(table: GainTable) -> list[dict[str, object]]:
    """Return the mean gain and interval over languages, by family."""
    arm, reasoning, scoring = table.condition
    how = [
        word for word, usual in ((reasoning, PRIMARY[1]), (scoring, PRIMARY[2])) if word != usual
    ]
    gains = table.split(table.gain[POINTS].mean(axis=0))
    return [
        {"label": ", ".join([arm, *how]), "family": name, **_interval(values)}
        for name, values in zip(GROUPS, gains, strict=False)
    ]


def _interval(values: Floats) -> dict[str, float]:
    low = high = np.nan
    if len(values) > 1 and np.ptp(values) > _ROUNDING:
        limits = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        low, high = float(limits.low), float(limits.high)
    return {"estimate": float(values.mean()), "low": low, "high": high}


def _parts_left_out(evidence: Evidence) -> tuple[str, ...]:
    """Write paragraphs on languages and arms that the parts are without."""
    parts = gain_parts(evidence.compared.tables, evidence.compared.left_out)
    if parts is None:
        return ()
    arms = (f"{parts.unused_note}.",) if parts.unused else ()
    return *_left_out_text(evidence, parts.left_out, "no part counts"), *arms


def _left_out_text(evidence: Evidence, codes: Collection[str], what: str) -> tuple[str, ...]:
    """Write a paragraph that names the control source's own languages, if any are left out."""
    if not codes:
        return ()
    names = ", ".join(evidence.names.get(code, code) for code in sorted(codes))
    return (f"The control-source arm was tuned on {names}, which {what}.",)
