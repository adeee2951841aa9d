"""The two long tables of the report: all estimates, all cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.estimates import Estimate
from analysis.gains.cells import CONDITION
from analysis.gains.gain_table import PRIMARY
from analysis.tables.fields import Field, Table, make_table, number_field, p_field, signed_field
from analysis.tables.numbers import interval, on_scale, p_value, points, units_of

_ESTIMATE_COLUMNS = (
    ("estimand", False), ("scale", False), ("estimator", False), ("unit", False),
    ("estimate", True), ("interval", True), ("se", True), ("df", True), ("p", True),
    ("Holm's p", True), ("models", True), ("related + control", True), ("items", True),
    ("seeds", True), ("baseline", False), ("status and note", False),
)  # fmt: skip
_CELL_COLUMNS = (
    ("model", False), ("arm", False), ("seed", True), ("language", False), ("family", False),
    ("items", True), ("before %", True), ("after %", True), ("gain, points", True),
    ("95 % interval", True), ("gained", True), ("lost", True), ("McNemar p", True),
    ("BH p", True), ("status", False),
)  # fmt: skip


def estimates_table(estimates: Sequence[Estimate]) -> Table:
    """Table all estimates in their order, proportions as points."""
    return make_table(_ESTIMATE_COLUMNS, [_estimate_fields(row) for row in estimates])


def _estimate_fields(row: Estimate) -> tuple[Field, ...]:
    level = " (90 %)" if row.estimator == "tost" and interval(row) else ""

    def number(value: float | None, text: str) -> Field:
        return Field("" if value is None else text, "" if value is None else value)

    said = "; ".join(filter(None, [row.status, row.note]))
    return (
        Field(row.estimand),
        Field(row.scale),
        Field(row.estimator.replace("_", " ")),
        Field(row.unit),
        number(row.estimate, on_scale(row.estimate or 0.0, units_of(row))),
        number(row.ci_low, f"{interval(row)}{level}"),
        number(row.se, on_scale(row.se or 0.0, units_of(row)).lstrip("+")),
        number(row.df, f"{row.df or 0:.3g}"),
        number(row.p, p_value(row.p)),
        number(row.p_holm, p_value(row.p_holm)),
        Field(str(row.n_models), row.n_models),
        Field(f"{row.n_related} + {row.n_control}", row.n_related),
        number(row.n_items, str(row.n_items)),
        Field(str(row.n_seeds), row.n_seeds),
        Field(row.baseline_source),
        Field(said),
    )


def cells_table(cells: pd.DataFrame, names: Mapping[str, str]) -> Table:
    """Table every cell (as gain_cells gives them), accuracies in per cent and gains in points."""
    rows = []
    for cell in cells.to_dict("records"):
        arm = [str(cell[name]) for name in CONDITION]
        code = str(cell["language"])
        known = names.get(code)
        low, high = cell["ci_low"], cell["ci_high"]
        rows.append(
            (
                Field(str(cell["model"])),
                Field(arm[0] if tuple(arm[1:]) == PRIMARY[1:] else ", ".join(arm)),
                Field(str(cell["seed"]), cell["seed"]),
                Field(f"{known} ({code})" if known else code),
                Field(str(cell["family"])),
                number_field(cell["n_items"], "{:.0f}"),
                number_field(100 * cell["accuracy_base"], "{:.1f}"),
                number_field(100 * cell["accuracy"], "{:.1f}"),
                signed_field(cell["gain"]),
                Field(f"{points(low)} to {points(high)}", low) if pd.notna(low) else Field("", ""),
                number_field(cell["n_gained"], "{:.0f}"),
                number_field(cell["n_lost"], "{:.0f}"),
                p_field(cell["p"]),
                p_field(cell["p_bh"]),
                Field(str(cell["status"])),
            )
        )
    return make_table(_CELL_COLUMNS, rows)
