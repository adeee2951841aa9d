"""Whether this machine has the memory for a cell, asked before its model is loaded."""

from xling.execution.cells import prompt_format
from xling.execution.prepared import Prepared
from xling.models import BaseShelf, LocatedModel
from xling.planning.fits import check_memory
from xling.prompts import render_prompts
from xling.study import Cell


def check_scoring_room(
    prepared: Prepared, cell: Cell, located: LocatedModel, shelf: BaseShelf
) -> None:
    """Refuses to score with a model that this machine cannot hold.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    study = prepared.study
    check_memory(
        located.weights.folder,
        name=cell.model.label,
        training=False,
        length=_longest(prepared, located),
        batch_tokens=study.scoring.batch_tokens,
        quantise=located.quantise,
        r=study.lora.r,
        lora_modules=located.recipe.lora_modules,
        loaded=shelf.holds(located),
    )


def check_training_room(
    prepared: Prepared,
    cell: Cell,
    located: LocatedModel,
    shelf: BaseShelf,
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
        quantise=located.quantise,
        r=lora.r,
        dropout=lora.dropout,
        lora_modules=located.recipe.lora_modules,
        gradient_checkpointing=gradient_checkpointing,
        processes=processes,
        parallel=cell.model.parallel,
        loaded=shelf.holds(located) and processes == 1,
    )


def _longest(prepared: Prepared, located: LocatedModel) -> int:
    """Tokens of the longest prompt, as far as letters tell: of each language's longest item."""
    codes = prepared.study.languages.evaluated
    items = [
        max(rows, key=lambda item: len(item.flores_passage))
        for code in codes
        if (rows := prepared.all_heldout(code))
    ]
    layout, tokenizer = prompt_format(prepared, located.recipe), located.tokenizer()
    prompts = render_prompts(items, layout, tokenizer)
    return max((len(ids) for ids in tokenizer(prompts)["input_ids"]), default=1)
