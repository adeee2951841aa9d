"""The finetune cell: one adapter, trained, logged and loaded back."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xling import tracking
from xling.data import Item
from xling.data.leakage import trained_on, write_training_items
from xling.data.training_rows import TrainingRow
from xling.execution.cell_run import (
    cell_command,
    cell_identity,
    cell_params,
    log_items,
    one_at_a_time,
    reuse,
    work_folder,
)
from xling.execution.finetune.log_adapter import TrainedAdapter, log_labels, log_trained
from xling.execution.finetune.setup import (
    CHECKPOINTS,
    MEMORY_ONLY,
    TRAINED,
    Prompts,
    Training,
    how_to_train,
    training_prompts,
    with_memory,
)
from xling.execution.leakage_checks import check_no_training_leakage
from xling.execution.memory_checks import check_training_memory
from xling.execution.models import locate
from xling.execution.study_data import StudyData, prompt_format, rows_sha256
from xling.files.checksums import checksummed_directory, find_damage
from xling.files.fingerprint import fingerprint
from xling.models import BaseModelCache, ModelFiles
from xling.study import Cell
from xling.study.study import trained_languages
from xling.training.job import TrainingJob
from xling.training.process_group import ProcessGroup
from xling.training.processes import train_together
from xling.training.train import train_and_save

RELOAD_PROMPTS = 8
PROCESSES = "processes"

logger = logging.getLogger(__name__)


def finetune_fingerprint(
    prepared: StudyData, cell: Cell, located: ModelFiles, fold: int = 0
) -> str:
    """Hash of all that decides an adapter.

    Several processes sum in another order than one, so a number that the study asks for is part
    of it. What torchrun, or the catalog on a machine with enough GPUs, makes of a study that
    asks for none is not: the same study finds the adapter again on any machine. Nor are the
    settings that only save memory or time (`MEMORY_ONLY`), since they change an adapter by no
    more than rounding: sums are made in another order, or from the same numbers once more.
    """
    study = prepared.study
    processes = cell.model.processes
    together = {"processes": processes, "parallel": cell.model.parallel}
    return fingerprint(
        {
            "kind": "finetune",
            **cell_identity(prepared, cell, located),
            "rows": rows_sha256(prepared.training_rows(cell, fold)),
            "fold": fold,
            "lora_modules": located.recipe.lora_modules,
            "lora": study.lora.model_dump(),
            "training": study.training.model_dump(exclude=set(MEMORY_ONLY)),
            **(together if processes > 1 else {}),
        },
        stages=("prepare", "train"),
    )


def run_finetune(
    prepared: StudyData, cell: Cell, shelf: BaseModelCache, *, fold: int = 0, force: bool
) -> str:
    """Trains one adapter, or finds the finished run that did.

    Args:
        prepared: study and data.
        cell: model, arm and seed.
        shelf: opens the base.
        fold: the fold that is held out; 0 where there is one split.
        force: train again even if a finished run has the same fingerprint.

    Returns:
        Id of the finetune run.

    Raises:
        ValueError: the arm has no training, a held-out question would be trained on, or the
            model, its labels or its modules do not fit; raised before training.
        RuntimeError: the logged adapter does not score as the live one.
    """
    rows = prepared.training_rows(cell, fold)
    name = adapter_name(prepared, cell, fold)
    disjoint = check_no_training_leakage(prepared, rows, name=name, fold=fold)
    located = locate(cell.model)
    how = how_to_train(prepared, cell, located)
    digest = finetune_fingerprint(prepared, cell, located, fold)
    with one_at_a_time(digest, kind="finetune", name=name):
        reused = reuse(digest, kind="finetune", prepared=prepared, name=name, force=force)
        if reused is not None:
            return reused
        return _finetune_run(
            prepared, cell, shelf, rows, located, how,
            digest=digest, disjoint=disjoint, fold=fold, force=force,
        )  # fmt: skip


def _finetune_run(
    prepared: StudyData,
    cell: Cell,
    shelf: BaseModelCache,
    rows: Sequence[TrainingRow],
    located: ModelFiles,
    how: Training,
    *,
    digest: str,
    disjoint: str,
    fold: int,
    force: bool,
) -> str:
    """Trains one adapter in a run of its own; returns the run's id."""
    study = prepared.study
    prompts = training_prompts(prepared, rows, located, how)
    folder = work_folder(digest, fresh=force)
    how = with_memory(how, prepared, cell, located, shelf, longest=prompts.longest, work=folder)
    with tracking.tracked_run(
        "finetune",
        name=f"finetune {adapter_name(prepared, cell, fold)}",
        study=study.name,
        params={
            **cell_params(prepared, cell, located, fold),
            "fold": fold,
            "lora": {**study.lora.model_dump(), "modules": located.recipe.lora_modules},
            "training": {
                **how.params,
                "items": cell.model.training_items,
            },
        },
        tags={
            "fingerprint": digest,
            "command": cell_command("finetune", prepared, cell, **fold_parameter(prepared, fold)),
            "disjoint": disjoint,
        },
        again=force,
    ) as run_id:
        log_items(prepared, {"training": _by_language(rows)})
        log_labels(rows, cell, trained_languages(study, cell.arm))
        trained = _train_once(prepared, cell, rows, prompts, located, shelf, how, folder)
        with shelf.share():  # the logged adapter is checked on this base, if it is as it was loaded
            log_trained(trained, _adapter_settings(prepared, cell, located, fold), folder)
        for part in (CHECKPOINTS, PROCESSES):
            shutil.rmtree(folder / part, ignore_errors=True)
        return run_id


def adapter_name(prepared: StudyData, cell: Cell, fold: int) -> str:
    """Name of an adapter in runs and messages; with cross-fitting it names the fold."""
    return f"{cell.adapter_name}/fold-{fold}" if prepared.cross_fitted else cell.adapter_name


def fold_parameter(prepared: StudyData, fold: int) -> dict[str, int]:
    """The entry point's parameter ``fold``, where the study has folds."""
    return {"fold": fold} if prepared.cross_fitted else {}


def _by_language(rows: Sequence[TrainingRow]) -> dict[str, list[Item]]:
    """The items that are trained on, by language."""
    items: dict[str, list[Item]] = {}
    for row in rows:
        items.setdefault(row.item.dialect, []).append(row.item)
    return items


def _train_once(
    prepared: StudyData,
    cell: Cell,
    rows: Sequence[TrainingRow],
    prompts: Prompts,
    located: ModelFiles,
    shelf: BaseModelCache,
    how: Training,
    folder: Path,
) -> TrainedAdapter:
    """Trains, unless an earlier try got as far as saving the adapter and could not log it."""
    done = folder / TRAINED
    wrong = find_damage(done, thorough=True, more=True) if done.is_dir() else ""
    if wrong:
        logger.warning("trained adapter %s is damaged (%s): it is trained again", done, wrong)
        shutil.rmtree(done)
    if not done.is_dir():
        with checksummed_directory(done) as temporary:
            job = _job(prepared, cell, prompts, located, how, folder / CHECKPOINTS, temporary)
            check_training_memory(
                prepared,
                cell,
                located,
                shelf,
                length=prompts.longest,
                rows=how.examples_at_once,
                gradient_checkpointing=how.memory.gradient_checkpointing,
                processes=how.processes,
            )
            if how.processes == 1:
                train_and_save(job, prompts.examples, shelf.open(located), ProcessGroup())
            else:
                shelf.release()  # the processes need the GPU that it is on
                train_together(job, prompts.examples, folder / PROCESSES)
            trained = trained_on(row.item for row in rows)
            write_training_items(temporary / "adapter", trained)
    report = json.loads((done / "report.json").read_text(encoding="utf-8"))
    check = json.loads((done / "check.json").read_text(encoding="utf-8"))
    return TrainedAdapter(
        folder=done / "adapter",
        report=report,
        check_prompts=check["prompts"],
        check_logprobs=np.array(check["logprobs"]),
    )


def _job(
    prepared: StudyData,
    cell: Cell,
    prompts: Prompts,
    located: ModelFiles,
    how: Training,
    checkpoints: Path,
    target: Path,
) -> TrainingJob:
    """The training as every process needs to know it."""
    return TrainingJob(
        model=_absolute(cell.model.id),
        revision=cell.model.revision,
        chat=located.recipe.chat,
        lora_modules=located.recipe.lora_modules,
        quantise=located.quantise,
        weights=located.weights.identity,
        lora=prepared.study.lora,
        training=how.settings,
        memory=how.memory,
        seed=cell.seed,
        label_ids=prompts.labels,
        add_special_tokens=prompts.special,
        check_prompts=RELOAD_PROMPTS,
        checkpoints=str(checkpoints.resolve()),
        target=str(target.resolve()),
        processes=how.processes,
        parallel=cell.model.parallel,
    )


def _absolute(model: str) -> str:
    """A model's id; of a folder the absolute path, since it is opened from elsewhere."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _adapter_settings(
    prepared: StudyData, cell: Cell, located: ModelFiles, fold: int
) -> dict[str, Any]:
    return {
        "model": _absolute(cell.model.id),
        "revision": located.weights.revision,
        "weights": located.weights.identity,
        "quantise": located.quantise,
        "prompt": asdict(prompt_format(prepared, located.recipe)),
        "study": prepared.study.name,
        "name": cell.model.label,
        "seed": cell.seed,
        "arm": cell.arm,
        "fold": fold,
        "folds": len(prepared.splits),
    }
