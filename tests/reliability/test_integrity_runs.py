"""Runs prove what they hold out, refuse adapters that have seen it, and mark odd results."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.analyze_run import run_analysis
from tests.place import SOURCE, TARGET, make_store
from tests.tiny_models import save_tiny_model
from xling import tracking
from xling.data.leakage import TRAINING_ITEMS
from xling.execution import accuracy_lines, prepare_study, run_evaluate
from xling.execution.cell_run import CellJob, locate, work_folder
from xling.execution.finetune.run_finetune import finetune_fingerprint, run_finetune
from xling.execution.finetune.setup import TRAINED
from xling.models import BaseModelCache
from xling.records import read_records, suspicious_languages, warning_text
from xling.study import Cell, Study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny base that never writes a label, and likes all four as little."""
    folder = tmp_path_factory.mktemp("model") / "mute"
    save_tiny_model("llama", folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    head = tensors["lm_head.weight"] * 20
    head[[tokens[label] for label in "1234"]] = 0.0
    save_file({**tensors, "lm_head.weight": head.to(torch.float32)}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    before, here = mlflow.get_tracking_uri(), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        os.chdir(folder)
        mlflow.set_tracking_uri(make_store(folder / "mlflow.db"))
        tracking.open_store()
        yield folder
    mlflow.set_tracking_uri(before)
    os.chdir(here)


@pytest.fixture(autouse=True)
def state(store, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(store / "state"))


def study_of(base: Path, name: str, *, seed: int = 0, split: str = "question") -> Study:
    return Study.model_validate(
        {
            "name": name,
            "models": ({"id": str(base), "name": "mute", "training_items": 8},),
            "data": {"source": "mini", "difficulties": (1,), "split": split, "held_out": 40,
                     "baseline_items": 4, "seed": seed},
            "languages": {"source": SOURCE, "target": TARGET, "branch": "Semitic"},
            "lora": {"r": 4, "alpha": 8},
            # Too small a rate to change any number: an adapter without effect.
            "training": {"batch_size": 8, "learning_rate": 1e-30},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(store, base):
    """A study whose adapter was trained and asked: its runs by arm, and the finetune run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(store / "state"))
        prepared = prepare_study(study_of(base, "mute"))
        shelf = BaseModelCache()
        cells = {arm: Cell(prepared.study.models[0], arm, 0) for arm in ("base", "finetuned")}
        trained = run_finetune(prepared, cells["finetuned"], shelf, force=False)
        asked = {arm: run_evaluate(prepared, c, shelf, force=False) for arm, c in cells.items()}
    return prepared, cells, trained, asked


def test_every_run_says_its_proof(tuned):
    _, _, trained, asked = tuned
    tags = {name: tracking.get_run(run_id).tags for name, run_id in asked.items()}
    ending = "training questions among 40 held-out (by item id, and by passage and question)"
    assert tracking.get_run(trained).tags["xling.disjoint"] == f"0 of 8 {ending}"
    assert tags["finetuned"]["xling.disjoint"] == f"0 of 8 {ending}"
    assert tags["base"]["xling.disjoint"] == f"no training; baseline: 0 of 4 {ending}"


def test_odd_results_carry_a_tag_and_are_said_with_the_accuracies(tuned, tmp_path):
    prepared, _, _, asked = tuned
    codes = " ".join(sorted((*SOURCE, *TARGET)))
    for run_id in asked.values():
        path = tracking.download_artifact(run_id, "records.parquet", tmp_path)
        found = warning_text(suspicious_languages(read_records(path)))
        assert found == f"answer_mass: {codes}; constant: {codes}"
        assert tracking.get_run(run_id).tags["xling.warning"] == found
        assert accuracy_lines(prepared.study, run_id)[-1].endswith(found)


def test_the_report_finds_the_adapter_without_effect(tuned, undrawn):
    prepared, _, _, asked = tuned
    analysis = run_analysis(prepared.study, bound=0.05, parameters={"study": "mute"})
    notes = [line for line in analysis.summary if line.startswith("Note: run evaluate mute")]
    assert len(notes) == 5  # answer mass and one option, of both; and the adapter
    (note,) = [line for line in notes if "no log-probability differs from the base" in line]
    assert asked["finetuned"] in note


def test_an_adapter_that_has_seen_the_questions_is_refused_before_any_work(tuned, base):
    _, _, trained, _ = tuned
    other = prepare_study(study_of(base, "other", seed=5))
    cell = Cell(other.study.models[0], "finetuned", 0)
    before = len(tracking.find_runs(kind="evaluate", study="other"))
    with pytest.raises(ValueError, match=rf"adapter '{trained}': . of 40 held-out questions were"):
        run_evaluate(other, cell, BaseModelCache(), adapter=trained, force=False)
    assert len(tracking.find_runs(kind="evaluate", study="other")) == before == 0


def test_a_training_that_would_mix_is_refused_before_any_work(tuned):
    from dataclasses import replace

    prepared, cells, _, _ = tuned
    split = prepared.splits[0]
    mixed = replace(split, heldout_ids=(*split.heldout_ids, *split.training_ids))
    wrong = replace(prepared, splits=(mixed,))
    before = len(tracking.find_runs(kind="finetune", study="mute"))
    with pytest.raises(ValueError, match="finetune mute/finetuned/seed-0: 8 of .* were trained on"):
        run_finetune(wrong, cells["finetuned"], BaseModelCache(), force=True)
    assert len(tracking.find_runs(kind="finetune", study="mute")) == before == 1


def test_an_adapter_that_does_not_say_what_it_was_trained_on_is_refused(tuned, store):
    prepared, cells, trained, _ = tuned
    folder = next((store / "mlruns").rglob(f"artifacts/adapter/{TRAINING_ITEMS}")).parent
    hidden = folder / TRAINING_ITEMS
    kept = hidden.read_bytes()
    hidden.unlink()
    with pytest.raises(ValueError, match="are not those that were logged"):
        run_evaluate(prepared, cells["finetuned"], BaseModelCache(), adapter=trained, force=False)
    hidden.write_bytes(kept)
    reused = run_evaluate(
        prepared, cells["finetuned"], BaseModelCache(), adapter=trained, force=False
    )
    assert reused


def test_a_trained_adapter_damaged_before_it_was_logged_is_trained_again(tuned, caplog):
    prepared, cells, trained, _ = tuned
    located = locate(prepared.study.models[0])
    folder = work_folder(
        finetune_fingerprint(CellJob(prepared, cells["finetuned"], located)), fresh=False
    )
    path = folder / TRAINED / "report.json"
    path.write_bytes(path.read_bytes()[:40])
    tracking_run = tracking.get_run(trained)
    assert tracking_run.status == "FINISHED"
    client = mlflow.MlflowClient()
    client.set_tag(trained, "xling.fingerprint", "another")  # as if it had not been logged
    again = run_finetune(prepared, cells["finetuned"], BaseModelCache(), force=False)
    assert again != trained
    assert "is damaged (report.json is cut off at 40 bytes" in caplog.text
    assert json.loads(path.read_text())["steps"] == tracking_run.metrics["train_steps"]
    shutil.rmtree(folder)
