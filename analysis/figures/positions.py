"""Small multiples of option positions: where right answers, predictions and probability stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arrays import Floats
from analysis.figures.style import (
    ACCENT,
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


class _Series(NamedTuple):
    """One of the three lines of a panel."""

    name: str
    label: str
    marker: str
    colour: str
    style: str


_SERIES = (
    _Series("gold", "right answers", "s", GREY, ":"),
    _Series("predicted", "predictions", "o", FAMILY_COLOURS["related"], "--"),
    _Series("prior", "mean probability (prior)", "D", ACCENT, "-"),
)
POSITIONS = ("1", "2", "3", "4")


def positions_plot(
    panels: Mapping[str, Mapping[str, Floats]],
    *,
    title: str,
    trained: Floats | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw a panel for each arm: shares of the four positions in per cent.

    `panels` maps an arm to `gold`, `predicted` and `prior`, each of shape (4,), proportions.
    `trained` are shares of the right answers in training, (4,), drawn as bars behind; or None. On a
    phone panels stand two by two.

    Raises:
        ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("positions: no arm has item records to draw")
    columns = min(2 if narrow else 4, len(panels))
    rows = -(-len(panels) // columns)
    width = NARROW_WIDTH if narrow else max(5.0, 2.6 * columns)
    figure = new_figure(width, (2.0 if narrow else 2.5) * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (arm, shares) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, arm, shares, trained)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].set_ylabel("share (%)", fontsize=8)
    highest = max(float(np.max(values)) for part in panels.values() for values in part.values())
    if trained is not None:
        highest = max(highest, float(np.max(trained)))
    grid[0].set_ylim(0, 100 * highest * 1.08)
    handles = [
        Line2D([], [], marker=s.marker, color=s.colour, ls=s.style, label=s.label) for s in _SERIES
    ]
    if trained is not None:
        handles.append(
            Line2D([], [], marker="_", ms=14, mew=2, ls="", color="#000000", label="trained on")
        )
    legend_below(figure, handles, 2 if narrow else 4, columnspacing=1.2, handletextpad=0.5)
    if title:
        figure.suptitle(plain_text(title), x=0.01, ha="left", fontsize=11)
    finish_figure(figure, grid[0], "", note)
    return figure


def _draw_panel(axes: Axes, arm: str, shares: Mapping[str, Floats], trained: Floats | None) -> None:
    places = np.arange(4)
    if trained is not None:
        for at, share in zip(places, 100 * trained, strict=True):
            axes.plot([at - 0.3, at + 0.3], [share, share], color="#000000", lw=2, zorder=2)
    for series in _SERIES:
        values = 100 * np.asarray(shares[series.name], np.float64)
        axes.plot(places, values, color=series.colour, ls=series.style, lw=1.3, zorder=3)
        for place, value in enumerate(values.tolist()):
            draw_mark(
                axes, place, value, series.marker, ms=5, color=series.colour, mec="white",
                mew=0.6, zorder=4,
                gid=tip_id(f"{arm}, {POSITIONS[place]}, {series.label}: {value:.1f} %"),
            )  # fmt: skip
    axes.set_xticks(places, POSITIONS)
    axes.set_xlim(-0.5, 3.5)
    axes.text(0.0, 1.02, plain_text(arm), transform=axes.transAxes, fontsize=8.5, va="bottom")
    quiet_axes(axes)
