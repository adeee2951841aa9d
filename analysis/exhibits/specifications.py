"""The specification curve: every choice that could have been made otherwise."""

from __future__ import annotations

import pandas as pd

from analysis.exhibits.exhibit import Evidence, Exhibit
from analysis.tables.fields import Field, make_table, number_field, p_field
from analysis.tables.numbers import on_scale

_COLUMNS = (
    ("estimand", False), ("scale", False), ("clip", True), ("test", False), ("branch", False),
    ("baseline", False), ("without", False), ("estimate", True), ("95 % interval", True),
    ("p", True),
)  # fmt: skip


def specification_exhibit(evidence: Evidence) -> Exhibit | None:
    """Show D, B and I under each specification, sorted by estimate.

    Returns:
        The exhibit; None if no specification has a number.
    """
    found = evidence.specifications
    if found.empty:
        return None
    shares = [
        f"{row.estimand.removeprefix('specifications of ')}: {100 * row.estimate:.0f} %"
        for row in evidence.estimates
        if row.estimator == "specification_curve" and row.estimate is not None
    ]
    rows = [_fields(row) for _, row in found.sort_values(["estimand", "estimate"]).iterrows()]
    return Exhibit(
        "specifications", "Had other choices been made", "Specifications",
        (
            f"{len(found)} specifications: scale, clipping of logits, test, branch level, form of "
            "the baseline, and every language and model left out. They are of the same data, so "
            "their shares describe how much rests on a choice and test nothing. "
            f"Share of specifications {'; '.join(shares)}.",
        ),
        "Each point is one specification with its 95 % interval; the dots below say which.",
        "Estimates of D, B and I under every specification, sorted",
        None,
        make_table(_COLUMNS, rows),
    )  # fmt: skip


def _fields(row: pd.Series) -> tuple[Field, ...]:
    scale = str(row["scale"])
    low, high = (on_scale(float(row[name]), scale) for name in ("ci_low", "ci_high"))
    return (
        Field(str(row["estimand"])),
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
