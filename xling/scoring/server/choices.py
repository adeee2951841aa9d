"""Answers' texts after their prompts, as they are sent to a server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xling.scoring.answer_spans import (
    DELIMITER,
    AnswerSpan,
    answer_spans,
    check_answers,
    prior_spans,
)
from xling.scoring.protocol import ChoiceScores
from xling.scoring.server.wire import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ServedSpan:
    """An answer after its prompt, with the text of both."""

    span: AnswerSpan
    text: str

    @property
    def prompt(self) -> Prompt:
        """All of it, as it is sent."""
        return Prompt(self.text, self.span.tokens)


@dataclass(frozen=True)
class ChoiceSpans:
    """What is asked for n prompts with four answers each, of m distinct texts.

    Attributes:
        spans: 4n answers after their prompts, prompt by prompt.
        short: m distinct texts after the short context.
        bare: m distinct texts after the first token alone.
        where: shape (4n,); each answer's place among the distinct texts.
    """

    spans: list[ServedSpan]
    short: list[ServedSpan]
    bare: list[ServedSpan]
    where: npt.NDArray[np.intp]

    def scores(
        self,
        choices: Sequence[Sequence[str]],
        total: npt.NDArray[np.float64],
        unconditional: npt.NDArray[np.float64],
        prior: npt.NDArray[np.float64],
        tries: npt.NDArray[np.int32],
    ) -> ChoiceScores:
        """What the server said of the spans, prompt by prompt.

        Args:
            choices: four answers of each prompt.
            total: shape (4n,); of `spans`.
            unconditional: shape (m,); of `short`.
            prior: shape (m,); of `bare`.
            tries: shape (4n,); requests.
        """
        shape = (len(choices), 4)
        tokens = [len(each.span.answer) for each in self.spans]
        characters = [len(text) for texts in choices for text in texts]
        return ChoiceScores(
            total=total.reshape(shape),
            n_tokens=np.array(tokens, np.int32).reshape(shape),
            n_characters=np.array(characters, np.int32).reshape(shape),
            unconditional=unconditional[self.where].reshape(shape),
            prior=prior[self.where].reshape(shape),
            prompt_tokens=np.array([each.span.prompt_tokens for each in self.spans[::4]], np.int32),
            tries=tries.reshape(shape).sum(axis=1, dtype=np.int32),
        )


def choice_spans(
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    unconditional_context: str,
    *,
    add_special_tokens: bool,
    context: int | None,
) -> ChoiceSpans:
    """The spans of `xling.scoring.InProcessEngine.score_choices`, with their texts.

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
    bare = prior_spans(tokenizer, distinct)
    return ChoiceSpans(
        [
            ServedSpan(span, prompt + DELIMITER + text)
            for prompt, texts, row in zip(prompts, choices, spans, strict=True)
            for text, span in zip(texts, row, strict=True)
        ],
        [
            ServedSpan(row[0], unconditional_context + DELIMITER + text)
            for text, row in zip(distinct, short, strict=True)
        ],
        [ServedSpan(row[0], DELIMITER + text) for text, row in zip(distinct, bare, strict=True)],
        np.array([place[text] for texts in choices for text in texts], np.intp),
    )
