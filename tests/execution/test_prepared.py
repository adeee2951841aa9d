from __future__ import annotations

import pytest

from tests.conftest import SHARED
from xling.execution import prepare_study, resolve_study
from xling.execution.study_data import items_sha256, rows_sha256
from xling.files.fingerprint import fingerprint, package_versions
from xling.study import Cell, Study
from xling.study.load import load_study

DEMO = load_study("demo")


def test_parts_are_disjoint_and_parallel_in_every_language():
    prepared = prepare_study(DEMO)
    assert len(prepared.splits[0].heldout_ids) == DEMO.data.held_out
    for code in DEMO.languages.evaluated:
        heldout = {item.item_id for item in prepared.items(code, "heldout")}
        training = {item.item_id for item in prepared.items(code, "training")}
        assert heldout == set(prepared.splits[0].heldout_ids)
        assert not heldout & training


def cell_of(study, arm: str = "finetuned", *, items: int = 0, seed: int = 0, **more) -> Cell:
    model = study.models[0].model_copy(update={"training_items": items})
    return Cell(model, arm, seed, **more)


def test_training_rows_are_whole_questions_of_the_source_languages():
    prepared = prepare_study(DEMO)
    rows = prepared.training_rows(cell_of(DEMO, items=10))
    assert len(rows) == 10 * len(DEMO.languages.source)
    assert len({row.item.item_id for row in rows}) == 10
    assert {row.item.dialect for row in rows} == set(DEMO.languages.source)
    assert {row.item.item_id for row in rows} <= set(prepared.splits[0].training_ids)
    assert all(row.label == row.item.correct_answer_num for row in rows)


def with_arms(**data) -> Study:
    settings = DEMO.model_dump()
    settings["arms"] = ("base", "finetuned", "control-source", "shuffled-labels")
    settings["languages"]["control_source"] = ("fra_Latn", "kor_Hang")
    settings["languages"]["target"] = ("heb_Hebr", "fra_Latn", "eng_Latn")
    settings["data"].update(data)
    return Study.model_validate(settings)


def test_every_arm_has_as_many_rows_on_the_same_questions():
    study = with_arms()
    prepared = prepare_study(study)
    rows = {
        arm: prepared.training_rows(cell_of(study, arm, items=12))
        for arm in ("finetuned", "control-source", "shuffled-labels")
    }
    assert {len(found) for found in rows.values()} == {72}
    ids = [sorted(row.item.item_id for row in found) for found in rows.values()]
    assert ids[0] == ids[1] == ids[2]
    assert {row.item.dialect for row in rows["control-source"]} == {"fra_Latn", "kor_Hang"}
    assert "kor_Hang" not in study.languages.evaluated
    assert rows_sha256(rows["finetuned"]) != rows_sha256(rows["shuffled-labels"])
    other = prepared.training_rows(cell_of(study, "shuffled-labels", items=12, seed=1))
    assert other != rows["shuffled-labels"]
    with pytest.raises(ValueError, match="no arm 'control-source'; valid: base, finetuned"):
        prepare_study(DEMO).training_rows(cell_of(DEMO, "control-source"))
    with pytest.raises(ValueError, match="the base arm has no adapter; valid arms for finetune"):
        prepared.training_rows(cell_of(study, "base"))


def test_folds_hold_every_question_out_once_and_never_train_on_it():
    data = DEMO.data.model_copy(update={"split": "cross-fit", "folds": 3})
    study = DEMO.model_copy(update={"data": data})
    prepared = prepare_study(study)
    assert prepared.cross_fitted and set(prepared.fold_of) == set(prepared.questions.item_ids)
    for fold in range(3):
        trained = {row.item.item_id for row in prepared.training_rows(cell_of(study), fold)}
        heldout = {item.item_id for item in prepared.items("heb_Hebr", "heldout", fold)}
        assert not trained & heldout
        assert heldout == {key for key, value in prepared.fold_of.items() if value == fold}
    parts = prepared.evaluated_items(cell_of(study, "base"))
    assert len(parts["heldout"]["heb_Hebr"]) == len(prepared.questions.item_ids)
    with pytest.raises(ValueError, match="has no fold 3; valid: 0 to 2"):
        prepared.training_rows(cell_of(study), 3)
    with pytest.raises(ValueError, match=r"has no fold 1; valid: 0 \(its split is not cross-fit"):
        prepare_study(DEMO).training_rows(cell_of(DEMO), 1)


def test_only_the_base_model_that_answers_directly_is_asked_training_questions():
    data = DEMO.data.model_copy(update={"baseline_items": 7})
    prepared = prepare_study(DEMO.model_copy(update={"data": data}))
    assert set(prepared.evaluated_items(cell_of(DEMO, "base"))) == {"heldout", "training"}
    assert set(prepared.evaluated_items(cell_of(DEMO, "base", reasoning="cot"))) == {"heldout"}
    assert set(prepared.evaluated_items(cell_of(DEMO, "finetuned"))) == {"heldout"}


def test_baseline_items_are_training_items_and_may_be_none():
    none = DEMO.data.model_copy(update={"baseline_items": 0})
    assert prepare_study(DEMO.model_copy(update={"data": none})).baseline_items("heb_Hebr") == ()
    data = DEMO.data.model_copy(update={"baseline_items": 7})
    prepared = prepare_study(DEMO.model_copy(update={"data": data}))
    baseline = prepared.baseline_items("heb_Hebr")
    assert len(baseline) == 7
    assert {item.item_id for item in baseline} <= set(prepared.splits[0].training_ids)


def test_limit_bounds_both_parts_and_names_the_study():
    prepared = prepare_study(DEMO, limit=5)
    assert len(prepared.splits[0].heldout_ids) == len(prepared.splits[0].training_ids) == 5
    assert prepared.study.name == "demo-limit-5"
    assert set(prepared.splits[0].heldout_ids) <= set(prepare_study(DEMO).splits[0].heldout_ids)


def test_other_data_is_another_study():
    resolved = resolve_study(DEMO, data="/some/where/my set/", limit=3)
    assert resolved.name == "demo-my-set-limit-3"
    assert resolved.data.source == "folder"
    assert resolve_study(DEMO) == DEMO


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data is not there")
def test_real_text_in_all_varieties_prepares():
    prepared = prepare_study(DEMO, data=str(SHARED / "sib200_mc"), limit=60)
    assert len(prepared.questions.languages) == 14
    assert len(prepared.splits[0].training_ids) == 60
    assert len(prepared.splits[0].heldout_ids) == DEMO.data.held_out


def test_fingerprint_follows_content_and_not_its_order():
    first = fingerprint({"a": 1, "b": [1, 2]}, stages=("prepare", "score"))
    assert first == fingerprint({"b": [1, 2], "a": 1}, stages=("score", "prepare"))
    assert first != fingerprint({"a": 1, "b": [2, 1]}, stages=("prepare", "score"))
    assert first != fingerprint({"a": 1, "b": [1, 2]}, stages=("prepare", "train"))
    assert len(first) == 64
    assert set(package_versions()) == {"bitsandbytes", "peft", "torch", "transformers"}


def test_every_language_of_a_part_has_its_own_hash():
    prepared = prepare_study(DEMO)
    hashes = {
        items_sha256({code: prepared.items(code, part)})
        for part in ("training", "heldout")
        for code in DEMO.languages.evaluated
    }
    assert len(hashes) == 2 * len(DEMO.languages.evaluated)
