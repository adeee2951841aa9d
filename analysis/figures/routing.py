"""The heatmaps of expert routing: divergence from the source by language and layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.arrays import Floats
from analysis.figures.style import (
    FAMILY_COLOURS,
    FAMILY_ORDER,
    NARROW_WIDTH,
    finish_figure,
    new_figure,
    plain_text,
)

_ROW = 0.2  # height in inches of a language
_LEAST = 1e-3  # bits; smaller scales would only show rounding
_LONGEST_NAME = 16  # letters, on a phone


class _Panel(NamedTuple):
    column: str
    heading: str
    colours: str


# cividis and PuOr are told apart by readers with any common form of colour blindness.
_PANELS = (
    _Panel("divergence_before", "before", "cividis"),
    _Panel("divergence_after", "after", "cividis"),
    _Panel("divergence_change", "after − before", "PuOr_r"),
)


def routing_plot(
    table: pd.DataFrame,
    *,
    title: str,
    names: Mapping[str, str] | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw how far each language's routing is from the source: before, after, the change.

    Languages go down, by family (source, related, control) and then by name, layers across; the
    Jensen–Shannon divergence is in bits. `table` is as measures.routing.routing_changes gives it,
    of one model; `names` maps a language code to its English name.

    Raises:
        ValueError: If there is nothing to draw, or more than one model.
    """
    models = table["model"].unique()
    if len(models) != 1:
        raise ValueError(
            f"routing plot: {len(models)} models have routing before and after; "
            "give one, a mixture of experts scored with and without its adapter"
        )
    known = names or {}
    family = table.drop_duplicates("language").set_index("language")["family"]
    codes = sorted(
        map(str, family.index), key=lambda c: (FAMILY_ORDER.index(family[c]), known.get(c, c), c)
    )
    families = [str(family[code]) for code in codes]
    figure, axes = _panels(len(codes), narrow)
    images = [
        _draw_panel(one, panel, _grid(table, codes, panel.column), _limits(table, panel))
        for one, panel in zip(axes, _PANELS, strict=True)
    ]
    for one in axes:
        _family_gaps(one, families)
    for one in axes if narrow else axes[:1]:
        _language_ticks(one, [_label(code, known, narrow) for code in codes], families)
    for one in axes[2:] if narrow else axes:
        one.set_xlabel("layer", fontsize=8)
    _colour_bars(figure, axes, images, narrow)
    _legend(axes[0], families)
    finish_figure(figure, axes[0], "", note)
    if title:
        lines = textwrap.wrap(plain_text(title), int(figure.get_figwidth() * 10))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    return figure


def _panels(languages: int, narrow: bool) -> tuple[Figure, list[Axes]]:
    """Make three axes: side by side, or one below the other on a phone."""
    height = max(_ROW * languages, 1.0)
    if narrow:
        figure = new_figure(NARROW_WIDTH, 3 * height + 3.1)
        return figure, list(figure.subplots(3, 1, sharex=True))
    figure = new_figure(10.5, height + 2.4)
    return figure, list(figure.subplots(1, 3, sharey=True))


def _grid(table: pd.DataFrame, codes: Sequence[str], column: str) -> pd.DataFrame:
    """Return languages by layers."""
    return table.pivot(index="language", columns="layer", values=column).loc[list(codes)]


def _limits(table: pd.DataFrame, panel: _Panel) -> Normalize:
    """Put before and after on one scale from 0, the change on one around 0."""
    if panel is _PANELS[2]:
        largest = max(float(table[panel.column].abs().max()), _LEAST)
        return Normalize(-largest, largest)
    both = table[[_PANELS[0].column, _PANELS[1].column]].to_numpy(np.float64)
    return Normalize(0.0, max(float(both.max()), _LEAST))


def _draw_panel(axes: Axes, panel: _Panel, grid: pd.DataFrame, norm: Normalize) -> AxesImage:
    values: Floats = grid.to_numpy(np.float64)
    # A picture and not a path for each of up to thousands of cells, which would swell an SVG.
    image = axes.imshow(
        values, cmap=panel.colours, norm=norm, aspect="auto", interpolation="nearest"
    )
    layers = [int(layer) for layer in grid.columns]
    wanted = MaxNLocator(8, integer=True).tick_values(layers[0], layers[-1])
    places = [place for place, layer in enumerate(layers) if layer in wanted or len(layers) <= 8]
    axes.set_xticks(places, [str(layers[place]) for place in places], fontsize=8)
    axes.set_title(panel.heading, loc="left", fontsize=9)
    axes.tick_params(axis="x", length=2)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return image


def _family_gaps(axes: Axes, families: Sequence[str]) -> None:
    """Draw a white line where the family changes."""
    for place, (above, below) in enumerate(pairwise(families)):
        if above != below:
            axes.axhline(place + 0.5, color="#ffffff", lw=3)


def _language_ticks(axes: Axes, labels: Sequence[str], families: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for text, name in zip(axes.get_yticklabels(), families, strict=True):
        text.set_color(FAMILY_COLOURS[name])


def _label(code: str, names: Mapping[str, str], narrow: bool) -> str:
    name = names.get(code, code)
    return plain_text(code if narrow and len(name) > _LONGEST_NAME else name)


def _colour_bars(
    figure: Figure, axes: Sequence[Axes], images: Sequence[AxesImage], narrow: bool
) -> None:
    """Draw a colour bar for before and after, and one for the change."""
    for image, owners, words in (
        (images[0], axes[:2], "divergence from the source (bits)"),
        (images[2], axes[2:], "change (bits)"),
    ):
        bar = figure.colorbar(
            image,
            ax=list(owners),
            orientation="vertical" if narrow else "horizontal",
            aspect=30 if len(owners) > 1 else 15,
            pad=0.02,
            fraction=0.08,
        )
        bar.set_label(words, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        bar.outline.set_visible(False)
        if bar.solids is not None:
            bar.solids.set_rasterized(True)


def _legend(axes: Axes, families: Sequence[str]) -> None:
    """Explain the colours of the languages' names, in the order in which they stand.

    It stands above the panel: below the figure, it and the small print would share one place.
    """
    axes.legend(
        handles=[
            Line2D([], [], ls="", color=FAMILY_COLOURS[name], label=name)
            for name in FAMILY_ORDER
            if name in families
        ],
        loc="lower right",
        bbox_to_anchor=(1.02, 1.0),
        ncols=3,
        fontsize=8,
        frameon=False,
        labelcolor="linecolor",
        handlelength=0,
        handletextpad=0,
        columnspacing=0.6,
        borderaxespad=0,
    )
