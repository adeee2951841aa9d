"""The heatmap of gains by model and language."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import (
    FAMILY_COLOURS,
    FAMILY_ORDER,
    finish_figure,
    language_order,
    new_figure,
    plain_text,
)
from analysis.tables.numbers import signed

_MANY = 40


def gain_heatmap(
    gains: pd.DataFrame,
    *,
    title: str,
    distance: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
    note: str = "",
) -> Figure:
    """Draw a heatmap of gains in points, models by languages, languages grouped by family.

    More than forty languages are rows, so that their names can be read, and models columns. Colours
    are centred at 0, cells without a number are hatched. `gains` are as figure_gains gives
    them; `distance` maps a language code to steps from the source, to order languages within a
    family; `names` maps it to the English name.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if gains.empty:
        raise ValueError("heatmap: there are no gains to draw; run a fine-tuned arm first")
    codes = language_order(gains, distance)
    points = 100 * gains.pivot(index="model", columns="language", values="gain")[codes]
    family = gains.drop_duplicates("language").set_index("language")["family"]
    values = points.to_numpy(np.float64)
    left = _column_places([str(family[code]) for code in codes])
    tall = len(codes) > _MANY
    across, down = 0.68 * (left[-1] + 1), 0.5 * len(points)
    if tall:
        across, down = 0.62 * len(points), 0.17 * (left[-1] + 1)
    figure = new_figure(max(7.0, 3.4 + across), 2.6 + down)
    axes = figure.add_subplot()
    limit = max(5.0, float(np.nanmax(np.abs(values), initial=0.0)))
    norm, colours = Normalize(-limit, limit), colormaps["RdBu"]
    for row in range(len(points)):
        for column, place in enumerate(left):
            corner = (float(row), place) if tall else (place, float(row))
            _heatmap_cell(axes, corner, values[row, column], norm, 7 if tall else 9)
    labels = [_language_label(code, names or {}) for code in codes]
    families = [str(family[code]) for code in codes]
    if tall:
        _tall_axes(axes, list(points.index), labels, left)
        _name_families_beside(axes, len(points), left, families)
    else:
        _heatmap_axes(axes, list(points.index), labels, left)
        _name_families(axes, left, families)
    from_map = axes.scatter([], [], c=[], cmap=colours, norm=norm)
    bar = figure.colorbar(
        from_map, ax=axes, pad=0.015, fraction=0.04, aspect=max(8, 3 * len(points)),
        shrink=0.3 if tall else 1.0, anchor=(0.0, 1.0 if tall else 0.5),
    )  # fmt: skip
    bar.set_label("gain (points)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    hatched = "hatched: no number, see the cells table" if np.isnan(values).any() else ""
    finish_figure(figure, axes, title, ". ".join(filter(None, [note, hatched])))
    return figure


def _name_families(axes: Axes, left: Sequence[float], families: Sequence[str]) -> None:
    """Write each family's name over its columns, with a line below it."""
    for name in FAMILY_ORDER:
        places = [x for x, family in zip(left, families, strict=True) if family == name]
        if not places:
            continue
        colour = FAMILY_COLOURS[name]
        axes.text(
            float(np.mean(places)) + 0.5, -0.12, name, ha="center", va="bottom", color=colour,
            fontweight="bold", fontsize=9,
        )  # fmt: skip
        axes.plot(
            [places[0] + 0.04, places[-1] + 0.96], [-0.07, -0.07], lw=2, color=colour,
            clip_on=False, solid_capstyle="butt",
        )  # fmt: skip


def _column_places(families: Sequence[str]) -> list[float]:
    """Return the left edge of each column, with a gap where the family changes."""
    gaps = np.cumsum([0.0] + [0.3 * (a != b) for a, b in pairwise(families)])
    return [float(i + gap) for i, gap in enumerate(gaps)]


def _heatmap_cell(
    axes: Axes, corner: tuple[float, float], value: float, norm: Normalize, size: float
) -> None:
    """Draw one square with its number, or hatched if there is none."""
    x, y = corner
    if not np.isfinite(value):
        axes.add_patch(_square(x, y, facecolor="white", hatch="////", edgecolor="#bbbbbb"))
        return
    colour = colormaps["RdBu"](norm(value))
    axes.add_patch(_square(x, y, facecolor=colour, edgecolor="white"))
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.55
    axes.text(
        x + 0.5,
        y + 0.5,
        signed(value, 1),
        ha="center",
        va="center",
        fontsize=size,
        color="black" if light else "white",
    )


def _language_label(code: str, names: Mapping[str, str]) -> str:
    return plain_text(f"{names[code]} ({code})" if names.get(code) else code)


def _tall_axes(
    axes: Axes, models: Sequence[str], labels: Sequence[str], top: Sequence[float]
) -> None:
    """Set limits and tick labels where languages are rows."""
    axes.set_xlim(0, len(models))
    axes.set_ylim(top[-1] + 1, 0)
    axes.set_yticks([y + 0.5 for y in top], list(labels), fontsize=7)
    axes.xaxis.tick_top()
    axes.set_xticks(
        [x + 0.5 for x in range(len(models))], [plain_text(model) for model in models],
        rotation=45, ha="left", rotation_mode="anchor", fontsize=8,
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _name_families_beside(
    axes: Axes, n_models: int, top: Sequence[float], families: Sequence[str]
) -> None:
    """Write each family's name beside its rows, with a line between."""
    for name in FAMILY_ORDER:
        places = [y for y, family in zip(top, families, strict=True) if family == name]
        if places:
            colour, x = FAMILY_COLOURS[name], n_models + 0.1
            ends = [places[0] + 0.08, places[-1] + 0.92]
            axes.plot([x, x], ends, lw=2, color=colour, clip_on=False, solid_capstyle="butt")
            axes.text(
                x + 0.08, float(np.mean(ends)), name, va="center", color=colour, rotation=90,
                fontweight="bold", fontsize=8 if len(places) > 3 else 7,
            )  # fmt: skip


def _square(x: float, y: float, **style: Any) -> Rectangle:
    return Rectangle((x, y), 1, 1, linewidth=1, **style)


def _heatmap_axes(
    axes: Axes,
    models: Sequence[str],
    labels: Sequence[str],
    left: Sequence[float],
) -> None:
    """Set limits and tick labels."""
    axes.set_xlim(0, left[-1] + 1)
    axes.set_ylim(len(models), -0.5)
    axes.set_xticks(
        [x + 0.5 for x in left],
        list(labels),
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    axes.set_yticks(
        [y + 0.5 for y in range(len(models))],
        ["\n".join(textwrap.wrap(plain_text(m), 24)) for m in models],
        fontsize=9,
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
