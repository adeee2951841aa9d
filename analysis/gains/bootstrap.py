"""Passages drawn anew: what the choice of items does to a mean."""

from __future__ import annotations

import numpy as np

from analysis.arrays import Floating, Floats, Integers
from analysis.gains.paired import Interval

# Values turned into float64 at a time, 32 MB.
_BLOCK_VALUES = 4_000_000


def passage_bootstrap(
    values: Floating, passage: Integers, draws: int, rng: np.random.Generator
) -> Floats:
    """Average over items when passages are drawn with replacement.

    Items on one passage are drawn together, for their answers depend on each other (the cluster
    bootstrap; Miller 2024). A draw is a weight for each passage, so all draws are one matrix
    product: weights (draws, P) times sums by passage (P, …), divided by the number of items drawn.

    Args:
        values: Shape (…, N), finite; any leading shape, for example models × languages. All are
            drawn with the same weights, so differences between them stay paired.
        passage: Shape (N,), codes 0 to P - 1, each of which has an item.
        draws: How many draws, at least 1.
        rng: Where the draws come from.

    Returns:
        Means of shape (draws, …).

    Raises:
        ValueError: If there are no items, no draws, a passage without items, or if `passage` is
            not as long as the last axis of `values`.
    """
    values = np.asarray(values)
    passage = np.asarray(passage, np.int64)
    n_items = values.shape[-1] if values.ndim else 0
    if draws < 1 or n_items == 0 or passage.shape != (n_items,):
        raise ValueError(
            f"a bootstrap needs draws, items and a passage for each item; it got {draws} draws, "
            f"values of shape {values.shape} and passages of shape {passage.shape}"
        )
    size = np.bincount(passage)
    if (size == 0).any():
        raise ValueError(f"passage {int(np.argmin(size))} has no items; number passages from 0 up")
    n_passages = len(size)
    weights = rng.multinomial(n_passages, np.full(n_passages, 1 / n_passages), size=draws)
    weights = weights.astype(np.float64)
    share = weights / (weights @ size)[:, None]
    sums = passage_sums(values.reshape(-1, n_items), passage)
    # Rows in, columns out: with the draws of a mean side by side its quantiles are read fast.
    means = np.asarray(sums @ share.T, np.float64)
    return means.T.reshape(draws, *values.shape[:-1])


def passage_sums(values: Floating, passage: Integers) -> Floats:
    """Sum values (rows, N) over the items of each passage (N,), to (rows, P)."""
    order = np.argsort(passage, kind="stable")
    starts = np.searchsorted(passage[order], np.arange(int(passage.max()) + 1))
    sums = np.empty((len(values), len(starts)))
    rows = max(1, _BLOCK_VALUES // max(1, values.shape[1]))
    in_order = bool((np.diff(order) == 1).all())
    for first in range(0, len(values), rows):
        block = values[first : first + rows]
        block = (block if in_order else block[:, order]).astype(np.float64)
        np.add.reduceat(block, starts, axis=1, out=sums[first : first + rows])
    return sums


def bootstrap_interval(draws: Floats, confidence: float = 0.95) -> Interval:
    """Return the percentile interval over the first axis of bootstrap draws."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.moveaxis(draws, 0, -1), tails, axis=-1)
    return Interval(np.asarray(low, np.float64), np.asarray(high, np.float64))
