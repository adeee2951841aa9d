"""What is scored: genuine Belebele where it is there, else the embedded mini set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.side_by_side import ROOT
from xling.data import Item, load_data
from xling.data.mini import mini_languages
from xling.prompts import PromptFormat, render_prompts

BELEBELE = ROOT.parent / "shared" / "data" / "belebele"
LANGUAGE = "eng_Latn"
# Of the words of a genuine passage, where the mini set stands in.
WORDS = 80


@dataclass(frozen=True)
class Prompts:
    """Prompts in groups of one passage each, and where they come from."""

    name: str
    passages: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        return sum(len(passage) for passage in self.passages)


def load_items(languages: Sequence[str], folder: Path = BELEBELE) -> tuple[str, list[Item]]:
    """Items of these languages, and the name of the data set.

    Languages that Belebele's folder lacks are left out; where none is there, the mini set's stand
    in, as many, of the same script where it has them.
    """
    there = [code for code in languages if (folder / f"{code}.jsonl").is_file()]
    if there:
        data = load_data("folder", languages=there, path=str(folder))
        name = "genuine Belebele"
    else:
        data = load_data("mini", languages=stand_ins(languages))
        name = f"the embedded mini set ({folder} is not there)"
    return name, [item for items in data.items.values() for item in items]


def stand_ins(languages: Sequence[str]) -> list[str]:
    """As many languages of the mini set: those that it has, then others of their scripts."""
    there = mini_languages()
    scripts = {code.partition("_")[2] for code in languages}
    wanted = [code for code in languages if code in there]
    alike = [code for code in there if code.partition("_")[2] in scripts]
    return list(dict.fromkeys([*wanted, *alike, *there]))[: len(languages)]


def load_prompts(languages: Sequence[str] = (LANGUAGE,)) -> Prompts:
    """All prompts in this project's default layout, grouped by language and passage."""
    name, items = load_items(languages)
    texts = render_prompts(items, PromptFormat(), None)
    passages: dict[tuple[str, str], list[str]] = {}
    for item, text in zip(items, texts, strict=True):
        passages.setdefault((item.dialect, item.flores_passage), []).append(text)
    return Prompts(name, tuple(tuple(each) for each in passages.values()))


def chunks(prompts: Prompts, number: int, *, most: int = 0) -> list[list[str]]:
    """Prompts in parts of about one size and the same mixture, whole passages together.

    Args:
        prompts: what is dealt out, one passage at a time.
        number: parts.
        most: prompts of a part at most; 0: all are dealt out.
    """
    parts: list[list[str]] = [[] for _ in range(number)]
    for index, passage in enumerate(prompts.passages):
        part = parts[index % number]
        if not most or len(part) + len(passage) <= most:
            part.extend(passage)
    return [part for part in parts if part]
