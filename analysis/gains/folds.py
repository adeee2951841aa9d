"""Accuracies by fold of a cross-fitted study, where each item is held out from one adapter.

The base model's answers to the items of the other folds are a baseline that shares no item with
the gains of a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.arrays import Bits, Floats, Integers
from analysis.gains.items import ItemGains

ADAPTERS_NOTE = (
    "cross-fitted: adapters of different folds share training items, and the interval is for "
    "these adapters"
)


@dataclass(frozen=True)
class FoldAccuracies:
    """Accuracies by fold F, model M and language L.

    `numbers` are the folds' numbers in the records, sorted; `n_items` is (F,); `before` (of the
    base model) and `after` (of the arm, averaged over seeds) are proportions of shape (F, M, L).
    """

    numbers: tuple[int, ...]
    n_items: Integers
    before: Floats
    after: Floats

    @property
    def out_of_fold(self) -> Floats:
        """Base accuracy on the items of all other folds, shape (F, M, L)."""
        right = self.before * self.n_items[:, None, None]
        rest = self.n_items.sum() - self.n_items
        return np.asarray((right.sum(axis=0) - right) / rest[:, None, None], np.float64)

    def pooled(self, chosen: Bits) -> tuple[Floats, Floats]:
        """Pool accuracies before and after, each (M, L), over the chosen folds (F,)."""
        weight = self.n_items * chosen / self.n_items[chosen].sum()
        before, after = (np.tensordot(weight, part, 1) for part in (self.before, self.after))
        return np.asarray(before, np.float64), np.asarray(after, np.float64)


def fold_accuracies(items: ItemGains | None) -> FoldAccuracies | None:
    """Return accuracies by fold; None without items, or where all items are of one fold."""
    if items is None or items.fold is None:
        return None
    numbers, place = np.unique(items.fold, return_inverse=True)
    if len(numbers) < 2:
        return None
    size = np.bincount(place)
    member = place[:, None] == np.arange(len(numbers))
    share = member / size
    before, after = (
        np.moveaxis(np.asarray(values, np.float64) @ share, -1, 0)
        for values in (items.before, items.after.mean(axis=0, dtype=np.float64))
    )
    return FoldAccuracies(tuple(map(int, numbers)), size.astype(np.int64), before, after)
