"""Which questions are trained on and which are held out: the same ids in every language."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xling.data.schema import HELDOUT, TRAINING, DataSet, Item
from xling.messages.values import shorten_middle

SplitKind = Literal["question", "passage", "given", "cross-fit"]
# What one call divides in two; cross-fitting divides the data several times (xling.data.folds).
ONE_SPLIT = ("question", "passage", "given")


@dataclass(frozen=True)
class Split:
    """Item ids of the two parts, each in the data's order.

    Attributes:
        kind: ``question``, ``passage``, ``given``, or ``cross-fit`` for one fold of it.
        seed: What the draw was made with.
        training_ids: Questions to train on.
        heldout_ids: Questions to evaluate on.
    """

    kind: SplitKind
    seed: int
    training_ids: tuple[str, ...]
    heldout_ids: tuple[str, ...]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of both parts."""
        return self.training_ids + self.heldout_ids


def split_items(data: DataSet, *, split: SplitKind, held_out: int, seed: int) -> Split:
    """Divide a data set's questions into training and held-out ones.

    Args:
        data: The data set.
        split: ``question`` draws questions, so both parts may hold questions on one passage (as
            published); ``passage`` draws whole passages; ``given`` keeps the data's own parts.
        held_out: For ``question``, how many questions are held out. For ``passage``, passages
            are drawn until at least so many questions are held out. For ``given``, at most so
            many of the held-out questions are kept; 0 keeps all.
        seed: Non-negative; the same seed draws the same ids, in whatever order the data is.

    Raises:
        ValueError: An unknown kind, a number that leaves a part empty, or ``given`` for data
            that has no parts itself.
    """
    if split not in ONE_SPLIT:
        raise ValueError(f"split: {split!r}; it must be {', '.join(ONE_SPLIT)}.")
    if seed < 0:
        raise ValueError(f"seed: {seed}; it must be 0 or more.")
    ids = data.item_ids
    _check_count(held_out, len(ids), split)
    rng = np.random.default_rng(seed)
    if split == "given":
        training, heldout = _given(data, held_out, rng)
    else:
        if split == "question":
            heldout = set(shuffled(ids, rng)[:held_out])
        else:
            heldout = _passages(data, held_out, rng)
        training = set(ids) - heldout
    if not training or not heldout:
        raise ValueError(
            f"split {split}: {len(training)} questions are left for training and {len(heldout)} "
            f"held out with held_out={held_out}. Hold out fewer."
        )
    result = Split(split, seed, in_order(ids, training), in_order(ids, heldout))
    check_disjoint(data, result)
    return result


def check_disjoint(data: DataSet, split: Split) -> None:
    """Check that nothing held out is trained on.

    Raises:
        ValueError: An id is in both parts or is not in the data, or with kind ``passage``
            a passage has questions in both parts.
    """
    training, heldout = set(split.training_ids), set(split.heldout_ids)
    both = sorted(training & heldout)
    if both:
        raise ValueError(
            f"split: {len(both)} held-out questions are also in training, first "
            f"{shorten_middle(both[0])}. Draw the split again."
        )
    unknown = sorted((training | heldout) - set(data.item_ids))
    if unknown:
        raise ValueError(
            f"split: {len(unknown)} ids are not in the data set {data.name}, first "
            f"{shorten_middle(unknown[0])}. Split the data that is used."
        )
    shared = shared_passages(data, split)
    if split.kind in ("passage", "cross-fit") and shared:
        raise ValueError(
            f"split: {len(shared)} passages have questions in both parts, first "
            f"{shorten_middle(shared[0])}, though it is split by passage. Draw the split again."
        )


def shared_passages(data: DataSet, split: Split) -> tuple[str, ...]:
    """Return the ids of passages that have questions in both parts, sorted."""
    return tuple(
        sorted(passages_of(data, split.training_ids) & passages_of(data, split.heldout_ids))
    )


def passages_of(data: DataSet, item_ids: Collection[str]) -> set[str]:
    """Return the ids of the passages that some items are on."""
    wanted = set(item_ids)
    return {item.passage_id for item in first_language(data) if item.item_id in wanted}


def limit_split(split: Split, limit: int, *, seed: int | None = None) -> Split:
    """Keep at most ``limit`` questions of each part, for a quick run.

    A smaller limit keeps a subset of what a larger one keeps.

    Args:
        split: The whole split.
        limit: How many questions of each part; 0 keeps all.
        seed: What the draw is made with; the split's own if None.

    Raises:
        ValueError: A negative limit or seed.
    """
    seed = split.seed if seed is None else seed
    if limit < 0 or seed < 0:
        raise ValueError(f"limit {limit}, seed {seed}: both must be 0 or more (limit 0 keeps all).")
    if limit == 0:
        return split
    parts = []
    for stream, ids in enumerate((split.training_ids, split.heldout_ids)):
        drawn = shuffled(ids, np.random.default_rng([seed, stream]))[:limit]
        parts.append(in_order(ids, set(drawn)))
    return Split(split.kind, split.seed, *parts)


def first_language(data: DataSet) -> tuple[Item, ...]:
    """Return one language's items: ids, passages and parts are the same in all."""
    return next(iter(data.items.values()))


def _check_count(held_out: int, items: int, split: str) -> None:
    least = 0 if split == "given" else 1
    if held_out < least:
        raise ValueError(f"held_out: {held_out}; split {split} needs at least {least}.")
    if held_out >= items:
        raise ValueError(
            f"held_out: {held_out} of {items} questions leaves none to train on; hold out fewer "
            f"than {items}."
        )


def shuffled(ids: Collection[str], rng: np.random.Generator) -> list[str]:
    """Return ids in random order, which depends on the set of ids alone."""
    ordered = sorted(ids)
    return [ordered[k] for k in rng.permutation(len(ordered))]


def _passages(data: DataSet, held_out: int, rng: np.random.Generator) -> set[str]:
    by_passage: dict[str, list[str]] = {}
    for item in first_language(data):
        by_passage.setdefault(item.passage_id, []).append(item.item_id)
    heldout: set[str] = set()
    for passage in shuffled(by_passage, rng):
        if len(heldout) >= held_out:
            break
        heldout.update(by_passage[passage])
    return heldout


def _given(data: DataSet, held_out: int, rng: np.random.Generator) -> tuple[set[str], set[str]]:
    parts: dict[str, set[str]] = {TRAINING: set(), HELDOUT: set(), "": set()}
    for item in first_language(data):
        parts[item.part].add(item.item_id)
    if parts[""] or not parts[TRAINING] or not parts[HELDOUT]:
        raise ValueError(
            f"split given: of the items of {data.name}, {len(parts[TRAINING])} are marked for "
            f"training, {len(parts[HELDOUT])} held out and {len(parts[''])} not at all. Give each "
            "row a field split (train, dev or validation; test), or choose split question or "
            "passage."
        )
    heldout = parts[HELDOUT]
    return parts[TRAINING], set(shuffled(heldout, rng)[:held_out]) if held_out else heldout


def in_order(ids: Collection[str], chosen: Collection[str]) -> tuple[str, ...]:
    """Return the ids that are chosen, in their own order."""
    return tuple(item_id for item_id in ids if item_id in chosen)
