"""What the arms are trained on."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from xling.data import Item, build_mini
from xling.data.training_rows import (
    control_source_rows,
    label_agreement,
    shuffle_labels,
    shuffled_label_rows,
    source_rows,
)

SOURCE = ("arb_Arab", "arz_Arab", "ary_Arab")


def items_of(languages, n=30):
    data = build_mini(languages=languages, difficulties=(1,), seed=0)
    return {code: rows[:n] for code, rows in data.items.items()}


def item(passage: int, number: int, gold: int) -> Item:
    return Item(f"p{passage}", number, "text", "what?", "a", "b", "c", "d", gold, "arb_Arab")


def belebele_like(rng: np.random.Generator, passages: int = 400) -> list[Item]:
    """One or two questions on each passage, golds skewed to the third position."""
    golds = rng.choice([1, 2, 3, 4], p=[0.15, 0.2, 0.45, 0.2], size=(passages, 2))
    return [
        item(passage, number, int(golds[passage, number - 1]))
        for passage in range(passages)
        for number in range(1, 2 + passage % 2)
    ]


@pytest.mark.parametrize(
    "languages", [["fra_Latn"], ["fra_Latn", "jpn_Jpan"], ["fra_Latn", "eng_Latn", "kor_Hang"]]
)
def test_control_source_has_the_same_questions_as_often_as_the_source_arm(languages):
    rows = control_source_rows(items_of(languages), repeats=len(SOURCE))
    source = source_rows(items_of(SOURCE))
    assert Counter(row.item.item_id for row in rows) == Counter(row.item.item_id for row in source)
    per_language = Counter(row.item.dialect for row in rows)
    assert set(per_language) == set(languages)
    assert max(per_language.values()) - min(per_language.values()) <= len(rows) * 0.04
    assert label_agreement(rows) == 1


def test_several_control_languages_show_a_question_in_different_languages():
    rows = control_source_rows(items_of(["fra_Latn", "eng_Latn", "kor_Hang"]), repeats=3)
    shown = {(row.item.item_id, row.item.dialect) for row in rows}
    assert len(shown) == len(rows)


def test_shuffled_labels_say_nothing_of_the_answer_and_keep_every_frequency():
    rng = np.random.default_rng(0)
    items = belebele_like(rng)
    shares, agreement = Counter(each.correct_answer_num for each in items), []
    for seed in range(50):
        labels = shuffle_labels(items, rng=np.random.default_rng(seed))
        assert Counter(labels.values()) == shares
        agreement.append(
            np.mean([labels[each.item_id] == each.correct_answer_num for each in items])
        )
    # By chance alone two independent labels agree in the sum of squared frequencies.
    chance = sum((count / len(items)) ** 2 for count in shares.values())
    assert np.mean(agreement) == pytest.approx(chance, abs=0.005)
    # One permutation of 600 would spread by 0.019; a model learns what it leaves right or wrong.
    assert np.std(agreement) < 0.012


def test_labels_of_a_passage_move_together():
    items = belebele_like(np.random.default_rng(1))
    labels = shuffle_labels(items, rng=np.random.default_rng(2))
    pairs = Counter(
        (first.correct_answer_num, second.correct_answer_num)
        for first, second in pairwise(items)
        if first.passage_id == second.passage_id
    )
    shuffled = Counter(
        (labels[first.item_id], labels[second.item_id])
        for first, second in pairwise(items)
        if first.passage_id == second.passage_id
    )
    assert shuffled == pairs


def test_a_question_has_the_same_shuffled_label_in_every_language():
    rows = shuffled_label_rows(items_of(SOURCE), rng=np.random.default_rng(0))
    labels: dict[str, set[int]] = {}
    for row in rows:
        labels.setdefault(row.item.item_id, set()).add(row.label)
    assert {len(found) for found in labels.values()} == {1}
    assert 0.05 < label_agreement(rows) < 0.5
    again = shuffled_label_rows(items_of(SOURCE), rng=np.random.default_rng(0))
    assert again == rows != shuffled_label_rows(items_of(SOURCE), rng=np.random.default_rng(1))


def test_passages_without_a_match_in_length_exchange_questions():
    items = [item(0, n, n % 4 + 1) for n in range(1, 9)] + [item(1, 1, 2), item(2, 1, 3)]
    labels = shuffle_labels(items, rng=np.random.default_rng(0))
    assert any(labels[each.item_id] != each.correct_answer_num for each in items[:8])


def test_labels_that_cannot_be_shuffled_are_refused():
    items = [item(k, 1, 3) for k in range(5)]
    with pytest.raises(ValueError, match="changed none of them; train on more questions"):
        shuffle_labels(items, rng=np.random.default_rng(0))
