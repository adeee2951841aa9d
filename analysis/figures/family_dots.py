"""Means of related and of control languages with their intervals, a line for each thing named."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    NARROW_WIDTH,
    draw_mark,
    finish_figure,
    legend_below,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)
from analysis.tables.numbers import signed

_FAMILIES = ("related", "control")
_MARKERS = {"related": "o", "control": "s"}
_OFFSET = 0.16


def family_dots_plot(
    table: pd.DataFrame, *, title: str, axis: str, note: str = "", narrow: bool = False
) -> Figure:
    """Draw a dot and an interval for each label and family; on a phone labels stand above.

    `table` has the columns label, family (`related` or `control`), estimate, low and high:
    differences of proportions, drawn in points, limits NaN where there are none. Labels keep their
    order. `axis` says what the numbers are.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if table.empty:
        raise ValueError("family dots: there is no estimate to draw")
    labels = list(dict.fromkeys(table["label"]))
    step = 1.0 if not narrow else 1.5
    figure = new_figure(NARROW_WIDTH if narrow else 8.6, 1.3 + 0.36 * step * len(labels))
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    for row in table.to_dict("records"):
        _draw(axes, row, step * labels.index(row["label"]))
    axes.set_ylim(step * (len(labels) - 0.4), -0.6 * step)
    # No gain is larger than 100 points: with two languages an interval would stretch the axis.
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -100.0), min(high, 100.0))
    axes.set_xlabel(axis, fontsize=9)
    quiet_axes(axes)
    places = step * np.arange(len(labels))
    if narrow:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        for place, label in zip(places, labels, strict=True):
            axes.text(
                0.0, place - 0.55, plain_text(label), transform=axes.get_yaxis_transform(),
                fontsize=8, va="center",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
    else:
        wrapped = ["\n".join(textwrap.wrap(plain_text(label), 34)) for label in labels]
        axes.set_yticks(places, wrapped, fontsize=8)
    handles = [
        Line2D([], [], marker=_MARKERS[name], color=FAMILY_COLOURS[name], label=name)
        for name in _FAMILIES
    ]
    legend_below(figure, handles, 2)
    finish_figure(figure, axes, title, note)
    return figure


def _draw(axes: Axes, row: Mapping[Any, Any], place: float) -> None:
    """Draw one dot with its interval."""
    family = str(row["family"])
    at = place + (_OFFSET if family == "control" else -_OFFSET)
    value, low, high = (100 * float(row[name]) for name in ("estimate", "low", "high"))
    said_value, said_low, said_high = (
        signed(number, 1) if np.isfinite(number) else "" for number in (value, low, high)
    )
    tip = f"{row['label']}, {family}: {said_value} points"
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [at, at], color=FAMILY_COLOURS[family], lw=1.6, zorder=2)
        tip += f", 95 % interval {said_low} to {said_high}"
    draw_mark(
        axes, value, at, _MARKERS[family], ms=6, color=FAMILY_COLOURS[family], mec="white",
        mew=0.8, zorder=3, gid=tip_id(tip),
    )  # fmt: skip
