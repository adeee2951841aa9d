"""An optimiser step of a training, in forward passes that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xling.models.memory import free_memory, is_out_of_memory
from xling.scoring.in_process import answer_logits
from xling.training.batching import Batch, batches_of
from xling.training.fsdp import whole
from xling.training.process_group import ProcessGroup

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Collator:
    """Pads prompts on the left and stacks the answers' token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Stack ``input_ids``, ``attention_mask`` and ``label_ids`` of a forward pass."""
        import torch

        batch = dict(
            self._tokenizer.pad(
                {"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"
            )
        )
        batch["label_ids"] = torch.tensor([row["label_id"] for row in rows])
        return batch


@dataclass
class Passes:
    """How a step's examples are cut into forward passes.

    Attributes:
        lengths: tokens of every example.
        rows: examples of a pass at most.
        tokens: padded tokens of a pass at most; 0: any.
    """

    lengths: Sequence[int]
    rows: int
    tokens: int

    def of(self, step: Sequence[int], group: ProcessGroup) -> tuple[Batch, ...]:
        """Cut a step into this process's passes."""
        return batches_of(
            step,
            self.lengths,
            rank=group.rank,
            size=group.size,
            most_rows=self.rows,
            most_tokens=self.tokens,
        )

    def halve(self, failed: Sequence[Batch]) -> bool:
        """Let passes be half of the largest that failed; False: they had one example each."""
        largest = max(len(batch.rows) for batch in failed)
        longest = max(len(batch.rows) * self._longest(batch) for batch in failed)
        if largest == 1:
            return False
        self.rows, self.tokens = max(1, largest // 2), longest // 2
        return True

    def _longest(self, batch: Batch) -> int:
        return max(self.lengths[row] for row in batch.rows)


@dataclass(frozen=True)
class Step:
    """One optimiser step on some of the rows."""

    model: PeftModel
    collate: Collator
    rows: Sequence[dict[str, Any]]
    optimiser: torch.optim.Optimizer
    max_grad_norm: float
    group: ProcessGroup
    passes: Passes

    def run(self, step: Sequence[int], rate: float, drawn: int) -> dict[str, float]:
        """Change the adapter by the mean loss of a step's examples.

        Args:
            step: the examples, of all processes together.
            rate: learning rate.
            drawn: seed of the dropout.

        Returns:
            ``loss`` (nats, mean over the step's examples), ``learning_rate``, ``grad_norm``
            (before clipping).
        """
        import torch

        parameters = self.optimiser.param_groups[0]["params"]
        self.optimiser.param_groups[0]["lr"] = rate
        loss = self._gradients(step, drawn)
        self.group.sum_gradients(parameters)
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        self.optimiser.step()
        self.optimiser.zero_grad()
        return {
            "loss": self.group.sum([loss])[0] / len(step),
            "learning_rate": rate,
            "grad_norm": norm.item(),
        }

    def _gradients(self, step: Sequence[int], drawn: int) -> float:
        """Compute a step's gradients; a process alone makes smaller passes if memory runs out.

        Several processes would have to agree on it, so there the error is raised.
        """
        import torch

        while True:
            torch.manual_seed(drawn)
            batches = self.passes.of(step, self.group)
            try:
                return self._backward(batches, len(step))
            except (MemoryError, RuntimeError) as error:
                # What the pass held is held by the error's traceback: tried again outside.
                if not self._can_be_smaller(error, batches):
                    raise
            self.optimiser.zero_grad()  # of the passes that were done
            free_memory()
            logger.warning(
                "memory ran out: this and later steps go on in passes of at most %d examples and "
                "%d tokens",
                self.passes.rows,
                self.passes.tokens,
            )

    def _can_be_smaller(self, error: BaseException, batches: Sequence[Batch]) -> bool:
        """Make passes smaller, if an error says that memory ran out and they can be."""
        return is_out_of_memory(error) and self.group.size == 1 and self.passes.halve(batches)

    def _backward(self, batches: Sequence[Batch], examples: int) -> float:
        """Add the gradients of a step's mean loss; return the sum of this process's losses.

        Args:
            batches: this process's share of the step.
            examples: how many the step has on all processes together.
        """
        import torch

        # A sharded model's backward pass takes the mean over the processes, not the sum.
        scale = self.group.size / examples if self.group.sharded else 1 / examples
        loss = 0.0
        for batch in batches:
            total = self._loss(batch)
            torch.autograd.backward(total * scale)
            loss += total.item()
        return loss

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Sum the cross-entropy of the label's token over the batch, in nats."""
        import torch

        inputs = self.collate([self.rows[row] for row in batch.rows])
        inputs = {key: tensor.to(self.model.device) for key, tensor in inputs.items()}
        logits = answer_logits(self.model, inputs["input_ids"], inputs["attention_mask"])
        losses = torch.nn.functional.cross_entropy(
            logits.float(), inputs["label_ids"], reduction="none"
        )
        return losses[: batch.counted].sum()
