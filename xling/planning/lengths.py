"""How many tokens prompts take: counted where tokenizer and data are at hand, else estimated."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from xling.data import Item
from xling.languages import get_language
from xling.prompts import PromptFormat, fill_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLE = Path(__file__).resolve().parent / "lengths.csv"
"""Statistics of benchmarks/measure_lengths.py: Gemma 3's tokenizer on Belebele and FLORES."""
COLUMNS = (
    "code", "items", "prompt", "prompt_max", "cloze", "answer", "instruction", "to_english",
    "tokens_per_character",
)  # fmt: skip
CHAT_TOKENS = 64
"""Of a chat template around a prompt: roles, marks and, with GPT-OSS, a system message."""
SAMPLE = 32
"""Items of a language that are counted, besides the longest one."""
_MEASURED, _SCRIPT, _OVERALL = "measured", "script", "overall"


@dataclass(frozen=True)
class Lengths:
    """Tokens of one language's prompts.

    Attributes:
        prompt: mean of a direct prompt.
        longest: of the longest.
        cloze: mean of passage and question, without options.
        answer: mean of one answer's text.
        instruction: what asks for a reasoning.
        basis: ``counted``, ``measured`` (on Belebele or FLORES with another tokenizer),
            ``script`` (as languages of its script) or ``overall`` (as the mean of all measured).
    """

    prompt: float
    longest: int
    cloze: float
    answer: float
    instruction: float
    basis: str


@dataclass(frozen=True)
class _Row:
    """One line of the table; a language of which only sentences were measured has no items."""

    code: str
    to_english: float
    tokens_per_character: float
    prompt: float
    prompt_max: int
    cloze: float
    answer: float
    instruction: float


@cache
def _table() -> dict[str, _Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            row["code"]: _Row(
                row["code"],
                float(row["to_english"]),
                float(row["tokens_per_character"]),
                float(row["prompt"] or 0),
                int(row["prompt_max"] or 0),
                float(row["cloze"] or 0),
                float(row["answer"] or 0),
                float(row["instruction"] or 0),
            )
            for row in csv.DictReader(file)
        }


def estimated_lengths(code: str, *, chat: bool) -> Lengths:
    """Estimate what Belebele's prompts take in a language, by the table.

    Args:
        code: Belebele's.
        chat: whether a chat template stands around the prompt.
    """
    table = _table()
    english, own = table["eng_Latn"], table.get(code)
    around = CHAT_TOKENS if chat else 0
    if own is not None and own.prompt:
        return Lengths(
            own.prompt + around,
            own.prompt_max + around,
            own.cloze + around,
            own.answer,
            own.instruction,
            _MEASURED,
        )
    ratio, basis = _ratio(code)
    return Lengths(
        prompt=english.prompt * ratio + around,
        longest=round(english.prompt_max * ratio) + around,
        cloze=english.cloze * ratio + around,
        answer=english.answer * ratio,
        instruction=english.instruction,
        basis=basis,
    )


def _ratio(code: str) -> tuple[float, str]:
    """Return a language's tokens for one token of English, and where the number is from."""
    rows, basis = _alike(code)
    return fmean(row.to_english for row in rows), basis


def _alike(code: str) -> tuple[list[_Row], str]:
    """Find the measured languages that stand for one: itself, those of its script, or all."""
    table = _table()
    if code in table:
        return [table[code]], _MEASURED
    script = get_language(code).script
    same = [row for row in table.values() if get_language(row.code).script == script]
    return (same, _SCRIPT) if same else (list(table.values()), _OVERALL)


def item_lengths(
    items: Mapping[str, Sequence[Item]],
    layout: PromptFormat,
    *,
    instruction: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, Lengths]:
    """Count what the prompts of items at hand take.

    Args:
        items: by language.
        layout: how they are put to the model.
        instruction: that asks for a reasoning.
        tokenizer: counts the tokens; None: they are estimated from the number of characters.
    """
    return {
        code: _of_items(code, rows, layout, instruction=instruction, tokenizer=tokenizer)
        for code, rows in items.items()
    }


def _of_items(
    code: str,
    items: Sequence[Item],
    layout: PromptFormat,
    *,
    instruction: str,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Lengths:
    items = [*items[:: -(-len(items) // SAMPLE)], max(items, key=_characters)]
    prompts = [fill_template(item, layout.template) + layout.answer_prefix for item in items]
    clozes = [
        layout.cloze_template.format(passage=item.flores_passage, question=item.question)
        + layout.cloze_prefix
        for item in items
    ]
    answers = [f" {answer}" for item in items for answer in item.answers]
    rows, basis = _alike(code)
    rate = fmean(row.tokens_per_character for row in rows)

    def count(texts: Iterable[str]) -> list[float]:
        if tokenizer is None:
            return [len(text) * rate for text in texts]
        ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [float(len(row)) for row in ids]

    around = CHAT_TOKENS if layout.chat else 1
    lengths = count(prompts)
    return Lengths(
        prompt=fmean(lengths[:-1]) + around,
        longest=round(max(lengths)) + around,
        cloze=fmean(count(clozes[:-1])) + around,
        answer=fmean(count(answers[:-4])),
        instruction=fmean(count([instruction])),
        basis=basis if tokenizer is None else "counted",
    )


def _characters(item: Item) -> int:
    return len(item.flores_passage) + len(item.question) + sum(map(len, item.answers))
