"""Plain scoring beside the average over option orders: accuracy, and bias for positions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    ACCENT,
    GREY,
    NARROW_WIDTH,
    TIGHT,
    draw_mark,
    finish_figure,
    legend_below,
    name_rows,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)

ORDERS_COLUMNS = (
    "model", "arm", "accuracy", "accuracy_averaged", "recall_std", "recall_std_averaged",
)  # fmt: skip
_PANELS = (("accuracy", "accuracy (%)"), ("recall_std", "RStd of recalls (points)"))
_COLOURS = (GREY, ACCENT)


def orders_plot(table: pd.DataFrame, *, title: str, note: str = "", narrow: bool = False) -> Figure:
    """Draw each model's base and tuned arm, plain (hollow) and averaged over orders (full).

    `table` has the columns ORDERS_COLUMNS, proportions; its arms are `base` and one other. On a
    phone the panels stand below each other.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if table.empty:
        raise ValueError("option orders: no model was scored both plain and averaged")
    models = sorted(table["model"].unique())
    arms = sorted(table["arm"].unique(), key=lambda arm: (arm != "base", arm))
    height = 0.9 + 0.4 * len(models)
    if narrow:
        figure = new_figure(NARROW_WIDTH, 2 * height + 0.6)
        panels = figure.subplots(2, 1, sharey=True).ravel()
    else:
        figure = new_figure(9.6, height + 0.5)
        panels = figure.subplots(1, 2, sharey=True).ravel()
    for axes, (column, words) in zip(panels, _PANELS, strict=True):
        _draw_panel(axes, table, models, arms, column)
        if column == "recall_std":
            axes.set_xlim(left=0)
        axes.set_xlabel(words, fontsize=9)
        name_rows(axes, [plain_text(model[:28]) for model in models])
        quiet_axes(axes)
    handles = [
        Line2D([], [], ls="", marker="o", color=colour, mfc=face, label=f"{arm}, {how}")
        for arm, colour in zip(arms, _COLOURS, strict=False)
        for how, face in (("plain", "white"), ("averaged", colour))
    ]
    legend_below(figure, handles, 2 if narrow else 4, **TIGHT)
    finish_figure(figure, panels[0], title, note)
    return figure


def _draw_panel(
    axes: Axes, table: pd.DataFrame, models: list[str], arms: list[str], column: str
) -> None:
    for row in table.to_dict("records"):
        colour = _COLOURS[min(arms.index(row["arm"]), 1)]
        place = models.index(row["model"]) + (-0.14 if row["arm"] == "base" else 0.14)
        plain, averaged = 100 * row[column], 100 * row[f"{column}_averaged"]
        axes.plot([plain, averaged], [place, place], color=colour, lw=1.2, alpha=0.6, zorder=2)
        tip = f"{row['model']}, {row['arm']}: {plain:.1f} plain, {averaged:.1f} averaged"
        for value, face in ((plain, "white"), (averaged, colour)):
            draw_mark(
                axes, value, place, "o", ms=6, color=colour, mfc=face, mew=1.3, zorder=3,
                gid=tip_id(tip),
            )  # fmt: skip
