"""The plot of gain by language, languages ordered by their distance from the source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.arrays import Floats
from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    TIGHT,
    draw_mark,
    family_handles,
    finish_figure,
    language_order,
    legend_below,
    name_rows,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)


def distance_plot(
    gains: pd.DataFrame,
    *,
    title: str,
    distance: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw the gain by language: a dot per model, and their mean with its 95 % t interval.

    Languages go from the source (top) to the most distant (bottom), gains are in points. `gains`
    are as analysis.figures.style.figure_gains gives them; `distance` maps a language code to
    branches away from the source, `names` to its English name.

    Raises:
        ValueError: If there is nothing to draw.
    """
    drawn = gains.dropna(subset=["gain"])
    if drawn.empty:
        raise ValueError("distance plot: there are no gains to draw; run a fine-tuned arm first")
    steps, known = distance or {}, names or {}
    codes = _by_distance(drawn, steps)
    family = drawn.drop_duplicates("language").set_index("language")["family"]
    figure = new_figure(NARROW_WIDTH if narrow else 8.6, 1.3 + 0.34 * len(codes))
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    for place, code in enumerate(codes):
        rows = drawn[drawn["language"] == code]
        _language_row(axes, place, rows, FAMILY_COLOURS[str(family[code])], known.get(code, code))
    name_rows(axes, [_tick(code, known, steps, narrow) for code in codes])
    axes.set_xlabel("gain (points)", fontsize=9)
    quiet_axes(axes)
    handles = [
        *family_handles(set(family)),
        Line2D([], [], ls="", marker="o", ms=4, alpha=0.5, color=GREY, label="one model"),
        Line2D([], [], marker="D", ms=5, color=GREY, label="mean, 95 % interval over models"),
    ]
    legend_below(figure, handles, 2 if narrow else 5, **TIGHT)
    finish_figure(figure, axes, title, note)
    return figure


def _by_distance(drawn: pd.DataFrame, steps: Mapping[str, int]) -> list[str]:
    """Order codes by distance where there is any, then in the order of the other figures."""
    order = language_order(drawn, steps)
    far = max(steps.values(), default=0) + 1
    source = set(drawn.loc[drawn["family"] == "source", "language"])
    return sorted(order, key=lambda code: (code not in source, steps.get(code, far)))


def _language_row(axes: Axes, place: int, rows: pd.DataFrame, colour: str, language: str) -> None:
    """Draw the models' dots and their mean for one language."""
    values = 100 * rows["gain"].to_numpy(np.float64)
    for value, model in zip(values, rows["model"], strict=True):
        tip = tip_id(f"{model}, {language}: {value:+.1f} points")
        draw_mark(
            axes, value, place, "o", ms=4.5, ls="", color=colour, alpha=0.45, mew=0, zorder=2,
            gid=tip if len(values) <= MAX_TIPS // 10 else None,
        )  # fmt: skip
    low, high = mean_interval(values)
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=colour, lw=1.6, zorder=3)
    tip = tip_id(f"{language}: mean {values.mean():+.1f} points over {len(values)} models")
    draw_mark(
        axes, values.mean(), place, "D", ms=6.5, color=colour, mec="white", mew=0.9, zorder=4,
        gid=tip,
    )  # fmt: skip


def mean_interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % t interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean() - half), float(values.mean() + half)


def _tick(code: str, names: Mapping[str, str], steps: Mapping[str, int], narrow: bool) -> str:
    name = names.get(code, code)
    if narrow and len(name) > 16:
        name = code
    if code not in steps:
        return plain_text(name)
    return plain_text(f"{name} · {steps[code]}")
