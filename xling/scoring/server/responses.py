r"""What servers' answers say of tokens: several forms, one reading.

Completions come with ``logprobs`` as OpenAI's legacy form has them (a dictionary from token text to
log-probability at each position: vLLM, SGLang, llama-cpp-python) or as its chat form has them (a
list of entries with ``token``, ``bytes`` and, from llama.cpp, ``id``). A token's text may be its
bytes (``bytes:\xe2\x96``) or its number (vLLM: ``token_id:123``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_ID = re.compile(r"token_id:(\d+)")
BYTES = "bytes:"
# How far apart one server may put the same log-probability in two answers, in nats: arithmetic
# moves it by hundredths; a position that is off by one, by several.
SAME = 0.25
# Of the sum of what a server lists: it computes and writes in single precision.
ROUNDED = 1e-6


@dataclass(frozen=True)
class Listed:
    """One token that a server lists, as far as it says which it is.

    Attributes:
        logprob: natural logarithm of its probability.
        text: its text; what is not a whole character may be lost.
        token: its number.
        raw: its bytes.
    """

    logprob: float
    text: str | None = None
    token: int | None = None
    raw: bytes | None = None

    def is_token(self, token: int, text: str) -> bool:
        """Return whether it is a token, by the surest mark that there is."""
        if self.token is not None:
            return self.token == token
        if self.raw is not None:
            return self.raw == text.encode()
        return self.text == text

    def is_like(self, other: Listed) -> bool:
        """Return whether two answers list the same token with the same log-probability."""
        named = (self.token, self.text, self.raw) == (other.token, other.text, other.raw)
        return named and abs(self.logprob - other.logprob) <= SAME


@dataclass(frozen=True)
class Position:
    """The token at one position, and the likeliest ones there.

    Attributes:
        chosen: the token that is there; None: its log-probability is not given.
        top: the likeliest ones; empty where none are given.
    """

    chosen: Listed | None
    top: tuple[Listed, ...]


def first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only completion of an answer.

    Raises:
        ValueError: there is none, or there are several.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no"
        raise ValueError(f"the answer has {count} completions instead of one")
    return choices[0]


def read_positions(body: Mapping[str, Any]) -> list[Position]:
    """Read the tokens of an answer, in order; empty where it gives no log-probabilities.

    Raises:
        ValueError: it has another shape than the two that are known.
    """
    logprobs = first_choice(body).get("logprobs")
    if not isinstance(logprobs, dict):
        return []
    try:
        return _positions(logprobs)
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"the answer's log-probabilities cannot be read ({error!r})") from error


def _positions(logprobs: Mapping[str, Any]) -> list[Position]:
    content = logprobs.get("content")
    if isinstance(content, list):
        return [
            Position(
                None if each["logprob"] is None else _entry(each),
                tuple(
                    _entry(top)
                    for top in each.get("top_logprobs") or ()
                    if top["logprob"] is not None
                ),
            )
            for each in content
        ]
    values = logprobs.get("token_logprobs") or []
    texts = logprobs.get("tokens") or [None] * len(values)
    tops = logprobs.get("top_logprobs") or [None] * len(values)
    return [
        Position(
            None if value is None else _named(text, value),
            tuple(_named(name, each) for name, each in (top or {}).items() if each is not None),
        )
        for text, value, top in zip(texts, values, tops, strict=False)
    ]


def prompt_tokens(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens the server counted in the prompt; None where it does not say."""
    return _count(body, "prompt_tokens")


def completion_tokens(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens the server wrote; None where it does not say."""
    return _count(body, "completion_tokens")


def ended(body: Mapping[str, Any]) -> bool:
    """Return whether the server wrote an end of text, of which it need not say anything."""
    return completion_tokens(body) == 0 or first_choice(body).get("finish_reason") == "stop"


def _count(body: Mapping[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def echoed(body: Mapping[str, Any], prompt_length: int) -> list[Position]:
    """Return the prompt's positions in an answer that repeats it.

    Args:
        body: the answer.
        prompt_length: tokens of the prompt, special ones included.

    Returns:
        One for each token of the prompt; where the server leaves out the first (llama-cpp-python
        leaves out the beginning-of-text token), it is put in without a log-probability.

    Raises:
        ValueError: the answer does not hold the prompt's log-probabilities.
    """
    positions = read_positions(body)
    written = completion_tokens(body)
    if written is None:  # the first token has no log-probability, or is left out
        surplus = len(positions) - prompt_length
        left_out = surplus < 1 and bool(positions) and positions[0].chosen is not None
        written = min(max(surplus + left_out, 0), 1)
    of_prompt = positions[: len(positions) - written]
    missing = prompt_length - len(of_prompt)
    if missing not in (0, 1):
        raise ValueError(
            f"the answer has log-probabilities of {len(of_prompt)} tokens of a prompt of "
            f"{prompt_length}"
        )
    return [Position(None, ())] * missing + of_prompt


def label_logprobs(
    top: Sequence[Listed], tokens: Sequence[int], texts: Sequence[str]
) -> tuple[list[float], list[bool]]:
    """Return each label's log-probability at one position, and whether it is censored.

    A label that is not listed is less likely than each listed token, and than all that the listed
    ones leave: the smaller of the two is its bound, and it never ties with a listed label. An empty
    list means that the server hides what is there (an end of text): something was likelier, so
    at most half is left.

    Args:
        top: what the server lists.
        tokens: numbers of the labels.
        texts: texts of the labels.
    """
    found = [
        next((e.logprob for e in top if e.is_token(*each)), None)
        for each in zip(tokens, texts, strict=True)
    ]
    if top:
        bound = min(min(each.logprob for each in top), float(np.log(unlisted_mass(top))))
        if bound in found:
            bound = float(np.nextafter(bound, -np.inf))
    else:
        bound = -float(np.log(2.0))
    return [bound if value is None else value for value in found], [v is None for v in found]


def unlisted_mass(top: Sequence[Listed]) -> float:
    """Bound the probability that the tokens have together which a server does not list, 0–1."""
    if not top:
        return 1.0
    left = 1.0 - float(np.exp([each.logprob for each in top]).sum())
    return min(max(left, 0.0) + ROUNDED, 1.0)


def identifies_labels(
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[int],
    texts: Sequence[str],
    top: Sequence[Listed],
) -> bool:
    """Return whether a list of likeliest tokens says surely which of them are the labels.

    Numbers do. A text does if it is no other token's, too; single bytes (`<0x31>`), which no model
    writes for a digit, count where bytes are given and so the same bytes can be.

    Args:
        tokenizer: the model's.
        labels: numbers of the labels' tokens.
        texts: the labels.
        top: the list.
    """
    if top and all(each.token is not None for each in top):
        return True
    raw = any(each.raw is not None for each in top)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    for label, text in zip(labels, texts, strict=True):
        byte = f"<0x{ord(text):02X}>"
        for number, piece in enumerate(pieces):
            if number == label or piece is None:
                continue
            if piece == byte and raw:
                return False
            if text in piece and piece != byte and tokenizer.decode([number]) == text:
                return False
    return True


def _entry(entry: Mapping[str, Any]) -> Listed:
    """Read an entry in the chat form."""
    named = _named(entry.get("token"), entry["logprob"])
    raw = entry.get("bytes")
    token = entry.get("id")
    return Listed(
        named.logprob,
        named.text,
        token if isinstance(token, int) else named.token,
        bytes(raw) if raw else named.raw,
    )


def _named(text: str | None, logprob: float) -> Listed:
    if np.isnan(float(logprob)):
        raise ValueError(f"the answer's log-probability of token {text!r} is not a number")
    if text is None:
        return Listed(float(logprob))
    number = TOKEN_ID.fullmatch(text)
    if number:
        return Listed(float(logprob), token=int(number[1]))
    if text.startswith(BYTES):
        written = text.removeprefix(BYTES).encode("latin-1", "backslashreplace")
        raw = written.decode("unicode_escape").encode("latin-1", "replace")
        return Listed(float(logprob), raw=raw)
    return Listed(float(logprob), text)
