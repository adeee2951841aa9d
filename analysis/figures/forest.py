"""The forest plot of D and I under each estimator and sampling unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.estimates import Estimate
from analysis.figures.style import (
    BAND,
    FAMILY_COLOURS,
    GREY,
    NARROW_WIDTH,
    draw_mark,
    finish_figure,
    new_figure,
    plain_text,
    quiet_axes,
    tip_id,
)

POINTS, LOGIT = "points", "logit"
ESTIMATORS = {
    "ttest": "t-test",
    "mixed_anova": "mixed ANOVA",
    "crossed_quasi_t": "crossed quasi-t",
    "cluster_t": "t, clustered by passage",
    "passage_bootstrap": "passage bootstrap",
    "permutation": "exact permutation",
    "ols_cluster_robust": "clustered regression",
    "linear_regression": "published regression, biased",
    "tost": "equivalence (90 % interval)",
}
"""Estimators in words, in the order of the plot."""
HEADINGS = {
    "D": "D: related \N{MINUS SIGN} control",
    "I": "I: D of weak \N{MINUS SIGN} D of strong models",
}
_PRIMARY = ("ttest", "mixed_anova")
_SIZE = 7.5


@dataclass(frozen=True)
class ForestLine:
    """One line of the plot: the rows of one estimand, estimator and unit, by scale."""

    contrast: str
    label: str
    estimator: str
    rows: dict[str, Estimate]

    @property
    def estimate(self) -> float | None:
        """The line's first number on any scale; None if it has none to draw."""
        found = (row.estimate for row in self.rows.values() if row.estimate is not None)
        return next(found, None)


def forest_lines(estimates: Sequence[Estimate]) -> list[ForestLine]:
    """Choose the rows that estimate D or I of the primary arm, one line per estimator and unit.

    Args:
        estimates: All rows of an analysis.

    Returns:
        Lines of D, then of I, in the order of ESTIMATORS; within it in that of the rows.
    """
    lines: dict[tuple[str, str, str], ForestLine] = {}
    for row in estimates:
        contrast = row.estimand[:1]
        wanted = {contrast, f"{contrast} at mean baseline", f"{contrast} (published regression)"}
        if contrast not in HEADINGS or row.estimand not in wanted:
            continue
        key = (row.estimand, row.estimator, row.unit)
        label = f"{ESTIMATORS.get(row.estimator, row.estimator.replace('_', ' '))} · {row.unit}"
        line = lines.setdefault(key, ForestLine(contrast, label, row.estimator, {}))
        line.rows.setdefault(row.scale, row)
    order = list(ESTIMATORS)
    return sorted(
        lines.values(),
        key=lambda line: (
            list(HEADINGS).index(line.contrast),
            not _is_primary(line),
            order.index(line.estimator) if line.estimator in order else len(order),
        ),
    )


def forest_plot(
    estimates: Sequence[Estimate], *, title: str, bound: float, note: str = "", narrow: bool = False
) -> Figure:
    """Draw D and I with their intervals, in points and in logits; on a phone one below the other.

    `estimates` are all rows of an analysis, of which forest_lines chooses. `bound` is the
    equivalence bound in proportion, shaded on the panel in points. A row without an interval shows
    its p or its status instead.

    Raises:
        ValueError: If no row estimates D or I.
    """
    lines = forest_lines(estimates)
    if not lines:
        raise ValueError("forest plot: no estimate of D or I")
    places, heads, end = _places(lines, 1.75 if narrow else 1.0)
    scales = [s for s in (POINTS, LOGIT) if any(s in line.rows for line in lines)]
    if narrow:
        figure = new_figure(NARROW_WIDTH, len(scales) * (0.7 + 0.2 * end))
        panels = figure.subplots(len(scales), 1, squeeze=False).ravel()
    else:
        figure = new_figure(11.0, 1.1 + 0.27 * end)
        panels = figure.subplots(1, len(scales), squeeze=False, sharey=True).ravel()
    for axes, scale in zip(panels, scales, strict=True):
        axes.set_ylim(end - 0.3, -0.8)
        axes.axvline(0, color=GREY, lw=1, zorder=1)
        if scale == POINTS:
            axes.axvspan(-100 * bound, 100 * bound, color=BAND, lw=0, zorder=0)
        for line, place in zip(lines, places, strict=True):
            _draw_line(axes, line, scale, place, narrow)
        if narrow:
            _headings(axes, heads)
        quiet_axes(axes)
        axes.spines["left"].set_visible(False)
        shaded = f"; shaded: ±{100 * bound:g}" if scale == POINTS else ""
        unit = "points" if scale == POINTS else "guess-corrected logits"
        axes.set_xlabel(f"{unit}{shaded}", fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks([])
    if not narrow:
        labels = [plain_text(line.label) for line in lines]
        panels[0].set_yticks(
            [*places, *heads.values()], [*labels, *(HEADINGS[name] for name in heads)], fontsize=8
        )
        for text in panels[0].get_yticklabels()[len(lines) :]:
            text.set_fontweight("bold")
    finish_figure(figure, panels[0], title, note)
    return figure


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


def _headings(axes: Axes, heads: dict[str, float]) -> None:
    """Name each contrast above its lines."""
    for contrast, place in heads.items():
        axes.text(
            0.0,
            place,
            HEADINGS[contrast],
            transform=axes.get_yaxis_transform(),
            fontweight="bold",
            fontsize=8.5,
            va="center",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )


def _is_primary(line: ForestLine) -> bool:
    """Return whether a line is the one that the verdict rests on."""
    return line.estimator in _PRIMARY and all(row.unit == "languages" for row in line.rows.values())


def _draw_line(axes: Axes, line: ForestLine, scale: str, place: float, narrow: bool) -> None:
    """Draw interval, estimate and numbers of one line on one scale."""
    row = line.rows.get(scale)
    numbers = _numbers(row, scale, with_p=not narrow)
    text: dict[str, Any] = {"fontsize": _SIZE, "va": "center"}
    text["transform"] = axes.get_yaxis_transform()
    if narrow:
        halo = [withStroke(linewidth=1.5, foreground="white")]
        axes.text(0.0, place - 0.62, plain_text(line.label), path_effects=halo, **text)
        axes.text(1.0, place - 0.62, numbers, ha="right", path_effects=halo, **text)
    else:
        axes.text(1.02, place, numbers, **text)
    if row is None or row.estimate is None:
        return
    factor = 100 if scale == POINTS else 1
    primary = _is_primary(line)
    biased = line.estimator == "linear_regression"
    colour = FAMILY_COLOURS["related" if primary else "control"] if primary or biased else GREY
    if row.ci_low is not None and row.ci_high is not None:
        limits = [factor * row.ci_low, factor * row.ci_high]
        axes.plot(limits, [place] * 2, color=colour, lw=2.4 if primary else 1.4, zorder=2)
    draw_mark(
        axes, factor * row.estimate, place, "D" if primary else "o", ms=7 if primary else 5.5,
        color=colour, mec="white", mew=0.8, zorder=3, gid=tip_id(f"{line.label}: {numbers}"),
    )  # fmt: skip


def _numbers(row: Estimate | None, scale: str, *, with_p: bool) -> str:
    """Write estimate, interval and p of a row, or why there are none.

    With an interval p may be left out for want of room.
    """
    if row is None:
        return ""
    factor, digits = (100, 1) if scale == POINTS else (1, 2)
    p = "" if row.p is None else "p < 0.001" if row.p < 0.001 else f"p {row.p:.3f}"
    if row.estimate is None:
        return plain_text(p or row.status[:34])
    text = f"{factor * row.estimate:+.{digits}f}"
    if row.ci_low is not None and row.ci_high is not None:
        text += f" [{factor * row.ci_low:+.{digits}f}, {factor * row.ci_high:+.{digits}f}]"
    text = text.replace("-", "\N{MINUS SIGN}")
    if row.ci_low is None and not p:
        text += f" ({row.status[:24]})"
    return plain_text(f"{text}  {p if with_p or row.ci_low is None else ''}".rstrip())
