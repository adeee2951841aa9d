"""The specification curve: every choice that could have been made otherwise."""

from __future__ import annotations

from functools import partial

import pandas as pd

from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.figures.specifications import specification_plot
from analysis.tables.fields import Field, make_table, number_field, p_field
from analysis.tables.numbers import on_scale

_COLUMNS = (
    ("scale", False), ("clip", True), ("test", False), ("branch", False),
    ("baseline", False), ("without", False), ("estimate", True), ("95 % interval", True),
    ("p", True),
)  # fmt: skip


def specification_exhibits(evidence: Evidence) -> list[Exhibit]:
    """Show D, B and I under each specification, sorted by estimate.

    Returns:
        One exhibit for each of them that has a number.
    """
    found = evidence.specifications
    return [
        _exhibit(evidence, name, found[found["estimand"] == name])
        for name in ("D", "B", "I")
        if (found["estimand"] == name).any()
    ]


def _exhibit(evidence: Evidence, name: str, rows: pd.DataFrame) -> Exhibit:
    shares = [
        f"{100 * row.estimate:.0f} % {row.estimand.removeprefix(f'specifications of {name} ')}"
        for row in evidence.estimates
        if row.estimand.startswith(f"specifications of {name} ") and row.estimate is not None
    ]
    return Exhibit(
        f"specifications-{name.lower()}", f"{name}, had other choices been made",
        f"{name}: specifications",
        (
            f"{len(rows)} specifications: scale, clipping of logits, test, branch level, form of "
            "the baseline, and every language and model left out. They are of the same data, so "
            f"they show what rests on a choice, and test nothing: {', '.join(shares)}.",
        ),
        "Each point is one specification with its 95 % interval; the dots below say which.",
        f"Estimates of {name} under every specification, sorted",
        partial(specification_plot, rows),
        make_table(_COLUMNS, [_fields(row) for _, row in rows.sort_values("estimate").iterrows()]),
    )  # fmt: skip


def _fields(row: pd.Series) -> tuple[Field, ...]:
    scale = str(row["scale"])
    low, high = (on_scale(float(row[name]), scale) for name in ("ci_low", "ci_high"))
    return (
        Field(scale),
        number_field(row["clip"], "{:g}"),
        Field(str(row["test"])),
        Field(str(row["branch"])),
        Field(str(row["baseline"])),
        Field(str(row["left_out"])),
        Field(on_scale(float(row["estimate"]), scale), float(row["estimate"])),
        Field(f"{low} to {high}", float(row["ci_low"])),
        p_field(row["p"]),
    )
