"""Belebele's 122 languages: code to name, script and genealogy.

Names and family trees come from qwanqwa (Glottolog's classification), by the ISO 639-3 part of
the code; the script is the code's second part. `xling.languages.make_table` writes them down in
languages.json, which is all that this module reads.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from xling.messages.values import format_value

Family = Literal["source", "related", "control"]

SNAPSHOT = Path(__file__).resolve().parent / "languages.json"


@dataclass(frozen=True)
class Branch:
    """One node of the family tree above a language: its name and Glottolog's code."""

    name: str
    glottocode: str


@dataclass(frozen=True)
class Language:
    """One language variety in one script.

    Attributes:
        code: Belebele's code, such as ``arb_Arab``.
        name: English name of the variety, without the script.
        iso639_3: ISO 639-3 code, which is the code's first part.
        script: ISO 15924 code, which is the code's second part.
        lineage: Branches from the nearest to the root; empty for an isolate (Basque).
    """

    code: str
    name: str
    iso639_3: str
    script: str
    lineage: tuple[Branch, ...]


@cache
def belebele_codes() -> tuple[str, ...]:
    """Return Belebele's 122 codes, in alphabetical order."""
    return tuple(_languages())


def get_language(code: str) -> Language:
    """Return what is known of a language.

    Raises:
        ValueError: The code is not one of Belebele's.
    """
    try:
        return _languages()[code]
    except KeyError:
        raise ValueError(_unknown(code)) from None


def family_of(code: str, *, source_languages: Sequence[str], branch: str) -> Family:
    """Say whether a target language is a source, related to the sources, or a control.

    Args:
        code: The target's code.
        source_languages: Codes of the languages trained on; each must belong to the branch.
        branch: Name or glottocode of the level at which related is meant, such as ``Semitic``
            or ``semi1276``.

    Returns:
        ``source`` for a source language in any script, ``related`` for another one in the branch,
        ``control`` for one outside it.

    Raises:
        ValueError: An unknown code, no sources, or a source outside the branch.
    """
    if not source_languages:
        raise ValueError("source_languages: none given. Name at least one language code.")
    target = get_language(code)
    glottocodes = [_branch_of(get_language(source), branch) for source in source_languages]
    if len(set(glottocodes)) > 1:
        raise ValueError(
            f"branch: {format_value(branch)} names different branches of "
            f"{', '.join(source_languages)}: {', '.join(sorted(set(glottocodes)))}. "
            "Give the glottocode of one they share."
        )
    if target.iso639_3 in {get_language(source).iso639_3 for source in source_languages}:
        return "source"
    related = any(node.glottocode == glottocodes[0] for node in target.lineage)
    return "related" if related else "control"


def shared_branches(a: str, b: str) -> int:
    """Return how many branches two languages share, counted from the root of their family.

    More is nearer: from Standard Arabic, Maltese shares 6, Hebrew 4, Amharic 3, French 0. Unlike
    edges, this does not depend on how finely Glottolog divides the target's own branch.

    Args:
        a: One language's code.
        b: The other's.

    Raises:
        ValueError: An unknown code.
    """
    return len(set(get_language(a).lineage) & set(get_language(b).lineage))


def _branch_of(source: Language, branch: str) -> str:
    """Return the glottocode of the source's branch of that name or glottocode."""
    for node in source.lineage:
        if branch in (node.glottocode, node.name) or branch.casefold() == node.name.casefold():
            return node.glottocode
    valid = ", ".join(f"{node.name} ({node.glottocode})" for node in source.lineage)
    raise ValueError(
        f"branch: the source language {source.code} ({source.name}) does not belong to "
        f"{format_value(branch)}. Its branches are {valid or 'none: it is an isolate'}."
    )


def _unknown(code: str) -> str:
    close = difflib.get_close_matches(code, belebele_codes(), n=5, cutoff=0.5)
    hint = f" Close to it: {', '.join(close)}." if close else ""
    return (
        f"unknown language code {format_value(code)}.{hint} Codes are Belebele's, such as "
        "arb_Arab; xling.languages.belebele_codes() lists all 122."
    )


@cache
def _languages() -> dict[str, Language]:
    """Return every language of the snapshot by its code, in alphabetical order."""
    described = json.loads(SNAPSHOT.read_text(encoding="utf-8"))["languages"]
    return {
        code: Language(
            code=code,
            name=language["name"],
            iso639_3=language["iso639_3"],
            script=language["script"],
            lineage=tuple(Branch(name, glottocode) for name, glottocode in language["lineage"]),
        )
        for code, language in described.items()
    }
