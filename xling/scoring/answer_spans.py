"""The tokens of an answer's text: which of a text's tokens are the prompt's, which the answer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xling.scoring.prefix_trees import common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DELIMITER = " "
"""What stands between a prompt and an answer; it is scored with the answer."""


@dataclass(frozen=True)
class AnswerSpan:
    """An answer after its prompt.

    Attributes:
        tokens: those of prompt and answer.
        start: where the answer's tokens begin, at least 1.
        prompt_tokens: tokens of the prompt by itself.
    """

    tokens: tuple[int, ...]
    start: int
    prompt_tokens: int

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer's tokens."""
        return self.tokens[self.start :]


def check_answers(prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> None:
    """Refuses what cannot be scored.

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


def answer_spans(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    add_special_tokens: bool,
    context: int | None,
) -> list[list[AnswerSpan]]:
    """Tokens of each answer after its prompt.

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
        ValueError: an answer with its prompt is longer than the context, no token stands before
            an answer, or an answer adds none: names which, and the remedy.
    """
    texts = [
        prompt + DELIMITER + text
        for prompt, answers in zip(prompts, choices, strict=True)
        for text in answers
    ]
    before = tokenizer(list(prompts), add_special_tokens=add_special_tokens)["input_ids"]
    wholes = iter(tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"])
    return [
        [
            _span(ids, next(wholes), context, f"option {option} of prompt {index}")
            for option in range(1, len(answers) + 1)
        ]
        for index, (ids, answers) in enumerate(zip(before, choices, strict=True))
    ]


def prior_spans(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[AnswerSpan]]:
    """Tokens of each text after the beginning-of-text token alone, one span a row.

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
    return [[AnswerSpan((first, *ids), 1, 1)] for ids in rows]


def _span(before: list[int], whole: list[int], context: int | None, name: str) -> AnswerSpan:
    start = common_prefix(before, whole)
    if context is not None and len(whole) > context:
        raise ValueError(
            f"{name} has {len(whole)} tokens with its prompt ({len(before)} without); the model's "
            f"context is {context}: leave the item out or use a model with a longer context"
        )
    if start == 0:
        raise ValueError(
            f"no token stands before {name}, so its first cannot be scored; begin the prompt with "
            "some text, or with the beginning-of-text token"
        )
    if start == len(whole):
        raise ValueError(f"{name} adds no token to its prompt; correct the option's text")
    return AnswerSpan(tuple(whole), start, len(before))
