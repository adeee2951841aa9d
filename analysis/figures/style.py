"""What every figure shares: colours, the gains to be drawn, title and small print, files.

Figures are drawn without pyplot, so drawing changes no global state and works in threads; what
matplotlib keeps globally is changed under a lock. Every plot takes a `title` (empty where a page
has its own), a `note` (small print below) and `narrow` (whether it is for a phone).
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from analysis.arrays import Floats

FAMILY_ORDER = ("source", "related", "control")
# Okabe & Ito's palette, told apart by readers with any common form of colour blindness.
FAMILY_COLOURS = {"source": "#000000", "related": "#0072B2", "control": "#D55E00"}
GREY = "#666666"
ACCENT = "#009E73"
BAND = "#e8e8e8"
NARROW_WIDTH = 3.7
"""Width in inches of a figure for a phone, where letters of 7 points can still be read."""
TIGHT = {"columnspacing": 1.2, "handletextpad": 0.4}
"""Spacing of a legend with many entries."""
MAX_TIPS = 600
"""Points that get a text on hover; beyond it the file would grow and hover help nobody."""
SETTINGS = threading.Lock()
"""Confines changed settings of matplotlib, which are global, to one thread."""


def figure_gains(cells: pd.DataFrame, condition: tuple[str, ...]) -> pd.DataFrame:
    """Choose the gains to be drawn: one row per model and language, averaged over seeds.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
        condition: Arm, reasoning and scoring.

    Returns:
        Columns model, language, family, accuracy_base, gain, low, high, n_seeds; proportions.
        `low` and `high` are the Newcombe limits of a single seed, else the lowest and highest
        gain of the seeds; NaN where there are none.
    """
    rows = cells[(cells[["arm", "reasoning", "scoring"]] == list(condition)).all(axis=1)]
    groups = rows.groupby(["model", "language", "family"], sort=True)
    table = groups[["accuracy_base", "gain", "ci_low", "ci_high"]].mean(skipna=False)
    gain = groups["gain"]
    table["n_seeds"] = gain.size()
    many = table["n_seeds"] > 1
    table["low"] = table.pop("ci_low").mask(many, gain.min())
    table["high"] = table.pop("ci_high").mask(many, gain.max())
    return table.reset_index()


def language_order(gains: pd.DataFrame, distance: Mapping[str, int] | None) -> list[str]:
    """Order languages by family (source, related, control), distance if known, and code.

    Args:
        gains: As figure_gains gives them.
        distance: Language code to steps from the source in the family tree, or None.

    Returns:
        The codes, each once.
    """
    family = gains.drop_duplicates("language").set_index("language")["family"]
    steps = distance or {}
    far = max(steps.values(), default=0) + 1
    return sorted(
        (str(code) for code in family.index),
        key=lambda c: (FAMILY_ORDER.index(family[c]), steps.get(c, far), c),
    )


def plain_text(text: str) -> str:
    """Escape the dollar signs, which matplotlib would read as the start of a formula."""
    return text.replace("$", r"\$")


def tip_id(text: str) -> str:
    """Return an artist's gid that analysis.figures.inline turns into a text shown on hover."""
    return f"tip:{text}"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure (inches) with automatic layout, not registered anywhere."""
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def draw_mark(axes: Axes, x: float, y: float, marker: str, **style: Any) -> None:
    """Draw one mark, by itself so that it can have a text on hover."""
    axes.plot([x], [y], marker=marker, **style)


def robust_limits(
    centre: Floats, low: Floats, high: Floats, *, times: float = 5.0, margin: float = 0.05
) -> tuple[float, float]:
    """Return limits of an axis that hold every estimate, and every interval but absurd ones.

    Args:
        centre: Shape (n,), the estimates, finite; n >= 1.
        low: Shape (n,), lower ends; NaN where there is no interval.
        high: Shape (n,), upper ends.
        times: An interval that reaches further than so many times the median reach is cut.
        margin: Room on both sides, as a share of the whole.
    """
    reach = np.maximum(high - centre, centre - low)
    known = reach[np.isfinite(reach)]
    most = times * float(np.median(known)) if known.size else 0.0
    lowest = float(np.min(np.fmax(np.fmin(low, centre), centre - most)))
    highest = float(np.max(np.fmin(np.fmax(high, centre), centre + most)))
    room = margin * (highest - lowest) if highest > lowest else 1.0
    return lowest - room, highest + room


def draw_interval(
    axes: Axes,
    ends: tuple[float, float],
    at: float,
    limits: tuple[float, float],
    *,
    upright: bool = False,
    **style: Any,
) -> None:
    """Draw an interval within limits of the axis, with an arrow where it goes on."""
    low, high = max(ends[0], limits[0]), min(ends[1], limits[1])
    along, across = [low, high], [at, at]
    axes.plot(*((across, along) if upright else (along, across)), solid_capstyle="butt", **style)
    for end, edge, marker in (
        (ends[0], low, "v" if upright else "<"),
        (ends[1], high, "^" if upright else ">"),
    ):
        if end != edge:
            axes.plot(
                *(([at], [edge]) if upright else ([edge], [at])), marker=marker, ms=5, mew=0,
                clip_on=False, color=style.get("color"), zorder=style.get("zorder", 2),
            )  # fmt: skip


def name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Make the vertical axis a list of rows, the first one on top."""
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def family_handles(present: Collection[str]) -> list[Artist]:
    """Return the legend's entries of the families that are drawn, in their order."""
    return [
        Line2D([], [], ls="", marker="o", color=FAMILY_COLOURS[name], label=name)
        for name in FAMILY_ORDER
        if name in present
    ]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int, **spacing: float) -> None:
    """Put the legend below the axes, so many entries side by side."""
    figure.legend(
        handles=list(handles), loc="outside lower left", ncols=columns, fontsize=8,
        frameon=False, **spacing,
    )  # fmt: skip


def quiet_axes(axes: Axes) -> None:
    """Take the frame's upper and right side away and make the ticks' numbers small."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def finish_figure(figure: Figure, axes: Axes, title: str, note: str) -> None:
    """Add the title, wrapped to the figure's width, above the axes, and the small print below.

    Both may be empty: a page has titles of its own.
    """
    width = int(figure.get_figwidth() * 10)  # about ten letters an inch at this size
    if title:
        wrapped = "\n".join(textwrap.wrap(plain_text(title), width))
        axes.set_title(wrapped, loc="left", fontsize=11, pad=10)
    if note:
        _write_note(figure, note)


def _write_note(figure: Figure, note: str) -> None:
    """Write small print at the figure's foot, below a legend that stands there."""
    note = "\n".join(textwrap.wrap(note, int(15 * figure.get_figwidth())))
    height = 72 * figure.get_figheight()
    foot = (6.0 + 11.0 * (note.count("\n") + 1)) / height
    taken = foot
    # The layout would put note and legend upon each other: it gets what lies above the two.
    for legend in figure.legends:
        box = legend.get_window_extent().transformed(figure.transFigure.inverted())
        if box.x0 < 0.2:
            taken = foot + box.height + 6.0 / height
            legend.set_bbox_to_anchor((0, foot, 1, 1 - foot), figure.transFigure)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, taken, 1, 1 - taken))
    below = figure.text(
        0.01, 0.45 * foot, plain_text(note), ha="left", va="center", fontsize=8, color=GREY,
        style="italic",
    )  # fmt: skip
    below.set_in_layout(False)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG, the same bytes for the same figure and name.

    Args:
        figure: What to write.
        stem: The path without its ending; the folder is made if need be.

    Returns:
        The two paths.

    Raises:
        OSError: If a file cannot be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("svg", "png")]
    # Without a salt the ids in an SVG file are drawn anew each time.
    with SETTINGS, mpl.rc_context({"svg.hashsalt": stem.name}):
        figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1])
    return paths
