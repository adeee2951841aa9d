"""The plot of gain against baseline, coloured by family."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import Estimate
from analysis.figures.labels import place_labels
from analysis.figures.style import (
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    family_handles,
    finish_figure,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)

_MARKERS = "osD^vPX<>hp8"
_LABEL_SIZE = 7.0
# Beyond these numbers labels hide more than they tell, and placing them takes long.
_MAX_LABELS, _MAX_LABELS_NARROW = 150, 24
SLOPES = {
    "slope naive": ("naive slope (biased)", "--"),
    "slope cross-fitted": ("cross-fitted slope", "-"),
    "slope training-split": ("training-split slope", ":"),
    "slope out-of-fold": ("slope on other folds", ":"),
}
"""Estimands that are drawn as lines: their words and their line style."""


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
    are rows of estimates; those of SLOPES on points (points of gain for each point of baseline) are
    drawn through the mean of the target languages' points.

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
    lines = _draw_slopes(axes, drawn, slopes)
    axes.set_xlabel(_baseline_words(baseline is None, narrow), fontsize=8 if narrow else 9)
    axes.set_ylabel(f"gain (points); whiskers: {_whiskers(drawn)}", fontsize=8 if narrow else 9)
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
    axes.vlines(x, low, high, colors=list(colours), lw=0.9, alpha=0.35, zorder=2)
    for row, colour in zip(drawn.to_dict("records"), colours, strict=True):
        base, gain = 100 * row["baseline"], 100 * row["gain"]
        tip = f"{row['model']}, {row['language']}: base {base:.1f} %, gain {gain:+.1f}"
        axes.scatter(
            base, gain, s=size, marker=marker[row["model"]], zorder=3, color=colour,
            edgecolors="white", linewidths=0.6,
            gid=tip_id(tip) if len(drawn) <= MAX_TIPS else None,
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


def _draw_slopes(axes: Axes, drawn: pd.DataFrame, slopes: Sequence[Estimate]) -> list[Line2D]:
    """Draw a line for each slope, through the mean of the targets' points."""
    targets = drawn[drawn["family"] != "source"]
    if targets.empty:
        return []
    centre = 100 * targets[["baseline", "gain"]].mean()
    ends = 100 * np.array([targets["baseline"].min(), targets["baseline"].max()])
    lines: list[Line2D] = []
    for row in slopes:
        if row.estimand not in SLOPES or row.scale != "points" or row.estimate is None:
            continue
        words, style = SLOPES[row.estimand]
        height = centre["gain"] + row.estimate * (ends - centre["baseline"])
        label = f"{words} {row.estimate:+.2f}".replace("-0", "\N{MINUS SIGN}0")
        lines += axes.plot(ends, height, ls=style, color="#000000", lw=1.6, label=label, zorder=2)
    return lines


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
