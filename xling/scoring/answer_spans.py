"""The tokens of an answer's text: which of a text's tokens are the prompt's, which the answer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xling.scoring.prefix_trees import common_prefix
from xling.scoring.protocol import ChoiceScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DELIMITER = " "
"""What comes between a prompt and an answer; it is scored with the answer."""


@dataclass(frozen=True)
class AnswerSpan:
    """An answer after its prompt.

    Attributes:
        tokens: those of prompt and answer.
        start: where the answer's tokens begin, at least 1.
        prompt_tokens: tokens of the prompt by itself.
        text: of prompt and answer, without a special token that only `tokens` has.
    """

    tokens: tuple[int, ...]
    start: int
    prompt_tokens: int
    text: str

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's tokens."""
        return self.tokens[self.start :]


@dataclass(frozen=True)
class ChoiceSpans:
    """What is scored for n prompts with four answers each, of m distinct texts.

    Attributes:
        spans: 4n answers after their prompts, prompt by prompt.
        short: m distinct texts after the short context.
        bare: m distinct texts after the first token alone.
        where: shape (n, 4); each answer's place among the distinct texts.
        n_characters: shape (n, 4); of each answer.
    """

    spans: list[AnswerSpan]
    short: list[AnswerSpan]
    bare: list[AnswerSpan]
    where: npt.NDArray[np.intp]
    n_characters: npt.NDArray[np.int32]

    def scores(
        self,
        total: npt.NDArray[np.float64],
        unconditional: npt.NDArray[np.float64],
        prior: npt.NDArray[np.float64],
        tries: npt.NDArray[np.int32] | None = None,
    ) -> ChoiceScores:
        """Return the scores, prompt by prompt.

        Args:
            total: shape (4n,); of `spans`.
            unconditional: shape (m,); of `short`.
            prior: shape (m,); of `bare`.
            tries: shape (4n,); a server's requests for `spans`.
        """
        shape = self.where.shape
        tokens = [len(span.answer) for span in self.spans]
        return ChoiceScores(
            total=total.reshape(shape),
            n_tokens=np.array(tokens, np.int32).reshape(shape),
            n_characters=self.n_characters,
            unconditional=unconditional[self.where],
            prior=prior[self.where],
            prompt_tokens=np.array([span.prompt_tokens for span in self.spans[::4]], np.int32),
            tries=None if tries is None else tries.reshape(shape).sum(axis=1, dtype=np.int32),
        )


def check_answers(prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> None:
    """Check that prompts and answers can be scored.

    Raises:
        ValueError: there are not four answers for each prompt, one is empty, or a prompt
            ends in a space: names which, and the remedy.
    """
    if len(prompts) != len(choices):
        raise ValueError(
            f"there are {len(prompts)} prompts and answers to {len(choices)}; each prompt needs "
            "four answers"
        )
    for index, (prompt, texts) in enumerate(zip(prompts, choices, strict=True)):
        if len(texts) != 4:
            raise ValueError(f"prompt {index} has {len(texts)} answers; it needs four")
        if prompt[-1:] == DELIMITER:
            raise ValueError(
                f"prompt {index} ends in a space ({prompt[-12:]!r}); take it off: a space is put "
                "before each answer"
            )
        for option, text in enumerate(texts, start=1):
            if not text.strip():
                raise ValueError(
                    f"option {option} of prompt {index} is empty; fill it in or leave the item out"
                )


def choice_spans(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    unconditional_context: str,
    *,
    add_special_tokens: bool,
    context: int | None,
) -> ChoiceSpans:
    """Return the spans that `Engine.score_choices` scores.

    Raises:
        ValueError: as `check_answers`, `answer_spans` and `prior_spans`.
    """
    check_answers(prompts, choices)
    distinct = list(dict.fromkeys(text for texts in choices for text in texts))
    place = {text: index for index, text in enumerate(distinct)}
    spans = answer_spans(
        tokenizer, prompts, choices, add_special_tokens=add_special_tokens, context=context
    )
    # The short context is plain text in every layout, so it gets the special tokens.
    short = answer_spans(
        tokenizer,
        [unconditional_context] * len(distinct),
        [[text] for text in distinct],
        add_special_tokens=True,
        context=context,
    )
    shape = (len(prompts), 4)
    return ChoiceSpans(
        [span for row in spans for span in row],
        [row[0] for row in short],
        prior_spans(tokenizer, distinct),
        np.array([place[t] for texts in choices for t in texts], np.intp).reshape(shape),
        np.array([len(t) for texts in choices for t in texts], np.int32).reshape(shape),
    )


def answer_spans(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    add_special_tokens: bool,
    context: int | None,
) -> list[list[AnswerSpan]]:
    """Return the tokens of each answer after its prompt.

    A text's tokens are those of ``prompt + " " + answer`` as a whole; the answer's are those after
    the beginning that it shares with the prompt's own tokens. lm-evaluation-harness splits after
    as many tokens as the prompt has: the same, unless an answer's start merges with the prompt's
    end.

    Args:
        tokenizer: the model's.
        prompts: exact texts.
        choices: answers of each prompt, equally many.
        add_special_tokens: as in scoring.
        context: most tokens that the model takes; None: no limit.

    Raises:
        ValueError: an answer with its prompt is longer than the context, no token comes before
            an answer, or an answer adds none: names which, and the remedy.
    """
    texts = [
        prompt + DELIMITER + text
        for prompt, answers in zip(prompts, choices, strict=True)
        for text in answers
    ]
    before = tokenizer(list(prompts), add_special_tokens=add_special_tokens)["input_ids"]
    wholes = tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]
    pairs = zip(texts, wholes, strict=True)
    return [
        [
            _span(ids, *next(pairs), context, f"option {option} of prompt {index}")
            for option in range(1, len(answers) + 1)
        ]
        for index, (ids, answers) in enumerate(zip(before, choices, strict=True))
    ]


def prior_spans(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[AnswerSpan]:
    """Return each text's tokens after the beginning-of-text token alone.

    As in lm-evaluation-harness, the end-of-text token stands in where a tokenizer has none.

    Raises:
        ValueError: the tokenizer has neither.
    """
    first = tokenizer.bos_token_id
    if first is None:
        first = tokenizer.eos_token_id
    if first is None:
        raise ValueError(
            "the model's tokenizer has no beginning- or end-of-text token, after which answers "
            "could be scored without a prompt; use `scoring: answer-token` with this model"
        )
    spaced = [DELIMITER + text for text in texts]
    rows = tokenizer(spaced, add_special_tokens=False)["input_ids"]
    return [AnswerSpan((first, *ids), 1, 1, text) for ids, text in zip(rows, spaced, strict=True)]


def _span(
    before: list[int], text: str, whole: list[int], context: int | None, name: str
) -> AnswerSpan:
    start = common_prefix(before, whole)
    if context is not None and len(whole) > context:
        raise ValueError(
            f"{name} has {len(whole)} tokens with its prompt ({len(before)} without); the model's "
            f"context is {context}: leave the item out or use a model with a longer context"
        )
    if start == 0:
        raise ValueError(
            f"no token comes before {name}, so its first cannot be scored; begin the prompt with "
            "some text, or with the beginning-of-text token"
        )
    if start == len(whole):
        raise ValueError(f"{name} adds no token to its prompt; correct the option's text")
    return AnswerSpan(tuple(whole), start, len(before), text)
