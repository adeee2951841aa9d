"""Tables as the report shows them: columns, and rows of fields that can be sorted by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.tables.numbers import p_value, points


@dataclass(frozen=True)
class Field:
    """One field of a table: its text, and what to sort by where that is another value."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table: column names, which of them are numbers, and rows of fields."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Field, ...], ...]


def make_table(columns: Sequence[tuple[str, bool]], rows: Sequence[tuple[Field, ...]]) -> Table:
    """Make a table of columns (a name, and whether it holds numbers) and rows of as many fields."""
    return Table(tuple(c[0] for c in columns), tuple(c[1] for c in columns), tuple(rows))


def number_field(value: float, form: str) -> Field:
    """Write a number by a form such as `{:.1f}`, or nothing if it is NaN."""
    if pd.isna(value):
        return Field("", "")
    text = form.format(value)
    # A rounded zero has no sign.
    return Field(text.lstrip("-") if not text.strip("-0.") else text, float(value))


def signed_field(value: float) -> Field:
    """Write a difference of proportions in signed points, or nothing if it is NaN."""
    return Field(points(value), float(value)) if pd.notna(value) else Field("", "")


def p_field(value: float) -> Field:
    """Write a p, or nothing if it is NaN."""
    return Field(p_value(float(value)), float(value)) if pd.notna(value) else Field("", "")


def table_frame(table: Table) -> pd.DataFrame:
    """Keep the texts of a table, for a file."""
    return pd.DataFrame(
        [[field.text for field in row] for row in table.rows], columns=list(table.columns)
    )
