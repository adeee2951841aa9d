"""Measures how many tokens prompts take by language, for xling/planning/lengths.csv.

Two kinds of rows: of Belebele's own items (what a prompt and its parts take), and of parallel
sentences of FLORES, which Belebele's passages are made of (how much more than English a language
takes). Run it where both folders are:

    python -m benchmarks.measure_lengths --belebele FOLDER --parallel FOLDER
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from xling.data.schema import Item, parse_row
from xling.models.loading import load_tokenizer
from xling.models.weights.find import fetch_weights, find_recipe
from xling.planning.lengths import COLUMNS, TABLE
from xling.prompts import PromptFormat, fill_template
from xling.scoring.reasoning import reasoning_prompts
from xling.study.settings import DEFAULT_INSTRUCTION

TOKENIZER = "gemma3-270m"


@click.command()
@click.option("--belebele", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--parallel", type=click.Path(exists=True, path_type=Path), required=True)
def main(belebele: Path, parallel: Path) -> None:
    """Writes the table; statistics alone, no text."""
    tokenizer = load_tokenizer(fetch_weights(find_recipe(TOKENIZER)).folder)

    def count(texts: Sequence[str]) -> np.ndarray:
        return np.array([len(row) for row in tokenizer(list(texts))["input_ids"]])

    rows = [measure_items(path, count) for path in sorted(belebele.glob("*.jsonl"))]
    sentences = {path.stem: passages(path) for path in sorted(parallel.glob("*.jsonl"))}
    english = count(sentences["eng_Latn"]).sum()
    own = {row["code"]: row for row in rows}
    for code, texts in sentences.items():
        ratio = {"to_english": round(count(texts).sum() / english, 4)}
        ratio["tokens_per_character"] = round(count(texts).sum() / sum(map(len, texts)), 4)
        if code in own:
            own[code]["to_english"] = ratio["to_english"]
        else:
            rows.append({"code": code, **ratio})
    base = own["eng_Latn"]["prompt"]
    for row in rows:
        if "prompt" in row and "to_english" not in row:
            row["to_english"] = round(row["prompt"] / base, 4)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["code"]))
    click.echo(TABLE.read_text(encoding="utf-8"))


def passages(path: Path) -> list[str]:
    """The sentences of one language."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["flores_passage"] for line in lines if line]


def measure_items(path: Path, count) -> dict[str, object]:
    """Tokens of the items of one language, special tokens not counted off."""
    lines = path.read_text(encoding="utf-8").split("\n")
    items: list[Item] = [
        parse_row(json.loads(line), where=f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line
    ]
    layout = PromptFormat()
    prompts = [fill_template(item, layout.template) + layout.answer_prefix for item in items]
    tokens = count(prompts)
    cloze = count(
        [
            layout.cloze_template.format(passage=item.flores_passage, question=item.question)
            + layout.cloze_prefix
            for item in items
        ]
    )
    answers = count([f" {answer}" for item in items for answer in item.answers]) - 1  # no <bos>
    asked = count(reasoning_prompts(items, layout, None, instruction=DEFAULT_INSTRUCTION))
    return {
        "code": path.stem,
        "items": len(items),
        "prompt": round(float(tokens.mean()), 2),
        "prompt_max": int(tokens.max()),
        "cloze": round(float(cloze.mean()), 2),
        "answer": round(float(answers.mean()), 2),
        "instruction": round(float((asked - tokens).mean()), 2),
        "tokens_per_character": round(tokens.sum() / sum(map(len, prompts)), 4),
    }


if __name__ == "__main__":
    main()
