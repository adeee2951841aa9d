"""The specification curve: D, B and I under every defensible choice, sorted by estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.forest import POINTS
from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    NARROW_WIDTH,
    TIGHT,
    finish_figure,
    legend_below,
    new_figure,
    plain_text,
    quiet_axes,
    robust_limits,
)

CHOICES = ("scale", "clip", "test", "branch", "left_out", "baseline")
_WORDS = {"left_out": "left out", "branch": "branch"}
_NONE = "none"
ESTIMANDS = ("D", "B", "I")


@dataclass(frozen=True)
class _ChoiceRow:
    """One row of dots: a value of a choice (or a kind of values), and which columns have it."""

    choice: str
    value: str
    has: tuple[bool, ...]


def specification_plot(
    table: pd.DataFrame, *, title: str, note: str = "", narrow: bool = False
) -> Figure:
    """Draw the sorted estimates of D, B and I with their intervals, and their choices below.

    Each estimand has a panel on each scale, sorted by itself: scales side by side, on a phone one
    below another. Choices that never vary have no dots. What is left out in turn shares a row of
    dots by its kind, which stands before a colon: `language: mlt_Latn`, `model: a` (Simonsohn,
    Simmons & Nelson 2020).

    Args:
        table: A row for each specification, with the columns estimand, scale, estimate, ci_low,
            ci_high, p (proportions on the scale `points`, logits on `logit`; NaN where there is no
            number), and those of CHOICES that were varied. Rows without an estimate are not drawn.
        title: What the figure shows.
        note: Small print below.
        narrow: Whether it is for a phone.

    Raises:
        ValueError: If no specification of D, B or I has an estimate.
    """
    rows = table[table["estimand"].isin(ESTIMANDS) & table["estimate"].notna()]
    if rows.empty:
        raise ValueError("specification curve: no estimate of D, B or I to draw")
    scales = sorted(rows["scale"].unique(), key=lambda name: name != POINTS)
    panels = {
        key: panel.sort_values("estimate", kind="stable")
        for key, panel in rows.groupby(["estimand", "scale"])
    }
    order = [(name, scale) for name in ESTIMANDS for scale in scales if (name, scale) in panels]
    dots = {key: _choice_rows(panels[key]) for key in order}
    columns = 1 if narrow else len(scales)
    names = [name for name in ESTIMANDS if name in set(rows["estimand"])]
    # Where each panel stands: its row and its column.
    place = {key: divmod(i, 1) if narrow else (names.index(key[0]), scales.index(key[1]))
             for i, key in enumerate(order)}  # fmt: skip
    heights: list[float] = []
    for row in range(1 + max(row for row, _ in place.values())):
        most = max(len(dots[key]) for key in order if place[key][0] == row)
        heights += [1.9, max(0.3, 0.15 * most)]
    width = NARROW_WIDTH if narrow else 6.2 * columns if columns > 1 else 8.6
    figure = new_figure(width, 0.6 + sum(heights) + 0.25 * len(heights))
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for key in order:
        row, column = place[key]
        curve, matrix = axes[2 * row, column], axes[2 * row + 1, column]
        _draw_curve(curve, panels[key], key)
        curve.set_xlabel(_summary(panels[key], "\n" if narrow else " "), fontsize=8, loc="left")
        _draw_choices(matrix, dots[key], len(panels[key]))
    for row, column in np.ndindex(len(heights) // 2, columns):
        if (row, column) not in place.values():
            axes[2 * row, column].set_axis_off()
            axes[2 * row + 1, column].set_axis_off()
    handles = [
        Line2D([], [], ls="-", marker="o", ms=4, color=colour, label=words)
        for colour, words in ((FAMILY_COLOURS["related"], "p < 0.05"), (GREY, "p 0.05 or more"))
    ]
    legend_below(figure, handles, 2, **TIGHT)
    finish_figure(figure, axes[0, 0], title, note)
    return figure


def _draw_curve(axes: Axes, panel: pd.DataFrame, key: tuple[str, str]) -> None:
    """Draw the sorted estimates of one estimand and scale with their intervals."""
    estimand, scale = key
    factor = 100 if scale == POINTS else 1
    estimate, low, high = (
        factor * panel[name].to_numpy(np.float64, na_value=np.nan)
        for name in ("estimate", "ci_low", "ci_high")
    )
    p = panel["p"].to_numpy(np.float64, na_value=np.nan)
    colours = np.where(p < 0.05, FAMILY_COLOURS["related"], GREY)
    x = np.arange(len(panel))
    many = len(panel) > 60
    axes.axhline(0, color="#000000", lw=0.8, zorder=1)
    limits = robust_limits(*(np.append(values, 0.0) for values in (estimate, low, high)))
    axes.set_ylim(*limits)
    axes.vlines(
        x, np.clip(low, *limits), np.clip(high, *limits), colors=list(colours),
        lw=0.8 if many else 1.6, alpha=0.45 if many else 0.7, zorder=2,
    )  # fmt: skip
    for edge, marker, cut in (
        (limits[0], "v", low < limits[0]),
        (limits[1], "^", high > limits[1]),
    ):
        axes.scatter(
            x[cut], np.full(int(cut.sum()), edge), s=12, marker=marker, color=list(colours[cut]),
            linewidths=0, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.scatter(x, estimate, s=6 if many else 18, color=list(colours), linewidths=0, zorder=3)
    axes.set_xlim(-1, len(panel))
    axes.set_xticks([])
    unit = "points" if scale == POINTS else "guess-corrected logits"
    axes.set_ylabel(f"{estimand} ({unit})", fontsize=9)
    quiet_axes(axes)
    axes.spines["bottom"].set_visible(False)


def _summary(panel: pd.DataFrame, gap: str) -> str:
    """Count specifications, those above zero and those with p below 0.05."""
    n = len(panel)
    return (
        f"{n} specification{'' if n == 1 else 's'}:{gap}{int((panel['estimate'] > 0).sum())} "
        f"above 0, {int((panel['p'] < 0.05).sum())} with p < 0.05"
    )


def _is_value(value: Any) -> bool:
    return not pd.isna(value) and str(value) != ""


def _choice_rows(panel: pd.DataFrame) -> list[_ChoiceRow]:
    """Make the rows of dots: each value, or kind of values, of every choice that varies."""
    found: list[_ChoiceRow] = []
    for choice in CHOICES[1:]:
        if choice not in panel:
            continue
        values = [str(value) if _is_value(value) else _NONE for value in panel[choice]]
        names = list(dict.fromkeys(values))
        if choice == "left_out":
            members: dict[str, set[str]] = {}
            for value in names:
                members.setdefault(_kind(value), set()).add(value)
            values = [_counted(_kind(value), members[_kind(value)]) for value in values]
            names = list(dict.fromkeys(values))
        if len(names) < 2:
            continue
        # What is not a choice at all comes first, numbers by size.
        names.sort(key=lambda name: (name != _NONE, len(name) if _numeric(name) else 0, name))
        found += [
            _ChoiceRow(choice, name, tuple(value == name for value in values)) for name in names
        ]
    return found


def _kind(value: str) -> str:
    """Return what values that are left out have in common: what stands before a colon."""
    return value if ":" not in value else f"a {value.split(':')[0]}"


def _counted(kind: str, members: set[str]) -> str:
    """Name a kind with the number of its values; a single value by itself."""
    return next(iter(members)) if len(members) == 1 else f"{kind} ({len(members)})"


def _numeric(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _draw_choices(axes: Axes, rows: Sequence[_ChoiceRow], number: int) -> None:
    """Draw a dot where a specification has a value; rows of one choice stand together."""
    labels = []
    for place, row in enumerate(rows):
        first = place == 0 or rows[place - 1].choice != row.choice
        if first and place:
            axes.axhline(place - 0.5, color="#cccccc", lw=0.6, zorder=0)
        name = f"{_WORDS.get(row.choice, row.choice)}: " if first else ""
        labels.append(plain_text(f"{name}{row.value}"))
    if rows:
        place_of, x = np.nonzero(np.array([row.has for row in rows]))
        size = 2.5 if number > 60 else 12
        axes.scatter(x, place_of, s=size, color="#000000", linewidths=0, zorder=2)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1, number)
    axes.set_xticks([])
    quiet_axes(axes)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.spines[:].set_visible(False)
