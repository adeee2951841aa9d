"""The plot of gain against baseline, coloured by family."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.heatmap import FAMILY_COLOURS, FAMILY_ORDER, GREY, finish_figure
from analysis.figures.labels import place_labels

_MARKERS = "osD^vPX<>hp8"
_LABEL_SIZE = 7.0


def baseline_plot(
    gains: pd.DataFrame,
    *,
    title: str,
    baseline: pd.DataFrame | None = None,
    note: str = "",
) -> Figure:
    """Gain against baseline: colour tells the family, marker the model, label the language.

    Args:
        gains: As figure_gains gives them, at least one row with a gain.
        title: What the figure shows.
        baseline: Training-split accuracy, models by languages (proportions); a language without
            one is left out. Without any, the held-out accuracy is drawn, and the axis says that
            gain and baseline share items.
        note: Small print below.

    Returns:
        The figure, in points and per cent.

    Raises:
        ValueError: If there is nothing to draw.
    """
    drawn = _with_baseline(gains, baseline).dropna(subset=["gain", "baseline"])
    if drawn.empty:
        raise ValueError("baseline plot: there are no gains to draw; run a fine-tuned arm first")
    models = sorted(drawn["model"].unique())
    marker = {model: _MARKERS[i % len(_MARKERS)] for i, model in enumerate(models)}
    figure = Figure(figsize=(10.5, 6.5), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, lw=1, zorder=1)
    x, y = (100 * drawn[name].to_numpy(np.float64) for name in ("baseline", "gain"))
    colours = [FAMILY_COLOURS[name] for name in drawn["family"]]
    axes.vlines(
        x, 100 * drawn["low"], 100 * drawn["high"], colors=colours, lw=0.9, alpha=0.35, zorder=2
    )
    for point, (px, py) in enumerate(zip(x, y, strict=True)):
        axes.scatter(
            px,
            py,
            s=38,
            marker=marker[drawn["model"].iloc[point]],
            zorder=3,
            color=colours[point],
            edgecolors="white",
            linewidths=0.6,
        )
    shared = baseline is None
    axes.set_xlabel(
        "base-model accuracy on the held-out items (%); it shares items with the gain, "
        "\nso chance alone makes the points fall to the right"
        if shared
        else "base-model accuracy on training-split questions (%)",
        fontsize=9,
    )
    seeds = int(drawn["n_seeds"].max())
    whiskers = "95 % Newcombe interval" if seeds == 1 else f"lowest to highest of {seeds} seeds"
    axes.set_ylabel(f"gain (points); whiskers: {whiskers}", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.06)
    _legends(axes, drawn, marker)
    finish_figure(figure, axes, title, note)
    place_labels(figure, axes, x, y, short_codes(drawn["language"].tolist()), colours, _LABEL_SIZE)
    return figure


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
    """The part of each code before the script, where that still tells the languages apart.

    Args:
        codes: Belebele's codes, such as `heb_Hebr`; repeats are one language.

    Returns:
        One label per code, such as `heb`.
    """
    start: dict[str, set[str]] = {}
    for code in codes:
        start.setdefault(code.split("_")[0], set()).add(code)
    return [code.split("_")[0] if len(start[code.split("_")[0]]) == 1 else code for code in codes]


def _legends(axes: Axes, drawn: pd.DataFrame, marker: Mapping[str, str]) -> None:
    """One legend for families and one for models, beside the axes."""
    present = [name for name in FAMILY_ORDER if (drawn["family"] == name).any()]
    family = [Line2D([], [], ls="", marker="o", color=FAMILY_COLOURS[n], label=n) for n in present]
    model = [
        Line2D([], [], ls="", marker=shape, color=GREY, label="\n".join(textwrap.wrap(name, 24)))
        for name, shape in marker.items()
    ]
    first = axes.legend(
        handles=family,
        title="language family",
        loc="upper left",
        fontsize=8,
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        title_fontsize=8,
        alignment="left",
    )
    axes.add_artist(first)
    axes.legend(
        handles=model,
        title="model",
        loc="upper left",
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(1.01, 0.93 - 0.03 * len(present)),
        title_fontsize=8,
        alignment="left",
    )
