"""How a cell is trained: its prompts, and what processes and memory there are for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xling.data.training_rows import TrainingRow
from xling.execution.cell_run import CellJob
from xling.execution.memory_checks import training_memory_use
from xling.files.atomic import atomic_write
from xling.prompts import label_token_ids, render_prompts
from xling.scoring.context import check_context
from xling.study.settings import PRIMER, TrainingSettings, per_process
from xling.training.batching import MemoryUse
from xling.training.checkpoints import last_whole_checkpoint
from xling.training.loop import Example
from xling.training.processes import processes_for

# Names in a cell's work folder.
CHECKPOINTS, TRAINED, MEMORY = "checkpoints", "trained", "memory_use.json"
# Settings that save memory or time, and change an adapter by rounding only.
MEMORY_ONLY = ("gradient_checkpointing", "micro_batch_size", "checkpoints")


@dataclass(frozen=True)
class Training:
    """How a cell is trained.

    Attributes:
        settings: of the study; once memory has decided those that were asked for when it did.
        memory: how memory is used; till it has decided, as far as the settings say.
        processes: how many train together.
        parallel: ``fsdp``, ``ddp``, or ``none`` for one process.
        share: examples of a forward pass of one process at most, as far as the settings say.
        examples_at_once: of one with the longest prompts, once memory has decided; till then
            `share`.
    """

    settings: TrainingSettings
    memory: MemoryUse
    processes: int
    parallel: str
    share: int
    examples_at_once: int

    @property
    def params(self) -> dict[str, Any]:
        """Settings, use of memory and processes, as a run logs them."""
        return {
            **self.settings.model_dump(),
            **asdict(self.memory),
            "processes": self.processes,
            "parallel": self.parallel,
        }


def training_settings(job: CellJob) -> TrainingSettings:
    """Return how the optimiser goes: as the study says, but a primer's steps are its own."""
    settings = job.data.study.training
    return settings.model_copy(update={"epochs": 1}) if job.cell.arm == PRIMER else settings


def plan_training(job: CellJob) -> Training:
    """Decide how a cell is trained, before any work.

    Raises:
        ValueError: a step's examples cannot be shared equally over the processes.
    """
    model = job.cell.model
    settings = training_settings(job)
    processes = processes_for(model.processes, usual=job.model.recipe.processes)
    share = per_process(settings.batch_size, settings.micro_batch_size, processes)
    return Training(
        settings,
        MemoryUse(settings.gradient_checkpointing is True, pass_rows=share),
        processes,
        model.parallel if processes > 1 else "none",
        share,
        share,
    )


@dataclass(frozen=True)
class Prompts:
    """What is trained on, as the model reads it.

    Attributes:
        examples: prompts with their labels.
        labels: token id of each label.
        special: whether the tokenizer adds special tokens.
        longest: tokens of the longest prompt.
    """

    examples: list[Example]
    labels: tuple[int, ...]
    special: bool
    longest: int


def training_prompts(job: CellJob, rows: Sequence[TrainingRow]) -> Prompts:
    """Render what is trained on.

    Raises:
        ValueError: a prompt is longer than the model's context, or its labels do not fit.
    """
    layout, tokenizer = job.prompt_format, job.model.tokenizer()
    texts = render_prompts([row.item for row in rows], layout, tokenizer)
    special = not layout.chat
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=special)["input_ids"]]
    check_context(
        lengths,
        [f"{row.item.dialect}/{row.item.item_id}" for row in rows],
        context=job.model.context,
    )
    return Prompts(
        examples=[Example(text, row.label) for text, row in zip(texts, rows, strict=True)],
        labels=tuple(label_token_ids(tokenizer, texts[0], add_special_tokens=special)),
        special=special,
        longest=max(lengths),
    )


def with_memory(how: Training, job: CellJob, *, longest: int, work: Path) -> Training:
    """Add what is decided by the memory that is free, and remember it in the work folder.

    A training that is there already is as it was remembered. One that goes on from a checkpoint
    computes as before, in passes that are smaller if memory is now; unless other settings are
    asked for, or another number of processes.

    Args:
        how: from `plan_training`.
        job: what is trained.
        longest: tokens of the longest prompt.
        work: the cell's work folder.
    """
    kept = _remembered(work)
    if kept is not None and (work / TRAINED).is_dir():
        return _with_use(
            replace(how, processes=kept["processes"], parallel=kept["parallel"]),
            MemoryUse(**kept["use"]),
            kept["asked"],
            longest,
        )
    asked = how.settings.model_dump(include=set(MEMORY_ONLY))
    before = _before(kept, how, work)
    use = training_memory_use(
        job.data,
        job.cell,
        job.model,
        job.bases,
        length=longest,
        rows=before.pass_rows if before else how.share,
        processes=how.processes,
        gradient_checkpointing=(
            before.gradient_checkpointing if before else asked["gradient_checkpointing"]
        ),
    )
    if before:
        tokens = min(use.pass_tokens, before.pass_tokens)
        use = replace(use, plain_copy=before.plain_copy, pass_tokens=tokens)
    content = {
        "asked": asked,
        "processes": how.processes,
        "parallel": how.parallel,
        "use": asdict(use),
    }
    with atomic_write(work / MEMORY) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return _with_use(how, use, asked, longest)


def _before(kept: dict[str, Any] | None, how: Training, work: Path) -> MemoryUse | None:
    """Return how a training that goes on used memory before; None: none goes on as it was."""
    if kept is None or last_whole_checkpoint(work / CHECKPOINTS) is None:
        return None
    deciding = ("gradient_checkpointing", "micro_batch_size")
    if kept["processes"] != how.processes or kept["parallel"] != how.parallel:
        return None
    if any(kept["asked"][key] != getattr(how.settings, key) for key in deciding):
        return None
    return MemoryUse(**kept["use"])


def _remembered(work: Path) -> dict[str, Any] | None:
    """Read what `with_memory` wrote to a work folder; None: nothing."""
    path = work / MEMORY
    if not path.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _with_use(how: Training, use: MemoryUse, asked: Mapping[str, Any], longest: int) -> Training:
    settings = how.settings.model_copy(update=dict(asked))
    return replace(how, settings=settings, memory=use, examples_at_once=use.rows_of(longest))
