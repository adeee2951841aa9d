"""The largest complete part of a table in which cells are missing."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from analysis.arrays import Bits

_LISTED = 6


def complete_subset(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Drop the models and languages without which no cell of a comparison is missing.

    Args:
        rows: Cells of one comparison (analysis.gains.cells.CELL_COLUMNS); one without a gain is
            missing.

    Returns:
        The cells that stay, and the models and languages that they are without; none if no cell is
        missing. Families keep a related language and two controls if any
        choice allows it, and as many cells as possible then.
    """
    present = rows.assign(there=rows["gain"].notna()).pivot_table(
        index="model", columns="language", values="there", aggfunc="min"
    )
    if present.empty or bool(present.to_numpy(np.bool_).all()):
        return rows, ()
    family = rows.drop_duplicates("language").set_index("language")["family"]
    related = (family.reindex(present.columns) == "related").to_numpy(np.bool_)
    models, languages = largest_complete(present.to_numpy(np.bool_), related)
    stays = rows["model"].isin(present.index[models])
    kept = rows[stays & rows["language"].isin(present.columns[languages])]
    return kept, (*map(str, present.index[~models]), *map(str, present.columns[~languages]))


def subset_status(without: Collection[str]) -> str:
    """Say what a complete subset is without, such as `complete subset: without m3`.

    Args:
        without: Models and languages; one that is there twice is named once.

    Returns:
        The status; empty if nothing is lacking.
    """
    names = list(dict.fromkeys(without))
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"complete subset: without {', '.join(names[:_LISTED])}{more}"


def largest_complete(present: Bits, related: Bits) -> tuple[Bits, Bits]:
    """Choose rows and columns that hold no gap, and as many cells as a greedy search finds.

    Args:
        present: Shape (M, L), False where a cell is missing.
        related: Shape (L,); a choice with a related column and two others is preferred.

    Returns:
        Masks of shape (M,) and (L,) of what is kept.
    """
    n_models, n_languages = present.shape
    choices: list[tuple[Bits, Bits]] = [
        (np.asarray(present.all(axis=1)), np.ones(n_languages, np.bool_)),
        (np.ones(n_models, np.bool_), np.asarray(present.all(axis=0))),
        _greedy(present),
    ]

    def value(choice: tuple[Bits, Bits]) -> tuple[bool, int]:
        models, languages = choice
        enough = (related & languages).sum() >= 1 and (~related & languages).sum() >= 2
        return bool(enough and models.any()), int(models.sum() * languages.sum())

    return max(choices, key=value)


def _greedy(present: Bits) -> tuple[Bits, Bits]:
    """Drop the row or column that costs the fewest cells for each gap, until none is left."""
    rows, columns = (np.ones(n, np.bool_) for n in present.shape)
    while True:
        there = present[np.ix_(rows, columns)]
        if there.all():
            return rows, columns
        costs = []
        for kept, axis in ((rows, 1), (columns, 0)):
            gaps = (~there).sum(axis=axis)
            cost = np.where(gaps > 0, there.sum(axis=axis) / np.maximum(gaps, 1), np.inf)
            costs.append((float(cost.min()), np.flatnonzero(kept)[int(cost.argmin())], kept))
        _, place, kept = min(costs, key=lambda found: found[0])
        kept[place] = False
