"""Scores prompts with a model in this process: length-sorted batches, one row of logits each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from xling.prompts import label_token_ids
from xling.scoring.answers import AnswerSpan, answer_spans, check_answers, prior_spans
from xling.scoring.batches import plan_batches
from xling.scoring.context import context_of
from xling.scoring.generation import generate
from xling.scoring.protocol import ChoiceScores, Generation, Scores, VariantScores
from xling.scoring.shared_prefix import (
    Branches,
    branch,
    can_share,
    number_of_variants,
    score_branches,
)

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
        batch_tokens: padded tokens of one batch at most (a longer prompt goes alone); decides
            the last digits of log-probabilities.
        share_prefixes: compute once what an item's answers or variants begin with.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        add_special_tokens: bool,
        batch_tokens: int = 4096,
        share_prefixes: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._batch_tokens = batch_tokens
        self._share = share_prefixes and can_share(model)

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
        logprobs = np.empty((len(prompts), 4))
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

    def score_variants(
        self, prompts: Sequence[Sequence[str]], *, description: str = ""
    ) -> VariantScores:
        """Scores the four labels after each of k variants of each item's prompt.

        The tokens that an item's variants begin with are computed once. A batch also holds these
        tokens' keys and values once a variant.

        Raises:
            ValueError: items have different numbers of variants, the labels are not single tokens
                after the prompts, or a prompt is longer than the model's context; raised before
                the first batch.
        """
        variants = number_of_variants(prompts)
        if not prompts:
            return VariantScores(np.empty((0, 0, 4)), np.empty((0, 0), dtype=np.int32))
        labels = label_token_ids(
            self._tokenizer, prompts[0][0], add_special_tokens=self._add_special_tokens
        )
        flat = [prompt for variants_of_item in prompts for prompt in variants_of_item]
        ids = self._tokenizer(flat, add_special_tokens=self._add_special_tokens)["input_ids"]
        n_tokens = np.array([len(row) for row in ids], np.int32).reshape(len(prompts), variants)
        self._check_lengths(n_tokens)
        items = []
        for start in range(0, len(ids), variants):
            rows = ids[start : start + variants]
            items.append(branch(rows, [len(row) - 1 for row in rows], share=self._share))
        read = self._run(items, [[[labels]] * variants] * len(items), description)
        return VariantScores(np.stack([np.concatenate(rows) for rows in read]), n_tokens)

    def score_choices(
        self,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        unconditional_context: str = "Answer:",
        description: str = "",
    ) -> ChoiceScores:
        """Scores the texts of each prompt's four answers.

        The prompt is computed once for all four, and each distinct text once without it.

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

    def _score_spans(
        self, spans: Sequence[Sequence[AnswerSpan]], description: str
    ) -> tuple["np.ndarray[Any, np.dtype[np.float64]]", "np.ndarray[Any, np.dtype[np.int32]]"]:
        """Sums of log-probabilities and numbers of answer tokens, each of the spans' shape."""
        items = [
            branch(
                [span.tokens[:-1] for span in row],
                [span.start - 1 for span in row],
                share=self._share,
            )
            for row in spans
        ]
        targets = [[[[token] for token in span.answer] for span in row] for row in spans]
        read = self._run(items, targets, description)
        totals = np.array([[logprobs.sum() for logprobs in rows] for rows in read])
        return totals, np.array([[len(span.answer) for span in row] for row in spans], np.int32)

    def _run(
        self,
        items: Sequence[Branches],
        targets: Sequence[Sequence[Sequence[Sequence[int]]]],
        description: str,
    ) -> list[list["np.ndarray[Any, np.dtype[np.float64]]"]]:
        """What `score_branches` gives, in the items' order."""
        import torch

        read: list[list[np.ndarray[Any, np.dtype[np.float64]]]] = [[] for _ in items]
        with (
            torch.inference_mode(),
            contiguous_head_input(self._model),
            tqdm(total=len(items), desc=description, unit="item", disable=not description) as bar,
        ):
            for chosen, scored in score_branches(
                self._model,
                items,
                targets,
                batch_tokens=self._batch_tokens,
                pad_token=self._tokenizer.pad_token_id,
            ):
                for index, rows in zip(chosen, scored, strict=True):
                    read[index] = rows
                bar.update(len(chosen))
        return read

    def _score_batch(self, batch: dict[str, Any], labels: "torch.Tensor") -> Any:
        inputs = self._tokenizer.pad(batch, return_tensors="pt").to(self._model.device)
        logits = answer_logits(self._model, inputs["input_ids"], inputs["attention_mask"])
        logprobs = logits.double().log_softmax(dim=-1)
        return logprobs[:, labels.to(logprobs.device)].cpu().numpy()

    def _check_lengths(self, lengths: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        context = self.context
        if context is not None and lengths.max() >= context:
            place = np.unravel_index(lengths.argmax(), lengths.shape)
            variant = f", variant {place[1]}," if lengths.ndim == 2 else ""
            raise ValueError(
                f"prompt {place[0]}{variant} has {lengths.max()} tokens; the model's context "
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
