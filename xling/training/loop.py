"""QLoRA training on the answer: the loss is on the label's token and on nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from xling.models.fast_forward import attention_of_any_shape, last_position_alone, reduce_compute
from xling.models.memory import peak_memory, reset_peak_memory
from xling.scoring.in_process import contiguous_head_input
from xling.study.settings import per_process
from xling.training.batching import example_order
from xling.training.batching import pass_tokens as usual_tokens
from xling.training.checkpoints import (
    Curve,
    last_whole_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from xling.training.step import Collator, Passes, Step
from xling.training.team import ProcessGroup

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
        memory_use: ``gradient_checkpointing`` and ``plain_copy``, as trained with, and
            ``pass_rows`` and ``pass_tokens``, examples and padded tokens (0: any) of a forward
            pass at the end, which are fewer than at the start where memory ran out.
    """

    curve: tuple[dict[str, float], ...]
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    memory_use: dict[str, bool | int]


def train_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    label_ids: Sequence[int],
    add_special_tokens: bool,
    folder: Path,
    seed: int,
    epochs: int,
    batch_size: int,
    micro_batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    weight_decay: float,
    max_grad_norm: float,
    gradient_checkpointing: bool,
    checkpoints: int,
    plain_copy: bool = False,
    pass_rows: int = 0,
    pass_tokens: int = 0,
    team: ProcessGroup | None = None,
) -> TrainingResult:
    """Trains an adapter in place; goes on from the last whole checkpoint in `folder`.

    Several processes that train together see the same examples in the same optimiser step as one
    process would, so without dropout their losses are the same up to rounding. Each process draws
    a dropout of its own.

    Args:
        model: frozen base with trainable LoRA weights; sharded already where the team shards.
        tokenizer: pads on the left.
        examples: in any order; each epoch shuffles them by `seed`.
        label_ids: token id of each label, from `xling.prompts.label_token_ids`.
        add_special_tokens: as in scoring.
        folder: where checkpoints are written; every process must be able to read it.
        seed: of the order of examples and of dropout.
        epochs: passes over the examples.
        batch_size: examples of one optimiser step, of all processes together.
        micro_batch_size: examples of one forward pass of one process; 0: as many of its share
            of `batch_size` as `pass_rows` and `pass_tokens` allow. A process alone takes fewer
            where memory runs out.
        learning_rate: peak, reached after `warmup_steps`, then linearly to zero.
        warmup_steps: optimiser steps.
        weight_decay: of AdamW.
        max_grad_norm: clips gradients, by their norm over the whole adapter.
        gradient_checkpointing: less memory for more time.
        checkpoints: how many are written over the training.
        plain_copy: compute with dequantised copies of four-bit weights, where that is possible.
        pass_rows: where `micro_batch_size` is 0, examples of a forward pass at most; 0: any.
        pass_tokens: there, its padded tokens at most; 0: as many as are usual on the device.
        team: the processes that train together; None: this one alone.

    Raises:
        ValueError: there are no examples, or they cannot be shared over the processes.
        RuntimeError: the processes found different checkpoints.
    """
    import torch
    from transformers import set_seed

    team = team or ProcessGroup()
    if not examples:
        raise ValueError("there are no training examples; is `limit` or `held_out` too large?")
    micro = per_process(batch_size, micro_batch_size, team.size)
    rows = _tokenise(tokenizer, examples, label_ids, add_special_tokens)
    order = example_order(len(rows), batch_size=batch_size, epochs=epochs, seed=seed)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    tokens_at_once = 0
    if not micro_batch_size:
        micro = min(micro, pass_rows or micro)
        tokens_at_once = pass_tokens or usual_tokens(model.device.type)
    passes = Passes([len(row["input_ids"]) for row in rows], micro, tokens_at_once)
    step = Step(model, Collator(tokenizer), rows, optimiser, max_grad_norm, team, passes)
    curve = _resumed(folder, parameters, optimiser, team)
    done_before = len(curve)
    save_every = max(1, -(-len(order) // checkpoints))
    set_seed(seed)
    reset_peak_memory()
    started = time.perf_counter()
    with (
        _training_mode(model, gradient_checkpointing),
        _lean(model, plain_copy=plain_copy, sharded=team.sharded),
        tqdm(total=len(order), initial=done_before, unit="step", disable=not team.leads) as bar,
    ):
        for number in range(done_before, len(order)):
            # Dropout goes by step and process, so that a resumed training draws the same.
            drawn = (seed * len(order) + number) * team.size + team.rank
            rate = learning_rate * _share_of_peak(number, warmup_steps, len(order))
            curve.append({"step": number + 1, **step.run(order[number], rate, drawn)})
            bar.set_postfix(loss=f"{curve[-1]['loss']:.3f}", refresh=False)
            bar.update()
            if (number + 1) % save_every == 0 or number + 1 == len(order):
                save_checkpoint(folder, parameters, optimiser, curve, team)
    seconds = max(team.gather(time.perf_counter() - started))
    tokens = epochs * sum(len(row["input_ids"]) for row in rows)
    return TrainingResult(
        curve=tuple(curve),
        steps=len(order),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens * (1 - done_before / len(order)) / seconds,
        peak_memory_bytes=max(team.gather(peak_memory())),
        memory_use={
            "gradient_checkpointing": gradient_checkpointing,
            "plain_copy": plain_copy,
            "pass_rows": passes.rows,
            "pass_tokens": passes.tokens,
        },
    )


def _resumed(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    team: ProcessGroup,
) -> Curve:
    """Goes back to the last whole checkpoint, which the first process finds for all.

    Returns:
        The learning curve so far; empty where there is no checkpoint.

    Raises:
        RuntimeError: the processes did not read the same checkpoint.
    """
    # Each looking for itself could find another one: a network folder shows files late.
    last = team.gather(last_whole_checkpoint(folder) if team.leads else None)[0]
    curve = load_checkpoint(last, parameters, optimiser) if last else []
    steps = team.gather(len(curve))
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the processes read different checkpoints from {folder}: of steps "
            f"{', '.join(map(str, steps))}, by rank; give them one folder that all see"
        )
    return curve


@contextmanager
def _training_mode(model: PeftModel, gradient_checkpointing: bool) -> Iterator[None]:
    """Dropout and, if asked for, gradient checkpointing are on in the block, and off after it."""
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    try:
        yield
    finally:
        model.eval()
        if gradient_checkpointing:
            model.activation_checkpointing_disable()


@contextmanager
def _lean(model: PeftModel, *, plain_copy: bool, sharded: bool) -> Iterator[None]:
    """In the block, the model computes the same with less work, as far as it allows."""
    with ExitStack() as ways:
        ways.enter_context(contiguous_head_input(model))
        if sharded:  # weights are whole only while their block is at work
            ways.enter_context(attention_of_any_shape())
            ways.enter_context(last_position_alone(model))
        else:
            ways.enter_context(reduce_compute(model, plain_copies=plain_copy, last_alone=True))
        yield


def _share_of_peak(step: int, warmup: int, steps: int) -> float:
    """Learning rate of a step (from 0), as a share of its peak: up linearly, then down to zero."""
    if step < warmup:
        return step / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _tokenise(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    label_ids: Sequence[int],
    add_special_tokens: bool,
) -> list[dict[str, Any]]:
    ids = tokenizer(
        [example.prompt for example in examples], add_special_tokens=add_special_tokens
    )["input_ids"]
    return [
        {"input_ids": row, "label_id": label_ids[example.gold - 1]}
        for row, example in zip(ids, examples, strict=True)
    ]
