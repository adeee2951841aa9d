"""Scores prompts with a model in this process: length-sorted batches, one row of logits each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from xling.prompts import label_token_ids
from xling.scoring.protocol import Scores

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InProcessEngine:
    """Scores prompts with a causal language model, with or without an adapter.

    Args:
        model: in evaluation mode; a PeftModel works as well.
        tokenizer: pads on the left.
        add_special_tokens: True for plain prompts, False for prompts from a chat template,
            which holds the special tokens itself.
        batch_tokens: padded tokens of one batch at most (a longer prompt goes alone). It
            decides which prompts share a batch, and so the last digits of log-probabilities.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        add_special_tokens: bool,
        batch_tokens: int = 4096,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._batch_tokens = batch_tokens

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Scores each prompt's four labels.

        Raises:
            ValueError: the labels are not single tokens after the prompts, or a prompt is
                longer than the model's context; raised before the first batch.
        """
        import torch

        if not prompts:
            return Scores(np.empty((0, 4)), np.empty(0, dtype=np.int32))
        labels = torch.tensor(
            label_token_ids(
                self._tokenizer, prompts[0], add_special_tokens=self._add_special_tokens
            )
        )
        tokens = self._tokenizer(list(prompts), add_special_tokens=self._add_special_tokens)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.int32)
        self._check_lengths(lengths)
        logprobs = np.empty((len(prompts), len(labels)))
        with (
            torch.inference_mode(),
            contiguous_head_input(self._model),
            tqdm(total=len(prompts), desc=description, unit="item", disable=not description) as bar,
        ):
            for rows in plan_batches(lengths, self._batch_tokens):
                batch = {key: [values[row] for row in rows] for key, values in tokens.items()}
                logprobs[rows] = self._score_batch(batch, labels)
                bar.update(len(rows))
        return Scores(logprobs, lengths)

    def _score_batch(self, batch: dict[str, Any], labels: "torch.Tensor") -> Any:
        inputs = self._tokenizer.pad(batch, return_tensors="pt").to(self._model.device)
        logits = answer_logits(self._model, inputs["input_ids"], inputs["attention_mask"])
        logprobs = logits.double().log_softmax(dim=-1)
        return logprobs[:, labels.to(logprobs.device)].cpu().numpy()

    def _check_lengths(self, lengths: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        context = getattr(self._model.config, "max_position_embeddings", None)
        if context is not None and lengths.max() >= context:
            raise ValueError(
                f"prompt {int(lengths.argmax())} has {lengths.max()} tokens; the model's context "
                f"is {context}"
            )


def answer_logits(
    model: "PreTrainedModel", input_ids: "torch.Tensor", attention_mask: "torch.Tensor"
) -> "torch.Tensor":
    """Logits of the position after each prompt, and of no other.

    Args:
        model: the model.
        input_ids: shape (n, length), padded on the left.
        attention_mask: same shape; 0 where padded.

    Returns:
        Shape (n, vocabulary).
    """
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        logits_to_keep=1,
        use_cache=False,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits


@contextmanager
def contiguous_head_input(model: "PreTrainedModel") -> Iterator[None]:
    """Hands the output matrix contiguous rows.

    Of a strided view, torch makes one small product a row instead of one large product: with
    262k words that was a quarter of a batch's time.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()


def plan_batches(
    lengths: "np.ndarray[Any, np.dtype[np.int32]]", batch_tokens: int
) -> list["np.ndarray[Any, np.dtype[np.intp]]"]:
    """Groups rows of like length, the longest first so that memory runs out at once or never.

    Args:
        lengths: shape (n,), tokens of each row.
        batch_tokens: most padded tokens of a batch; a row longer than that goes alone.

    Returns:
        Row indices of each batch; together each row once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
