"""The finetune cell: one adapter, trained, logged and loaded back."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from xling import tracking
from xling.data import Item
from xling.data.leakage import read_training_items, trained_on, write_training_items
from xling.data.training_rows import TrainingRow
from xling.execution.cell_run import (
    CellJob,
    locate,
    log_items,
    trained_adapter_folder,
    work_folder,
)
from xling.execution.finetune.log_adapter import TrainedAdapter, log_adapter, log_labels
from xling.execution.finetune.rise import log_rise
from xling.execution.finetune.setup import (
    CHECKPOINTS,
    MEMORY_ONLY,
    TRAINED,
    Prompts,
    Training,
    plan_training,
    training_prompts,
    training_settings,
    with_memory,
)
from xling.execution.leakage_checks import check_no_training_leakage
from xling.execution.memory_checks import check_training_memory
from xling.execution.study_data import StudyData, rows_sha256
from xling.files.checksums import checksummed_directory, find_damage
from xling.files.fingerprint import fingerprint
from xling.models import BaseModelCache
from xling.study import Cell
from xling.study.settings import PRIMER
from xling.training.job import TrainingJob
from xling.training.process_group import ProcessGroup
from xling.training.processes import train_together
from xling.training.train import train_and_save

RELOAD_PROMPTS = 8
PROCESSES = "processes"

logger = logging.getLogger(__name__)


def finetune_fingerprint(job: CellJob) -> str:
    """Hash all that decides an adapter.

    Several processes sum in another order than one, so a number that the study asks for is part
    of it. What torchrun, or the catalog on a machine with enough GPUs, makes of a study that
    asks for none is not: the same study finds the adapter again on any machine. Nor are the
    settings that only save memory or time (`MEMORY_ONLY`), since they change an adapter by no
    more than rounding: sums are made in another order, or from the same numbers once more.
    """
    study, model = job.data.study, job.cell.model
    together = {"processes": model.processes, "parallel": model.parallel}
    return fingerprint(
        {
            "kind": "finetune",
            **job.identity,
            "rows": rows_sha256(job.data.training_rows(job.cell, job.fold)),
            "fold": job.fold,
            "lora_modules": job.model.recipe.lora_modules,
            "lora": study.lora.model_dump(),
            "training": training_settings(job).model_dump(exclude=set(MEMORY_ONLY)),
            **(together if model.processes > 1 else {}),
            **({"primer": finetune_fingerprint(job.primer)} if job.primer else {}),
        },
        stages=("prepare", "train"),
    )


def run_finetune(
    data: StudyData, cell: Cell, bases: BaseModelCache, *, fold: int = 0, force: bool
) -> str:
    """Train one adapter, or find the finished run that did.

    Args:
        data: study and data.
        cell: model, arm and seed.
        bases: opens the base.
        fold: the fold that is held out; 0 where there is one split.
        force: train again even if a finished run has the same fingerprint.

    Returns:
        Id of the finetune run.

    Raises:
        ValueError: the arm has no training, a held-out question would be trained on, or the
            model, its labels or its modules do not fit; raised before training.
        RuntimeError: the logged adapter does not score as the live one.
    """
    rows = data.training_rows(cell, fold)
    name = data.adapter_name(cell, fold)
    disjoint = check_no_training_leakage(data, rows, name=name, fold=fold)
    job = CellJob(data, cell, locate(cell.model), bases, fold)
    if job.primer is not None:
        run_finetune(data, job.primer.cell, bases, force=False)
    how = plan_training(job)
    digest = finetune_fingerprint(job)
    tags = {"fingerprint": digest, "command": job.training_command, "disjoint": disjoint}
    return tracking.run_once(
        lambda: _finetune_run(job, rows, how, tags=tags, force=force),
        digest,
        kind="finetune",
        study=data.study.name,
        name=name,
        force=force,
    )


def _finetune_run(
    job: CellJob, rows: Sequence[TrainingRow], how: Training, *, tags: dict[str, str], force: bool
) -> str:
    """Train one adapter in its own run; return the run's id."""
    study, cell = job.data.study, job.cell
    prompts = training_prompts(job, rows)
    folder = work_folder(tags["fingerprint"], fresh=force)
    how = with_memory(how, job, longest=prompts.longest, work=folder)
    with tracking.tracked_run(
        "finetune",
        name=f"finetune {job.adapter_name}",
        study=study.name,
        params={
            **job.params(job.fold),
            "fold": job.fold,
            "lora": {**study.lora.model_dump(), "modules": job.model.recipe.lora_modules},
            "training": {
                **how.params,
                "items": cell.model.training_items,
            },
        },
        tags=tags,
        again=force,
    ) as run_id:
        log_items(job.data, {"training": _by_language(rows)})
        log_labels(rows, cell, study.trained_languages(cell))
        trained = _train_once(job, rows, prompts, how, folder)
        # The logged adapter is checked on the base that is open, if it is as it was loaded.
        with job.bases.share():
            log_adapter(trained, _adapter_settings(job), folder)
        if cell.arm == PRIMER:
            log_rise(job, trained.folder)
        for part in (CHECKPOINTS, PROCESSES):
            shutil.rmtree(folder / part, ignore_errors=True)
        return run_id


def _by_language(rows: Sequence[TrainingRow]) -> dict[str, list[Item]]:
    """Group the items that are trained on by language."""
    items: dict[str, list[Item]] = {}
    for row in rows:
        items.setdefault(row.item.dialect, []).append(row.item)
    return items


def _train_once(
    job: CellJob, rows: Sequence[TrainingRow], prompts: Prompts, how: Training, folder: Path
) -> TrainedAdapter:
    """Train, unless an earlier try got as far as saving the adapter and could not log it."""
    done = folder / TRAINED
    primer = _fetch_primer(job, folder / PRIMER)
    wrong = find_damage(done, thorough=True, more=True) if done.is_dir() else ""
    if wrong:
        logger.warning("trained adapter %s is damaged (%s): it is trained again", done, wrong)
        shutil.rmtree(done)
    if not done.is_dir():
        with checksummed_directory(done) as temporary:
            training = _job(job, prompts, how, folder / CHECKPOINTS, temporary)
            training = replace(training, primer=str(primer.resolve()) if primer else "")
            check_training_memory(
                job.data,
                job.cell,
                job.model,
                job.bases,
                length=prompts.longest,
                rows=how.examples_at_once,
                gradient_checkpointing=how.memory.gradient_checkpointing,
                processes=how.processes,
            )
            if how.processes == 1:
                train_and_save(
                    training, prompts.examples, job.bases.open(job.model), ProcessGroup()
                )
            else:
                job.bases.release()  # the processes need the GPU that it is on
                train_together(training, prompts.examples, folder / PROCESSES)
            items = trained_on(row.item for row in rows)
            if primer is not None:
                items |= read_training_items(primer, adapter=f"beneath {job.adapter_name}")
            write_training_items(temporary / "adapter", items)
    report = json.loads((done / "report.json").read_text(encoding="utf-8"))
    check = json.loads((done / "check.json").read_text(encoding="utf-8"))
    return TrainedAdapter(
        folder=done / "adapter",
        report=report,
        check_prompts=check["prompts"],
        check_logprobs=np.array(check["logprobs"]),
    )


def find_trained(job: CellJob) -> tuple[str, Path]:
    """Find a cell's own finetune run: its id, and where it leaves its adapter on this machine.

    Raises:
        ValueError: there is none; says what makes one.
    """
    digest = finetune_fingerprint(job)
    trained = tracking.find_finished(digest, kind="finetune", study=job.data.study.name)
    if trained is None:
        raise ValueError(
            f"no finished finetune run for {job.adapter_name}; make one with: "
            f"{job.training_command}"
        )
    return trained.run_id, trained_adapter_folder(digest)


def _fetch_primer(job: CellJob, downloads: Path) -> Path | None:
    """Bring what lies beneath a cell's adapter to this machine; None: nothing does."""
    if job.primer is None:
        return None
    run_id, at_hand = find_trained(job.primer)
    return tracking.fetch_adapter(run_id, downloads, at_hand=at_hand).folder


def _job(
    job: CellJob, prompts: Prompts, how: Training, checkpoints: Path, target: Path
) -> TrainingJob:
    """Describe the training as every process needs to know it."""
    cell, files = job.cell, job.model
    return TrainingJob(
        model=_absolute(cell.model.id),
        revision=cell.model.revision,
        chat=files.recipe.chat,
        lora_modules=files.recipe.lora_modules,
        quantise=files.quantise,
        weights=files.weights.identity,
        lora=job.data.study.lora,
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
    """Return a model's id; of a folder the absolute path, since it is opened from elsewhere."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _adapter_settings(job: CellJob) -> dict[str, Any]:
    cell, model = job.cell, job.model
    return {
        "model": _absolute(cell.model.id),
        "revision": model.weights.revision,
        "weights": model.weights.identity,
        "quantise": model.quantise,
        "prompt": asdict(job.prompt_format),
        "study": job.data.study.name,
        "name": cell.model.label,
        "seed": cell.seed,
        "arm": cell.arm,
        "fold": job.fold,
        "folds": len(job.data.splits),
        **({"primed": cell.model.primed.as_params()} if cell.model.primed else {}),
    }
