"""One exhibit, and what all of them are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pandas as pd
from matplotlib.figure import Figure

from analysis.estimates import Estimate
from analysis.gains.comparisons import Comparisons
from analysis.measures.formats import GoldShares
from analysis.tables.fields import Table

if TYPE_CHECKING:
    from xling.tracking import LoggedRun


class Draw(Protocol):
    """Draws a figure; called once for each width and file."""

    def __call__(self, *, title: str, note: str, narrow: bool) -> Figure:
        """Draw the figure; `title` and `note` may be empty."""


@dataclass(frozen=True)
class Exhibit:
    """A section of the report that is there only where its runs are.

    `name` is its id in the page and the stem of its files (small letters and hyphens). `heading`
    and `short` are its heading and its entry in the contents; `text` are paragraphs above,
    `caption` stands below the figure, `label` is what a screen reader says of the figure.
    """

    name: str
    heading: str
    short: str
    text: tuple[str, ...] = ()
    caption: str = ""
    label: str = ""
    draw: Draw | None = None
    table: Table | None = None


@dataclass(frozen=True)
class Evidence:
    """What exhibits are made from.

    `compared` and `estimates` are those of the analysis; `measures` and `trained` come from
    analysis.format_measures; `runs` are the evaluate runs with their metrics; `routing` is the
    table of measures.routing.routing_table, possibly empty; `family` and `names` map language
    codes to families and English names. `specifications` has SPECIFICATION_COLUMNS of
    analysis.estimators.specifications, and may be empty.
    """

    compared: Comparisons
    estimates: Sequence[Estimate]
    measures: pd.DataFrame
    trained: GoldShares
    runs: Sequence[LoggedRun]
    routing: pd.DataFrame
    family: Mapping[str, str]
    names: Mapping[str, str]
    specifications: pd.DataFrame


def target_means(
    measures: pd.DataFrame, columns: Sequence[str], family: Mapping[str, str]
) -> pd.DataFrame:
    """Average measures of each run (model, arm, seed, reasoning, scoring) over its targets."""
    targets = measures[measures["language"].map(dict(family)).isin(["related", "control"])]
    keys = ["model", "arm", "seed", "reasoning", "scoring"]
    return targets.groupby(keys, as_index=False)[list(columns)].mean()
