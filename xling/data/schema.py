"""What a reading-comprehension item is, and the checks that each row of data must pass.

The fields are Belebele's (Bandarkar et al. 2023, arXiv 2308.16884).
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xling.messages.values import format_value, join_names

TRAINING = "training"
HELDOUT = "heldout"
ANSWERS = ("mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")

_TEXTS = ("link", "flores_passage", "question", *ANSWERS)
_REQUIRED = (*_TEXTS, "question_number", "correct_answer_num", "dialect")
# A link names a passage in tables, records and messages: a line of them, not a text.
_LONGEST_LINK = 1000
_MOST_NUMBER = 10**9
# Controls, format characters (zero-width, bidirectional, soft hyphen) and all separators.
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Letters, marks and a symbol that draw nothing: fillers, joiners, the blank Braille cell.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SELECTORS = ((0xFE00, 0xFE0F), (0x180B, 0x180F), (0xE0100, 0xE01EF))
_PARTS = {"train": TRAINING, "dev": TRAINING, "validation": TRAINING, "test": HELDOUT}


@dataclass(frozen=True)
class Item:
    """One question on one passage in one language.

    Attributes:
        link: Names the passage; parallel across languages.
        question_number: Number of the question on its passage.
        flores_passage: The passage.
        question: The question.
        mc_answer1: First option.
        mc_answer2: Second option.
        mc_answer3: Third option.
        mc_answer4: Fourth option.
        correct_answer_num: The gold option, 1-4.
        dialect: Language code, such as ``arb_Arab``.
        part: The data's own split: ``training``, ``heldout``, or empty if it has none.
    """

    link: str
    question_number: int
    flores_passage: str
    question: str
    mc_answer1: str
    mc_answer2: str
    mc_answer3: str
    mc_answer4: str
    correct_answer_num: int
    dialect: str
    part: str = ""

    @property
    def item_id(self) -> str:
        """``link#question_number``: the same in every language."""
        return f"{self.link}#{self.question_number}"

    @property
    def passage_id(self) -> str:
        """The passage's name, which is the link."""
        return self.link

    @property
    def answers(self) -> tuple[str, str, str, str]:
        """The four options, first to fourth."""
        return self.mc_answer1, self.mc_answer2, self.mc_answer3, self.mc_answer4


@dataclass(frozen=True)
class DataSet:
    """Parallel items in one or more languages.

    Attributes:
        name: Short name, such as ``belebele``.
        source: Where the items came from: ``mini``, ``hub`` or ``folder``, and which.
        revision: Commit, version or content hash that identifies the items.
        items: Items by language code; the same item ids in the same order in each language.
    """

    name: str
    source: str
    revision: str
    items: Mapping[str, tuple[Item, ...]]

    @property
    def languages(self) -> tuple[str, ...]:
        """Language codes, in the order in which they were asked for."""
        return tuple(self.items)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the items, in the order that all languages share."""
        return tuple(item.item_id for item in next(iter(self.items.values())))

    def select(self, language: str, item_ids: Iterable[str]) -> tuple[Item, ...]:
        """Return some items in one language, in the data's order.

        Raises:
            ValueError: The data set has no such language.
        """
        if language not in self.items:
            raise ValueError(
                f"the data set {self.name} has no {language}; it has {', '.join(self.items)}."
            )
        wanted = set(item_ids)
        return tuple(item for item in self.items[language] if item.item_id in wanted)

    def sha256_by_language(self) -> dict[str, str]:
        """Return the SHA-256 (hex) of each language's items as canonical JSONL.

        Canonical is one item a line, all fields, keys sorted, no spaces, UTF-8.
        """
        return {code: sha256_of_items(items) for code, items in self.items.items()}


def sha256_of_items(items: Iterable[Item]) -> str:
    """Return the SHA-256 (hex) of items as canonical JSONL."""
    digest = hashlib.sha256()
    for item in items:
        line = json.dumps(vars(item), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def parse_row(row: Mapping[str, object], *, where: str, language: str = "") -> Item:
    """Check one row of data and make an item of it.

    Text is kept exactly as it is: neither stripped nor normalised.

    Args:
        row: The row's fields. ``split`` is optional (train, dev, validation or test); other
            fields are ignored.
        where: File and line, for the messages.
        language: Code that ``dialect`` must equal; empty to accept any.

    Raises:
        ValueError: A field is missing, of the wrong kind or out of range, or a text holds nothing
            that can be seen, or characters that no file takes.
    """
    missing = [field for field in _REQUIRED if field not in row]
    if missing:
        raise ValueError(
            f"{where}: missing field {', '.join(missing)}. Each row needs {', '.join(_REQUIRED)}; "
            f"this one has {join_names(row) or 'none'}."
        )
    texts = {field: _text(row[field], field, where) for field in (*_TEXTS, "dialect")}
    if language and texts["dialect"] != language:
        raise ValueError(
            f"{where}: dialect is {format_value(texts['dialect'])}, but the data of {language!r} "
            "was asked for. Put each language's rows under its own code."
        )
    _check_link(texts["link"], where)
    gold = _whole(row["correct_answer_num"], "correct_answer_num", where)
    if gold not in (1, 2, 3, 4):
        raise ValueError(
            f"{where}: correct_answer_num is {format_value(gold)}; it must be 1, 2, 3 or 4 (the "
            "first option is 1, not 0)."
        )
    return Item(
        link=texts["link"],
        question_number=_whole(row["question_number"], "question_number", where),
        flores_passage=texts["flores_passage"],
        question=texts["question"],
        mc_answer1=texts["mc_answer1"],
        mc_answer2=texts["mc_answer2"],
        mc_answer3=texts["mc_answer3"],
        mc_answer4=texts["mc_answer4"],
        correct_answer_num=gold,
        dialect=texts["dialect"],
        part=_part(row.get("split"), where),
    )


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {field} is {format_value(value)}; it must be text.")
    if "\0" in value:
        raise ValueError(f"{where}: {field} holds a null character; remove it.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}: {field} holds half a surrogate pair; write whole characters.")
    if is_blank(value):
        raise ValueError(f"{where}: {field} is empty; fill it in or remove the row everywhere.")
    return value


def _whole(value: object, field: str, where: str) -> int:
    """Return a whole number that is stored as one or as text, as Belebele does."""
    number = -1
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and value.isascii() and value.strip().isdigit():
        # Python reads no more than some thousand digits of a number.
        number = int(value) if len(value.strip().lstrip("0")) < 20 else _MOST_NUMBER + 1
    if 0 <= number <= _MOST_NUMBER:
        return number
    raise ValueError(
        f"{where}: {field} is {format_value(value)}; it must be a whole number from 0 up."
    )


def _check_link(link: str, where: str) -> None:
    if len(link) > _LONGEST_LINK or not is_one_line(link):
        raise ValueError(
            f"{where}: link is {format_value(link)}; it must be one line of {_LONGEST_LINK} "
            "characters at most, without control characters."
        )


def _part(value: object, where: str) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, str) and value in _PARTS:
        return _PARTS[value]
    raise ValueError(
        f"{where}: split is {format_value(value)}; it must be {', '.join(_PARTS)}, or left out."
    )


def is_blank(text: str) -> bool:
    """Return whether a text has nothing to read: only spaces and characters that are not seen."""
    return all(_is_unseen(character) for character in text)


def is_one_line(text: str) -> bool:
    """Return whether a text has neither line breaks nor other control characters."""
    return not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


def look_of(text: str) -> str:
    """Return what a text looks like; two that look alike are the same to a reader.

    Composed and decomposed letters are the same (NFC), characters that are not seen are left out,
    and any run of spaces is one.
    """
    if not (text.isprintable() and text.isascii()):
        seen = (each for each in text if each.isspace() or not _is_unseen(each))
        text = unicodedata.normalize("NFC", "".join(seen))
    return " ".join(text.split())


def _is_unseen(character: str) -> bool:
    if unicodedata.category(character) in _UNSEEN_CATEGORIES or character in _FILLERS:
        return True
    return any(first <= ord(character) <= last for first, last in _SELECTORS)
