"""Gains of one arm by model and target language, on the scales that contrasts are made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.cells import CONDITION
from analysis.estimates import OK

POINTS, LOGIT = "points", "logit"
CLIP = 0.02
_CHANCE = 0.25

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GainTable:
    """Gains of one arm by model (rows) and target language (columns), averaged over seeds.

    `gain` maps a scale to an array of shape (models, languages); `related` has shape
    (languages,). `status` is `ok` or says what is missing. `shared` are the columns of an
    estimate row that describe the data.
    """

    models: tuple[str, ...]
    languages: tuple[str, ...]
    related: npt.NDArray[np.bool_]
    gain: dict[str, Floats]
    status: str
    n_clipped: int
    shared: dict[str, Any]

    def split(self, values: Floats) -> tuple[Floats, Floats]:
        """The values of the related and of the control languages; `values` is (languages,)."""
        return values[self.related], values[~self.related]


def guess_corrected_logit(accuracy: Floats) -> Floats:
    """Log-odds of knowing an answer when one in four guesses is right.

    logit((p - 1/4) / (3/4)), the inner value clipped to 0.02 ... 0.98: a gain that looks smaller
    near the floor or the ceiling in points may not be so here (Loftus 1978; Wagenmakers et al.
    2012).

    Args:
        accuracy: Any shape, proportions.

    Returns:
        Logits of the same shape, NaN where the accuracy is NaN.
    """
    known = np.clip((np.asarray(accuracy, np.float64) - _CHANCE) / (1 - _CHANCE), CLIP, 1 - CLIP)
    return np.asarray(np.log(known / (1 - known)), np.float64)


def gain_table(
    cells: pd.DataFrame,
    records: pd.DataFrame,
    family: Mapping[str, str],
    condition: tuple[str, ...],
) -> GainTable:
    """Gains of one arm, reasoning and scoring by model and target language.

    Args:
        cells: As analysis.cells.gain_cells gives them.
        records: Item records of all runs.
        family: Language code to `related`, `control` or `source`.
        condition: Arm, reasoning and scoring.

    Returns:
        The table; accuracies are averaged over seeds before they are put on a scale.
    """
    rows = cells[
        (cells[list(CONDITION)] == list(condition)).all(axis=1)
        & cells["family"].isin(["related", "control"])
    ]
    usable = rows.assign(
        **{name: rows[name].where(rows["gain"].notna()) for name in ("accuracy", "accuracy_base")}
    )
    keys = ["model", "language"]
    # A seed without a number leaves its cell without one: a mean over fewer seeds is another cell.
    means = usable.groupby(keys)[["accuracy", "accuracy_base"]].mean(skipna=False)
    after, before = (
        means[name].unstack("language").sort_index(axis=1) for name in ("accuracy", "accuracy_base")
    )
    languages = tuple(str(code) for code in after.columns)
    post, pre = after.to_numpy(np.float64), before.to_numpy(np.float64)
    both = np.concatenate([post.ravel(), pre.ravel()])
    inner = (both - _CHANCE) / (1 - _CHANCE)
    related = np.array([family[code] == "related" for code in languages], np.bool_)
    return GainTable(
        models=tuple(str(model) for model in after.index),
        languages=languages,
        related=related,
        gain={POINTS: post - pre,
              LOGIT: guess_corrected_logit(post) - guess_corrected_logit(pre)},
        status=_table_status(rows, condition, related),
        n_clipped=int(((inner < CLIP) | (inner > 1 - CLIP)).sum()),
        shared=_shared(rows, records, condition, related),
    )  # fmt: skip


def _table_status(
    rows: pd.DataFrame, condition: tuple[str, ...], related: npt.NDArray[np.bool_]
) -> str:
    """`ok`, or what the table lacks."""
    if rows.empty:
        return f"no gains of {'/'.join(condition)}"
    for name, count in (("related", int(related.sum())), ("control", int((~related).sum()))):
        if count < 2:
            return f"needs 2 {name} languages"
    lacking = rows.loc[rows["gain"].isna(), "status"]
    if lacking.empty:
        return OK
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"{lacking.iloc[0]}{more}"


def _shared(
    rows: pd.DataFrame,
    records: pd.DataFrame,
    condition: tuple[str, ...],
    related: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The columns of an estimate row that describe the data."""
    used = records[
        (records["part"] == "heldout")
        & records["language"].isin(rows["language"])
        & (records[list(CONDITION)] == list(condition)).all(axis=1)
    ]
    return {
        "unit": "languages",
        "n_models": int(rows["model"].nunique()),
        "n_related": int(related.sum()),
        "n_control": int((~related).sum()),
        "n_items": None if used.empty else int(used["item_id"].nunique()),
        "n_passages": None if used.empty else int(used["passage_id"].nunique()),
        "n_seeds": int(rows["seed"].nunique()),
    }
