"""What each item of the mini set says, before it is put into words of any language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from xling.data.mini.words import KINDS, PARTS, Pool, pool

ITEMS = {"training": 300, "heldout": 100}

_SHIFTS = {"one_later": 1, "two_later": 2, "one_earlier": -1}
_BALANCE_KEY = 2**31  # an item index that no item has, so that the two streams never meet


@dataclass(frozen=True)
class Sentence:
    """A frame's name, and the key of the word in each of its places by kind."""

    frame: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Draw:
    """One item without words.

    Attributes:
        link: ``mini/<difficulty>/<part>/<nnnn>``.
        part: ``training`` or ``heldout``.
        passage: Sentences in order.
        question: The question's frame and keys.
        kind: What the options are: ``country``, ``language`` or ``month``.
        options: Word keys of the four options, in order.
        gold: The right option, 1-4.
    """

    link: str
    part: str
    passage: tuple[Sentence, ...]
    question: Sentence
    kind: str
    options: tuple[str, ...]
    gold: int


def draw_items(difficulty: int, part: str, seed: int) -> tuple[Draw, ...]:
    """Draw all items of one difficulty and part.

    Each item has its own generator, keyed by (seed, difficulty, part, number), so an item
    does not depend on which others are drawn. Gold positions are equal in number, in shuffled
    blocks of four.

    Args:
        difficulty: 1, 2 or 3.
        part: ``training`` or ``heldout``.
        seed: Non-negative.
    """
    count = ITEMS[part]
    golds = _gold_positions(
        count, np.random.default_rng(_key(difficulty, part, _BALANCE_KEY, seed))
    )
    return tuple(_draw_one(difficulty, part, index, golds[index], seed) for index in range(count))


def _key(difficulty: int, part: str, index: int, seed: int) -> list[int]:
    return [seed, difficulty, PARTS.index(part), index]


def _gold_positions(count: int, rng: np.random.Generator) -> list[int]:
    blocks = [rng.permutation(4) + 1 for _ in range(-(-count // 4))]
    return [int(position) for position in np.concatenate(blocks)[:count]]


def _draw_one(difficulty: int, part: str, index: int, gold: int, seed: int) -> Draw:
    rng = np.random.default_rng(_key(difficulty, part, index, seed))
    if difficulty == 3:
        passage, question, kind, right, wrong = _trip(part, index, rng)
    else:
        make = _one_person if difficulty == 1 else _two_persons
        passage, question, kind, right, wrong = make(part, KINDS[index % len(KINDS)], rng)
    options = [wrong[k] for k in rng.permutation(3)]
    options.insert(gold - 1, right)
    return Draw(
        link=f"mini/{difficulty}/{part}/{index:04d}",
        part=part,
        passage=passage,
        question=question,
        kind=kind,
        options=tuple(options),
        gold=gold,
    )


_Parts = tuple[tuple[Sentence, ...], Sentence, str, str, list[str]]


def _one_person(part: str, kind: str, rng: np.random.Generator) -> _Parts:
    """Draw two facts of different kinds about one person; the options are of the asked kind."""
    drawn = pool(part)
    name = _names(part, drawn, 1, rng)[0]
    # One draw of distinct places serves both kinds: a country and its language may look alike.
    places = rng.permutation(len(drawn.places))
    right, *wrong = _keys(drawn, kind, places[:4], rng)
    other = str(rng.choice([k for k in KINDS if k != kind]))
    beside = _keys(drawn, other, places[4:5], rng)[0]
    facts = (_fact(kind, right, name), _fact(other, beside, name))
    passage = tuple(facts[k] for k in rng.permutation(2))
    return passage, Sentence(f"{kind}?", {"name": name}), kind, right, wrong


def _two_persons(part: str, kind: str, rng: np.random.Generator) -> _Parts:
    """Draw the same kind of fact about two persons; one of the two is asked for."""
    drawn = pool(part)
    asked, other = _names(part, drawn, 2, rng)
    places = rng.permutation(len(drawn.places))
    right, *wrong = _keys(drawn, kind, places[:4], rng)
    facts = (_fact(kind, right, asked), _fact(kind, wrong[0], other))
    passage = tuple(facts[k] for k in rng.permutation(2))
    return passage, Sentence(f"{kind}?", {"name": asked}), kind, right, wrong


def _trip(part: str, index: int, rng: np.random.Generator) -> _Parts:
    """Draw a trip that is moved by a month or two; the new month is only among the options."""
    drawn = pool(part)
    name = _names(part, drawn, 1, rng)[0]
    shift = tuple(_SHIFTS)[index % len(_SHIFTS)]
    starts = [month for month in drawn.months if month + _SHIFTS[shift] in drawn.months]
    start = int(rng.choice(starts))
    right = start + _SHIFTS[shift]
    rest = [month for month in drawn.months if month not in (start, right)]
    wrong = [start, *rng.choice(rest, size=2, replace=False)]
    club = Sentence("trip.filler", {"weekday": str(rng.choice(drawn.weekdays))})
    trip = [
        Sentence("trip.planned", {"name": name, "month": str(start)}),
        Sentence(f"trip.{shift}", {}),
    ]
    passage = (club, *trip) if rng.integers(2) else (*trip, club)
    question = Sentence("trip.question", {"name": name})
    return passage, question, "month", str(right), [str(month) for month in wrong]


def _fact(kind: str, key: str, name: str) -> Sentence:
    return Sentence(kind, {"name": name, kind: key})


def _names(part: str, drawn: Pool, count: int, rng: np.random.Generator) -> list[str]:
    return [f"{part}/{k}" for k in rng.choice(drawn.people, size=count, replace=False)]


@cache
def _codes(drawn: Pool, kind: str) -> tuple[str, ...]:
    return tuple(place[KINDS.index(kind)] for place in drawn.places)


def _keys(drawn: Pool, kind: str, places: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Return distinct word keys of a kind: those of the places, or as many drawn months."""
    if kind == "month":
        return [str(m) for m in rng.choice(drawn.months, size=len(places), replace=False)]
    return [_codes(drawn, kind)[k] for k in places]
