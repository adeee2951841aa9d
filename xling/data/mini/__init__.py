"""The embedded mini set: parallel reading comprehension in 14 varieties, for trying the software.

Its items are built, not collected: words from CLDR (through Babel) fill a few hand-written
sentence patterns, which native speakers have not reviewed. Accuracies on it show that a run
works, and how it behaves; they say nothing about what a model knows of a language. Use
Belebele for that.

There are three difficulties, each with 300 items for training and 100 held-out ones:

1. the gold answer is the only option that the passage names;
2. there are two persons, and the right one must be picked;
3. a small inference: a trip moves by a month or two, and the passage does not name the answer.

Held-out items share no country, language, month, weekday or person's name with training items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from xling.data.mini.draws import ITEMS, Draw, draw_items
from xling.data.mini.words import Variety, content_digest, variety, variety_codes
from xling.data.parallel import make_data_set
from xling.data.schema import DataSet, Item

DIFFICULTIES = (1, 2, 3)
_VERSION = "1"


def build_mini(
    *, languages: Sequence[str], difficulties: Sequence[int] = DIFFICULTIES, seed: int = 0
) -> DataSet:
    """Build the mini set.

    Args:
        languages: Codes among :func:`mini_languages`. Their order changes no item.
        difficulties: Which of 1, 2 and 3. Which others are asked for changes no item.
        seed: Non-negative; decides every draw.

    Returns:
        400 items a difficulty and language, 300 with part ``training`` and 100 ``heldout``;
        the revision is a version and a hash of the draws, the patterns and Babel's version.

    Raises:
        ValueError: A language, difficulty or seed that there is not.
    """
    _check(languages, difficulties, seed)
    chosen = tuple(sorted(set(difficulties)))
    draws = [
        draw
        for difficulty in chosen
        for part in ITEMS
        for draw in draw_items(difficulty, part, seed)
    ]
    items = {code: tuple(_put(draw, variety(code)) for draw in draws) for code in languages}
    digest = hashlib.sha256(f"{content_digest()} {draws!r}".encode()).hexdigest()
    return make_data_set(items, name="mini", source="mini", revision=f"{_VERSION}-{digest[:12]}")


def mini_languages() -> tuple[str, ...]:
    """Return the codes of the 14 varieties of the mini set."""
    return variety_codes()


def difficulty_of(item: Item) -> int:
    """Return the difficulty, 1-3, of an item of the mini set.

    Raises:
        ValueError: The item is not of the mini set.
    """
    pieces = item.link.split("/")
    if len(pieces) != 4 or pieces[0] != "mini" or pieces[1] not in map(str, DIFFICULTIES):
        raise ValueError(
            f"item {item.item_id} is not of the mini set, so it has no difficulty; links of the "
            "mini set begin with mini/1/, mini/2/ or mini/3/."
        )
    return int(pieces[1])


def _check(languages: Sequence[str], difficulties: Sequence[int], seed: int) -> None:
    unknown = [code for code in languages if code not in variety_codes()]
    if unknown or not languages:
        raise ValueError(
            f"the mini set has no {', '.join(unknown) or 'empty list of languages'}; it has "
            f"{', '.join(variety_codes())}. For other languages load Belebele, from the hub or "
            "from a folder."
        )
    wrong = [str(difficulty) for difficulty in difficulties if difficulty not in DIFFICULTIES]
    if wrong or not difficulties:
        raise ValueError(
            f"difficulties: {', '.join(wrong) or 'none given'}; the mini set has 1, 2 and 3."
        )
    if seed < 0:
        raise ValueError(f"seed: {seed}; it must be 0 or more.")


def _put(draw: Draw, words: Variety) -> Item:
    """Put a draw into a variety's words."""
    passage = words.space.join(words.sentence(s.frame, s.keys) for s in draw.passage)
    answers = [words.word(draw.kind, key) for key in draw.options]
    return Item(
        link=draw.link,
        question_number=1,
        flores_passage=passage,
        question=words.sentence(draw.question.frame, draw.question.keys),
        mc_answer1=answers[0],
        mc_answer2=answers[1],
        mc_answer3=answers[2],
        mc_answer4=answers[3],
        correct_answer_num=draw.gold,
        dialect=words.code,
        part=draw.part,
    )
