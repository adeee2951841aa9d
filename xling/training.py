"""QLoRA training on the answer: the loss is on the label's token and on nothing else."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.models.loading import device_name
from xling.scoring.in_process import answer_logits, contiguous_head_input

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, ProgressCallback, Trainer


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
        tokens: prompt tokens seen, padding not counted.
        seconds: wall time of this process's part of the training.
        tokens_per_second: of this process's part.
        peak_memory_bytes: of the training on a GPU; on a CPU of the process since it started,
            conversions and earlier models included.
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
) -> TrainingResult:
    """Trains an adapter in place; goes on from the last whole checkpoint in `folder`.

    Args:
        model: frozen base with trainable LoRA weights.
        tokenizer: pads on the left.
        examples: in any order; each epoch shuffles them by `seed`.
        label_ids: token id of each label, from `xling.prompts.label_token_ids`.
        add_special_tokens: as in scoring.
        folder: where checkpoints are written.
        seed: of the order of examples and of dropout.
        epochs: passes over the examples.
        batch_size: examples of one optimiser step.
        micro_batch_size: examples of one forward pass; 0: as `batch_size`.
        learning_rate: peak, reached after `warmup_steps`, then linearly to zero.
        warmup_steps: optimiser steps.
        weight_decay: of AdamW.
        max_grad_norm: clips gradients.
        gradient_checkpointing: less memory for more time.
        checkpoints: how many are written over the training.

    Raises:
        ValueError: there are no examples.
    """
    from transformers import ProgressCallback, TrainingArguments

    if not examples:
        raise ValueError("there are no training examples; is `limit` or `held_out` too large?")
    micro = micro_batch_size or batch_size
    steps = epochs * -(-len(examples) // batch_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch_size // micro,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        lr_scheduler_type="linear",
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        activation_checkpointing=gradient_checkpointing,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        save_steps=max(1, -(-steps // checkpoints)),
        save_total_limit=2,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=device_name() == "cpu",
        dataloader_pin_memory=device_name() != "cpu",
        disable_tqdm=False,
    )
    rows = _tokenise(tokenizer, examples, label_ids, add_special_tokens)
    trainer = _answer_trainer()(
        model=model, args=arguments, train_dataset=rows, data_collator=_Collator(tokenizer)
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_loss_on_bar())
    _reset_peak_memory()
    model.train()
    started = time.perf_counter()
    last = last_whole_checkpoint(folder)
    done_before = _step_of(last) if last else 0
    with contiguous_head_input(model):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.perf_counter() - started
    model.eval()
    tokens = epochs * sum(len(row["input_ids"]) for row in rows)
    here = 1 - done_before / max(1, trainer.state.global_step)
    return TrainingResult(
        curve=_curve(trainer.state.log_history),
        steps=trainer.state.global_step,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens * here / seconds,
        peak_memory_bytes=_peak_memory(),
    )


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    The Trainer writes trainer_state.json last; a process that dies before leaves a folder without
    it, or with half of it.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(state["global_step"] == _step_of(checkpoint))


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


def _answer_trainer() -> type["Trainer"]:
    """The Trainer class with the loss on the answer token (a function: importing it is slow)."""
    import torch
    from transformers import Trainer

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        """Cross-entropy of the label's token over the whole vocabulary, at one position."""

        model_accepts_loss_kwargs = False

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """Mean over the batch, in nats."""
            logits = answer_logits(model, inputs["input_ids"], inputs["attention_mask"])
            loss = torch.nn.functional.cross_entropy(logits.float(), inputs["label_ids"])
            return (loss, logits) if return_outputs else loss

    return AnswerTrainer


def _loss_on_bar() -> "ProgressCallback":
    """Transformers' progress bar with the loss on it, and no line a step beside it."""
    from transformers import ProgressCallback

    class LossOnBar(ProgressCallback):  # type: ignore[misc]
        """Shows the newest loss, in nats."""

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any
        ) -> None:
            """Puts the loss on the bar instead of printing the whole log."""
            if self.training_bar is not None and "loss" in (logs or {}):
                self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")

    return LossOnBar()


def _curve(history: Sequence[dict[str, float]]) -> tuple[dict[str, float], ...]:
    keys = ("step", "loss", "learning_rate", "grad_norm")
    return tuple({key: row[key] for key in keys if key in row} for row in history if "loss" in row)


def _reset_peak_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int:
    """Bytes: of the GPU's allocator, or of this process (Linux reports kilobytes)."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
