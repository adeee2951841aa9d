import pytest

from tests.conftest import SHARED
from xling.execution import prepare_study, resolve_study
from xling.execution.prepared import items_sha256
from xling.fingerprint import code_sha256, fingerprint, package_versions
from xling.study_files import load_study

DEMO = load_study("demo")


def test_parts_are_disjoint_and_parallel_in_every_language():
    prepared = prepare_study(DEMO)
    assert len(prepared.split.heldout_ids) == DEMO.data.held_out
    for code in DEMO.languages.evaluated:
        heldout = {item.item_id for item in prepared.items(code, "heldout")}
        training = {item.item_id for item in prepared.items(code, "training")}
        assert heldout == set(prepared.split.heldout_ids)
        assert not heldout & training


def test_training_items_are_whole_questions_of_the_source_languages():
    prepared = prepare_study(DEMO)
    by_language = prepared.training_items(10)
    assert tuple(by_language) == DEMO.languages.source
    items = [item for rows in by_language.values() for item in rows]
    assert len(items) == 10 * len(DEMO.languages.source)
    assert len({item.item_id for item in items}) == 10
    assert {item.dialect for item in items} == set(DEMO.languages.source)
    assert {item.item_id for item in items} <= set(prepared.split.training_ids)


def test_baseline_items_are_training_items_and_none_by_default():
    assert prepare_study(DEMO).baseline_items("heb_Hebr") == ()
    data = DEMO.data.model_copy(update={"baseline_items": 7})
    prepared = prepare_study(DEMO.model_copy(update={"data": data}))
    baseline = prepared.baseline_items("heb_Hebr")
    assert len(baseline) == 7
    assert {item.item_id for item in baseline} <= set(prepared.split.training_ids)


def test_limit_bounds_both_parts_and_names_the_study():
    prepared = prepare_study(DEMO, limit=5)
    assert len(prepared.split.heldout_ids) == len(prepared.split.training_ids) == 5
    assert prepared.study.name == "demo-limit-5"
    assert set(prepared.split.heldout_ids) <= set(prepare_study(DEMO).split.heldout_ids)


def test_other_data_is_another_study():
    resolved = resolve_study(DEMO, data="/some/where/my set/", limit=3)
    assert resolved.name == "demo-my-set-limit-3"
    assert resolved.data.source == "folder"
    assert resolve_study(DEMO) == DEMO


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data is not there")
def test_real_text_in_all_varieties_prepares():
    prepared = prepare_study(DEMO, data=str(SHARED / "sib200_mc"), limit=60)
    assert len(prepared.data.languages) == 14
    assert len(prepared.split.training_ids) == 60
    assert len(prepared.split.heldout_ids) == DEMO.data.held_out


def test_fingerprint_follows_content_and_not_its_order():
    first = fingerprint({"a": 1, "b": [1, 2]})
    assert first == fingerprint({"b": [1, 2], "a": 1})
    assert first != fingerprint({"a": 1, "b": [2, 1]})
    assert len(code_sha256()) == 64
    assert set(package_versions()) == {"bitsandbytes", "peft", "torch", "transformers"}


def test_every_language_of_a_part_has_its_own_hash():
    prepared = prepare_study(DEMO)
    hashes = {
        items_sha256({code: prepared.items(code, part)})
        for part in ("training", "heldout")
        for code in DEMO.languages.evaluated
    }
    assert len(hashes) == 2 * len(DEMO.languages.evaluated)
