r"""What servers' answers say of tokens: several forms, one reading.

Completions come with ``logprobs`` as OpenAI's legacy form has them (a dictionary from token text to
log-probability at each position: vLLM, SGLang, llama-cpp-python) or as its chat form has them (a
list of entries with ``token``, ``bytes`` and, from llama.cpp, ``id``). A token's text may be its
bytes (``bytes:\xe2\x96``) or its number (vLLM: ``token_id:123``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TOKEN_ID = re.compile(r"token_id:(\d+)")
BYTES = "bytes:"
# How far apart one server may put the same log-probability in two answers, in nats: arithmetic
# moves it by hundredths; a position that is off by one, by several.
SAME = 0.25


@dataclass(frozen=True)
class Listed:
    """One token that a server lists, as far as it says which it is.

    Attributes:
        logprob: natural logarithm of its probability.
        text: its text; what is no letter on its own may be lost.
        token: its number.
        raw: its bytes.
    """

    logprob: float
    text: str | None = None
    token: int | None = None
    raw: bytes | None = None

    def is_token(self, token: int, text: str) -> bool:
        """Whether it is a token, by the surest sign that there is."""
        if self.token is not None:
            return self.token == token
        if self.raw is not None:
            return self.raw == text.encode()
        return self.text == text

    def is_like(self, other: "Listed") -> bool:
        """Whether two answers list the same token with the same log-probability."""
        named = (self.token, self.text, self.raw) == (other.token, other.text, other.raw)
        return named and abs(self.logprob - other.logprob) <= SAME


@dataclass(frozen=True)
class Position:
    """The token at one position, and the likeliest ones there.

    Attributes:
        chosen: the token that stands there; None: its log-probability is not given.
        top: the likeliest ones; empty where none are given.
    """

    chosen: Listed | None
    top: tuple[Listed, ...]


def first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The only completion of an answer.

    Raises:
        ValueError: there is none, or there are several.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else "no"
        raise ValueError(f"the answer has {count} completions instead of one")
    return choices[0]


def read_positions(body: Mapping[str, Any]) -> list[Position]:
    """The tokens of an answer, in order; empty where it gives no log-probabilities."""
    logprobs = first_choice(body).get("logprobs")
    if not isinstance(logprobs, dict):
        return []
    content = logprobs.get("content")
    if isinstance(content, list):
        return [
            Position(_entry(each), tuple(map(_entry, each.get("top_logprobs") or ())))
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
    """Tokens that the server counted in the prompt; None where it does not say."""
    count = (body.get("usage") or {}).get("prompt_tokens")
    return count if isinstance(count, int) else None


def completion_tokens(body: Mapping[str, Any]) -> int | None:
    """Tokens that the server wrote; None where it does not say."""
    count = (body.get("usage") or {}).get("completion_tokens")
    return count if isinstance(count, int) else None


def echoed(body: Mapping[str, Any], prompt_length: int) -> list[Position]:
    """Positions of the prompt in an answer that repeats it.

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
    of_prompt = positions[: len(positions) - (1 if written is None else written)]
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
    """Log-probability of each label at one position, and whether it is only bounded.

    A label that is not listed is less likely than each listed token, and than all that the listed
    ones leave: the smaller of the two is its bound. An empty list means that the server hides what
    stands there (an end of text): something was likelier, so at most half is left.

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
        left = max(1.0 - float(np.exp([each.logprob for each in top]).sum()), 1e-12)
        bound = min(min(each.logprob for each in top), float(np.log(left)))
    else:
        bound = -float(np.log(2.0))
    return [bound if value is None else value for value in found], [v is None for v in found]


def _entry(entry: Mapping[str, Any]) -> Listed:
    """An entry in the chat form."""
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
