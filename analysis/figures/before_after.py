"""A measure before and after fine-tuning, a line for each language; answer mass among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    FAMILY_COLOURS,
    FAMILY_ORDER,
    GREY,
    NARROW_WIDTH,
    TIGHT,
    draw_mark,
    family_handles,
    finish_figure,
    legend_below,
    name_rows,
    new_figure,
    plain_text,
    tip_id,
)

_FEW = 40


def before_after_table(
    summary: pd.DataFrame, measure: str, family: Mapping[str, str], condition: tuple[str, ...]
) -> pd.DataFrame:
    """Average a measure by language over models and seeds.

    Args:
        summary: Columns model, language, arm, reasoning, scoring, seed, and the measure.
        measure: Its column.
        family: Language code to `related`, `control` or `source`.
        condition: Arm, reasoning and scoring; the base model is taken under the same two.

    Returns:
        Columns language, family, before, after (proportions), sorted by family and language;
        only models and languages that have both, and languages that have a family.
    """
    arm, reasoning, scoring = condition
    same = summary[(summary["reasoning"] == reasoning) & (summary["scoring"] == scoring)]
    mean = same.groupby(["model", "language", "arm"])[measure].mean().unstack("arm")
    mean = mean.reindex(columns=["base", arm]).dropna()
    table = mean.groupby("language").mean().set_axis(["before", "after"], axis=1).reset_index()
    table["family"] = table["language"].map(dict(family))
    table = table[table["family"].isin(FAMILY_ORDER)]
    rank = table["family"].map(FAMILY_ORDER.index)
    return table.assign(rank=rank).sort_values(["rank", "language"]).drop(columns="rank")


def before_after_plot(
    table: pd.DataFrame,
    *,
    title: str,
    axis: str,
    limits: tuple[float, float] | None = None,
    names: Mapping[str, str] | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw before (hollow) and after (full), a line for each language.

    `table` is as before_after_table gives it. `axis` says what is measured; it is drawn in per
    cent. `limits` are those of the axis, in per cent; None: from 0 to a little past the largest.
    `names` maps a language code to its English name.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if table.empty:
        raise ValueError(f"{axis}: no model was scored both before and after")
    known = names or {}
    dense = len(table) > _FEW
    figure = new_figure(
        NARROW_WIDTH if narrow else 8.6, 1.2 + (0.155 if dense else 0.3) * len(table)
    )
    axes = figure.add_subplot()
    for place, row in enumerate(table.to_dict("records")):
        _draw_language(axes, place, row, known, 4 if dense else 7)
    name_rows(axes, [plain_text(known.get(code, code)) for code in table["language"]])
    axes.tick_params(axis="y", labelsize=6.5 if dense else 8)
    highest = float(table[["before", "after"]].max().max())
    axes.set_xlim(*(limits or (0.0, max(108 * highest, 1.0))))
    axes.set_xlabel(axis, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    handles = [
        *family_handles(set(table["family"])),
        Line2D([], [], ls="", marker="o", color=GREY, mfc="white", label="before"),
        Line2D([], [], ls="", marker="o", color=GREY, label="after"),
    ]
    legend_below(figure, handles, 3 if narrow else 5, **TIGHT)
    finish_figure(figure, axes, title, note)
    return figure


def _draw_language(
    axes: Axes, place: int, row: Mapping[Any, Any], names: Mapping[str, str], size: float
) -> None:
    """Draw one language: hollow before, full after."""
    colour = FAMILY_COLOURS[row["family"]]
    before, after = 100 * row["before"], 100 * row["after"]
    tip = f"{names.get(row['language'], row['language'])}: {before:.1f} % to {after:.1f} %"
    axes.plot([before, after], [place, place], color=colour, lw=1.4, alpha=0.6, zorder=2)
    for value, face in ((before, "white"), (after, colour)):
        draw_mark(
            axes, value, place, "o", ms=size, color=colour, mfc=face, mew=1.4, zorder=3,
            gid=tip_id(tip),
        )  # fmt: skip


def answer_mass_table(
    summary: pd.DataFrame, family: Mapping[str, str], condition: tuple[str, ...]
) -> pd.DataFrame:
    """Average the answer mass by language over models and seeds, as before_after_table does."""
    return before_after_table(summary, "answer_mass", family, condition)


def answer_mass_plot(
    table: pd.DataFrame,
    *,
    title: str,
    names: Mapping[str, str] | None = None,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """Draw answer mass before (hollow) and after (full), a line for each language.

    It is in per cent of the probability that falls on the four answers.

    Raises:
        ValueError: If there is nothing to draw.
    """
    low = float(table[["before", "after"]].min().min()) if len(table) else 0.0
    return before_after_plot(
        table,
        title=title,
        axis="answer mass (%)",
        limits=(100 * max(0.0, min(low - 0.05, 0.9)), 101),
        names=names,
        note=note,
        narrow=narrow,
    )
