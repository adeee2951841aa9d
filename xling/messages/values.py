"""Values as messages show them: one line, short, with invisible characters written out."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

# Characters of one value in a message: enough to find it by.
MOST = 80


class _Short(reprlib.Repr):
    """repr of the beginning of a value, however long or deep it is."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = most
        self.maxlevel = 2
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 4

    def repr_int(self, x: int, level: int) -> str:
        """Return the number, or its size: Python refuses to write out thousands of digits."""
        bits = x.bit_length()
        return repr(x) if bits <= self.maxlong * 3 else f"a whole number of {bits} bits"

    def repr_str(self, x: str, level: int) -> str:
        """Return the text's beginning; less of it where characters have to be written out."""
        kept = self.maxstring
        while kept > 8 and len(repr(x[:kept])) > self.maxstring + 20:
            kept //= 2
        return repr(x if len(x) <= kept else f"{x[:kept]}…")


def format_value(value: object, most: int = MOST) -> str:
    """Write a value as Python does, cut to about `most` characters and four values a list."""
    return " ".join(_Short(most).repr(value).split("\n"))


def format_name(text: str, most: int = MOST) -> str:
    """Return a name without quotes if it is short and all of it can be seen."""
    return text if len(text) <= most and text.isprintable() else format_value(text, most)


def shorten_middle(text: str, most: int = 120) -> str:
    """Cut a long text, such as an id, in the middle: its end tells it from others, too."""
    if len(text) > most:
        text = f"{text[: most * 2 // 3]}…{text[-(most // 3) :]}"
    return text if text.isprintable() else format_value(text, most)


def join_names(names: Iterable[object], most: int = 10) -> str:
    """Join names by commas; of more than `most`, say how many more there are."""
    every = [format_name(str(name), MOST // 2) for name in names]
    more = [f"… ({len(every) - most} more)"] if len(every) > most else []
    return ", ".join(every[:most] + more)
