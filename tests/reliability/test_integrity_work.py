"""Unfinished work that was damaged: an older checkpoint is used, or the work is done again."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from tests.execution.test_stage import answer, files, study_of
from tests.test_training import train
from xling.execution.cell_run import locate
from xling.execution.study_data import prepare_study
from xling.files.checksums import CHECKSUMS
from xling.models import BaseModelCache
from xling.scoring.answer_cache import AnswerCache
from xling.study import Cell
from xling.training.checkpoints import last_whole_checkpoint

SOAK = int(os.environ.get("XLING_SOAK", "1"))


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A training of eight steps with checkpoints after the fourth and the last, and its end."""
    work = tmp_path_factory.mktemp("trained") / "work"
    result, weights = train(tiny_model("llama"), work)
    return work, result, weights


def turn_a_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def test_any_damage_to_a_checkpoint_is_found_and_the_one_before_it_used(trained, tmp_path, caplog):
    rng = random.Random(0)
    for case in range(40 * SOAK):
        work = tmp_path / str(case)
        shutil.copytree(trained[0], work)
        assert last_whole_checkpoint(work).name == "checkpoint-8"
        path = (
            work
            / "checkpoint-8"
            / rng.choice(["state.safetensors", "trainer_state.json", CHECKSUMS])
        )
        before = path.stat()
        harm = rng.choice([turn_a_bit, cut, lambda path, rng: path.unlink()])
        if path.name == CHECKSUMS:
            harm = cut
        harm(path, rng)
        if path.exists():
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        caplog.clear()
        assert last_whole_checkpoint(work).name == "checkpoint-4"
        assert f"{work}/checkpoint-8 cannot be used (" in caplog.text
        assert "an older one is looked for" in caplog.text
        shutil.rmtree(work)


@pytest.mark.parametrize("broken", [("checkpoint-8",), ("checkpoint-4", "checkpoint-8")])
def test_a_training_with_broken_checkpoints_ends_as_an_undisturbed_one(
    trained, tiny_model, tmp_path, caplog, broken
):
    source, result, weights = trained
    work = Path(shutil.copytree(source, tmp_path / "work"))
    for name in broken:
        cut(work / name / "state.safetensors", random.Random(1))
    again, found = train(tiny_model("llama"), work)
    assert again.curve == result.curve
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    afresh = "the training starts afresh" in caplog.text
    assert afresh == (len(broken) == 2)
    assert "state.safetensors is cut off at " in caplog.text
    assert sorted(path.name for path in work.glob("checkpoint-*"))[-1] == "checkpoint-8"


def test_a_checkpoint_of_a_later_step_does_not_push_out_a_new_one(trained, tiny_model, tmp_path):
    work = tmp_path / "work"
    for step in (20, 30):
        shutil.copytree(trained[0] / "checkpoint-8", work / f"checkpoint-{step}")
        state = work / f"checkpoint-{step}" / "trainer_state.json"
        state.write_text(json.dumps({"global_step": step, "curve": []}))
    train(tiny_model("llama"), work)
    assert {path.name for path in work.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}


@pytest.mark.parametrize("scoring", ["answer-token", "cloze"])
def test_a_damaged_language_of_a_broken_evaluation_is_asked_again(
    tiny_model, tmp_path, caplog, scoring
):
    prepared = prepare_study(study_of(tiny_model("llama")))
    cell = Cell(prepared.study.models[0], "base", 0, "direct", scoring)
    opened = BaseModelCache().open(locate(cell.model))
    assert answer(opened, prepared, cell, tmp_path)
    expected = files(tmp_path)
    assert answer(opened, prepared, cell, tmp_path) == []  # all is there
    rng = random.Random(2)
    kept = [*sorted(tmp_path.rglob("*heb_Hebr.parquet")), tmp_path / "sealed" / "heb_Hebr.json"]
    assert len(kept) == (2 if scoring == "answer-token" else 3)
    for path in kept:
        for harm in (cut, turn_a_bit):
            if path.suffix == ".json" and harm is turn_a_bit:
                continue
            caplog.clear()
            harm(path, rng)
            assert answer(opened, prepared, cell, tmp_path)
            assert "its items are asked again" in caplog.text and "heb_Hebr" in caplog.text
            found = files(tmp_path)
            assert all(found[name].equals(expected[name]) for name in expected)


def test_no_bit_of_a_kept_answer_changes_unseen(tmp_path):
    path = tmp_path / "kept.jsonl"
    kept = AnswerCache(path)
    answers = {f"key-{n}": {"logprobs": [-0.125 * n, -1.5, -2.25e-3]} for n in range(6)}
    for key, answer_ in answers.items():
        kept.put(key, dict(answer_))
    whole = path.read_bytes()
    rng = random.Random(3)
    refused = 0
    for _ in range(400 * SOAK):
        turn_a_bit(path, rng)
        try:
            found = AnswerCache(path)
        except ValueError as error:
            refused += 1
            assert f"{path}, line " in str(error) and "is asked again" in str(error)
        else:  # the last line lost its end: it is not there
            assert [found[key] for key in answers if key in found] == list(answers.values())[:5]
            assert "key-5" not in found
        path.write_bytes(whole)
    assert refused > 380 * SOAK
