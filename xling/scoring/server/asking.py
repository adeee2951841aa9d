"""One item's questions to a server: its four labels, or the tokens of an answer's text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xling.scoring.server.choices import ServedSpan
from xling.scoring.server.probe import Abilities, echo_body, next_token_body
from xling.scoring.server.replies import Listed, echoed, label_logprobs, read_positions
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
        ``logprobs``, ``bounded`` (a value a label each) and ``tries``; JSON types.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read, or its count of tokens is another.
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
    logprobs, bounded = label_logprobs(top, tokens, texts)
    for index, missing in enumerate(bounded):
        if missing and abilities.echo:
            whole = Prompt(prompt.text + texts[index], (*prompt.tokens, tokens[index]))
            value, more = _last_token(transport, abilities, name, whole)
            logprobs[index], bounded[index] = value, False
            tries += more
    return {"logprobs": logprobs, "bounded": bounded, "tries": tries}


def _last_token(
    transport: Transport, abilities: Abilities, name: str, prompt: Prompt
) -> tuple[float, int]:
    """Log-probability of a prompt's last token, and requests."""
    request = echo_body(name, abilities.wire.form(prompt), extensions=abilities.extensions)
    reply = transport.post("/completions", request)
    abilities.wire.check(prompt, reply.body)
    chosen = echoed(reply.body, len(prompt.tokens))[-1].chosen
    if chosen is None:
        raise ValueError("the answer lacks the log-probability of the prompt's last token")
    return chosen.logprob, reply.tries


def ask_span(
    transport: Transport, abilities: Abilities, name: str, served: ServedSpan
) -> dict[str, Any]:
    """Sum of the log-probabilities of an answer's tokens.

    Returns:
        ``total`` (None where the server does not give the first token's) and ``tries``.

    Raises:
        ServerError: the server fails for good.
        ValueError: its answer cannot be read, or its count of tokens is another.
    """
    request = echo_body(name, abilities.wire.form(served.prompt), extensions=abilities.extensions)
    reply = transport.post("/completions", request)
    abilities.wire.check(served.prompt, reply.body)
    positions = echoed(reply.body, len(served.span.tokens))[served.span.start :]
    values = [position.chosen.logprob for position in positions if position.chosen is not None]
    whole = len(values) == len(served.span.answer)
    return {"total": float(np.sum(values)) if whole else None, "tries": reply.tries}
