"""The plot of gain against baseline, coloured by family."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arrays import Floats
from analysis.estimates import Estimate
from analysis.figures.labels import place_labels
from analysis.figures.style import (
    ACCENT,
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    draw_mark,
    family_handles,
    finish_figure,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)
from analysis.tables.numbers import signed

_MARKERS = "osD^vPX<>hp8"
_LABEL_SIZE = 7.0
# Beyond these numbers labels hide more than they tell, and placing them takes long.
_MAX_LABELS, _MAX_LABELS_NARROW = 150, 24
BETWEEN = "slope between models"
WITHIN = {
    "slope training-split": ("training-split baseline", "-"),
    "slope out-of-fold": ("baseline of other folds", "-"),
    "slope cross-fitted": ("cross-fitted", "-"),
    "slope naive": ("naive (biased)", "--"),
}
"""Estimands of the slope within models, those free of shared items first: words, line style."""


def baseline_plot(
    gains: pd.DataFrame,
    *,
    title: str,
    baseline: pd.DataFrame | None = None,
    slopes: Sequence[Estimate] = (),
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw gain against baseline: colour tells the family, marker the model, label the language.

    `gains` are as figure_gains gives them, with a gain at least. `baseline` is training-split
    accuracy, models by languages (proportions); a language without one is left out. Without any,
    the held-out accuracy is drawn, and the axis says that gain and baseline share items. `slopes`
    are rows of estimates, on points (points of gain for each point of baseline). A slope is drawn
    where it holds: that within models as a short line through each model's own target languages,
    that between models as one line through the models' means, which have large hollow marks.

    Raises:
        ValueError: If there is nothing to draw.
    """
    drawn = _with_baseline(gains, baseline).dropna(subset=["gain", "baseline"])
    if drawn.empty:
        raise ValueError("baseline plot: there are no gains to draw; run a fine-tuned arm first")
    models = sorted(drawn["model"].unique())
    marker = {model: _MARKERS[i % len(_MARKERS)] for i, model in enumerate(models)}
    figure = new_figure(NARROW_WIDTH, 5.4) if narrow else new_figure(10.5, 6.5)
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, lw=1, zorder=1)
    x, y = (100 * drawn[name].to_numpy(np.float64) for name in ("baseline", "gain"))
    colours = [FAMILY_COLOURS[name] for name in drawn["family"]]
    _draw_points(axes, drawn, colours, marker, 24 if narrow else 38)
    lines = _draw_slopes(axes, drawn, slopes, marker, shared=baseline is None)
    axes.set_xlabel(_baseline_words(baseline is None, narrow), fontsize=8 if narrow else 9)
    gap = "\n" if narrow else " "
    whiskers = f"gain (points);{gap}whiskers: {_whiskers(drawn)}"
    axes.set_ylabel(whiskers, fontsize=8 if narrow else 9)
    quiet_axes(axes)
    axes.margins(0.06)
    _legends(figure, drawn, marker, lines, narrow)
    finish_figure(figure, axes, title, note)
    if len(drawn) <= (_MAX_LABELS_NARROW if narrow else _MAX_LABELS):
        codes = short_codes(drawn["language"].tolist())
        place_labels(figure, axes, x, y, codes, colours, _LABEL_SIZE)
    return figure


def _draw_points(
    axes: Axes, drawn: pd.DataFrame, colours: Sequence[str], marker: Mapping[str, str], size: float
) -> None:
    """Draw a point with its whisker for each model and language."""
    low, high = (100 * drawn[name] for name in ("low", "high"))
    x = 100 * drawn["baseline"].to_numpy(np.float64)
    many = len(drawn) > MAX_TIPS
    axes.vlines(x, low, high, colors=list(colours), lw=0.9, alpha=0.1 if many else 0.35, zorder=2)
    if many:
        for model, rows in drawn.groupby("model"):
            axes.scatter(
                100 * rows["baseline"], 100 * rows["gain"], s=size / 3, marker=marker[str(model)],
                color=[FAMILY_COLOURS[name] for name in rows["family"]], alpha=0.5, linewidths=0,
                zorder=3,
            )  # fmt: skip
        return
    for row, colour in zip(drawn.to_dict("records"), colours, strict=True):
        base, gain = 100 * row["baseline"], 100 * row["gain"]
        tip = f"{row['model']}, {row['language']}: base {base:.1f} %, gain {signed(gain, 1)}"
        axes.scatter(
            base, gain, s=size, marker=marker[row["model"]], zorder=3, color=colour,
            edgecolors="white", linewidths=0.6, gid=tip_id(tip),
        )  # fmt: skip


def _whiskers(drawn: pd.DataFrame) -> str:
    """Say what the whiskers show."""
    seeds = int(drawn["n_seeds"].max())
    return "95 % Newcombe interval" if seeds == 1 else f"lowest to highest of {seeds} seeds"


def _baseline_words(shared: bool, narrow: bool) -> str:
    """Return the label of the horizontal axis."""
    if not shared:
        return "base-model accuracy on training-split questions (%)"
    text = (
        "base-model accuracy on the held-out items (%); it shares items with the gain, "
        "so chance alone makes the points fall to the right"
    )
    return "\n".join(textwrap.wrap(text, 46 if narrow else 80))


def _draw_slopes(
    axes: Axes,
    drawn: pd.DataFrame,
    slopes: Sequence[Estimate],
    marker: Mapping[str, str],
    *,
    shared: bool,
) -> list[Line2D]:
    """Draw slopes within models through each model's points, that between them through the means.

    Returns:
        The legend's entries.
    """
    known = {row.estimand: row.estimate for row in slopes if row.scale == "points"}
    targets = drawn[drawn["family"] != "source"]
    points = {
        str(model): 100 * rows[["baseline", "gain"]].to_numpy(np.float64)
        for model, rows in targets.groupby("model")
    }
    handles: list[Line2D] = []
    look: dict[str, Any]
    for name in _drawn_within([name for name in WITHIN if known.get(name) is not None], shared):
        words, style = WITHIN[name]
        slope = float(known[name] or 0.0)
        look = {"color": "#000000", "lw": 1.2, "ls": style, "zorder": 4}
        for of_model in points.values():
            _line(axes, of_model, slope, **look)
        label = f"within models, {words}: {signed(slope, 2)}"
        handles.append(Line2D([], [], label=_wrapped(label, 26), **look))
    between = known.get(BETWEEN)
    if between is not None and len(points) > 1:
        means = np.array([of_model.mean(axis=0) for of_model in points.values()])
        look = {"color": ACCENT, "lw": 2.4, "ls": "-", "zorder": 3}
        _line(axes, means, between, **look)
        for model, (x, y) in zip(points, means, strict=True):
            draw_mark(
                axes, x, y, marker[model], ms=10, mfc="none", mec=ACCENT, mew=1.6, zorder=5,
                gid=tip_id(f"{model}: mean base {x:.1f} %, mean gain {signed(y, 1)}"),
            )  # fmt: skip
        label = f"between models, through their means (hollow): {signed(between, 2)}"
        handles.append(Line2D([], [], label=_wrapped(label, 26), **look))
    return handles


def _drawn_within(known: Sequence[str], shared: bool) -> list[str]:
    """Choose the slopes that hold on the axis: the naive one only where items are shared."""
    fair = [name for name in known if name != "slope naive"]
    # On the held-out axis the cross-fitted slope is the one of these very items.
    fair = fair[-1:] if shared else fair[:1]
    return fair + [name for name in known if name == "slope naive" and (shared or not fair)]


def _line(axes: Axes, points: Floats, slope: float, **look: Any) -> None:
    """Draw a line of a slope through the mean of points (n, 2), as wide as they are."""
    x, y = points.mean(axis=0)
    ends = np.array([points[:, 0].min(), points[:, 0].max()])
    axes.plot(ends, y + slope * (ends - x), **look)


def _with_baseline(gains: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.DataFrame:
    """Add the column `baseline`."""
    if baseline is None:
        return gains.assign(baseline=gains["accuracy_base"])
    values = (
        baseline.rename_axis(index="model")
        .reset_index()
        .melt(id_vars="model", var_name="language", value_name="baseline")
    )
    return gains.merge(values, how="left", on=["model", "language"])


def short_codes(codes: Sequence[str]) -> list[str]:
    """Return the part of each code before the script, where that still tells languages apart."""
    start: dict[str, set[str]] = {}
    for code in codes:
        start.setdefault(code.split("_")[0], set()).add(code)
    return [code.split("_")[0] if len(start[code.split("_")[0]]) == 1 else code for code in codes]


def _legends(
    figure: Figure,
    drawn: pd.DataFrame,
    marker: Mapping[str, str],
    lines: Sequence[Line2D],
    narrow: bool,
) -> None:
    """Explain families, slopes and models beside the axes, or below them on a phone."""
    handles = [*family_handles(set(drawn["family"])), *lines]
    handles += [
        Line2D([], [], ls="", marker=shape, color=GREY, label=_wrapped(name, 24))
        for name, shape in marker.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left" if narrow else "outside right upper",
        ncols=2 if narrow else 1,
        fontsize=7 if narrow else 8,
        frameon=False,
        columnspacing=1.0,
    )


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(plain_text(name), width))
