"""Item records as arrays, encoded once, so that every estimator works on numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.records import RUN_COLUMNS

Bytes = npt.NDArray[np.int8]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NO_ANSWER = -1


@dataclass(frozen=True)
class Responses:
    """Answers of all runs in one part, as arrays of shape (runs R, languages L, items N).

    `runs` has the columns RUN_COLUMNS and one row per run, sorted; `languages` (L) and `items`
    (N) are sorted; `passage` has shape (N,), codes 0 to P - 1 of the items' passages. `correct`
    is 1, 0 or NO_ANSWER; `prediction` and `gold` are 1 to 4, or 0 where there is no answer;
    `answer_mass` is NaN where there is none, as for cloze.
    """

    runs: pd.DataFrame
    languages: tuple[str, ...]
    items: tuple[str, ...]
    passage: Integers
    correct: Bytes
    prediction: Bytes
    gold: Bytes
    answer_mass: Singles

    @property
    def n_passages(self) -> int:
        """How many passages the items stand on."""
        return int(self.passage.max()) + 1 if len(self.passage) else 0

    def run(self, **values: Any) -> int | None:
        """Place of the run with these values of RUN_COLUMNS, or None."""
        chosen = (self.runs[list(values)] == list(values.values())).all(axis=1).to_numpy()
        return int(np.argmax(chosen)) if chosen.any() else None


def encode_responses(records: pd.DataFrame, part: str = "heldout") -> Responses:
    """Encode one part of item records.

    Args:
        records: Item records of all runs (xling.records), checked, possibly none.
        part: `heldout` or `training`.

    Returns:
        The arrays; empty ones if there are no such records.

    Raises:
        ValueError: If one item stands on two passages; the message names item and language.
    """
    rows = records[records["part"] == part]
    run_code, runs = _codes(rows, RUN_COLUMNS)
    language_code, languages = _sorted_codes(rows["language"])
    item_code, items = _sorted_codes(rows["item_id"])
    passage_code, passages = _sorted_codes(rows["passage_id"])
    passage = np.zeros(len(items), np.int64)
    passage[item_code] = passage_code
    _refuse_two_passages(rows, passage[item_code] != passage_code, passages)
    shape = (len(runs), len(languages), len(items))
    place = (run_code, language_code, item_code)

    def spread(name: str, empty: float, kind: type[np.generic]) -> npt.NDArray[Any]:
        values = np.full(shape, empty, kind)
        values[place] = rows[name].to_numpy(kind)
        return values

    return Responses(
        runs, languages, items, passage,
        spread("correct", NO_ANSWER, np.int8), spread("prediction", 0, np.int8),
        spread("gold", 0, np.int8), spread("answer_mass", np.nan, np.float32),
    )  # fmt: skip


def _sorted_codes(values: pd.Series) -> tuple[Integers, tuple[str, ...]]:
    codes, uniques = pd.factorize(values, sort=True)
    return codes.astype(np.int64), tuple(str(value) for value in uniques)


def _codes(rows: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Integers, pd.DataFrame]:
    """Code of each row's combination of columns, and the combinations, sorted."""
    groups = rows.groupby(list(columns), sort=True, observed=True)
    code: Integers = groups.ngroup().to_numpy().astype(np.int64)
    first = ~pd.Series(code).duplicated().to_numpy()
    found = rows.loc[first, list(columns)].assign(_code=code[first]).sort_values("_code")
    return code, found.drop(columns="_code").reset_index(drop=True)


def _refuse_two_passages(
    rows: pd.DataFrame, differs: npt.NDArray[np.bool_], passages: tuple[str, ...]
) -> None:
    if not differs.any():
        return
    row = rows.iloc[int(np.argmax(differs))]
    raise ValueError(
        f"item {row['item_id']} stands on passage {row['passage_id']} in model {row['model']}, "
        f"language {row['language']}, and on another one elsewhere; one of {len(passages)} "
        "passages is named wrongly: log the run again"
    )
