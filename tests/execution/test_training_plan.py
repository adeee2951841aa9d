"""What a cell's training does with memory is decided once, and kept beside its checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from xling.execution import prepare, prepare_study
from xling.execution.cell_run import CellJob
from xling.execution.evaluate.run_evaluate import evaluate_fingerprint
from xling.execution.finetune.run_finetune import finetune_fingerprint
from xling.execution.finetune.setup import (
    CHECKPOINTS,
    MEMORY,
    TRAINED,
    Training,
    plan_training,
    with_memory,
)
from xling.files.checksums import checksummed_directory
from xling.models import locate_model
from xling.planning import memory_limits
from xling.study import Study
from xling.training.checkpoints import PROGRESS, STATE

AMPLE, SHORT = 2**40, 10_000


@pytest.fixture
def study(tiny_model) -> Study:
    return Study.model_validate(
        {
            "name": "memory",
            "models": ({"id": str(tiny_model("llama")), "name": "tiny"},),
            "data": {"source": "mini", "difficulties": (1,), "split": "given", "held_out": 4},
            "languages": {"source": ("arb_Arab",), "target": ("heb_Hebr",), "branch": "Semitic"},
        }
    )


def changed(study: Study, **training: object) -> Study:
    """The study with other settings of its training."""
    return study.model_copy(update={"training": study.training.model_copy(update=training)})


def decided(study: Study, work: Path, free: int, monkeypatch, **training: object) -> Training:
    """How the study's adapter is trained where so many bytes are free."""
    prepared = prepare_study(changed(study, **training))
    cell, located = prepared.study.cells()[1], locate_model(study.models[0].id)
    monkeypatch.setattr(memory_limits, "available_bytes", lambda processes: free)
    job = CellJob(prepared, cell, located)
    how = plan_training(job)
    return with_memory(how, job, longest=200, work=work)


def use_of(how: Training) -> dict[str, object]:
    return asdict(how.memory)


def leave_a_checkpoint(work: Path) -> None:
    folder = work / CHECKPOINTS / "checkpoint-4"
    folder.parent.mkdir(parents=True)
    with checksummed_directory(folder) as temporary:
        (temporary / STATE).touch()
        (temporary / PROGRESS).write_text('{"global_step": 4}', encoding="utf-8")


def test_a_training_that_goes_on_computes_as_before(study, tmp_path, monkeypatch) -> None:
    first = decided(study, tmp_path, AMPLE, monkeypatch)
    assert first.memory.plain_copy and not first.memory.gradient_checkpointing
    assert json.loads((tmp_path / MEMORY).read_text())["use"] == use_of(first)
    leave_a_checkpoint(tmp_path)
    again = decided(study, tmp_path, SHORT, monkeypatch)
    assert again.memory.plain_copy and not again.memory.gradient_checkpointing
    assert again.examples_at_once == 1 < first.examples_at_once  # as little as that allows
    later = decided(study, tmp_path, AMPLE, monkeypatch)
    assert use_of(later) == use_of(again)


def test_without_a_checkpoint_it_is_decided_anew(study, tmp_path, monkeypatch) -> None:
    first = decided(study, tmp_path, SHORT, monkeypatch)
    assert first.memory.gradient_checkpointing and first.examples_at_once == 1
    again = decided(study, tmp_path, AMPLE, monkeypatch)
    assert not again.memory.gradient_checkpointing
    assert json.loads((tmp_path / MEMORY).read_text())["use"] == use_of(again)


def test_settings_that_were_changed_since_are_followed(study, tmp_path, monkeypatch) -> None:
    decided(study, tmp_path, AMPLE, monkeypatch)
    leave_a_checkpoint(tmp_path)
    asked = decided(
        study, tmp_path, AMPLE, monkeypatch, gradient_checkpointing=True, micro_batch_size=2
    )
    assert asked.memory.gradient_checkpointing and asked.examples_at_once == 2
    assert asked.memory.pass_tokens == 0


def test_what_is_trained_already_is_described_as_it_was(study, tmp_path, monkeypatch) -> None:
    first = decided(study, tmp_path, AMPLE, monkeypatch)
    (tmp_path / TRAINED).mkdir()
    again = decided(
        study, tmp_path, SHORT, monkeypatch, gradient_checkpointing=True, micro_batch_size=2
    )
    assert again.settings == first.settings


def test_settings_that_save_memory_find_the_same_adapter(study) -> None:
    def digest(**training: object) -> str:
        prepared = prepare_study(changed(study, **training))
        cell = prepared.study.cells()[1]
        return finetune_fingerprint(CellJob(prepared, cell, locate_model(study.models[0].id)))

    same = digest()
    assert digest(gradient_checkpointing=True, micro_batch_size=2, checkpoints=9) == same
    assert digest(learning_rate=1e-5) != same
    assert digest(batch_size=8) != same


def test_what_only_the_analysis_reads_is_in_no_fingerprint(study, monkeypatch) -> None:
    said = study.model_dump()
    said["models"][0].update(base="org/base", developer="org")
    said["data"]["n_options"] = 4
    said["analysis"] = {"bound": 0.1, "split": 0.5}
    known = Study.model_validate(said)
    assert known.analysis_tags and not study.analysis_tags
    monkeypatch.setattr(prepare.tracking, "run_once", lambda compute, digest, **rest: digest)

    def fingerprints(of: Study) -> list[str]:
        prepared, located = prepare_study(of), locate_model(of.models[0].id)
        base, tuned = (CellJob(prepared, cell, located) for cell in prepared.study.cells())
        return [
            finetune_fingerprint(tuned),
            evaluate_fingerprint(base, prepared.evaluated_items(base.cell), ()),
            prepare.run_prepare(prepared),
        ]

    assert fingerprints(known) == fingerprints(study)
    # Nor is a key of theirs, which would make every finished study's prepare run again.
    monkeypatch.setattr(prepare, "fingerprint", lambda content, stages: content["study"])
    settings = prepare.run_prepare(prepare_study(known))
    assert "analysis" not in settings and "n_options" not in settings["data"]
    assert not {"base", "developer"} & set(settings["models"][0])
    assert settings["models"][0]["training_items"] == 0 and settings["lora"]["r"] == 16
