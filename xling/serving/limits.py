"""What one request to a served adapter may hold, so that no request takes all of the memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Key of the limits in a logged adapter's model_config.
LIMITS = "limits"
VARIABLE = "XLING_SERVE_"


@dataclass(frozen=True)
class Limits:
    """The most of one request; the model's own context bounds its tokens as well.

    Each can be set by an environment variable of the server, such as ``XLING_SERVE_ROWS``, or
    under ``limits`` in the model's ``model_config``; the variable wins.

    Attributes:
        rows: questions.
        characters: of one field or prompt.
        request_characters: of all fields of all rows.
        tokens: of one prompt.
    """

    rows: int = 1_000
    characters: int = 200_000
    request_characters: int = 5_000_000
    tokens: int = 32_768


def find_limits(config: Mapping[str, Any]) -> Limits:
    """Find the limits by environment, model_config and default, in that order.

    Args:
        config: ``model_config`` of the model.

    Raises:
        ValueError: one is not a whole number above 0, or has an unknown name.
    """
    given = dict(config.get(LIMITS) or {})
    known = [field.name for field in fields(Limits)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"model_config limits: unknown {unknown[0]!r}; valid: {', '.join(known)}")
    for name in known:
        text = os.environ.get(VARIABLE + name.upper(), "").strip()
        if text:
            given[name] = int(text) if text.isdecimal() else text
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"limit {name} is {value!r} (model_config limits, or the environment variable "
                f"{VARIABLE}{name.upper()}); give a whole number above 0"
            )
    return Limits(**given)


def default_limits() -> dict[str, int]:
    """Return the defaults, as a logged adapter's model_config states them."""
    return asdict(Limits())


def check_request(rows: pd.DataFrame, limits: Limits) -> None:
    """Refuse a request that is too large, before anything is made of it.

    Args:
        rows: the request.
        limits: its most.

    Raises:
        ValueError: says which limit, what was found and how to raise it.
    """
    _check("rows", len(rows), limits.rows, "send the rows in several requests")
    whole = 0
    for name in rows.columns:
        lengths = rows[name].map(lambda value: len(value) if isinstance(value, str) else 0)
        longest = int(lengths.max()) if len(rows) else 0
        _check("characters", longest, limits.characters, f"shorten {str(name)!r:.60}")
        whole += int(lengths.sum())
    _check(
        "request_characters", whole, limits.request_characters, "send the rows in several requests"
    )


def check_tokens(longest: int, limits: Limits) -> None:
    """Refuse a prompt of too many tokens.

    Raises:
        ValueError: as `check_request`.
    """
    _check("tokens", longest, limits.tokens, "shorten the passage")


def _check(name: str, found: int, most: int, remedy: str) -> None:
    if found > most:
        raise ValueError(
            f"the request has {found} {name.replace('_', ' ')} where {most} are the most; "
            f"{remedy}, or set {VARIABLE}{name.upper()} where the model is served"
        )
