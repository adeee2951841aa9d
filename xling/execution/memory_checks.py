"""Whether this machine has the memory for a cell, asked before its model is loaded."""

from __future__ import annotations

from typing import Literal

from xling.execution.study_data import StudyData
from xling.models import BaseModelCache, ModelFiles
from xling.planning.memory_limits import check_memory, memory_use
from xling.planning.passes import MemoryUse
from xling.planning.scoring_batch import copies_fit, fitting_batch
from xling.prompts import render_prompts
from xling.study import Cell


def scoring_batch(prepared: StudyData, located: ModelFiles, shelf: BaseModelCache) -> int:
    """Padded tokens of a scoring batch: what the study asks for, or less where memory is short.

    Another model that the shelf holds makes room first, here as in all of this module.
    """
    study = prepared.study
    loaded = _make_room(located, shelf)
    return fitting_batch(
        located.weights.folder,
        most=study.scoring.batch_tokens,
        quantise=located.quantise,
        r=study.lora.r,
        lora_modules=located.recipe.lora_modules,
        loaded=loaded,
    )


def scoring_copies(
    prepared: StudyData, located: ModelFiles, shelf: BaseModelCache, *, batch_tokens: int
) -> bool:
    """Whether a scoring computes with plain copies of four-bit weights.

    Args:
        prepared: study and data.
        located: the model.
        shelf: may hold it already.
        batch_tokens: of `scoring_batch`.
    """
    return copies_fit(
        located.weights.folder,
        batch_tokens=batch_tokens,
        quantise=located.quantise,
        r=prepared.study.lora.r,
        lora_modules=located.recipe.lora_modules,
        loaded=_make_room(located, shelf),
    )


def check_scoring_room(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    shelf: BaseModelCache,
    *,
    batch_tokens: int,
) -> None:
    """Refuses to score with a model that this machine cannot hold.

    Args:
        prepared: study and data.
        cell: what is asked.
        located: the model.
        shelf: may hold it already.
        batch_tokens: of `scoring_batch`.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    study = prepared.study
    check_memory(
        located.weights.folder,
        name=cell.model.label,
        training=False,
        length=_longest(prepared, located),
        batch_tokens=batch_tokens,
        quantise=located.quantise,
        r=study.lora.r,
        lora_modules=located.recipe.lora_modules,
        loaded=_make_room(located, shelf),
    )


def check_training_room(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    shelf: BaseModelCache,
    *,
    length: int,
    rows: int,
    gradient_checkpointing: bool,
    processes: int,
) -> None:
    """Refuses a training that this machine cannot hold.

    Args:
        prepared: study and data.
        cell: model, arm and seed.
        located: the model.
        shelf: may hold it already.
        length: tokens of the longest prompt.
        rows: prompts of a forward pass of one process.
        gradient_checkpointing: as it will be done.
        processes: that train together.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    lora = prepared.study.lora
    check_memory(
        located.weights.folder,
        name=cell.model.label,
        training=True,
        length=length,
        rows=rows,
        batch_size=prepared.study.training.batch_size,
        quantise=located.quantise,
        r=lora.r,
        dropout=lora.dropout,
        lora_modules=located.recipe.lora_modules,
        gradient_checkpointing=gradient_checkpointing,
        processes=processes,
        parallel=cell.model.parallel,
        loaded=_make_room(located, shelf, processes=processes),
    )


def training_memory_use(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    shelf: BaseModelCache,
    *,
    length: int,
    rows: int,
    processes: int,
    gradient_checkpointing: bool | Literal["auto"],
) -> MemoryUse:
    """What a training does with this machine's memory.

    Args:
        prepared: study and data.
        cell: model, arm and seed.
        located: the model.
        shelf: may hold it already.
        length: tokens of the longest prompt.
        rows: prompts of a forward pass of one process at most; where `micro_batch_size` is 0, it
            is memory that decides how many.
        processes: that train together.
        gradient_checkpointing: as asked for; some architectures need it whatever is asked.
    """
    study = prepared.study
    return memory_use(
        located.weights.folder,
        asked=located.needs_gradient_checkpointing or gradient_checkpointing,
        length=length,
        rows=rows,
        fixed_rows=study.training.micro_batch_size > 0,
        quantise=located.quantise,
        r=study.lora.r,
        dropout=study.lora.dropout,
        lora_modules=located.recipe.lora_modules,
        processes=processes,
        parallel=cell.model.parallel,
        loaded=_make_room(located, shelf, processes=processes),
    )


def _make_room(located: ModelFiles, shelf: BaseModelCache, *, processes: int = 1) -> bool:
    """Frees a base that would be freed before the model is used, and so counts as free memory.

    Returns:
        Whether the model itself is in memory, and will be used as it is there.
    """
    if processes == 1 and shelf.holds(located):
        return True
    shelf.release()
    return False


def _longest(prepared: StudyData, located: ModelFiles) -> int:
    """Tokens of the longest prompt, as far as letters tell: of each language's longest item."""
    codes = prepared.study.languages.evaluated
    items = [
        max(rows, key=lambda item: len(item.flores_passage))
        for code in codes
        if (rows := prepared.all_heldout(code))
    ]
    layout, tokenizer = prepared.prompt_format(located.recipe), located.tokenizer()
    prompts = render_prompts(items, layout, tokenizer)
    return max((len(ids) for ids in tokenizer(prompts)["input_ids"]), default=1)
