"""Puts short labels beside the points of a plot, covering each other as little as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.arrays import Floats

_MARKER_RADIUS = 4.5  # in typographic points, as every length here
_ANGLES = np.deg2rad([0, 180, 45, 135, 315, 225, 90, 270])
_RADII = (7.0, 11.0, 16.0, 22.0, 29.0)


def place_labels(
    figure: Figure,
    axes: Axes,
    x: Floats,
    y: Floats,
    labels: Sequence[str],
    colours: Sequence[str],
    size: float,
) -> None:
    """Write a label beside each point, in the free place nearest to it.

    Each point in turn takes the first of forty places around it that covers neither a marker nor
    an earlier label, or else the one that covers least. A label far from its point gets a thin
    line to it.

    Args:
        figure: The figure; its layout is computed here, so call this last.
        axes: Where the points are.
        x: Shape (n,), in data coordinates.
        y: Shape (n,), in data coordinates.
        labels: n short texts.
        colours: n colours.
        size: Font size in typographic points.
    """
    figure.draw_without_rendering()  # fixes the layout, so that data coordinates have a place
    scale = 72 / figure.dpi
    points = axes.transData.transform(np.column_stack([x, y])) * scale
    frame = axes.get_window_extent()
    inside = np.array([frame.x0, frame.y0, frame.x1, frame.y1]) * scale
    taken = list(np.hstack([points - _MARKER_RADIUS, points + _MARKER_RADIUS]))
    for index, text in enumerate(labels):
        half = np.array([0.32 * size * len(text), 0.5 * size])
        offset, box = _best_place(points[index], half, np.array(taken), inside)
        taken.append(box)
        far = np.hypot(*offset) > _RADII[1] + half[0]
        colour = colours[index]
        line = {"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            text, (x[index], y[index]), xytext=tuple(offset), textcoords="offset points",
            fontsize=size, color=colour, ha="center", va="center", zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops=line if far else None,
        )  # fmt: skip


def _best_place(
    point: Floats, half: Floats, taken: Floats, inside: Floats
) -> tuple[Floats, Floats]:
    """Return the offset of the label's centre from its point, and its box (x0, y0, x1, y1)."""
    places: list[tuple[float, Floats, Floats]] = []
    for radius in _RADII:
        for angle in _ANGLES:
            way = np.array([np.cos(angle), np.sin(angle)])
            offset = way * (radius + np.array([half[0], 0.0]) * abs(way[0]))
            centre = point + offset
            box = np.concatenate([centre - half, centre + half])
            width = np.minimum(box[2], taken[:, 2]) - np.maximum(box[0], taken[:, 0])
            height = np.minimum(box[3], taken[:, 3]) - np.maximum(box[1], taken[:, 1])
            cover = float((np.maximum(width, 0) * np.maximum(height, 0)).sum())
            outside = bool((box[:2] < inside[:2]).any() or (box[2:] > inside[2:]).any())
            cost = cover + 1000.0 * outside
            if cost == 0:
                return offset, box
            places.append((cost, offset, box))
    best = min(places, key=lambda place: place[0])
    return best[1], best[2]
