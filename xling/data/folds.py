"""Cross-fitting: folds of passages, each held out once from its own adapter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xling.data.schema import DataSet
from xling.data.splits import Split, check_disjoint, first_language, in_order, passages_of, shuffled
from xling.messages.values import shorten_middle


def cross_fit_splits(data: DataSet, *, folds: int, seed: int, limit: int = 0) -> tuple[Split, ...]:
    """Divide a data set's passages into folds; each split holds one out and trains on the others.

    Passages are dealt in random order, each to the fold with the fewest questions so far, so that
    folds differ by at most the questions of one passage.

    Args:
        data: The data set.
        folds: How many, at least 2.
        seed: Non-negative; the same seed deals the same folds, in whatever order the data is.
        limit: Questions used in all; 0 uses every one.

    Raises:
        ValueError: Fewer than two folds, or fewer passages than folds.
    """
    if folds < 2:
        raise ValueError(f"folds: {folds}; cross-fitting needs at least 2.")
    if seed < 0 or limit < 0:
        raise ValueError(f"limit {limit}, seed {seed}: both must be 0 or more (limit 0 uses all).")
    rng = np.random.default_rng(seed)
    used = set(shuffled(data.item_ids, rng)[: limit or None])
    by_passage: dict[str, list[str]] = {}
    for item in first_language(data):
        if item.item_id in used:
            by_passage.setdefault(item.passage_id, []).append(item.item_id)
    if len(by_passage) < folds:
        raise ValueError(
            f"folds: {folds}, but the questions are on {len(by_passage)} passages; a passage "
            "stays whole, so take fewer folds or more questions."
        )
    parts: list[set[str]] = [set() for _ in range(folds)]
    for passage in shuffled(by_passage, rng):
        min(parts, key=len).update(by_passage[passage])
    splits = tuple(
        Split(
            "cross-fit",
            seed,
            training_ids=in_order(data.item_ids, used - part),
            heldout_ids=in_order(data.item_ids, part),
        )
        for part in parts
    )
    check_folds(data, splits)
    return splits


def check_folds(data: DataSet, splits: Sequence[Split]) -> None:
    """Check that every question is held out once, and no passage in two folds.

    Args:
        data: The data set.
        splits: One of each fold.

    Raises:
        ValueError: Folds overlap, a question is trained on and never held out, or a fold holds
            out what it trains on; the message names the folds and the first question or passage.
    """
    seen: dict[str, int] = {}
    for fold, split in enumerate(splits):
        check_disjoint(data, split)
        for passage in sorted(passages_of(data, split.heldout_ids)):
            if passage in seen:
                raise ValueError(
                    f"folds {seen[passage]} and {fold} overlap: both hold out passage "
                    f"{shorten_middle(passage)}. Each passage belongs to one fold."
                )
            seen[passage] = fold
    used = {frozenset((*split.training_ids, *split.heldout_ids)) for split in splits}
    heldout = {item_id for split in splits for item_id in split.heldout_ids}
    never = sorted(frozenset().union(*used) - heldout)
    if never:
        raise ValueError(
            f"folds: {len(never)} questions are never held out, first {shorten_middle(never[0])}. "
            "Each question belongs to one fold."
        )
