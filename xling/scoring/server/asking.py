"""One item's questions to a server: its four labels, or the tokens of an answer's text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xling.scoring.server.choices import ServedSpan
from xling.scoring.server.probe import Abilities, echo_body, next_token_body
from xling.scoring.server.replies import (
    Listed,
    ended,
    label_logprobs,
    read_positions,
    unlisted_mass,
)
from xling.scoring.server.transport import Transport
from xling.scoring.server.wire import Prompt


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
