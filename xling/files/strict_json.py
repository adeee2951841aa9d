"""JSON that says one thing: no key twice, no number that Python cannot hold, whole and in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from xling.messages.values import format_name

# Python reads no more digits of a whole number, and no identifier or count has as many.
MOST_DIGITS = 4000


def parse_json(raw: bytes) -> Any:
    """Return the value of a line or file of JSON.

    Args:
        raw: UTF-8, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested too deeply, or an object has a key twice, of
            which readers keep the one or the other; says why in a few words, but not where.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    try:
        return json.loads(text, object_pairs_hook=_each_key_once, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error


def _each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {format_name(twice)!r} twice")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
