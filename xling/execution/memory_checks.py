"""Whether this machine has the memory for a cell, asked before its model is loaded."""

from __future__ import annotations

from typing import Literal

from xling.execution.study_data import StudyData
from xling.models import BaseModelCache, ModelFiles
from xling.planning.memory_limits import (
    HeldModel,
    TrainingLoad,
    check_scoring_peak,
    check_training_peak,
    memory_use,
)
from xling.planning.scoring_batch import copies_fit, fitting_batch
from xling.prompts import render_prompts
from xling.study import Cell
from xling.training.batching import MemoryUse


def scoring_batch(data: StudyData, files: ModelFiles, bases: BaseModelCache) -> int:
    """Return the padded tokens of a scoring batch: as the study asks, or less if memory is short.

    Another model that the cache holds is released first, here as in all of this module.
    """
    return fitting_batch(_held(data, files, bases), most=data.study.scoring.batch_tokens)


def scoring_copies(
    data: StudyData, files: ModelFiles, bases: BaseModelCache, *, batch_tokens: int
) -> bool:
    """Tell whether a scoring computes with dequantised copies of four-bit weights.

    Args:
        data: study and data.
        files: the model's.
        bases: may hold it already.
        batch_tokens: of `scoring_batch`.
    """
    return copies_fit(_held(data, files, bases), batch_tokens=batch_tokens)


def check_scoring_memory(
    data: StudyData, cell: Cell, files: ModelFiles, bases: BaseModelCache, *, batch_tokens: int
) -> None:
    """Refuse to score with a model that this machine cannot hold.

    Args:
        data: study and data.
        cell: what is asked.
        files: the model's.
        bases: may hold it already.
        batch_tokens: of `scoring_batch`.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    check_scoring_peak(
        _held(data, files, bases),
        name=cell.model.label,
        length=_longest(data, files),
        batch_tokens=batch_tokens,
    )


def check_training_memory(
    data: StudyData,
    cell: Cell,
    files: ModelFiles,
    bases: BaseModelCache,
    *,
    length: int,
    rows: int,
    gradient_checkpointing: bool,
    processes: int,
) -> None:
    """Refuse a training that this machine cannot hold.

    Args:
        data: study and data.
        cell: model, arm and seed.
        files: the model's.
        bases: may hold it already.
        length: tokens of the longest prompt.
        rows: prompts of a forward pass of one process.
        gradient_checkpointing: as it will be done.
        processes: that train together.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    check_training_peak(
        _held(data, files, bases, processes=processes),
        TrainingLoad(length, rows, processes, cell.model.parallel),
        name=cell.model.label,
        batch_size=data.study.training.batch_size,
        gradient_checkpointing=gradient_checkpointing,
    )


def training_memory_use(
    data: StudyData,
    cell: Cell,
    files: ModelFiles,
    bases: BaseModelCache,
    *,
    length: int,
    rows: int,
    processes: int,
    gradient_checkpointing: bool | Literal["auto"],
) -> MemoryUse:
    """Decide what a training does with this machine's memory.

    Args:
        data: study and data.
        cell: model, arm and seed.
        files: the model's.
        bases: may hold it already.
        length: tokens of the longest prompt.
        rows: prompts of a forward pass of one process at most; where `micro_batch_size` is 0, it
            is memory that decides how many.
        processes: that train together.
        gradient_checkpointing: as asked for; some architectures need it whatever is asked.
    """
    return memory_use(
        _held(data, files, bases, processes=processes),
        TrainingLoad(length, rows, processes, cell.model.parallel),
        asked=files.needs_gradient_checkpointing or gradient_checkpointing,
        fixed_rows=data.study.training.micro_batch_size > 0,
    )


def _held(
    data: StudyData, files: ModelFiles, bases: BaseModelCache, *, processes: int = 1
) -> HeldModel:
    """Say how a model is held, after releasing a base that it will not be used with.

    Such a base would be released before the work anyway, and so counts as free memory.
    """
    loaded = processes == 1 and bases.holds(files)
    if not loaded:
        bases.release()
    return HeldModel(
        files.weights.folder, files.quantise, data.study.lora, files.recipe.lora_modules, loaded
    )


def _longest(data: StudyData, files: ModelFiles) -> int:
    """Count the tokens of the longest prompt: of each language's longest item, by letters."""
    codes = data.study.languages.evaluated
    items = [
        max(rows, key=lambda item: len(item.flores_passage))
        for code in codes
        if (rows := data.all_heldout(code))
    ]
    layout, tokenizer = data.prompt_format(files.recipe), files.tokenizer()
    prompts = render_prompts(items, layout, tokenizer)
    return max((len(ids) for ids in tokenizer(prompts)["input_ids"]), default=1)
