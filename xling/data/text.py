"""What a reader sees of a text, as far as Unicode says it."""

from __future__ import annotations

import unicodedata

# Controls, format characters (zero-width, bidirectional, soft hyphen) and all separators.
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Letters, marks and a symbol that draw nothing: fillers, joiners, the blank Braille cell.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SELECTORS = ((0xFE00, 0xFE0F), (0x180B, 0x180F), (0xE0100, 0xE01EF))


def is_blank(text: str) -> bool:
    """Whether there is nothing to read in a text: only spaces and characters that are not seen."""
    return all(_is_unseen(character) for character in text)


def is_one_line(text: str) -> bool:
    """Whether a text has neither line breaks nor other control characters."""
    return not any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in text)


def look_of(text: str) -> str:
    """What a text looks like; two that look alike cannot be told apart by a reader.

    Composed and decomposed letters are the same (NFC), characters that are not seen are left out,
    and any run of spaces is one.
    """
    if not (text.isprintable() and text.isascii()):
        seen = (sign for sign in text if sign.isspace() or not _is_unseen(sign))
        text = unicodedata.normalize("NFC", "".join(seen))
    return " ".join(text.split())


def _is_unseen(character: str) -> bool:
    if unicodedata.category(character) in _UNSEEN_CATEGORIES or character in _FILLERS:
        return True
    return any(first <= ord(character) <= last for first, last in _SELECTORS)
