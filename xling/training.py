"""QLoRA training on the answer: the loss is on the label's token and on nothing else."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from xling.distributed.batches import Batch, batches_of, example_order, per_process
from xling.distributed.checkpoints import (
    Curve,
    last_whole_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from xling.distributed.sharding import whole
from xling.distributed.team import Team
from xling.models.memory import peak_memory, reset_peak_memory
from xling.scoring.in_process import answer_logits, contiguous_head_input

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
    """

    curve: tuple[dict[str, float], ...]
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


def train_adapter(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
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
    team: Team | None = None,
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
        micro_batch_size: examples of one forward pass of one process; 0: as many as its share
            of `batch_size`.
        learning_rate: peak, reached after `warmup_steps`, then linearly to zero.
        warmup_steps: optimiser steps.
        weight_decay: of AdamW.
        max_grad_norm: clips gradients, by their norm over the whole adapter.
        gradient_checkpointing: less memory for more time.
        checkpoints: how many are written over the training.
        team: the processes that train together; None: this one alone.

    Raises:
        ValueError: there are no examples, or they cannot be shared over the processes.
        RuntimeError: the processes found different checkpoints.
    """
    import torch
    from transformers import set_seed

    team = team or Team()
    if not examples:
        raise ValueError("there are no training examples; is `limit` or `held_out` too large?")
    micro = per_process(batch_size, micro_batch_size, team.size)
    rows = _tokenise(tokenizer, examples, label_ids, add_special_tokens)
    order = example_order(len(rows), batch_size=batch_size, epochs=epochs, seed=seed)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    step = _Step(model, _Collator(tokenizer), rows, optimiser, max_grad_norm, team)
    curve = _resumed(folder, parameters, optimiser, team)
    done_before = len(curve)
    save_every = max(1, -(-len(order) // checkpoints))
    set_seed(seed)
    reset_peak_memory()
    started = time.perf_counter()
    with (
        _training_mode(model, gradient_checkpointing),
        contiguous_head_input(model),
        tqdm(total=len(order), initial=done_before, unit="step", disable=not team.leads) as bar,
    ):
        for number in range(done_before, len(order)):
            # Dropout goes by step and process, so that a resumed training draws the same.
            torch.manual_seed((seed * len(order) + number) * team.size + team.rank)
            rate = learning_rate * _share_of_peak(number, warmup_steps, len(order))
            batches = batches_of(
                order[number], rank=team.rank, size=team.size, micro_batch_size=micro
            )
            curve.append({"step": number + 1, **step.run(batches, len(order[number]), rate)})
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
    )


def _resumed(
    folder: Path,
    parameters: Mapping[str, "torch.nn.Parameter"],
    optimiser: "torch.optim.Optimizer",
    team: Team,
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


@dataclass(frozen=True)
class _Step:
    """One optimiser step on some of the rows."""

    model: "PeftModel"
    collate: "_Collator"
    rows: Sequence[dict[str, Any]]
    optimiser: "torch.optim.Optimizer"
    max_grad_norm: float
    team: Team

    def run(self, batches: Sequence[Batch], examples: int, rate: float) -> dict[str, float]:
        """Changes the adapter by the mean loss of a step's examples.

        Args:
            batches: this process's share of them.
            examples: how many the step has on all processes together.
            rate: learning rate.

        Returns:
            ``loss`` (nats, mean over the step's examples), ``learning_rate``, ``grad_norm``
            (before clipping).
        """
        import torch

        parameters = self.optimiser.param_groups[0]["params"]
        self.optimiser.param_groups[0]["lr"] = rate
        # A sharded model's backward pass takes the mean over the processes, not the sum.
        scale = self.team.size / examples if self.team.sharded else 1 / examples
        loss = 0.0
        for batch in batches:
            total = self._loss(batch)
            torch.autograd.backward(total * scale)
            loss += total.item()
        self.team.sum_gradients(parameters)
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        self.optimiser.step()
        self.optimiser.zero_grad()
        return {
            "loss": self.team.sum([loss])[0] / examples,
            "learning_rate": rate,
            "grad_norm": norm.item(),
        }

    def _loss(self, batch: Batch) -> "torch.Tensor":
        """Sum over the batch of the cross-entropy of the label's token, in nats."""
        import torch

        inputs = self.collate([self.rows[row] for row in batch.rows])
        inputs = {key: tensor.to(self.model.device) for key, tensor in inputs.items()}
        logits = answer_logits(self.model, inputs["input_ids"], inputs["attention_mask"])
        losses = torch.nn.functional.cross_entropy(
            logits.float(), inputs["label_ids"], reduction="none"
        )
        return losses[: batch.counted].sum()


@contextmanager
def _training_mode(model: "PeftModel", gradient_checkpointing: bool) -> Iterator[None]:
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


def _share_of_peak(step: int, warmup: int, steps: int) -> float:
    """Learning rate of a step (from 0), as a share of its peak: up linearly, then down to zero."""
    if step < warmup:
        return step / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _tokenise(
    tokenizer: "PreTrainedTokenizerBase",
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


class _Collator:
    """Pads prompts on the left and stacks the answers' token ids."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, "torch.Tensor"]:
        import torch

        batch = dict(
            self._tokenizer.pad(
                {"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"
            )
        )
        batch["label_ids"] = torch.tensor([row["label_id"] for row in rows])
        return batch
