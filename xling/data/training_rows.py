"""What each arm is trained on: the same questions, in other languages or under other labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xling.data import Item
from xling.records.metrics import position_shares

SHUFFLES = 200

Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class TrainingRow:
    """One training example: an item, and the label that it is trained on (1–4)."""

    item: Item
    label: int


def source_rows(items: Mapping[str, Sequence[Item]]) -> list[TrainingRow]:
    """Return every item of every source language under its right answer.

    Args:
        items: training items by source language, parallel.
    """
    return [TrainingRow(item, item.correct_answer_num) for rows in items.values() for item in rows]


def control_source_rows(items: Mapping[str, Sequence[Item]], *, repeats: int) -> list[TrainingRow]:
    """Return control-source items, as many and on the same questions as the source arm has.

    Each question is trained on `repeats` times, in languages that take turns, so that every
    language has its share; with one language the same text comes `repeats` times.

    Args:
        items: training items by control-source language, parallel.
        repeats: how many source languages the arm is compared with.
    """
    languages = list(items)
    n_questions = len(items[languages[0]])
    chosen = (
        items[languages[(question + turn) % len(languages)]][question]
        for turn in range(repeats)
        for question in range(n_questions)
    )
    return [TrainingRow(item, item.correct_answer_num) for item in chosen]


def primer_rows(
    items: Mapping[str, Sequence[Item]], *, examples: int, rng: np.random.Generator | None
) -> list[TrainingRow]:
    """Return as many examples as asked for, of questions and languages that take turns.

    Every question comes once, in languages that take turns, before it comes again in another
    language; after all of them it begins anew.

    Args:
        items: training items by language, parallel.
        examples: how many to return.
        rng: draws shuffled labels, see `shuffle_labels`; None: the right ones.

    Raises:
        ValueError: as `shuffle_labels`.
    """
    languages = list(items)
    n_questions = len(items[languages[0]])
    labels = shuffle_labels(items[languages[0]], rng=rng) if rng is not None else {}
    chosen = (
        items[languages[(example + example // n_questions) % len(languages)]][example % n_questions]
        for example in range(examples)
    )
    return [TrainingRow(item, labels.get(item.item_id, item.correct_answer_num)) for item in chosen]


def shuffled_label_rows(
    items: Mapping[str, Sequence[Item]], *, rng: np.random.Generator
) -> list[TrainingRow]:
    """Return source items under shuffled labels, which teach the form of an answer alone.

    See `shuffle_labels`; a question has the same label in every language.

    Raises:
        ValueError: as `shuffle_labels`.
    """
    labels = shuffle_labels(next(iter(items.values())), rng=rng)
    return [TrainingRow(item, labels[item.item_id]) for rows in items.values() for item in rows]


def shuffle_labels(items: Sequence[Item], *, rng: np.random.Generator) -> dict[str, int]:
    """Exchange labels between passages, so that they say nothing of the right answers.

    The labels of a passage move together, to another passage with as many questions: each
    position stays as frequent as it was, and so does each combination within a passage. (Within
    one passage, most labels would stay where they are: Belebele has one or two questions on
    each.) Passages that no other matches in length exchange labels question by question.

    One permutation leaves, by chance, too many or too few labels right, and a model learns even
    that. So `SHUFFLES` are drawn, and the one is taken whose labels depend least on the right
    answers (Morgan & Rubin 2012, rerandomisation).

    Args:
        items: the questions in one language.
        rng: draws the permutations.

    Returns:
        Label (1–4) by item id.

    Raises:
        ValueError: no label changed, so that nothing is shuffled.
    """
    gold = np.array([item.correct_answer_num for item in items])
    blocks = _exchangeable(items)
    draws = [_exchange(gold, blocks, rng) for _ in range(SHUFFLES)]
    changed = [labels for labels in draws if (labels != gold).any()]
    if not changed:
        raise ValueError(
            f"arm shuffled-labels: shuffling the labels of {len(items)} training questions changed "
            "none of them; train on more questions, or leave the arm out"
        )
    best = min(changed, key=lambda labels: _dependence(gold, labels))
    return {item.item_id: int(label) for item, label in zip(items, best, strict=True)}


def _exchangeable(items: Sequence[Item]) -> list[Integers]:
    """Return places of items whose labels may be exchanged; each array is (blocks, questions)."""
    by_passage: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        by_passage.setdefault(item.passage_id, []).append(place)
    by_length: dict[int, list[list[int]]] = {}
    for places in by_passage.values():
        by_length.setdefault(len(places), []).append(places)
    matched = [np.array(group) for group in by_length.values() if len(group) > 1]
    alone = [place for group in by_length.values() if len(group) == 1 for place in group[0]]
    return [*matched, np.array(alone, np.intp).reshape(-1, 1)]


def _exchange(gold: Integers, blocks: Sequence[Integers], rng: np.random.Generator) -> Integers:
    labels = gold.copy()
    for places in blocks:
        labels[places] = gold[places[rng.permutation(len(places))]]
    return labels


def _dependence(gold: Integers, labels: Integers) -> float:
    """Return the chi-squared statistic of right answers by labels: 0 if they are independent."""
    table = np.zeros((4, 4))
    np.add.at(table, (gold - 1, labels - 1), 1)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(gold)
    there = expected > 0
    return float((((table - expected) ** 2)[there] / expected[there]).sum())


def label_agreement(rows: Sequence[TrainingRow]) -> float:
    """Return the share of rows whose label is the right answer: 1 but for shuffled labels."""
    return float(np.mean([row.label == row.item.correct_answer_num for row in rows]))


def label_shares(rows: Sequence[TrainingRow]) -> dict[str, float]:
    """Return how often each label is trained on, as ``label_share_1`` to ``label_share_4``."""
    shares = position_shares(np.array([row.label for row in rows]))
    return {f"label_share_{label}": float(share) for label, share in enumerate(shares, start=1)}
