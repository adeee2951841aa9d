"""A model's answers, and the item records that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.data import Item
from xling.prompts import prompt_sha256
from xling.records import LOGPROB_COLUMNS
from xling.routing import RoutingCounter
from xling.study import Cell

REASONING_TABLE = "reasoning"
ORDERS_TABLE = "orders"
CLOZE_TABLE = "cloze"
SERVER_TABLE = "server"


@dataclass(frozen=True)
class Answers:
    """A model's answers to n items.

    Attributes:
        prompts: exact text that was scored; of several option orders, the item's own.
        logprobs: shape (n, 4), as the contract has them.
        prediction: shape (n,), 1–4.
        answer_mass: shape (n,); NaN for cloze; an upper bound where a server's labels are bounded.
        n_tokens: shape (n,), tokens of the prompts.
        more: what its own artifact keeps beside the records, by its name: `reasoning`
            (a row an item), `orders` (a row an item and order), `cloze` (a row an item and
            option), `server` (a row an item); each has the column `item_id`, the items' order,
            and as many rows of each item.
        routing: where a mixture of experts sent the prompts' tokens, if it was recorded.
    """

    prompts: list[str]
    logprobs: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.int8]
    answer_mass: npt.NDArray[np.float64]
    n_tokens: npt.NDArray[np.int32]
    more: Mapping[str, pd.DataFrame]
    routing: RoutingCounter | None = None

    def split(self, sizes: Sequence[int]) -> list[Answers]:
        """Split answers into those to the first items, the next ones, and so on.

        Args:
            sizes: numbers of items; together n.

        Raises:
            ValueError: they are not n together, a table has more rows of one item than of
                another, or routing was recorded, which cannot be split.
        """
        n = len(self.prompts)
        if sum(sizes) != n or self.routing is not None:
            raise ValueError(f"answers to {n} items cannot be split into {list(sizes)}")
        ends = list(accumulate(sizes, initial=0))
        return [self._between(first, last) for first, last in pairwise(ends)]

    def _between(self, first: int, last: int) -> Answers:
        """Return the answers to some items that follow each other."""
        return Answers(
            self.prompts[first:last],
            self.logprobs[first:last],
            self.prediction[first:last],
            self.answer_mass[first:last],
            self.n_tokens[first:last],
            {
                name: _rows_between(name, rows, first, last, len(self.prompts))
                for name, rows in self.more.items()
            },
        )


def _rows_between(name: str, rows: pd.DataFrame, first: int, last: int, n: int) -> pd.DataFrame:
    """Return a table's rows that belong to some items of n that follow each other."""
    each, rest = divmod(len(rows), n)
    if rest:
        raise ValueError(f"table {name} has {len(rows)} rows, not as many of each of {n} items")
    return rows.iloc[first * each : last * each].reset_index(drop=True)


def record_frame(
    items: Sequence[Item],
    answers: Answers,
    *,
    cell: Cell,
    language: str,
    part: str,
    folds: Sequence[int],
) -> pd.DataFrame:
    """Make item records of one language and part, in the contract's columns.

    Args:
        items: n items.
        answers: to them.
        cell: what was asked.
        language: Belebele code.
        part: ``heldout`` or ``training``.
        folds: fold that holds each item out.
    """
    gold = np.array([item.correct_answer_num for item in items], dtype=np.int8)
    columns: dict[str, Any] = {
        "model": cell.model.label,
        "arm": cell.arm,
        "reasoning": cell.reasoning,
        "scoring": cell.scoring,
        "language": language,
        "seed": cell.seed,
        "item_id": [item.item_id for item in items],
        "passage_id": [item.passage_id for item in items],
        "part": part,
        "gold": gold,
        "prediction": answers.prediction,
        "correct": answers.prediction == gold,
        **dict(zip(LOGPROB_COLUMNS, answers.logprobs.T, strict=True)),
        "answer_mass": answers.answer_mass,
        "n_tokens": answers.n_tokens,
        "prompt_sha256": [prompt_sha256(prompt) for prompt in answers.prompts],
        "fold": np.array(folds, np.int16),
    }
    return pd.DataFrame(columns)


def server_tables(
    items: Sequence[Item],
    n_tokens: npt.NDArray[np.int32],
    bounded: npt.NDArray[np.bool_] | None,
    tries: npt.NDArray[np.int32] | None,
) -> dict[str, pd.DataFrame]:
    """Tabulate what it took to get items' answers from a server.

    Args:
        items: n items.
        n_tokens: shape (n,); tokens of the prompts.
        bounded: shape (n, 4), or (n, k, 4) of k option orders: labels of which only an upper
            bound is known; None: none.
        tries: shape (n,) or (n, k); requests; None: the model is in this process.

    Returns:
        `server` of `Answers.more`, a row an item: `bounded_labels` (their numbers as text, such
        as "24"; of several orders those of any), `prompt_tokens` and `tries`. Nothing where there
        is no server.
    """
    if tries is None:
        return {}
    n = len(items)
    flags = np.zeros((n, 1, 4), bool) if bounded is None else bounded.reshape(n, -1, 4)
    labels = [
        "".join(str(label) for label, flag in enumerate(row, start=1) if flag)
        for row in flags.max(axis=1).tolist()
    ]
    frame = pd.DataFrame(
        {
            "item_id": [item.item_id for item in items],
            "bounded_labels": labels,
            "prompt_tokens": n_tokens,
            "tries": tries.reshape(n, -1).sum(axis=1, dtype=np.int32),
        }
    )
    return {SERVER_TABLE: frame}
