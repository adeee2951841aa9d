"""Item records as arrays, encoded once, so that every estimator works on numbers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.arrays import Array, Bits, Bytes, Integers, Singles
from xling.records import RUN_COLUMNS

NO_ANSWER = -1
_USED = (
    *RUN_COLUMNS, "language", "item_id", "passage_id", "correct", "prediction", "gold",
    "answer_mass",
)  # fmt: skip


@dataclass(frozen=True)
class Responses:
    """Answers of all runs in one part, as arrays of shape (runs R, languages L, items N).

    `runs` has the columns RUN_COLUMNS and one row per run, sorted; `languages` (L) and `items`
    (N) are sorted; `passage` has shape (N,), codes 0 to P - 1 of the items' passages, and `fold`
    (N,) the fold in which an item is held out, 0 where there is one split. `correct`
    is 1, 0 or NO_ANSWER; `prediction` and `gold` are 1 to 4, or 0 where there is no answer;
    `answer_mass` is NaN where there is none, as for cloze.
    """

    runs: pd.DataFrame
    languages: tuple[str, ...]
    items: tuple[str, ...]
    passage: Integers
    fold: Integers
    correct: Bytes
    prediction: Bytes
    gold: Bytes
    answer_mass: Singles

    @property
    def n_passages(self) -> int:
        """How many passages the items stand on."""
        return int(self.passage.max()) + 1 if len(self.passage) else 0

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the items are held out in several folds."""
        return bool(len(self.fold)) and bool((self.fold != self.fold[0]).any())

    def run(self, **values: Any) -> int | None:
        """Place of the run with these values of RUN_COLUMNS, or None."""
        chosen = (self.runs[list(values)] == list(values.values())).all(axis=1).to_numpy()
        return int(np.argmax(chosen)) if chosen.any() else None


def encode_responses(records: pd.DataFrame, part: str = "heldout") -> Responses:
    """Encode one part of item records.

    Args:
        records: Item records of all runs (xling.records), checked, possibly none; text columns
            may be categories, which are not read anew; without a column `fold`, all are of one
            split.
        part: `heldout` or `training`.

    Returns:
        The arrays; empty ones if there are no such records.

    Raises:
        ValueError: If one item stands on two passages (the message names item and language), or
            is held out in two folds (it names the item and both runs).
    """
    # Only the columns used are filtered: most of a record's bytes are in the others.
    folded = "fold" in records.columns
    rows = records[[*_USED, "fold"] if folded else list(_USED)]
    chosen = (records["part"] == part).to_numpy(np.bool_)
    if not chosen.all():
        rows = rows[chosen]
    run_code, runs = _run_codes(rows)
    language_code, languages = _sorted_codes(rows["language"])
    item_code, items = _sorted_codes(rows["item_id"])
    passage_code, passages = _sorted_codes(rows["passage_id"])
    passage = np.zeros(len(items), np.int64)
    passage[item_code] = passage_code
    _refuse_two_passages(rows, passage[item_code] != passage_code, len(passages))
    folds = rows["fold"].to_numpy() if folded and len(rows) else np.zeros(1, np.int64)
    fold = np.full(len(items), folds[0], np.int64)
    if (folds != folds[0]).any():
        fold[item_code] = folds
        _refuse_two_folds(rows, fold, item_code)
    shape = (len(runs), len(languages), len(items))
    place = (run_code * shape[1] + language_code) * shape[2] + item_code

    def spread(name: str, empty: float, kind: type[np.generic]) -> Array:
        values = np.full(shape, empty, kind)
        values.reshape(-1)[place] = rows[name].to_numpy(kind)
        return values

    return Responses(
        runs, tuple(map(str, languages)), tuple(map(str, items)), passage, fold,
        spread("correct", NO_ANSWER, np.int8), spread("prediction", 0, np.int8),
        spread("gold", 0, np.int8), spread("answer_mass", np.nan, np.float32),
    )  # fmt: skip


def _sorted_codes(values: pd.Series) -> tuple[Integers, pd.Index]:
    """Return the code of each value, and the values there are, sorted; categories are read off."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        codes, uniques = pd.factorize(values, sort=True)
        return codes.astype(np.int64, copy=False), pd.Index(uniques)
    old_code = values.cat.codes.to_numpy()
    used = np.flatnonzero(np.bincount(old_code, minlength=len(values.cat.categories)))
    found = values.cat.categories[used]
    order = found.argsort()
    new_code = np.zeros(len(values.cat.categories), np.int64)
    new_code[used[order]] = np.arange(len(used))
    return new_code[old_code], found[order]


def _run_codes(rows: pd.DataFrame) -> tuple[Integers, pd.DataFrame]:
    """Return the code of each row's run, and the runs, sorted by RUN_COLUMNS."""
    code = np.zeros(len(rows), np.int64)
    found: list[tuple[Any, ...]] = [()] if len(rows) else []
    for name in RUN_COLUMNS:
        column, values = _sorted_codes(rows[name])
        if len(values) > 1:
            code = code * len(values) + column
        pairs = [(*run, value) for run in found for value in values]
        # Only combinations that occur are kept, so that the codes stay small.
        used = np.flatnonzero(np.bincount(code, minlength=len(pairs)))
        if len(used) < len(pairs):
            new_code = np.zeros(len(pairs), np.int64)
            new_code[used] = np.arange(len(used))
            code = np.asarray(new_code[code], np.int64)
        found = [pairs[k] for k in used]
    runs = pd.DataFrame(found, columns=list(RUN_COLUMNS))
    return code, runs.astype({"seed": np.int64})


def _refuse_two_passages(rows: pd.DataFrame, differs: Bits, n_passages: int) -> None:
    if not differs.any():
        return
    row = rows.iloc[int(np.argmax(differs))]
    raise ValueError(
        f"item {row['item_id']} stands on passage {row['passage_id']} in model {row['model']}, "
        f"language {row['language']}, and on another one elsewhere; one of {n_passages} "
        "passages is named wrongly: log the run again"
    )


def _refuse_two_folds(rows: pd.DataFrame, fold: Integers, item_code: Integers) -> None:
    """Raise for an item with two folds: runs of different splits are no runs of one study."""
    differs = rows["fold"].to_numpy() != fold[item_code]
    if not differs.any():
        return
    first = int(np.argmax(differs))
    same_item = item_code == item_code[first]
    row = rows.iloc[first]
    other = rows[same_item & ~differs].iloc[0]
    raise ValueError(
        f"item {row['item_id']} is held out in fold {row['fold']} of run {_run_name(row)} and in "
        f"fold {other['fold']} of run {_run_name(other)}; runs of different splits cannot be "
        "compared: evaluate one of them again with the folds of the other"
    )


def _run_name(row: pd.Series) -> str:
    return "/".join(f"{'seed ' if name == 'seed' else ''}{row[name]}" for name in RUN_COLUMNS)
