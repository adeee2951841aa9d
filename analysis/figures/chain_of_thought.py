"""The plot of fine-tuning beside chain-of-thought, a line for each model."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    ACCENT,
    GREY,
    NARROW_WIDTH,
    draw_mark,
    finish_figure,
    legend_below,
    name_rows,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)


class _Series(NamedTuple):
    """One of the three marks of a model."""

    column: str
    label: str
    marker: str
    colour: str
    offset: float


_SERIES = (
    _Series("base", "base, direct", "o", GREY, 0.0),
    _Series("cot", "base, chain-of-thought", "s", ACCENT, -0.17),
    _Series("tuned", "fine-tuned, direct", "D", "#000000", 0.17),
)


def chain_of_thought_table(
    summary: pd.DataFrame, languages: Collection[str], tuned_arm: str = "finetuned"
) -> pd.DataFrame:
    """Return the mean accuracy by model of the base, of chain-of-thought and of fine-tuning.

    Args:
        summary: Columns model, language, arm, reasoning, scoring, seed, accuracy.
        languages: The target languages to average over.
        tuned_arm: The fine-tuned arm.

    Returns:
        Columns base, cot, tuned (proportions) by model, averaged over the languages that have all
        three and over seeds and scorings; models without them are left out.
    """
    chosen = summary[summary["language"].isin(list(languages))]
    keys = {"base": ("base", "direct"), "cot": ("base", "cot"), "tuned": (tuned_arm, "direct")}
    columns = {
        name: chosen[(chosen["arm"] == arm) & (chosen["reasoning"] == reasoning)]
        .groupby(["model", "language"])["accuracy"]
        .mean()
        for name, (arm, reasoning) in keys.items()
    }
    return pd.DataFrame(columns).dropna().groupby("model").mean()


def chain_of_thought_plot(
    table: pd.DataFrame, *, title: str, note: str = "", narrow: bool = False
) -> Figure:
    """Draw the accuracy of each model in per cent: base, with chain-of-thought, and fine-tuned.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if table.empty:
        raise ValueError("chain-of-thought: no model has base, chain-of-thought and tuned runs")
    figure = new_figure(NARROW_WIDTH if narrow else 8.6, 1.3 + 0.34 * len(table))
    axes = figure.add_subplot()
    axes.axvline(25, color=GREY, lw=0.9, ls=":", zorder=1)
    for place, model in enumerate(table.index):
        values = 100 * table.loc[model].to_numpy(np.float64)
        axes.plot([values.min(), values.max()], [place] * 2, color=GREY, lw=1, zorder=2)
        for series in _SERIES:
            value = 100 * float(table.loc[model, series.column])
            draw_mark(
                axes,
                value,
                place + series.offset,  # so that equal values do not hide each other
                series.marker,
                ms=6, color=series.colour, mec="white", mew=0.8, zorder=3,
                gid=tip_id(f"{model}, {series.label}: {value:.1f} %"),
            )  # fmt: skip
    name_rows(axes, [plain_text(str(name)[:28]) for name in table.index])
    where = "" if narrow else " over target languages"
    axes.set_xlabel(f"mean accuracy{where} (%); dotted: chance", fontsize=8 if narrow else 9)
    quiet_axes(axes)
    handles = [
        Line2D([], [], ls="", marker=s.marker, color=s.colour, label=s.label) for s in _SERIES
    ]
    legend_below(figure, handles, 1 if narrow else 3)
    finish_figure(figure, axes, title, note)
    return figure
