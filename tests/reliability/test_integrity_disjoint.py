"""Nothing that is held out is trained on: proven for every arm, split, fold and limit."""

from __future__ import annotations

import json
import os
import random
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import SHARED
from xling.data import Item, load_folder, split_items
from xling.data.leakage import (
    TRAINING_ITEMS,
    check_no_leakage,
    read_training_items,
    trained_on,
    without_repeats,
    write_training_items,
)
from xling.data.parallel import make_data_set
from xling.execution.leakage_checks import check_no_evaluation_leakage, check_no_training_leakage
from xling.execution.study_data import StudyData, prepare_study
from xling.study import Cell, Study
from xling.study.load import load_study

SOAK = int(os.environ.get("XLING_SOAK", "1"))
DEMO = load_study("demo")
TUNED = ("finetuned", "control-source", "shuffled-labels")
SPLITS = (
    {"split": "question", "held_out": 40},
    {"split": "passage", "held_out": 40},
    {"split": "given", "held_out": 40},
    {"split": "cross-fit", "folds": 3, "baseline_items": 0},
)


def study_of(seed: int = 0, **data) -> Study:
    settings = DEMO.model_dump()
    settings["arms"] = ("base", *TUNED)
    settings["languages"].update(
        source=("arb_Arab", "arz_Arab"),
        target=("heb_Hebr", "fra_Latn", "eng_Latn"),
        control_source=("fra_Latn", "kor_Hang"),
    )
    settings["data"].update({"difficulties": (1,), "seed": seed, "baseline_items": 4, **data})
    return Study.model_validate(settings)


def prepared_of(study: Study, limit: int = 0) -> StudyData:
    """A study with its data; of the mini set, some items say the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        prepared = prepare_study(study, limit=limit)
        splits = tuple(without_repeats(prepared.questions, split) for split in prepared.splits)
    return replace(prepared, splits=splits)


def cell_of(study: Study, arm: str, seed: int = 0, items: int = 0) -> Cell:
    model = study.models[0].model_copy(update={"training_items": items})
    return Cell(model, arm, seed)


@pytest.mark.parametrize("data", SPLITS, ids=lambda data: data["split"])
@pytest.mark.parametrize("limit", [0, 30])
def test_every_arm_fold_and_limit_of_a_study_is_proven_disjoint(data, limit, tmp_path):
    for seed in range(SOAK):
        study = study_of(seed=seed, **data)
        prepared = prepared_of(study, limit=limit)
        for arm in TUNED:
            cell = cell_of(study, arm, seed, items=0 if limit else 25)
            adapters = []
            for fold, split in enumerate(prepared.splits):
                rows = prepared.training_rows(cell, fold)
                proof = check_no_training_leakage(prepared, rows, name=arm, fold=fold)
                questions = len({row.item.item_id for row in rows})
                assert proof.startswith(
                    f"0 of {questions} training questions among {len(split.heldout_ids)} held-out"
                )
                folder = tmp_path / f"{seed}-{arm}-{fold}"
                folder.mkdir()
                write_training_items(folder, trained_on(row.item for row in rows))
                adapters.append(SimpleNamespace(folder=folder, uri=f"run-{fold}"))
            parts = prepared.evaluated_items(cell)
            asked = check_no_evaluation_leakage(prepared, cell, parts, adapters)
            assert asked.count("0 of ") == len(adapters) == max(1, asked.count("fold "))
            if len(adapters) > 1:  # each fold's adapter has seen what the others hold out
                with pytest.raises(ValueError, match="held-out questions were trained on"):
                    check_no_evaluation_leakage(prepared, cell, parts, adapters[::-1])
        base = cell_of(study, "base")
        proof = check_no_evaluation_leakage(prepared, base, prepared.evaluated_items(base), [])
        baseline = 0 if data["split"] == "cross-fit" else 4
        assert proof.startswith(f"no training; baseline: 0 of {baseline} training questions among")


@pytest.mark.parametrize("arm", TUNED)
@pytest.mark.parametrize("data", SPLITS, ids=lambda data: data["split"])
def test_one_held_out_question_in_the_training_is_refused(arm, data):
    study = study_of(**data)
    prepared = prepared_of(study)
    rng = random.Random(0)
    for fold, split in enumerate(prepared.splits):
        lost = rng.choice(split.heldout_ids)
        mixed = list(prepared.splits)
        mixed[fold] = replace(split, training_ids=(*split.training_ids, lost))
        wrong = replace(prepared, splits=tuple(mixed))
        rows = wrong.training_rows(cell_of(study, arm), fold)
        said = rf"finetune x: 1 of {len(split.heldout_ids)} held-out .*by item id, first {lost}"
        with pytest.raises(ValueError, match=said):
            check_no_training_leakage(wrong, rows, name="x", fold=fold)


def test_a_baseline_question_that_is_held_out_is_refused():
    study = study_of(**SPLITS[0])
    prepared = prepared_of(study)
    cell = cell_of(study, "base")
    parts = prepared.evaluated_items(cell)
    mixed = {
        "training": {"eng_Latn": parts["heldout"]["eng_Latn"][:1]},
        "heldout": parts["heldout"],
    }
    with pytest.raises(ValueError, match="baseline: 1 of 40 held-out questions"):
        check_no_evaluation_leakage(prepared, cell, mixed, [])


def item(number: int, **changes) -> Item:
    values = {
        "link": f"https://example.org/{number}",
        "question_number": 1,
        "flores_passage": f"Le café de la rue n° {number} est fermé.",
        "question": "Qu'est-ce qui est fermé ?",
        **{f"mc_answer{k}": f"choix {k}" for k in range(1, 5)},
        "correct_answer_num": 1,
        "dialect": "fra_Latn",
    }
    return Item(**{**values, **changes})


def respelt(text: str) -> str:
    """The same text, with letters taken apart and other spaces."""
    return "  " + unicodedata.normalize("NFD", text).replace(" ", " \n") + "\t"


def test_the_same_question_under_another_id_is_shared_however_it_is_spelt():
    first = item(1)
    training = trained_on([first, item(2)])
    twin = replace(
        item(9), flores_passage=respelt(first.flores_passage), question=respelt(first.question)
    )
    assert twin.flores_passage != first.flores_passage
    with pytest.raises(ValueError, match=r"1 of 2 .*\(1 by passage and question, first .*/9#1 "):
        check_no_leakage(training, {"fra_Latn": [item(3), twin]}, where="x")
    other_language = replace(twin, dialect="ita_Latn")
    other_question = replace(twin, question="Qui est fermé ?")
    other_passage = replace(twin, flores_passage="Le café est ouvert.")
    heldout = {"ita_Latn": [other_language], "fra_Latn": [other_question, other_passage]}
    assert check_no_leakage(training, heldout, where="x").startswith("0 of 2 training questions")


def data_of(items: list[Item]):
    return make_data_set({"fra_Latn": items}, name="few", source="here", revision="r")


def test_a_repeated_question_is_left_out_of_training_and_it_is_said():
    items = [item(number) for number in range(12)]
    split = split_items(data_of(items), split="question", held_out=4, seed=0)
    lost, asked = split.training_ids[2], split.heldout_ids[1]
    source = next(each for each in items if each.item_id == asked)
    twins = [
        replace(each, flores_passage=respelt(source.flores_passage))
        if each.item_id == lost
        else each
        for each in items
    ]
    data = data_of(twins)
    with pytest.warns(UserWarning, match=f"1 training questions .* first {lost}, which is {asked}"):
        kept = without_repeats(data, split)
    assert set(split.training_ids) - set(kept.training_ids) == {lost}
    assert kept.heldout_ids == split.heldout_ids
    assert without_repeats(data_of(items), split) is split
    same = data_of([replace(each, flores_passage="Le même.") for each in items])
    with pytest.raises(ValueError, match="each of the 8 training questions is held out, too"):
        without_repeats(same, split)


@pytest.mark.skipif(not SHARED.is_dir(), reason="sib200_mc is not here")
def test_a_sentence_that_stands_twice_in_real_data_is_found():
    languages = ["arb_Arab", "ary_Arab", "eng_Latn"]
    data = load_folder(SHARED / "sib200_mc", languages=languages)
    split = split_items(data, split="given", held_out=0, seed=0)
    with pytest.warns(UserWarning, match="1 training questions .*sentence/365#1, .* in ary_Arab"):
        kept = without_repeats(data, split)
    assert len(split.training_ids) - len(kept.training_ids) == 1
    heldout = {code: data.select(code, split.heldout_ids) for code in languages}
    before, after = (
        trained_on(row for code in languages for row in data.select(code, each.training_ids))
        for each in (split, kept)
    )
    with pytest.raises(ValueError, match="1 of 204 held-out questions were trained on"):
        check_no_leakage(before, heldout, where="x")
    assert check_no_leakage(after, heldout, where="x").startswith("0 of 799 ")


def test_what_an_adapter_was_trained_on_comes_back_or_is_refused(tmp_path):
    items = trained_on(item(number) for number in range(50))
    write_training_items(tmp_path, items)
    assert read_training_items(tmp_path, adapter="'x'") == items and items.n_questions == 50
    path = tmp_path / TRAINING_ITEMS
    whole = path.read_bytes()
    assert len(json.loads(whole)["ids"]) == 50
    for content in (whole[:-30], b"", b"[]", b'{"ids": []}', b'{"ids": 3, "texts": []}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"adapter 'x': {path} is damaged .*train it again"):
            read_training_items(tmp_path, adapter="'x'")
    path.unlink()
    with pytest.raises(ValueError, match="adapter 'x' does not say which questions"):
        read_training_items(tmp_path, adapter="'x'")


def test_an_adapter_of_another_split_of_the_same_data_is_refused(tmp_path: Path):
    """As one that is named by hand: its own study held out other questions."""
    refused = 0
    for seed in range(1, 1 + 6 * SOAK):
        other: StudyData = prepared_of(study_of(seed=seed, split="question", held_out=40))
        rows = other.training_rows(cell_of(other.study, "finetuned"))
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_training_items(folder, trained_on(row.item for row in rows))
        here = prepared_of(study_of(split="question", held_out=40))
        cell = cell_of(here.study, "finetuned")
        seen = {row.item.item_id for row in rows} & set(here.splits[0].heldout_ids)
        adapter = SimpleNamespace(folder=folder, uri="models:/by-hand@champion")
        said = rf"'models:/by-hand@champion': \d+ of 40 held-out .*\({len(seen)} by item id, first "
        with pytest.raises(ValueError, match=said):
            check_no_evaluation_leakage(here, cell, here.evaluated_items(cell), [adapter])
        refused += 1
    assert refused == 6 * SOAK
