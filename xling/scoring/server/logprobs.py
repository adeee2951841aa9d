"""One item's questions to a server: its four labels, or the tokens of an answer's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from xling.scoring.server.capabilities import Abilities, echo_body, next_token_body
from xling.scoring.server.prompt_form import Prompt
from xling.scoring.server.responses import (
    Listed,
    ended,
    label_logprobs,
    read_positions,
    unlisted_mass,
)
from xling.scoring.server.transport import Transport

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
    tokenizer: PreTrainedTokenizerBase,
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


def ask_labels(
    transport: Transport,
    abilities: Abilities,
    name: str,
    prompt: Prompt,
    *,
    tokens: Sequence[int],
    texts: Sequence[str],
    top_logprobs: int,
) -> dict[str, Any]:
    """Log-probabilities of the labels after one prompt.

    Labels that the server does not list are put after the prompt and read from there, where it
    repeats prompts; else they are bounded.

    Returns:
        ``logprobs``, ``bounded`` (a value a label each), ``unlisted`` (most probability that the
        bounded ones have together) and ``tries``; JSON types.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read or has no log-probabilities, or its count of tokens
            is another.
    """
    top: tuple[Listed, ...] = ()
    tries = 0
    if abilities.by_id or abilities.listed:
        reply = transport.post(
            "/completions",
            next_token_body(
                name,
                abilities.wire.form(prompt),
                top_logprobs,
                tokens if abilities.extensions else None,
            ),
        )
        abilities.wire.check(prompt, reply.body)
        positions = read_positions(reply.body)
        top, tries = (positions[0].top if positions else ()), reply.tries
        if not top and not ended(reply.body):
            raise ValueError("the answer has no log-probabilities")
    logprobs, bounded = label_logprobs(top, tokens, texts)
    for index, missing in enumerate(bounded):
        if missing and abilities.echo:
            whole = Prompt(prompt.text + texts[index], (*prompt.tokens, tokens[index]))
            value, more = _last_token(transport, abilities, name, whole)
            logprobs[index], bounded[index] = value, False
            tries += more
    return {
        "logprobs": logprobs,
        "bounded": bounded,
        "unlisted": unlisted_mass(top),
        "tries": tries,
    }


def _last_token(
    transport: Transport, abilities: Abilities, name: str, prompt: Prompt
) -> tuple[float, int]:
    """Log-probability of a prompt's last token, and requests."""
    request = echo_body(name, abilities.wire.form(prompt), extensions=abilities.extensions)
    reply = transport.post("/completions", request)
    (position,) = abilities.wire.repeated(prompt, reply.body, len(prompt.tokens) - 1)
    chosen = position.chosen
    if chosen is None:
        raise ValueError("the answer lacks the log-probability of the prompt's last token")
    return chosen.logprob, reply.tries


def ask_span(
    transport: Transport, abilities: Abilities, name: str, served: ServedSpan, *, partial: bool
) -> dict[str, Any]:
    """Sum of the log-probabilities of an answer's tokens.

    Args:
        transport: to the server.
        abilities: how it is asked.
        name: of the model there.
        served: the answer after its prompt.
        partial: whether the server may leave out tokens' log-probabilities, as some do of a
            text's first.

    Returns:
        ``total`` (None where it leaves out some) and ``tries``.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read or lacks a log-probability, or its tokens or their
            count are others.
    """
    request = echo_body(name, abilities.wire.form(served.prompt), extensions=abilities.extensions)
    reply = transport.post("/completions", request)
    positions = abilities.wire.repeated(served.prompt, reply.body, served.span.start)
    values = [position.chosen.logprob for position in positions if position.chosen is not None]
    whole = len(values) == len(served.span.answer)
    if not whole and not partial:
        raise ValueError(
            f"the answer has log-probabilities of {len(values)} of the {len(served.span.answer)} "
            f"tokens after {served.text[:60]!r}…"
        )
    return {"total": float(np.sum(values)) if whole else None, "tries": reply.tries}
