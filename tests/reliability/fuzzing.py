"""Seeded damage to inputs, and what may come of it: accepted rightly, or refused in a line.

A sweep tries a quarter of its cases, and with `XLING_SOAK=10` ten times as many as it has. A
failing case prints its name; a run with `XLING_CASE=name` tries that case alone.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

SOAK = max(1, int(os.environ.get("XLING_SOAK", "1")))
# What a run for every change tries of a sweep.
SHARE = 4
ONE_CASE = os.environ.get("XLING_CASE", "")
# Text that a message may hold; what is longer does not help a reader.
MOST = 500
SHOWN_FAILURES = 8

# Right-to-left with bidi controls, combining marks, NFC and NFD, Ethiopic, joiners, astral, CJK.
TEXTS = (
    "ذهبت القطة إلى السوق.",
    "\u202bשלום עולם\u202c (abc) \u2066123\u2069",
    "e\u0301 Ångstro\u0308m q\u0323\u0307",
    "é Ångström ự",
    "ድመቷ ወደ ገበያ ሄደች። ፩፪፫",
    "می\u200cخواهم \u0915\u094d\u200d\u0937",
    "👩\u200d👩\u200d👧 𝔘𝔫𝔦 \U0001f9ff",
    "日本語「テスト」、한국어",
    "braces {passage} {0} {{x}} %s %(a)d $y \\n \\u0041",
    "one\u2028two\u2029three\x85four\x0bfive\ttab",
    "\ufeffbyte order mark \ufffe \ufffd \ue000",
    "z\u0335\u0321\u0310\u0352a\u0334\u0309l\u0336g\u0337o",
    "<b>&amp;</b> \x1b[31mred\x07",
    "a" * 100_000,
    "ما " * 33_000 + "؟",
)
# Text without a sign that a reader could see.
BLANKS = (
    "",
    " ",
    "\n\t\u3000",
    "\u200b",
    "\ufeff",
    "\u200b\u200c\u200d\u2060",
    "\u202a\u202e\u2066\u2069",
    "\u00ad\u034f",
    "\u3164\u115f\u1160\uffa0",
    "\u2800",
    "\U000e0041\ufe0f",
)
# Text that is no text: no file or model takes it.
BROKEN = ("a\0b", "\0", "half \ud800 pair", "\udc00\ud800")
NUMBERS = (0, 1, 4, 5, -1, 2**31, 2**63, 2**64 + 1, 10**30, -(10**400), 1.0, 1.5, 1e308)
OTHERS = (None, True, False, float("nan"), float("inf"), -float("inf"), [], {}, [1, "a"], {"a": 1})
BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\r",
    b"\r\n",
    b"\n",
    b"\xe2\x80\xa8",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"\\ud800",
    b"\\u0000",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 3000,
)


def any_value(rng: random.Random) -> Any:
    """A value of a wrong or unusual kind, now and then nested."""
    kind = rng.randrange(9)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(BLANKS + BROKEN)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind < 8:
        return rng.choice(OTHERS)
    value: Any = rng.choice(TEXTS + BLANKS)
    for _ in range(rng.choice((1, 2, 50, 600))):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return value


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """Bytes with one to four accidents: bits, cuts, repeats, insertions, another encoding."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        raw = _one_accident(rng, raw)
    return raw


def _one_accident(rng: random.Random, raw: bytes) -> bytes:
    start = rng.randrange(len(raw) + 1)
    end = min(len(raw), start + rng.choice((1, 2, 8, 200)))
    match rng.randrange(9):
        case 0 if raw:
            place = rng.randrange(len(raw))
            return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]
        case 1:
            return raw[:start]
        case 2:
            return raw[:start] + raw[end:]
        case 3:
            return raw[:end] + raw[start:]
        case 4:
            return raw[:start] + rng.choice(BYTES) + raw[start:]
        case 5:
            return raw[:start] + b"\0" * (end - start) + raw[end:]
        case 6:
            return raw[:start] + rng.randbytes(end - start) + raw[end:]
        case 7:
            lines = raw.split(b"\n")
            rng.shuffle(lines)
            return b"\n".join(lines)
        case _:
            text = raw.decode("utf-8", "replace")
            code = rng.choice(("utf-16", "utf-16-le", "utf-32", "cp1256", "utf-8-sig", "utf-7"))
            return text.encode(code, "replace")


def json_line(value: Any, rng: random.Random) -> bytes:
    """A value as JSON, escaped or not; half surrogate pairs are always escaped."""
    try:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def refused(error: BaseException, *, told: Sequence[str] = (), lines: int = 1) -> str:
    """Says `refused`, if an error is one that a user can read.

    Raises:
        AssertionError: it has another type, too many lines or signs, or does not name the place.
    """
    assert isinstance(error, (ValueError, OSError, click.ClickException)), repr(error)[:300]
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    assert text.strip(), f"{type(error).__name__} without a message"
    assert len(text.splitlines()) <= lines, f"{len(text.splitlines())} lines: {text[:800]!r}"
    assert len(text) <= MOST * lines, f"{len(text)} signs: {text[:300]!r} … {text[-200:]!r}"
    for part in told:
        assert part in text, f"does not name {part!r}: {text[:300]!r}"
    assert text.encode(), "cannot be written"
    return "refused"


def as_many(cases: int) -> int:
    """Return how many of a sweep's cases this run tries."""
    return cases * SOAK if SOAK > 1 else max(1, cases // SHARE)


def sweep(name: str, cases: int, check: Callable[[random.Random], str]) -> Counter[str]:
    """Runs a check on many seeded cases and counts what came of them.

    Args:
        name: of the sweep; each case draws from a generator seeded by name and number.
        cases: how many it has; `as_many` of them are tried.
        check: tries one case and gives a word for what came of it, or raises.

    Raises:
        AssertionError: lists the failing cases.
    """
    found: Counter[str] = Counter()
    failures = []
    for number in range(as_many(cases)):
        case = f"{name}-{number}"
        if ONE_CASE and case != ONE_CASE:
            continue
        try:
            found[check(random.Random(case))] += 1
        except Exception as error:
            if ONE_CASE:
                raise
            found["FAILED"] += 1
            failures.append(f"XLING_CASE={case}: {type(error).__name__}: {error!s:.600}")
    print(f"{name}: {dict(found)}")
    shown = "\n".join(failures[:SHOWN_FAILURES])
    assert not failures, f"{len(failures)} of {as_many(cases)} cases failed, first\n{shown}"
    return found


def write(path: Path, raw: bytes) -> Path:
    """The file with that content."""
    path.write_bytes(raw)
    return path
