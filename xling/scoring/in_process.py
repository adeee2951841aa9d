"""Scores prompts with a model in this process.

What prompts share is computed once, whatever shares it: questions on one passage, orders of one
question's options, answers to one question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xling.prompts import label_token_ids
from xling.scoring.answer_cache import AnswerCache
from xling.scoring.answer_spans import AnswerSpan, answer_spans, check_answers, prior_spans
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
        kept: file in which finished batches are kept; the same call after an interruption goes on
            after them. It belongs to one model with one adapter. None: none are kept.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        add_special_tokens: bool,
        batch_tokens: int = 2048,
        share_prefixes: bool = True,
        kept: Path | None = None,
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
            kept=AnswerCache(kept) if kept is not None else None,
        )

    @property
    def repeats(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """How many prompts each token of the pass under way stands for; see `Runner.repeats`."""
        return self._runner.repeats

    @property
    def batch_limit(self) -> int | None:
        """Padded tokens of a batch since memory has run out; None: it has not."""
        return self._runner.limit

    @property
    def context(self) -> int | None:
        """Tokens that the model takes at most; None where its configuration names none."""
        return context_of(self._model)

    def score(self, prompts: Sequence[str], *, description: str = "") -> Scores:
        """Scores each prompt's four labels.

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
        """Scores the four labels after each of k variants of each item's prompt.

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
        """Scores the texts of each prompt's four answers.

        Each distinct text is computed once without its prompt.

        Raises:
            ValueError: prompts and answers do not fit together, an answer is empty, or a prompt
                with its answer is longer than the model's context; raised before the first batch.
        """
        check_answers(prompts, choices)
        if not prompts:
            none, count = np.empty((0, 4)), np.empty((0, 4), np.int32)
            return ChoiceScores(none, count, count, none, none, np.empty(0, np.int32))
        spans = answer_spans(
            self._tokenizer,
            prompts,
            choices,
            add_special_tokens=self._add_special_tokens,
            context=self.context,
        )
        distinct = list(dict.fromkeys(text for texts in choices for text in texts))
        # The short context is plain text in every layout, so it gets the special tokens.
        short = answer_spans(
            self._tokenizer,
            [unconditional_context] * len(distinct),
            [[text] for text in distinct],
            add_special_tokens=True,
            context=self.context,
        )
        bare = prior_spans(self._tokenizer, distinct)
        total, n_tokens = self._score_spans(spans, description)
        unconditional, _ = self._score_spans(short, description and f"{description}, no question")
        prior, _ = self._score_spans(bare, description and f"{description}, no context")
        place = {text: index for index, text in enumerate(distinct)}
        where = np.array([[place[text] for text in texts] for texts in choices])
        return ChoiceScores(
            total=total,
            n_tokens=n_tokens,
            n_characters=np.array([[len(text) for text in texts] for texts in choices], np.int32),
            unconditional=unconditional[where, 0],
            prior=prior[where, 0],
            prompt_tokens=np.array([row[0].prompt_tokens for row in spans], np.int32),
        )

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str = "",
        description: str = "",
    ) -> Iterator[dict[str, Generation]]:
        """Continues each prompt; `xling.scoring.generation.generate` says what it raises."""
        return generate(
            self._model,
            self._tokenizer,
            prompts,
            keys,
            add_special_tokens=self._add_special_tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            batch_tokens=self._batch_tokens,
            description=description,
        )

    def _tokens(
        self, prompts: Sequence[str]
    ) -> tuple[list[list[int]], np.ndarray[Any, np.dtype[np.int32]]]:
        """Token ids of prompts, and how many each has."""
        ids = self._tokenizer(list(prompts), add_special_tokens=self._add_special_tokens)
        rows: list[list[int]] = ids["input_ids"]
        return rows, np.array([len(row) for row in rows], np.int32)

    def _read_labels(
        self, ids: Sequence[Sequence[int]], first: str, description: str
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Log-probabilities of the four labels after each prompt, shape (n, 4)."""
        labels = label_token_ids(
            self._tokenizer, first, add_special_tokens=self._add_special_tokens
        )
        requests = [Request(row, len(row) - 1) for row in ids]
        targets = [np.array([labels])] * len(requests)
        return np.concatenate(self._run(requests, targets, description))

    def _score_spans(
        self, spans: Sequence[Sequence[AnswerSpan]], description: str
    ) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.int32]]]:
        """Sums of log-probabilities and numbers of answer tokens, each of the spans' shape."""
        flat = [span for row in spans for span in row]
        requests = [Request(span.tokens[:-1], span.start - 1) for span in flat]
        targets = [np.array(span.answer)[:, None] for span in flat]
        read = self._run(requests, targets, description)
        shape = (len(spans), -1)
        totals = np.array([logprobs.sum() for logprobs in read]).reshape(shape)
        return totals, np.array([len(span.answer) for span in flat], np.int32).reshape(shape)

    def _run(
        self,
        requests: Sequence[Request],
        targets: Sequence[np.ndarray[Any, np.dtype[np.int64]]],
        description: str,
    ) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        import torch

        with torch.inference_mode():
            return self._runner.run(requests, targets, description)

    def _check_lengths(self, lengths: np.ndarray[Any, np.dtype[np.int32]]) -> None:
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
def contiguous_head_input(model: PreTrainedModel) -> Iterator[None]:
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
