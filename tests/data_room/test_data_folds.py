"""Cross-fitting: every question is held out once, and passages stay whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xling.data import build_mini, check_folds, cross_fit_splits, manifest
from xling.data.schema import DataSet

LANGUAGES = ("arb_Arab", "fra_Latn")


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Two questions on each third passage, one on the others."""
    mini = build_mini(languages=LANGUAGES, difficulties=(1,), seed=0)
    items = {}
    for code, rows in mini.items.items():
        kept = rows[:60]
        items[code] = tuple(
            replace(item, link=kept[k - 1].link, question_number=2) if k % 4 == 1 else item
            for k, item in enumerate(kept)
        )
    return replace(mini, items=items)


def test_every_question_is_held_out_once_and_trained_on_in_the_other_folds(data):
    splits = cross_fit_splits(data, folds=4, seed=0)
    heldout = [item_id for split in splits for item_id in split.heldout_ids]
    assert sorted(heldout) == sorted(data.item_ids)
    for split in splits:
        assert set(split.training_ids) == set(data.item_ids) - set(split.heldout_ids)
        assert split.kind == "cross-fit"


def test_passages_stay_whole_and_folds_are_of_one_size(data):
    splits = cross_fit_splits(data, folds=5, seed=1)
    passage = {item.item_id: item.passage_id for item in data.items["arb_Arab"]}
    sets = [{passage[item_id] for item_id in split.heldout_ids} for split in splits]
    assert sum(map(len, sets)) == len(set().union(*sets))
    sizes = [len(split.heldout_ids) for split in splits]
    assert max(sizes) - min(sizes) <= 2


def test_the_seed_decides_and_the_order_of_the_data_does_not(data):
    turned = replace(data, items={code: rows[::-1] for code, rows in data.items.items()})
    ids = [set(split.heldout_ids) for split in cross_fit_splits(data, folds=3, seed=0)]
    assert [set(s.heldout_ids) for s in cross_fit_splits(turned, folds=3, seed=0)] == ids
    assert [set(s.heldout_ids) for s in cross_fit_splits(data, folds=3, seed=1)] != ids


def test_a_limit_bounds_all_questions(data):
    splits = cross_fit_splits(data, folds=2, seed=0, limit=10)
    assert sum(len(split.heldout_ids) for split in splits) == 10
    assert {len(split.training_ids) + len(split.heldout_ids) for split in splits} == {10}


def test_overlapping_folds_are_refused_by_name(data):
    first, second = cross_fit_splits(data, folds=2, seed=0)
    both = replace(
        second,
        heldout_ids=(*second.heldout_ids, first.heldout_ids[0]),
        training_ids=first.heldout_ids[1:],
    )
    with pytest.raises(
        ValueError, match=r"(folds 0 and 1 overlap: both hold out passage|passages)"
    ):
        check_folds(data, [first, both])
    with pytest.raises(ValueError, match="folds 0 and 1 overlap: both hold out passage"):
        check_folds(data, [first, first])


def test_a_question_that_no_fold_holds_out_is_named(data):
    first, second = cross_fit_splits(data, folds=2, seed=0)
    passage = {item.item_id: item.passage_id for item in data.items["arb_Arab"]}
    gone = passage[second.heldout_ids[0]]
    shorter = replace(
        second, heldout_ids=tuple(i for i in second.heldout_ids if passage[i] != gone)
    )
    with pytest.raises(ValueError, match="questions are never held out, first"):
        check_folds(data, [first, shorter])


@pytest.mark.parametrize(("folds", "told"), [(1, "at least 2"), (61, "take fewer folds")])
def test_impossible_folds_are_refused(data, folds, told):
    with pytest.raises(ValueError, match=told):
        cross_fit_splits(data, folds=folds, seed=0)


def test_the_manifest_tells_each_fold(data):
    described = manifest(data, cross_fit_splits(data, folds=3, seed=0))
    assert described["split"] == "cross-fit" and len(described["folds"]) == 3
    assert sum(fold["heldout_questions"] for fold in described["folds"]) == 60
