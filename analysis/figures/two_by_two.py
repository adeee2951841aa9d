"""The 2 x 2 picture: mean gain by family and baseline group, a faint point for each cell."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy import stats

from analysis.arrays import Floats
from analysis.figures.forest import shorten
from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    TIGHT,
    draw_interval,
    draw_mark,
    finish_figure,
    legend_below,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)
from analysis.gains.baselines import BaselineGroups
from analysis.gains.gain_table import POINTS, GainTable
from analysis.gains.grouped import model_parts, part_gains
from analysis.tables.numbers import signed

GROUPS, FAMILIES = ("weak", "strong"), ("related", "control")
_MARKERS = {"related": "o", "control": "s"}
_PLACES = (0.0, 1.3)
# Means stand close, so that the lines between them can be compared; cells and numbers beside them.
_SIDE = {"related": -1, "control": 1}
_MEAN, _CELLS, _SPREAD, _NUMBER = 0.035, 0.17, 0.07, 0.27
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class GroupMean:
    """Mean gain of one family in one baseline group, in proportion.

    `values` (models or parts of them K, languages L) are the cells; `models` are their names.
    `unit` is what the 95 % t interval is over: `models`, or `languages` where the group has one
    model; None limits where there is one of these, too, or no variance.
    """

    group: str
    family: str
    mean: float
    low: float | None
    high: float | None
    unit: str
    models: tuple[str, ...]
    values: Floats


def two_by_two_means(table: GainTable, groups: BaselineGroups) -> list[GroupMean]:
    """Average gains, in points, over the models and languages of each group and family.

    In a cross-fitted study a model that changes groups between folds counts in both, by its share
    of the items (analysis.gains.grouped).

    Args:
        table: Gains of one arm, without missing cells.
        groups: Weak and strong models.

    Returns:
        Four means: related and control languages in weak, then in strong models.

    Raises:
        ValueError: If there are no groups, a family has no language, or a cell has no gain.
    """
    if set(groups.group.values()) != set(GROUPS):
        raise ValueError(f"2 x 2 picture: there are no weak and strong models: {groups.status}")
    if not table.related.any() or table.related.all():
        raise ValueError("2 x 2 picture: it needs a related and a control language")
    gone = np.argwhere(~np.isfinite(table.gain[POINTS]))
    if len(gone):
        cell = f"{table.models[gone[0][0]]}/{table.languages[gone[0][1]]}"
        raise ValueError(f"2 x 2 picture: no gain of {cell}; give a table without missing cells")
    parts = model_parts(table, groups)
    gain = part_gains(table, parts, POINTS)
    found = []
    for group, member in zip(GROUPS, parts.groups, strict=True):
        names = tuple(table.models[m] for m in parts.model[member])
        for family in FAMILIES:
            chosen = table.related if family == "related" else ~table.related
            cells = gain[member][:, chosen]
            unit = "models" if len(cells) > 1 else "languages"
            values, weights = (
                (cells.mean(axis=1), parts.share[member])
                if len(cells) > 1
                else (cells[0], np.ones(cells.shape[1]))
            )
            mean, low, high = _weighted_mean(values, weights)
            found.append(GroupMean(group, family, mean, low, high, unit, names, cells))
    return found


def _weighted_mean(values: Floats, weights: Floats) -> tuple[float, float | None, float | None]:
    """Return a mean and its 95 % t interval; with equal weights those of a one-sample t test."""
    n, share = len(values), weights / weights.sum()
    mean = float(share @ values)
    off = share * (values - mean)
    if n < 2 or np.ptp(values) < 1e-12:
        return mean, None, None
    half = float(stats.t.ppf(0.975, n - 1) * np.sqrt(off @ off * n / (n - 1)))
    return mean, mean - half, mean + half


def two_by_two_plot(
    table: GainTable,
    groups: BaselineGroups,
    *,
    title: str,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw B and I: means of related and control languages in weak and in strong models.

    A line joins each family's two means: both fall alike where gains follow baseline strength in
    all languages, and part where family and baseline interact. Gains are in points.

    Args:
        table: Gains of one arm, without missing cells.
        groups: Weak and strong models.
        title: What the figure shows.
        note: Small print below.
        narrow: Whether it is for a phone.

    Raises:
        ValueError: As two_by_two_means; leave the figure out then.
    """
    means = two_by_two_means(table, groups)
    labels = [_group_label(means[i : i + 2], 24 if narrow else 38) for i in (0, 2)]
    lines = max(label.count("\n") for label in labels)
    figure = new_figure(NARROW_WIDTH if narrow else 6.0, (3.7 if narrow else 3.9) + 0.13 * lines)
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, lw=1, zorder=1)
    limits = _limits(means)
    tips = sum(mean.values.size for mean in means) <= MAX_TIPS
    axes.set_ylim(*limits)
    for family in FAMILIES:
        ours = [mean for mean in means if mean.family == family]
        places = [place + _SIDE[family] * _MEAN for place in _PLACES]
        heights = [100 * mean.mean for mean in ours]
        axes.plot(places, heights, color=FAMILY_COLOURS[family], lw=1.2, alpha=0.7, zorder=3)
        for mean, place in zip(ours, _PLACES, strict=True):
            _draw_cells(axes, mean, place, table, tips)
            _draw_mean(axes, mean, place, limits)
    axes.set_xlim(_PLACES[0] - 0.6, _PLACES[1] + 0.6)
    axes.set_xticks(_PLACES, labels)
    axes.set_ylabel("mean gain (points)", fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    quiet_axes(axes)
    axes.tick_params(axis="x", labelsize=7 if narrow else 8, length=0)
    handles = [
        *(
            Line2D([], [], ls="-", marker=_MARKERS[name], color=FAMILY_COLOURS[name], label=name)
            for name in FAMILIES
        ),
        Line2D([], [], ls="", marker="o", ms=4, alpha=0.4, color=GREY, mew=0,
               label="one model, one language"),
        Line2D([], [], ls="-", lw=2.4, color=GREY, label=interval_words(means)),
    ]  # fmt: skip
    legend_below(figure, handles, 1 if narrow else 2, **TIGHT)
    finish_figure(figure, axes, title, note)
    return figure


def interval_words(means: Sequence[GroupMean]) -> str:
    """Say what the intervals are over."""
    units = {mean.group: mean.unit for mean in means}
    if len(set(units.values())) == 1:
        return f"95 % interval over {units[GROUPS[0]]}"
    return "95 % interval: " + ", ".join(f"{name} over {units[name]}" for name in GROUPS)


def _group_label(pair: Sequence[GroupMean], width: int) -> str:
    """Name a group's models, and the difference of its two means."""
    models = ", ".join(shorten(name, width + 6) for name in dict.fromkeys(pair[0].models))
    named = textwrap.wrap(
        f"{pair[0].group}: {models}", width, break_on_hyphens=False, break_long_words=False
    )
    gap = signed(100 * (pair[0].mean - pair[1].mean), 1)
    return plain_text("\n".join([*named, f"related \N{MINUS SIGN} control: {gap}"]))


def _limits(means: Sequence[GroupMean]) -> tuple[float, float]:
    """Return limits that hold 0 and every cell, and intervals up to three times their width."""
    cells = 100 * np.concatenate([[0.0], *(mean.values.ravel() for mean in means)])
    ends = [100 * end for mean in means for end in (mean.low, mean.high) if end is not None]
    first, last, width = float(cells.min()), float(cells.max()), float(np.ptp(cells)) or 1.0
    low = max(min([first, *ends]), first - width)
    high = min(max([last, *ends]), last + width)
    edge = 0.04 * (high - low) or width  # no gain at all leaves no height
    return low - edge, high + edge


def _draw_cells(axes: Axes, mean: GroupMean, place: float, table: GainTable, tips: bool) -> None:
    """Draw a faint point for each model and language, spread sideways so that all are seen."""
    values = 100 * mean.values.ravel()
    # Golden-ratio steps in order of height: neighbours in height stand apart.
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    x = place + _SIDE[mean.family] * _CELLS + _SPREAD * (2 * ((rank + 1) * _GOLDEN % 1) - 1)
    colour = FAMILY_COLOURS[mean.family]
    size, alpha = (12, 0.3) if tips else (4, 0.16)
    if not tips:
        axes.scatter(x, values, s=size, color=colour, alpha=alpha, linewidths=0, zorder=2)
        return
    related = table.related if mean.family == "related" else ~table.related
    codes = np.array(table.languages)[related]
    names = [f"{model}, {code}" for model in mean.models for code in codes]
    for name, across, value in zip(names, x, values, strict=True):
        axes.scatter(
            across, value, s=size, color=colour, alpha=alpha, linewidths=0, zorder=2,
            gid=tip_id(f"{name}: {signed(value, 1)} points"),
        )  # fmt: skip


def _draw_mean(axes: Axes, mean: GroupMean, place: float, limits: tuple[float, float]) -> None:
    """Draw a mean with its interval and its number."""
    colour, side = FAMILY_COLOURS[mean.family], _SIDE[mean.family]
    said = signed(100 * mean.mean, 1)
    tip = f"{mean.family} languages in {mean.group} models: {said} points"
    if mean.low is not None and mean.high is not None:
        ends = (100 * mean.low, 100 * mean.high)
        at = place + side * _MEAN
        draw_interval(axes, ends, at, limits, upright=True, color=colour, lw=2.4, zorder=4)
        tip += f", 95 % interval over {mean.unit} {signed(ends[0], 1)} to {signed(ends[1], 1)}"
    draw_mark(
        axes, place + side * _MEAN, 100 * mean.mean, _MARKERS[mean.family], ms=7, color=colour,
        mec="white", mew=1.0, zorder=5, gid=tip_id(tip),
    )  # fmt: skip
    axes.text(
        place + side * _NUMBER, 100 * mean.mean, said, ha="right" if side < 0 else "left",
        va="center", fontsize=8.5, fontweight="bold", color=colour, zorder=6,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip
