"""The figure of what a design can see, against the number of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import GREY, finish_figure, new_figure, quiet_axes

_PANELS = (("D", "D: related − control"), ("I", "I: D of weak models − D of strong ones"))
_LINES = (("mde", "-", "effect found"), ("bound", (0, (4, 2)), "bound proved if D or I is 0"))
_TICKS = (10, 25, 50, 100, 200, 400, 900, 2000, 5000, 10000)
_POINT: dict[str, Any] = {"marker": "o", "ms": 4.5, "mfc": "black", "mec": "black"}
_RING: dict[str, Any] = {"marker": "o", "ms": 9.0, "mfc": "none", "mec": "black", "mew": 1.2}

Design = Mapping[str, float]


def power_figure(
    table_frame: pd.DataFrame, *, title: str, note: str = "", design: Design | None = None
) -> Figure:
    """Draw detectable effects and provable bounds of D and I, in points, against items.

    Args:
        table_frame: As analysis.estimators.power.power_table gives it, for one number of models
            and one of seeds.
        title: What the figure shows.
        note: Small print below.
        design: A row of such a table to be marked (related, control, items, mde_d, bound_d, mde_i,
            bound_i); None: none.

    Returns:
        The figure; two panels, D and I, a colour for each number of languages.

    Raises:
        ValueError: If there are no rows, or rows of several numbers of models or seeds.
    """
    if table_frame.empty:
        raise ValueError("power figure: the table has no rows")
    for name in ("models", "seeds"):
        if table_frame[name].nunique() > 1:
            raise ValueError(f"power figure: the table has several numbers of {name}; choose one")
    pairs = sorted(
        {(int(a), int(b)) for a, b in table_frame[["related", "control"]].to_numpy()}, key=sum
    )
    # More languages, darker: an order, not kinds.
    shades = colormaps["viridis"](np.linspace(0.75, 0.0, len(pairs)))
    colour = {pair: to_hex(shade) for pair, shade in zip(pairs, shades, strict=True)}
    figure = new_figure(10.5, 4.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, heading) in zip(panels, _PANELS, strict=True):
        for pair in pairs:
            rows = table_frame[
                (table_frame["related"] == pair[0]) & (table_frame["control"] == pair[1])
            ].sort_values("items")
            for column, style, _ in _LINES:
                values = 100 * rows[f"{column}_{name.lower()}"]
                axes.plot(rows["items"], values, ls=style, lw=1.8, color=colour[pair])
        _mark(axes, name, design)
        _dress(axes, table_frame, heading)
        if table_frame[f"mde_{name.lower()}"].isna().all():
            axes.text(0.5, 0.5, "needs two models", transform=axes.transAxes, ha="center",
                      color=GREY)  # fmt: skip
    panels[0].set_ylabel("points, with 80 % power", fontsize=9)
    panels[0].set_ylim(0, None)
    _legends(figure, colour, design)
    finish_figure(figure, panels[0], "", note)
    for axes, (_, heading) in zip(panels, _PANELS, strict=True):
        axes.set_title(heading, loc="left", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _mark(axes: Axes, name: str, design: Design | None) -> None:
    """Mark the asked design: a point at what it finds, a ring at what it proves."""
    if design is None:
        return
    for column, style in (("mde", _POINT), ("bound", _RING)):
        value = float(design[f"{column}_{name.lower()}"])
        if np.isfinite(value):
            axes.plot(design["items"], 100 * value, zorder=4, **style)


def _dress(axes: Axes, table_frame: pd.DataFrame, heading: str) -> None:
    """Set scale, ticks and grid of one panel."""
    axes.set_title(heading, loc="left", fontsize=9)
    axes.set_xscale("log")
    low, high = table_frame["items"].min(), table_frame["items"].max()
    ticks = [tick for tick in _TICKS if low <= tick <= high] or [int(low)]
    axes.set_xticks(ticks, [f"{tick:,}".replace(",", "\N{THIN SPACE}") for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("items per language", fontsize=9)
    quiet_axes(axes)
    axes.tick_params(labelleft=True)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def _legends(figure: Figure, colour: Mapping[tuple[int, int], str], design: Design | None) -> None:
    """Explain languages, lines, and the marked design."""
    handles = [
        Line2D([], [], ls="", label="languages\n(related + control)"),
        *(
            Line2D([], [], color=shade, lw=3, label=f"{related} + {control}")
            for (related, control), shade in colour.items()
        ),
        Line2D([], [], ls="", label=""),
        *(Line2D([], [], color=GREY, ls=style, lw=1.8, label=label) for _, style, label in _LINES),
    ]
    if design is not None:
        what = f"{design['related']:.0f} + {design['control']:.0f}, {design['items']:.0f} items"
        for style, words in ((_POINT, "found"), (_RING, "proved")):
            handles.append(Line2D([], [], ls="", label=f"{words}: {what}", **style))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
