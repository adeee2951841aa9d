"""The plot of gain by language, languages ordered by their distance from the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.arrays import Floats
from analysis.figures.style import (
    BAND,
    FAMILY_COLOURS,
    GREY,
    MAX_TIPS,
    NARROW_WIDTH,
    TIGHT,
    draw_interval,
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
from analysis.tables.numbers import signed

_FEW = 40
_NUMBER = " \N{MIDDLE DOT} "
_SINGLE = "families of one language"


@dataclass(frozen=True)
class _Line:
    """One line of the plot: a language, or the heading of a family where `code` is empty."""

    code: str
    label: str


def distance_plot(
    gains: pd.DataFrame,
    *,
    title: str,
    distance: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
    top_families: Mapping[str, str] | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw the gain by language: a dot per model, and their mean with its 95 % t interval.

    Languages go from the source (top) to the most distant (bottom), gains are in points. More than
    forty stand closer together, under the names of their families, in columns on a wide page.

    Args:
        gains: As analysis.figures.style.figure_gains gives them.
        title: What the figure shows.
        distance: Language code to branches away from the source.
        names: Language code to English name, as analysis.figures.language_names gives it.
        top_families: Language code to outermost family, from the same place.
        note: Small print below.
        narrow: Whether it is for a phone.

    Raises:
        ValueError: If there is nothing to draw.
    """
    drawn = gains.dropna(subset=["gain"])
    if drawn.empty:
        raise ValueError("distance plot: there are no gains to draw; run a fine-tuned arm first")
    by_code = {str(code): rows for code, rows in drawn.groupby("language")}
    dense = len(by_code) > _FEW
    lines = _lines(drawn, distance or {}, names or {}, (top_families or {}) if dense else {})
    columns = 1 if narrow or not dense else 2 if len(by_code) <= 2 * _FEW else 3
    stacks = _columns(lines, columns)
    height = (0.155 if dense else 0.34) * max(map(len, stacks))
    width = NARROW_WIDTH if narrow else 8.6 if columns == 1 else 3.7 * columns
    figure = new_figure(width, 1.3 + height)
    panels = figure.subplots(1, columns, squeeze=False).ravel()
    limits = _limits(by_code)
    for axes, stack in zip(panels, stacks, strict=True):
        axes.axvline(0, color=GREY, lw=1, zorder=1)
        axes.set_xlim(*limits)
        for place, line in enumerate(stack):
            if line.code:
                name = (names or {}).get(line.code, line.code)
                _language_row(axes, place, by_code[line.code], name, dense, limits)
        _name_lines(axes, stack, max(map(len, stacks)), dense)
        axes.set_xlabel("gain (points)", fontsize=9)
    _legend(figure, set(drawn["family"]), distance is not None, narrow)
    finish_figure(figure, panels[0], title, note)
    return figure


def _legend(figure: Figure, families: set[str], numbered: bool, narrow: bool) -> None:
    """Explain colours, marks, and the number behind a name."""
    handles = [
        *family_handles(families),
        Line2D([], [], ls="", marker="o", ms=4, alpha=0.5, color=GREY, label="one model"),
        Line2D([], [], marker="D", ms=5, color=GREY, label="mean, 95 % interval over models"),
    ]
    if numbered:
        handles.append(
            Line2D([], [], ls="", label="\N{MIDDLE DOT} n: branches away from the source")
        )
    legend_below(figure, handles, 2 if narrow else 6, **TIGHT)


def _lines(
    drawn: pd.DataFrame,
    steps: Mapping[str, int],
    names: Mapping[str, str],
    families: Mapping[str, str],
) -> list[_Line]:
    """Put languages in order, with a heading for each family of several."""
    order = _by_distance(drawn, steps)
    if not families:
        return [_Line(code, _tick(code, names, steps)) for code in order]
    source = set(drawn.loc[drawn["family"] == "source", "language"])
    count = Counter(families.get(code, "") for code in order if code not in source)
    groups: dict[str, list[str]] = {}
    for code in order:
        family = families.get(code, "")
        heading = family if count[family] > 1 and family else _SINGLE
        groups.setdefault("source" if code in source else heading, []).append(code)
    groups |= {_SINGLE: groups.pop(_SINGLE, [])}  # last
    lines: list[_Line] = []
    for heading, codes in groups.items():
        far = {steps.get(code) for code in codes}
        same = len(far) == 1 and None not in far and len(codes) > 1
        codes = sorted(codes, key=lambda code: (steps.get(code, 0), names.get(code, code)))
        if codes:
            more = f"{_NUMBER}{far.pop()}" if same else ""
            lines.append(_Line("", f"{heading}{more}"))
        lines += [_Line(code, _tick(code, names, {} if same else steps)) for code in codes]
    return lines


def _columns(lines: Sequence[_Line], number: int) -> list[list[_Line]]:
    """Cut lines into columns of about the same length, each under the name of its family."""
    size = -(-len(lines) // number)
    columns: list[list[_Line]] = [[]]
    heading: _Line | None = None
    for line in lines:
        full = len(columns[-1]) >= size
        # No heading stands alone at the foot of a column.
        if (full or (len(columns[-1]) == size - 1 and not line.code)) and len(columns) < number:
            columns.append([] if heading is None or not line.code else [heading])
        if not line.code:
            heading = _Line("", f"{line.label.split(_NUMBER)[0]}, continued")
        columns[-1].append(line)
    return columns + [[] for _ in range(number - len(columns))]


def _name_lines(axes: Axes, stack: Sequence[_Line], longest: int, dense: bool) -> None:
    """Write languages' and families' names beside the axes; all columns have the same rows."""
    name_rows(axes, [plain_text(line.label) for line in stack])
    axes.set_ylim(longest - 0.4, -0.6)
    quiet_axes(axes)
    if not dense:
        return
    axes.tick_params(axis="y", labelsize=6.5, length=0, pad=2)
    for text, line in zip(axes.get_yticklabels(), stack, strict=True):
        text.set_fontweight("normal" if line.code else "bold")
    for place, line in enumerate(stack):
        if line.code:
            axes.axhline(place, color=BAND, lw=0.5, zorder=0)


def _by_distance(drawn: pd.DataFrame, steps: Mapping[str, int]) -> list[str]:
    """Order codes by distance where there is any, then in the order of the other figures."""
    order = language_order(drawn, steps)
    far = max(steps.values(), default=0) + 1
    source = set(drawn.loc[drawn["family"] == "source", "language"])
    return sorted(order, key=lambda code: (code not in source, steps.get(code, far)))


def _limits(by_code: Mapping[str, pd.DataFrame]) -> tuple[float, float]:
    """Return limits that hold 0 and every dot, and intervals up to three times the dots' width."""
    values = [100 * rows["gain"].to_numpy(np.float64) for rows in by_code.values()]
    ends = np.array([mean_interval(gain) for gain in values])
    dots = np.concatenate([*values, [0.0]])
    first, last, width = float(dots.min()), float(dots.max()), float(np.ptp(dots)) or 1.0
    low = max(float(np.fmin.reduce([*ends[:, 0], first])), first - width)
    high = min(float(np.fmax.reduce([*ends[:, 1], last])), last + width)
    return low - 0.03 * width, high + 0.03 * width


def _language_row(
    axes: Axes,
    place: int,
    rows: pd.DataFrame,
    language: str,
    dense: bool,
    limits: tuple[float, float],
) -> None:
    """Draw the models' dots and their mean for one language."""
    colour = FAMILY_COLOURS[str(rows["family"].iloc[0])]
    values = 100 * rows["gain"].to_numpy(np.float64)
    dots: dict[str, Any] = {"color": colour, "alpha": 0.45, "lw": 0, "zorder": 2}
    if dense:
        axes.scatter(values, np.full(len(values), place), s=7, **dots)
    for value, model in zip(values, rows["model"], strict=True) if not dense else ():
        tip = tip_id(f"{model}, {language}: {signed(value, 1)} points")
        few = len(values) <= MAX_TIPS // 10
        draw_mark(axes, value, place, "o", ms=4.5, mew=0, gid=tip if few else None, **dots)
    low, high = mean_interval(values)
    if np.isfinite(low):
        style: dict[str, Any] = {"color": colour, "lw": 1.1 if dense else 1.6, "zorder": 3}
        draw_interval(axes, (low, high), place, limits, **style)
    tip = tip_id(f"{language}: mean {signed(values.mean(), 1)} points over {len(values)} models")
    draw_mark(
        axes, values.mean(), place, "D", ms=3.8 if dense else 6.5, color=colour, mec="white",
        mew=0.5 if dense else 0.9, zorder=4, gid=tip,
    )  # fmt: skip


def mean_interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % t interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean() - half), float(values.mean() + half)


def _tick(code: str, names: Mapping[str, str], steps: Mapping[str, int]) -> str:
    """Return a language's name, and how many branches away it is."""
    name = names.get(code, code)
    return name if code not in steps else f"{name}{_NUMBER}{steps[code]}"
