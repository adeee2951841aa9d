"""Scores prompts with a model in this process.

What prompts share is computed once, whatever shares it: questions on one passage, orders of one
question's options, answers to one question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from xling.prompts import label_token_ids
from xling.scoring.answer_cache import AnswerCache
from xling.scoring.answer_spans import AnswerSpan, check_answers, choice_spans
from xling.scoring.batch_runner import BatchRunner
from xling.scoring.context import context_of
from xling.scoring.generation import generate
from xling.scoring.prefix_trees import Request
from xling.scoring.protocol import (
    ChoiceScores,
    Generation,
    Scores,
    VariantScores,
    number_of_variants,
)
from xling.scoring.sampling import Sampling

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InProcessEngine:
    """Scores prompts with a causal language model, with or without an adapter.

    Args:
        model: in evaluation mode; a PeftModel works as well.
        tokenizer: pads on the left.
        add_special_tokens: True for plain prompts, False for prompts from a chat template,
            which holds the special tokens itself.
        batch_tokens: padded tokens of one batch at most (a longer prompt goes alone); decides
            the last digits of log-probabilities.
        share_prefixes: compute once what prompts, or answers to one, begin with.
        cache_file: finished batches; the same call after an interruption goes on after them. It
            belongs to one model with one adapter. None: none are kept.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        add_special_tokens: bool,
        batch_tokens: int = 2048,
        share_prefixes: bool = True,
        cache_file: Path | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._batch_tokens = batch_tokens
        self._runner = BatchRunner(
            model,
            pad_token=tokenizer.pad_token_id,
            batch_tokens=batch_tokens,
            share=share_prefixes,
            cache=AnswerCache(cache_file) if cache_file is not None else None,
        )

    @property
    def repeats(self) -> npt.NDArray[np.int64] | None:
        """Prompts that each token of the pass under way stands for; see `BatchRunner.repeats`."""
        return self._runner.repeats

    @property
    def context(self) -> int | None:
        """Tokens that the model takes at most; None where its configuration names none."""
        return context_of(self._model)

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Score each prompt's four labels.

        Raises:
            ValueError: the labels are not single tokens after the prompts, or a prompt is
                longer than the model's context; raised before the first batch.
        """
        if not prompts:
            return Scores(np.empty((0, 4)), np.empty(0, dtype=np.int32))
        ids, lengths = self._tokens(prompts)
        self._check_lengths(lengths)
        read = self._read_labels(ids, prompts[0], description)
        return Scores(read, lengths)

    def score_variants(
        self, prompts: Sequence[Sequence[str]], *, description: str = ""
    ) -> VariantScores:
        """Score the four labels after each of k variants of each item's prompt.

        Raises:
            ValueError: items have different numbers of variants, the labels are not single tokens
                after the prompts, or a prompt is longer than the model's context; raised before
                the first batch.
        """
        variants = number_of_variants(prompts)
        if not prompts:
            return VariantScores(np.empty((0, 0, 4)), np.empty((0, 0), dtype=np.int32))
        flat = [prompt for variants_of_item in prompts for prompt in variants_of_item]
        ids, lengths = self._tokens(flat)
        n_tokens = lengths.reshape(len(prompts), variants)
        self._check_lengths(n_tokens)
        read = self._read_labels(ids, flat[0], description)
        return VariantScores(read.reshape(len(prompts), variants, 4), n_tokens)

    def score_choices(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        unconditional_context: str = "Answer:",
        description: str = "",
    ) -> ChoiceScores:
        """Score the texts of each prompt's four answers.

        Each distinct text is computed once without its prompt.

        Raises:
            ValueError: prompts and answers do not fit together, an answer is empty, or a prompt
                with its answer is longer than the model's context; raised before the first batch.
        """
        if not prompts:
            check_answers(prompts, choices)
            none, count = np.empty((0, 4)), np.empty((0, 4), np.int32)
            return ChoiceScores(none, count, count, none, none, np.empty(0, np.int32))
        found = choice_spans(
            self._tokenizer,
            prompts,
            choices,
            unconditional_context,
            add_special_tokens=self._add_special_tokens,
            context=self.context,
        )
        return found.scores(
            self._totals(found.spans, description),
            self._totals(found.short, description and f"{description}, no question"),
            self._totals(found.bare, description and f"{description}, no context"),
        )

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        sampling: Sampling,
        *,
        stop: str = "",
        description: str = "",
    ) -> Iterator[dict[str, Generation]]:
        """Continue each prompt; `xling.scoring.generation.generate` says what it raises."""
        batches = generate(
            self._model,
            self._tokenizer,
            prompts,
            keys,
            sampling,
            add_special_tokens=self._add_special_tokens,
            stop=stop,
            batch_tokens=self._batch_tokens,
        )

        def run() -> Iterator[dict[str, Generation]]:
            n = len(prompts)
            with tqdm(total=n, desc=description, unit="item", disable=not description) as bar:
                for batch in batches:
                    yield batch
                    bar.update(len(batch))

        return run()

    def _tokens(self, prompts: Sequence[str]) -> tuple[list[list[int]], npt.NDArray[np.int32]]:
        """Return the token ids of prompts, and how many each has."""
        ids = self._tokenizer(list(prompts), add_special_tokens=self._add_special_tokens)
        rows: list[list[int]] = ids["input_ids"]
        return rows, np.array([len(row) for row in rows], np.int32)

    def _read_labels(
        self, ids: Sequence[Sequence[int]], first: str, description: str
    ) -> npt.NDArray[np.float64]:
        """Return the log-probabilities of the four labels after each prompt, shape (n, 4)."""
        labels = label_token_ids(
            self._tokenizer, first, add_special_tokens=self._add_special_tokens
        )
        requests = [Request(row, len(row) - 1) for row in ids]
        targets = [np.array([labels])] * len(requests)
        return np.concatenate(self._run(requests, targets, description))

    def _totals(self, spans: Sequence[AnswerSpan], description: str) -> npt.NDArray[np.float64]:
        """Return sums of the log-probabilities of answers' tokens, shape (n,)."""
        requests = [Request(span.tokens[:-1], span.start - 1) for span in spans]
        targets = [np.array(span.answer)[:, None] for span in spans]
        return np.array([read.sum() for read in self._run(requests, targets, description)])

    def _run(
        self,
        requests: Sequence[Request],
        targets: Sequence[npt.NDArray[np.int64]],
        description: str,
    ) -> list[npt.NDArray[np.float64]]:
        import torch

        with torch.inference_mode():
            return self._runner.run(requests, targets, description)

    def _check_lengths(self, lengths: npt.NDArray[np.int32]) -> None:
        context = self.context
        if context is not None and lengths.max() >= context:
            place = np.unravel_index(lengths.argmax(), lengths.shape)
            variant = f", variant {place[1]}," if lengths.ndim == 2 else ""
            raise ValueError(
                f"prompt {place[0]}{variant} has {lengths.max()} tokens; the model's context "
                f"is {context}"
            )


def answer_logits(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return the logits of the position after each prompt, and of no other.

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
def contiguous_head_input(model: PreTrainedModel) -> Iterator[None]:
    """Hand the output matrix contiguous rows.

    Of a strided view, torch makes one small product a row instead of one large product: with
    262k words that was a quarter of a batch's time.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()
