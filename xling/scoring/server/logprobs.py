"""One item's questions to a server: its four labels, or the tokens of an answer's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xling.scoring.answer_spans import AnswerSpan
from xling.scoring.server.capabilities import Capabilities, echo_body, next_token_body
from xling.scoring.server.prompt_form import Prompt
from xling.scoring.server.responses import (
    Listed,
    ended,
    label_logprobs,
    read_positions,
    unlisted_mass,
)
from xling.scoring.server.transport import Transport


def request_label_logprobs(
    transport: Transport,
    capabilities: Capabilities,
    name: str,
    prompt: Prompt,
    *,
    tokens: Sequence[int],
    texts: Sequence[str],
    top_logprobs: int,
) -> dict[str, Any]:
    """Request the log-probabilities of the labels after one prompt.

    Labels that the server does not list are put after the prompt and read from there, where it
    repeats prompts; else they are censored.

    Returns:
        ``logprobs``, ``bounded`` (whether censored; a value a label each), ``unlisted`` (most
        probability that the censored ones have together) and ``tries``; JSON types.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read or has no log-probabilities, or its count of tokens
            is another.
    """
    top: tuple[Listed, ...] = ()
    tries = 0
    if capabilities.by_id or capabilities.listed:
        response = transport.post(
            "/completions",
            next_token_body(
                name,
                capabilities.prompt_form.encode(prompt),
                top_logprobs,
                tokens if capabilities.extensions else None,
            ),
        )
        capabilities.prompt_form.check(prompt, response.body)
        positions = read_positions(response.body)
        top, tries = (positions[0].top if positions else ()), response.tries
        if not top and not ended(response.body):
            raise ValueError("the answer has no log-probabilities")
    logprobs, censored = label_logprobs(top, tokens, texts)
    for index, missing in enumerate(censored):
        if missing and capabilities.echo:
            whole = Prompt(prompt.text + texts[index], (*prompt.tokens, tokens[index]))
            value, more = _last_token(transport, capabilities, name, whole)
            logprobs[index], censored[index] = value, False
            tries += more
    return {
        "logprobs": logprobs,
        "bounded": censored,
        "unlisted": unlisted_mass(top),
        "tries": tries,
    }


def _last_token(
    transport: Transport, capabilities: Capabilities, name: str, prompt: Prompt
) -> tuple[float, int]:
    """Return the log-probability of a prompt's last token, and requests."""
    form = capabilities.prompt_form
    request = echo_body(name, form.encode(prompt), extensions=capabilities.extensions)
    response = transport.post("/completions", request)
    (position,) = form.repeated(prompt, response.body, len(prompt.tokens) - 1)
    chosen = position.chosen
    if chosen is None:
        raise ValueError("the answer lacks the log-probability of the prompt's last token")
    return chosen.logprob, response.tries


def request_answer_logprob(
    transport: Transport,
    capabilities: Capabilities,
    name: str,
    span: AnswerSpan,
    *,
    partial: bool,
) -> dict[str, Any]:
    """Request the sum of the log-probabilities of an answer's tokens.

    Args:
        transport: to the server.
        capabilities: how it is asked.
        name: of the model there.
        span: the answer after its prompt.
        partial: whether the server may leave out tokens' log-probabilities, as some do of a
            text's first.

    Returns:
        ``total`` (None where it leaves out some) and ``tries``.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read or lacks a log-probability, or its tokens or their
            count are others.
    """
    form, prompt = capabilities.prompt_form, Prompt(span.text, span.tokens)
    request = echo_body(name, form.encode(prompt), extensions=capabilities.extensions)
    response = transport.post("/completions", request)
    positions = form.repeated(prompt, response.body, span.start)
    values = [position.chosen.logprob for position in positions if position.chosen is not None]
    whole = len(values) == len(span.answer)
    if not whole and not partial:
        raise ValueError(
            f"the answer has log-probabilities of {len(values)} of the {len(span.answer)} "
            f"tokens after {span.text[:60]!r}…"
        )
    return {"total": float(np.sum(values)) if whole else None, "tries": response.tries}
