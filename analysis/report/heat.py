"""The heatmap of the report: a table of coloured cells that is read without a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_hex

from analysis.estimates import OK
from analysis.figures.style import FAMILY_ORDER, figure_gains, language_order
from analysis.gains.cells import CONDITION
from analysis.tables.numbers import p_words, points


@dataclass(frozen=True)
class HeatCell:
    """One square: its text, what is said on hover and focus, and its colours (none if hatched)."""

    text: str
    tip: str
    background: str
    ink: str


@dataclass(frozen=True)
class HeatTable:
    """Gains of one comparison, models by languages.

    `families` are (family, number of languages), `languages` (code, name) in order, `rows`
    (model, its cells).
    """

    condition: str
    families: tuple[tuple[str, int], ...]
    languages: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_table(
    cells: pd.DataFrame,
    condition: tuple[str, ...],
    names: Mapping[str, str],
    distance: Mapping[str, int] | None,
) -> HeatTable:
    """Lay out the gains of one comparison.

    Args:
        cells: As analysis.gains.cells.gain_cells gives them.
        condition: Arm, reasoning and scoring.
        names: Language code to English name.
        distance: Language code to branches away from the source, to order by within a family.

    Returns:
        The table; colours are centred at 0, and each text's colour is black or white, whichever
        stands out more (a contrast of 4.5 at least).
    """
    gains = figure_gains(cells, condition)
    order = language_order(gains, distance)
    family = gains.drop_duplicates("language").set_index("language")["family"]
    rows = cells[(cells[list(CONDITION)] == list(condition)).all(axis=1)]
    known = {key: group.to_dict("records") for key, group in rows.groupby(["model", "language"])}
    drawn = {(row["model"], row["language"]): row for row in gains.to_dict("records")}
    limit = max(0.05, float(np.nanmax(np.abs(gains["gain"].to_numpy(np.float64)), initial=0.0)))
    norm = Normalize(-limit, limit)

    def cell(model: str, code: str) -> HeatCell:
        where = f"{model}, {names.get(code, code)}"
        return _cell(where, drawn.get((model, code)), known.get((model, code), []), norm)

    return HeatTable(
        ", ".join(condition),
        tuple(
            (name, count)
            for name in FAMILY_ORDER
            if (count := sum(family[code] == name for code in order))
        ),
        tuple((code, names.get(code, "")) for code in order),
        tuple(
            (str(model), tuple(cell(str(model), code) for code in order))
            for model in sorted(gains["model"].unique())
        ),
    )


def _cell(
    where: str, drawn: Mapping[Any, Any] | None, rows: list[dict[Any, Any]], norm: Normalize
) -> HeatCell:
    """Make one square from the drawn gain and the cells (one per seed) behind it."""
    status = next((str(row["status"]) for row in rows if row["status"] != OK), OK)
    if drawn is None or not np.isfinite(drawn["gain"]):
        said = status if rows and status != OK else "not available"
        return HeatCell("\N{EN DASH}", f"{where}: no number, {said}", "", "")
    gain = float(drawn["gain"])
    background = to_hex(colormaps["RdBu"](norm(gain)))
    tip = f"{where}: gain {points(gain)} points"
    if np.isfinite(drawn["low"]):
        limits = f"{points(drawn['low'])} to {points(drawn['high'])}"
        tip += (
            f", 95 % interval {limits}"
            if len(rows) == 1
            else f", mean of {len(rows)} seeds, from {limits}"
        )
    items = [row["n_items"] for row in rows if pd.notna(row["n_items"]) and row["n_items"] > 0]
    tip += f", n = {int(items[0])} items" if items else ""
    if len(rows) == 1 and pd.notna(rows[0]["p"]):
        tip += f", McNemar {p_words(float(rows[0]['p']))}"
    tip += f" ({status})" if status != OK else ""
    return HeatCell(points(gain), tip, background, readable_ink(background))


def readable_ink(background: str) -> str:
    """Return black or white, whichever has the greater contrast (WCAG 2.2, relative luminance)."""
    channels = np.array([int(background[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#ffffff"
