"""What the mini set is made of: patterns.yaml, and CLDR's words through Babel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import babel
import yaml

PARTS = ("training", "heldout")
KINDS = ("country", "language", "month")


@dataclass(frozen=True)
class Pool:
    """What the items of one part may draw on; the two parts share nothing.

    Attributes:
        places: Country and language codes of CLDR, paired.
        months: Month numbers, 1-12, in sequence.
        weekdays: Weekday numbers of CLDR, 0 for Monday.
        people: How many persons have names.
    """

    places: tuple[tuple[str, str], ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    people: int


@dataclass(frozen=True)
class Variety:
    """Sentences and words of one variety.

    Attributes:
        code: Belebele's code.
        space: What comes between two sentences.
        frames: Sentence with ``{...}`` places by frame name, such as ``country`` (statement),
            ``country?`` (question) or ``trip.planned``.
        words: Word by kind and key, such as ``("country", "GR")`` or ``("name", "training/0")``.
    """

    code: str
    space: str
    frames: Mapping[str, str]
    words: Mapping[tuple[str, str], str]

    def word(self, kind: str, key: str) -> str:
        """Return one word in its citation form."""
        return self.words[kind, key]

    def sentence(self, frame: str, keys: Mapping[str, str]) -> str:
        """Return a frame with its places filled; ``keys`` holds word keys by kind."""
        words = {kind: self.word(kind, key) for kind, key in keys.items()}
        return self.frames[frame].format(**words)


@cache
def _text() -> str:
    return files(__package__).joinpath("patterns.yaml").read_text(encoding="utf-8")


@cache
def _patterns() -> Any:
    return yaml.safe_load(_text())


def content_digest() -> str:
    """Return a SHA-256 (hex) of the patterns and Babel's version, which decide every text."""
    return hashlib.sha256(f"{babel.__version__}\n{_text()}".encode()).hexdigest()


def variety_codes() -> tuple[str, ...]:
    """Return the codes of the varieties that the mini set is written in."""
    return tuple(_patterns()["varieties"])


@cache
def pool(part: str) -> Pool:
    """Return what the items of a part (``training`` or ``heldout``) may draw on."""
    given = _patterns()["pools"][part]
    return Pool(
        places=tuple((country, language) for country, language in given["places"]),
        months=tuple(given["months"]),
        weekdays=tuple(given["weekdays"]),
        people=len(_patterns()["names"][part]["Latn"]),
    )


@cache
def variety(code: str) -> Variety:
    """Return the sentences and words of a variety, by Belebele's code."""
    given = _patterns()["varieties"][code]
    frames = {f"trip.{name}": frame for name, frame in given["trip"].items()}
    for kind in KINDS:
        frames[kind], frames[f"{kind}?"] = given[kind]
    words = _cldr_words(given["locale"])
    script = code.split("_")[1]
    for part in PARTS:
        for index, name in enumerate(_patterns()["names"][part][script]):
            words["name", f"{part}/{index}"] = name
    return Variety(code=code, space=given["space"], frames=frames, words=words)


def _cldr_words(locale_name: str) -> dict[tuple[str, str], str]:
    locale = babel.Locale.parse(locale_name)
    # "format", because "stand-alone" gives another locale's words where a locale has none.
    months, days = locale.months["format"]["wide"], locale.days["format"]["wide"]
    words = {}
    for part in PARTS:
        drawn = pool(part)
        for country, language in drawn.places:
            words["country", country] = locale.territories[country]
            words["language", language] = locale.languages[language]
        for month in drawn.months:
            words["month", str(month)] = months[month]
        for day in drawn.weekdays:
            words["weekday", str(day)] = days[day]
    return words
