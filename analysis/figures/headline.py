"""The forest of the first screen: D by its levels, B, I, and C, with the words' own intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.estimates import FAMILYWISE, Estimate
from analysis.estimators.primary import find_row, primary_row
from analysis.estimators.source_arms import WITHOUT_KIN
from analysis.figures.forest import (
    HEADINGS,
    POINTS,
    axis_limits,
    headings,
    name_lines,
    own_interval,
    plain_rows,
    shade_bound,
    short_number,
    shorten,
    write_line,
)
from analysis.figures.style import (
    ACCENT,
    FAMILY_COLOURS,
    NARROW_WIDTH,
    TIGHT,
    draw_interval,
    draw_mark,
    finish_figure,
    legend_below,
    new_figure,
    plain_text,
    tip_id,
)

_CLAIMS = {**HEADINGS, "C": "C: fine-tuned \N{MINUS SIGN} chain-of-thought"}
_COLOURS = {"D": FAMILY_COLOURS["related"], "B": FAMILY_COLOURS["control"], "I": ACCENT,
            "C": FAMILY_COLOURS["source"]}  # fmt: skip
_ARMS = "finetuned - control-source"
_BEYOND = "B beyond headroom"
_ACCURACY = "accuracy finetuned - chain-of-thought"


@dataclass(frozen=True)
class HeadlineLine:
    """One row of the panel: which claim it belongs to, what it is called, and its numbers."""

    claim: str
    label: str
    row: Estimate


def headline_lines(estimates: Sequence[Estimate]) -> list[HeadlineLine]:
    """Choose the rows that the three sentences rest on, in points.

    Args:
        estimates: All rows of an analysis.

    Returns:
        D by languages and families, and of finetuned - control-source by both (the row without
        kin of the control source, where there is one); B, and B beyond headroom; I; the difference
        of accuracies where reasoning was run. A row without a number is there with its status.
    """
    found: list[tuple[str, str, Estimate | None]] = []
    others = f"D ({_ARMS}, {WITHOUT_KIN})"
    if find_row(estimates, others, "welch", "languages") is None:
        others = f"D ({_ARMS})"
    for name, words in (("D", ""), (others, "less control source, ")):
        for estimator, unit in (("welch", "languages"), ("random_effects", "families")):
            found.append(("D", f"{words}by {unit}", find_row(estimates, name, estimator, unit)))
    main, interaction = (primary_row(estimates, name) for name in "BI")
    found.append(("B", "" if main is None else f"by {main.unit}", main))
    found.append(("B", "beyond headroom", _named(estimates, _BEYOND)))
    unit = "" if interaction is None else interaction.unit.replace(", ", " and ")
    found.append(("I", f"by {unit}", interaction))
    found.append(("C", "accuracy, by models", _named(estimates, _ACCURACY)))
    return [HeadlineLine(claim, label, row) for claim, label, row in found if row is not None]


def _named(estimates: Sequence[Estimate], name: str) -> Estimate | None:
    """Return the first row of an estimand in points."""
    return next((row for row in estimates if (row.estimand, row.scale) == (name, POINTS)), None)


def shown_interval(line: HeadlineLine) -> tuple[float, float] | None:
    """Return the interval that the words go by; C, outside the correction, has its 95 % one."""
    corrected = None if line.claim == "C" else line.row.interval_at(FAMILYWISE)
    return corrected or line.row.interval_at(0.95) or own_interval(line.row)


def headline_plot(
    estimates: Sequence[Estimate], *, title: str, bound: float, note: str = "", narrow: bool = False
) -> Figure:
    """Draw D, B, I and C in one panel: thick 95 %, thin the 98.33 % interval of the words.

    A full mark stands for an interval (the thin one where there is one) that excludes 0, a hollow
    one for an interval that holds it; the numbers beside it are of the same interval. `bound` is
    the equivalence bound in proportion, shaded for D and I.

    Raises:
        ValueError: If no row has a number.
    """
    lines = headline_lines(estimates)
    if all(line.row.estimate is None for line in lines):
        raise ValueError("headline forest: no estimate of D, B or I")
    step = 1.75 if narrow else 1.0
    heads: dict[str, float] = {}
    places: list[float] = []
    at = 0.0
    for line in lines:
        if line.claim not in heads:
            heads[line.claim] = at
            at += 1.65 if narrow else 1.0
        places.append(at)
        at += step
    width, row_height = (NARROW_WIDTH, 0.19) if narrow else (6.6, 0.235)
    figure = new_figure(width, 1.15 + row_height * at)
    axes = figure.add_subplot()
    axes.set_ylim(at - 0.3, -0.8)
    axes.axvline(0, color="#000000", lw=1, zorder=1)
    limits = axis_limits([(line.row.estimate, shown_interval(line)) for line in lines], POINTS)
    axes.set_xlim(*limits)
    shade_bound(axes, bound, heads, at)
    for line, place in zip(lines, places, strict=True):
        _draw(figure, line, place, limits, narrow)
    plain_rows(axes)
    if narrow:
        headings(axes, {_CLAIMS[claim]: place for claim, place in heads.items()})
    else:
        name_lines(
            axes,
            [(line.label, place) for line, place in zip(lines, places, strict=True)],
            [(_CLAIMS[claim], place) for claim, place in heads.items()],
        )
    shaded = f"points; shaded: equivalence bound of D and I, \N{PLUS-MINUS SIGN}{100 * bound:g}"
    axes.set_xlabel(shaded, fontsize=8 if narrow else 9)
    legend_below(figure, _handles(), 1 if narrow else 2, **TIGHT)
    finish_figure(figure, axes, title, note)
    return figure


def _handles() -> list[Line2D]:
    """Explain lines and marks."""
    black = "#000000"
    return [
        Line2D([], [], color=black, lw=3.2, label="95 % interval"),
        Line2D([], [], color=black, lw=1.0, label="98.33 %, shared by D, B, I: as in the text"),
        Line2D([], [], ls="", marker="o", color=black, label="excludes 0"),
        Line2D([], [], ls="", marker="o", color=black, mfc="white", label="holds 0"),
    ]


def _draw(
    figure: Figure, line: HeadlineLine, place: float, limits: tuple[float, float], narrow: bool
) -> None:
    """Draw one row: both intervals, the estimate, and the numbers."""
    axes, row, colour = figure.axes[0], line.row, _COLOURS[line.claim]
    if row.estimate is None:
        write_line(axes, place, line.label, plain_text(shorten(row.status, 34)), narrow)
        return
    usual = row.interval_at(0.95) or own_interval(row)
    shown = shown_interval(line)
    wide = shown if shown != usual else None
    for ends, width in ((wide, 1.0), (usual, 3.2)):
        if ends is not None:
            low, high = (100 * end for end in ends)
            draw_interval(axes, (low, high), place, limits, color=colour, lw=width, zorder=2)
    numbers = short_number(row.estimate, POINTS)
    if shown is None:
        numbers += f" ({shorten(row.status, 24)})"
    else:
        numbers += f" [{short_number(shown[0], POINTS)}, {short_number(shown[1], POINTS)}]"
        if wide is None:
            numbers += " 95 %"
    write_line(axes, place, line.label, plain_text(numbers), narrow)
    holds = shown is None or shown[0] <= 0 <= shown[1]
    draw_mark(
        axes, 100 * row.estimate, place, "o", ms=6.5, color=colour, mew=1.3,
        mfc="white" if holds else colour, zorder=3, gid=tip_id(f"{line.label}: {numbers}"),
    )  # fmt: skip
