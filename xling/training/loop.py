"""QLoRA training on the answer: the loss is on the label's token and on nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from xling.models.fast_forward import attention_of_any_shape, last_position_alone, reduce_compute
from xling.models.memory import peak_memory, reset_peak_memory
from xling.scoring.in_process import contiguous_head_input
from xling.study.settings import TrainingSettings, per_process
from xling.training.batching import MemoryUse, example_order, pass_tokens
from xling.training.checkpoints import (
    Curve,
    last_whole_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from xling.training.process_group import ProcessGroup
from xling.training.step import Collator, Passes, Step

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """A prompt and the position of its right answer, 1–4."""

    prompt: str
    gold: int


@dataclass(frozen=True)
class TrainingSet:
    """What is trained on, in any order; each epoch shuffles it by the seed.

    Attributes:
        examples: prompts with their right answers.
        label_ids: token id of each label, from `xling.prompts.label_token_ids`.
        add_special_tokens: as in scoring.
    """

    examples: Sequence[Example]
    label_ids: Sequence[int]
    add_special_tokens: bool


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves behind besides the weights.

    Attributes:
        curve: one row a step: ``step``, ``loss`` (nats), ``learning_rate``, ``grad_norm``.
        steps: optimiser steps.
        tokens: prompt tokens seen, padding not counted; of all processes together.
        seconds: wall time since the training was last started.
        tokens_per_second: since then, of all processes together.
        peak_memory_bytes: of the training on its fullest GPU, whichever process uses that; on a
            CPU of the process since it started, conversions and earlier models included, and the
            largest of all processes.
        memory_use: as trained with; its passes are those at the end, which are smaller than at the
            start where memory ran out (0 tokens: any).
    """

    curve: tuple[dict[str, float], ...]
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    memory_use: MemoryUse


def train_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingSet,
    settings: TrainingSettings,
    *,
    seed: int,
    folder: Path,
    memory: MemoryUse | None = None,
    group: ProcessGroup | None = None,
) -> TrainingResult:
    """Train an adapter in place; go on from the last whole checkpoint in `folder`.

    Several processes see the same examples in the same optimiser step as one would, so without
    dropout their losses are the same up to rounding. Each process draws its own dropout.

    Args:
        model: frozen base with trainable LoRA weights; sharded already where the group shards.
        tokenizer: pads on the left.
        data: what is trained on.
        settings: `batch_size` is of all processes together, `micro_batch_size` of each.
        seed: of the order of examples and of dropout.
        folder: where checkpoints are written; every process must be able to read it.
        memory: of `micro_batch_size` 0 it bounds the forward passes. None: as usual on the
            device, and no gradient checkpointing where that is ``auto``.
        group: the processes that train together; None: this one alone.

    Raises:
        ValueError: there are no examples, or they cannot be shared over the processes.
        RuntimeError: the processes found different checkpoints.
    """
    group = group or ProcessGroup()
    memory = memory or MemoryUse(settings.gradient_checkpointing is True)
    rows = _tokenise(tokenizer, data)
    passes = _first_passes(model, rows, settings, memory, group)
    order = example_order(
        len(rows), batch_size=settings.batch_size, epochs=settings.epochs, seed=seed
    )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = _optimiser(parameters, settings)
    step = Step(model, Collator(tokenizer), rows, optimiser, settings.max_grad_norm, group, passes)
    curve = _resumed(folder, parameters, optimiser, group)
    done_before = len(curve)
    save = partial(save_checkpoint, folder, parameters, optimiser, curve, group)
    reset_peak_memory()
    started = time.perf_counter()
    with _trained(model, memory, group):
        _do_steps(step, order, settings, curve, seed=seed, save=save)
    seconds = max(group.gather(time.perf_counter() - started))
    tokens = settings.epochs * sum(passes.lengths)
    return TrainingResult(
        curve=tuple(curve),
        steps=len(order),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens * (1 - done_before / len(order)) / seconds,
        peak_memory_bytes=max(group.gather(peak_memory())),
        memory_use=replace(memory, pass_rows=passes.rows, pass_tokens=passes.tokens),
    )


def _first_passes(
    model: PeftModel,
    rows: Sequence[dict[str, Any]],
    settings: TrainingSettings,
    memory: MemoryUse,
    group: ProcessGroup,
) -> Passes:
    """Decide how large forward passes are, until memory runs out."""
    micro = per_process(settings.batch_size, settings.micro_batch_size, group.size)
    tokens = 0
    if not settings.micro_batch_size:
        micro = min(micro, memory.pass_rows or micro)
        tokens = memory.pass_tokens or pass_tokens(model.device.type)
    return Passes([len(row["input_ids"]) for row in rows], micro, tokens)


def _optimiser(
    parameters: Mapping[str, torch.nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _do_steps(
    step: Step,
    order: Sequence[Sequence[int]],
    settings: TrainingSettings,
    curve: Curve,
    *,
    seed: int,
    save: Callable[[], None],
) -> None:
    """Do the steps that the learning curve lacks, and add them to it."""
    from transformers import set_seed

    set_seed(seed)
    group, start, steps = step.group, len(curve), len(order)
    save_every = max(1, -(-steps // settings.checkpoints))
    with tqdm(
        total=steps, initial=start, desc="training", unit="step", disable=not group.is_main
    ) as bar:
        for number in range(start, steps):
            # Dropout goes by step and process, so that a resumed training draws the same.
            drawn = (seed * steps + number) * group.size + group.rank
            share = _share_of_peak(number, settings.warmup_steps, steps)
            measures = step.run(order[number], settings.learning_rate * share, drawn)
            curve.append({"step": number + 1, **measures})
            bar.set_postfix(loss=f"{measures['loss']:.3f}", refresh=False)
            bar.update()
            if (number + 1) % save_every == 0 or number + 1 == steps:
                save()


def _resumed(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    group: ProcessGroup,
) -> Curve:
    """Go back to the last whole checkpoint, which the first process finds for all.

    Returns:
        The learning curve so far; empty where there is no checkpoint.

    Raises:
        RuntimeError: the processes did not read the same checkpoint.
    """
    # Each looking for itself could find another one: a network folder shows files late.
    last = group.gather(last_whole_checkpoint(folder) if group.is_main else None)[0]
    curve = load_checkpoint(last, parameters, optimiser) if last else []
    steps = group.gather(len(curve))
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes read different checkpoints from {folder}: of steps "
            f"{', '.join(map(str, steps))}, by rank; give them one folder that all see"
        )
    return curve


@contextmanager
def _trained(model: PeftModel, memory: MemoryUse, group: ProcessGroup) -> Iterator[None]:
    """In the block, dropout is on, and the model computes with the memory and work it is to use."""
    if memory.gradient_checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    try:
        with ExitStack() as changes:
            changes.enter_context(contiguous_head_input(model))
            if group.sharded:  # weights are whole only while their block is at work
                changes.enter_context(attention_of_any_shape())
                changes.enter_context(last_position_alone(model))
            else:
                changes.enter_context(
                    reduce_compute(model, plain_copies=memory.plain_copy, last_alone=True)
                )
            yield
    finally:
        model.eval()
        if memory.gradient_checkpointing:
            model.activation_checkpointing_disable()


def _share_of_peak(step: int, warmup: int, steps: int) -> float:
    """Return a step's (from 0) share of the peak learning rate: up linearly, then down to zero."""
    if step < warmup:
        return step / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _tokenise(tokenizer: PreTrainedTokenizerBase, data: TrainingSet) -> list[dict[str, Any]]:
    """Tokenise the prompts.

    Raises:
        ValueError: there are none.
    """
    if not data.examples:
        raise ValueError("there are no training examples; is `limit` or `held_out` too large?")
    prompts = [example.prompt for example in data.examples]
    ids = tokenizer(prompts, add_special_tokens=data.add_special_tokens)["input_ids"]
    return [
        {"input_ids": row, "label_id": data.label_ids[example.gold - 1]}
        for row, example in zip(ids, data.examples, strict=True)
    ]
