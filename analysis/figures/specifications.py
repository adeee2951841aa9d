"""The specification curve: an estimand under every defensible choice, sorted by its estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.forest import POINTS, short_number
from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    TIGHT,
    finish_figure,
    legend_below,
    new_figure,
    plain_text,
    quiet_axes,
    robust_limits,
    tip_id,
)

CHOICES = ("scale", "clip", "test", "branch", "left_out", "baseline")
_WORDS = {"left_out": "left out", "branch": "branch level", "baseline": "baseline split"}
_MOST_VALUES = 8
_NONE = "none"


@dataclass(frozen=True)
class _ChoiceRow:
    """One row of dots: a value of a choice (or a kind of values), and which columns have it."""

    choice: str
    value: str
    has: tuple[bool, ...]


def specification_plot(
    table: pd.DataFrame, estimand: str, *, title: str, note: str = "", narrow: bool = False
) -> Figure:
    """Draw the sorted estimates of one estimand with their intervals, and their choices below.

    Each scale has a panel of its own, sorted by itself; on a phone one below another. Choices that
    never vary have no dots. Of a choice with many values, such as each language left out in turn,
    values that begin alike up to a colon (`language: arb_Latn`) share a row. Simonsohn et al. 2020.

    Args:
        table: A row for each specification, with the columns estimand, estimate, ci_low, ci_high,
            p (proportions on the scale `points`, logits on `logit`; NaN or None where there is no
            number), and those of CHOICES that were varied. Rows without an estimate are not drawn.
        estimand: Which one to draw: `D`, `B` or `I`.
        title: What the figure shows.
        note: Small print below.
        narrow: Whether it is for a phone.

    Raises:
        ValueError: If no specification of the estimand has an estimate.
    """
    rows = table[(table["estimand"] == estimand) & table["estimate"].notna()]
    if rows.empty:
        raise ValueError(f"specification curve: no estimate of {estimand} to draw")
    scales = rows["scale"] if "scale" in rows else pd.Series(POINTS, rows.index)
    panels = [
        (str(scale), rows[scales == scale].sort_values("estimate", kind="stable"))
        for scale in sorted(scales.unique(), key=lambda name: name != POINTS)
    ]
    dots = [_choice_rows(panel) for _, panel in panels]
    heights = [2.1, max(0.3, 0.155 * max(map(len, dots)))]
    if narrow:
        total = sum(2.7 + 0.155 * len(of_panel) for of_panel in dots)
        figure = new_figure(NARROW_WIDTH, 0.7 + total)
        ratios = [part for d in dots for part in (2.1, max(0.3, 0.155 * len(d)))]
        axes = figure.subplots(2 * len(panels), 1, squeeze=False, height_ratios=ratios)
        pairs = [(axes[2 * k, 0], axes[2 * k + 1, 0]) for k in range(len(panels))]
    else:
        figure = new_figure(6.2 * len(panels) if len(panels) > 1 else 8.6, 1.3 + sum(heights))
        axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=heights)
        pairs = [(axes[0, k], axes[1, k]) for k in range(len(panels))]
    for (curve, matrix), (scale, panel), rows_of in zip(pairs, panels, dots, strict=True):
        _draw_curve(curve, panel, scale, estimand)
        curve.set_xlabel(_summary(panel, "\n" if narrow else " "), fontsize=8, loc="left")
        _draw_choices(matrix, rows_of, len(panel))
    handles = [
        Line2D([], [], ls="-", marker="o", ms=4, color=colour, label=words)
        for colour, words in ((FAMILY_COLOURS["related"], "p < 0.05"), (GREY, "p 0.05 or more"))
    ]
    legend_below(figure, handles, 2, **TIGHT)
    finish_figure(figure, pairs[0][0], title, note)
    return figure


def _draw_curve(axes: Axes, panel: pd.DataFrame, scale: str, estimand: str) -> None:
    """Draw the sorted estimates of one scale with their intervals."""
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
    for place, row in enumerate(panel.to_dict("records")):
        axes.scatter(
            place, estimate[place], s=6 if many else 18, color=str(colours[place]), linewidths=0,
            zorder=3, gid=tip_id(_said(row, scale)) if len(panel) <= MAX_TIPS else None,
        )  # fmt: skip
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


def _said(row: dict[Any, Any], scale: str) -> str:
    """Say estimate, interval and choices of one specification."""
    text = short_number(row["estimate"], scale)
    if pd.notna(row["ci_low"]) and pd.notna(row["ci_high"]):
        ends = (short_number(row[name], scale) for name in ("ci_low", "ci_high"))
        text += f" [{', '.join(ends)}]"
    choices = (
        f"{_WORDS.get(name, name)} {row[name]}"
        for name in CHOICES
        if name in row and _is_value(row[name])
    )
    return f"{text}; {', '.join(choices)}"


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
        if len(names) > _MOST_VALUES:
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
    """Return what values have in common: their part before a colon, else `other`."""
    if value == _NONE:
        return value
    return value.split(":")[0] if ":" in value else "other"


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
        x = np.flatnonzero(row.has)
        axes.scatter(
            x, np.full(len(x), place), s=2.5 if number > 60 else 12, color="#000000",
            linewidths=0, zorder=2,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1, number)
    axes.set_xticks([])
    quiet_axes(axes)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.spines[:].set_visible(False)
