"""The forest plot of D, B and I under each estimator and sampling unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.estimates import Estimate
from analysis.estimators.primary import primary_row
from analysis.figures.style import (
    BAND,
    FAMILY_COLOURS,
    GREY,
    NARROW_WIDTH,
    draw_interval,
    draw_mark,
    finish_figure,
    new_figure,
    plain_text,
    quiet_axes,
    robust_limits,
    tip_id,
)
from analysis.tables.numbers import signed

POINTS, LOGIT = "points", "logit"
ESTIMATORS = {
    "welch": "Welch's t-test",
    "intersection_union": "wider of both",
    "one_sample_ttest": "t-test",
    "random_effects": "random effects",
    "ttest": "t-test, equal variances",
    "mixed_anova": "mixed ANOVA",
    "crossed_quasi_t": "crossed quasi-t",
    "cluster_t": "t, clustered by passage",
    "passage_bootstrap": "passage bootstrap",
    "permutation": "exact permutation",
    "hierarchical": "hierarchical model",
    "ols_cr3": "regression, CR3",
    "ols_cluster_robust": "clustered regression",
    "linear_regression": "published regression, biased",
    "tost": "equivalence (90 % interval)",
}
"""Estimators in words, in the order of the plot."""
HEADINGS = {
    "D": "D: related \N{MINUS SIGN} control",
    "B": "B: weak \N{MINUS SIGN} strong models",
    "I": "I: D of weak \N{MINUS SIGN} D of strong models",
}
_VARIANTS = ("at mean baseline", "beyond headroom", "(published regression)")
_ONE_SAMPLE = (("ttest", "models"), ("ttest", "developers"))
_SIZE = 7.5


@dataclass(frozen=True)
class ForestLine:
    """One line of the plot: the rows of one estimand, estimator and unit, by scale."""

    contrast: str
    label: str
    estimator: str
    rows: dict[str, Estimate]
    primary: bool = False

    @property
    def estimate(self) -> float | None:
        """The line's first number on any scale; None if it has none to draw."""
        found = (row.estimate for row in self.rows.values() if row.estimate is not None)
        return next(found, None)


def forest_lines(estimates: Sequence[Estimate]) -> list[ForestLine]:
    """Choose the rows that estimate D, B or I of the primary arm, a line per estimator and unit.

    Args:
        estimates: All rows of an analysis.

    Returns:
        Lines of D, of B, then of I; of each first the one that the words rest on, then in the
        order of ESTIMATORS; within it in that of the rows.
    """
    main = {name: primary_row(estimates, name) for name in HEADINGS}
    lines: dict[tuple[str, str, str], ForestLine] = {}
    for row in estimates:
        contrast = row.estimand[:1]
        variant = row.estimand[2:]
        if contrast not in HEADINGS or row.scale not in (POINTS, LOGIT):
            continue
        if row.estimand != contrast and row.estimand not in _variants(contrast):
            continue
        key = (row.estimand, row.estimator, row.unit)
        # Over models D is one value each, tested against 0: there are no two variances.
        kind = "one_sample_ttest" if key[1:] in _ONE_SAMPLE else row.estimator
        words = ESTIMATORS.get(kind, row.estimator.replace("_", " "))
        label = f"{words} \N{MIDDLE DOT} {row.unit}"
        if variant and variant not in _VARIANTS[::2]:  # these two are named by their estimator
            label = f"{variant}: {label}"
        primary = main[contrast]
        first = primary is not None and key == (contrast, primary.estimator, primary.unit)
        line = lines.setdefault(key, ForestLine(contrast, label, row.estimator, {}, first))
        line.rows.setdefault(row.scale, row)
    order = list(ESTIMATORS)
    return sorted(
        lines.values(),
        key=lambda line: (
            list(HEADINGS).index(line.contrast),
            not line.primary,
            order.index(line.estimator) if line.estimator in order else len(order),
        ),
    )


def _variants(contrast: str) -> tuple[str, ...]:
    return tuple(f"{contrast} {variant}" for variant in _VARIANTS)


def forest_plot(
    estimates: Sequence[Estimate], *, title: str, bound: float, note: str = "", narrow: bool = False
) -> Figure:
    """Draw D, B and I with their intervals, in points and in logits; on a phone one below another.

    `estimates` are all rows of an analysis, of which forest_lines chooses. `bound` is the
    equivalence bound in proportion, shaded for D and I on the panel in points. A row without an
    interval shows its p or its status instead; an interval far longer than the others is cut off
    with an arrow, and its numbers stand beside it.

    Raises:
        ValueError: If no row estimates D, B or I.
    """
    lines = forest_lines(estimates)
    if not lines:
        raise ValueError("forest plot: no estimate of D, B or I")
    scales, missing = _scales(lines)
    # Panels side by side share their rows; one below another, each has its own.
    chosen = [[line for line in lines if scale in line.rows or not narrow] for scale in scales]
    ends = [_places(panel, 1.75 if narrow else 1.0)[2] for panel in chosen]
    if narrow:
        figure = new_figure(NARROW_WIDTH, sum(0.7 + 0.2 * end for end in ends))
        panels = figure.subplots(len(scales), 1, squeeze=False, height_ratios=ends).ravel()
    else:
        figure = new_figure(11.0, 1.1 + 0.27 * ends[0])
        panels = figure.subplots(1, len(scales), squeeze=False).ravel()
    for axes, scale, panel in zip(panels, scales, chosen, strict=True):
        _draw_panel(axes, panel, scale, bound, narrow)
    if not narrow:
        places, heads, _ = _places(lines, 1.0)
        name_lines(
            panels[0],
            [(line.label, place) for line, place in zip(lines, places, strict=True)],
            [(HEADINGS[name], place) for name, place in heads.items()],
        )
    finish_figure(figure, panels[0], title, ". ".join(filter(None, [note, missing])))
    return figure


def _scales(lines: Sequence[ForestLine]) -> tuple[list[str], str]:
    """Return the scales with a number, and why logits are left out where they have none."""
    rows = {
        scale: [line.rows[scale] for line in lines if scale in line.rows]
        for scale in (POINTS, LOGIT)
    }
    drawn = [scale for scale, of in rows.items() if any(row.estimate is not None for row in of)]
    missing = "" if LOGIT in drawn or not rows[LOGIT] else f"No logits: {rows[LOGIT][0].status}"
    return drawn or [POINTS], missing


def _draw_panel(
    axes: Axes, lines: Sequence[ForestLine], scale: str, bound: float, narrow: bool
) -> None:
    """Draw the lines of one scale."""
    places, heads, end = _places(lines, 1.75 if narrow else 1.0)
    axes.set_ylim(end - 0.3, -0.8)
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    rows = [row for line in lines if (row := line.rows.get(scale)) is not None]
    limits = axis_limits([(row.estimate, own_interval(row)) for row in rows], scale)
    axes.set_xlim(*limits)
    if scale == POINTS:
        shade_bound(axes, bound, heads, end)
    for line, place in zip(lines, places, strict=True):
        _draw_line(axes, line, scale, place, limits, narrow)
    plain_rows(axes)
    if narrow:
        headings(axes, {HEADINGS[name]: place for name, place in heads.items()})
    shaded = f"; shaded for D and I: \N{PLUS-MINUS SIGN}{100 * bound:g}"
    axes.set_xlabel(f"points{shaded}" if scale == POINTS else "guess-corrected logits", fontsize=9)


def name_lines(
    axes: Axes, labels: Sequence[tuple[str, float]], heads: Sequence[tuple[str, float]]
) -> None:
    """Write the names of rows, and bold headings, beside the axes at their heights."""
    names = [*labels, *heads]
    axes.set_yticks([at for _, at in names], [plain_text(text) for text, _ in names], fontsize=8)
    for text in axes.get_yticklabels()[len(labels) :]:
        text.set_fontweight("bold")


def own_interval(row: Estimate) -> tuple[float, float] | None:
    """Return a row's interval, if it has one."""
    return None if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)


def axis_limits(
    drawn: Sequence[tuple[float | None, tuple[float, float] | None]], scale: str
) -> tuple[float, float]:
    """Return limits that hold 0, every estimate, and every interval but absurdly long ones."""
    known = [(0.0, None), *((value, ends) for value, ends in drawn if value is not None)]
    nothing = (np.nan, np.nan)
    found = np.array([(value, *(ends or nothing)) for value, ends in known], np.float64)
    found *= 100 if scale == POINTS else 1
    return robust_limits(found[:, 0], found[:, 1], found[:, 2])


def shade_bound(axes: Axes, bound: float, heads: Mapping[str, float], end: float) -> None:
    """Shade the equivalence bound, in points, behind the rows of D and of I."""
    tops = sorted(heads.values())
    for name in ("D", "I"):
        if name in heads:
            top = heads[name]
            foot = next((place for place in tops if place > top), end + 0.2)
            axes.fill_betweenx(
                [top - 0.5, foot - 0.5], -100 * bound, 100 * bound, color=BAND, lw=0, zorder=0
            )


def plain_rows(axes: Axes) -> None:
    """Leave the vertical axis without line and ticks."""
    quiet_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([])


def _places(
    lines: Sequence[ForestLine], step: float
) -> tuple[list[float], dict[str, float], float]:
    """Return the height of each line and of each heading, and where the last line ends."""
    places: list[float] = []
    heads: dict[str, float] = {}
    at = 0.0
    for line in lines:
        if line.contrast not in heads:
            heads[line.contrast] = at
            at += max(1.0, step - 0.1)
        places.append(at)
        at += step
    return places, heads, at


def headings(axes: Axes, heads: Mapping[str, float]) -> None:
    """Write headings at their heights."""
    for words, place in heads.items():
        axes.text(
            0.0,
            place,
            words,
            transform=axes.get_yaxis_transform(),
            fontweight="bold",
            fontsize=8.5,
            va="center",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )


def _draw_line(
    axes: Axes,
    line: ForestLine,
    scale: str,
    place: float,
    limits: tuple[float, float],
    narrow: bool,
) -> None:
    """Draw interval, estimate and numbers of one line on one scale."""
    row = line.rows.get(scale)
    numbers = _numbers(row, scale, with_p=not narrow)
    write_line(axes, place, line.label, numbers, narrow)
    if row is None or row.estimate is None:
        return
    factor = 100 if scale == POINTS else 1
    primary = line.primary
    biased = line.estimator == "linear_regression"
    colour = FAMILY_COLOURS["related" if primary else "control"] if primary or biased else GREY
    if (own := own_interval(row)) is not None:
        ends = (factor * own[0], factor * own[1])
        draw_interval(axes, ends, place, limits, color=colour, lw=2.4 if primary else 1.4, zorder=2)
    draw_mark(
        axes, factor * row.estimate, place, "D" if primary else "o", ms=7 if primary else 5.5,
        color=colour, mec="white", mew=0.8, zorder=3, gid=tip_id(f"{line.label}: {numbers}"),
    )  # fmt: skip


def write_line(axes: Axes, place: float, label: str, numbers: str, narrow: bool) -> None:
    """Write a row's numbers beside the axes; on a phone label and numbers above the row."""
    text: dict[str, Any] = {"fontsize": _SIZE, "va": "center"}
    text["transform"] = axes.get_yaxis_transform()
    if not narrow:
        axes.text(1.02, place, numbers, **text)
        return
    halo = [withStroke(linewidth=1.5, foreground="white")]
    axes.text(0.0, place - 0.62, plain_text(label), path_effects=halo, **text)
    axes.text(1.0, place - 0.62, numbers, ha="right", path_effects=halo, **text)


def _numbers(row: Estimate | None, scale: str, *, with_p: bool) -> str:
    """Write estimate, interval and p of a row, or why there are none.

    With an interval p may be left out for want of room.
    """
    if row is None:
        return ""
    p = "" if row.p is None else "p < 0.001" if row.p < 0.001 else f"p {row.p:.3f}"
    if row.estimate is None:
        return plain_text(p or shorten(row.status, 34))
    text = short_number(row.estimate, scale)
    if (own := own_interval(row)) is not None:
        text += f" [{short_number(own[0], scale)}, {short_number(own[1], scale)}]"
    elif not p:
        text += f" ({shorten(row.status, 24)})"
    return plain_text(f"{text}  {p if with_p or row.ci_low is None else ''}".rstrip())


def short_number(value: float, scale: str) -> str:
    """Write a number in points or logits; one of absurd size as beyond 9,999."""
    factor, digits = (100, 1) if scale == POINTS else (1, 2)
    if abs(factor * value) < 10_000:
        return signed(factor * value, digits)
    return f"{'<' if value < 0 else '>'} {signed(9999 * (-1 if value < 0 else 1), 0)}"


def shorten(text: str, width: int) -> str:
    """Cut a text off, with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
