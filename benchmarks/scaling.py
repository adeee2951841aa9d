"""How time and memory of scoring grow with items, languages, passage length and batch budget.

From the repository's root: `python -m benchmarks --only scaling`.

Growth is the slope of a line through the logarithms: 1 is linear, 0 is none. Time in items,
languages and length is set against the tokens of the prompts, memory against the size itself. Items
of the length table have a passage each and nothing shared, so that tokens are what is computed.
Every size is measured twice, in two passes over the sizes, and the smaller figure kept. Memory is
the most that was held while scoring, beyond what was held before (the model).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scored_items import LANGUAGE, load_items
from benchmarks.shared_prefix import lengthened
from benchmarks.side_by_side import Line, Section, Worker, line, markdown
from xling.data import Item
from xling.prompts import PromptFormat, render_prompts

LANGUAGES = ("eng_Latn", "deu_Latn", "ind_Latn")
LINEAR = 1.1
FLAT = 0.2

Samples = Mapping[int, dict[str, Any]]


def run(quick: bool, threads: int) -> Section:
    """Four tables; `quick`: of three small steps each."""
    base = 4 if quick else 8
    name, items = load_items([LANGUAGE])
    tables: dict[str, Samples] = {
        "items": {
            count: {"prompts": prompts(items[:count])} for count in steps(base, 3 if quick else 4)
        },
        "languages": languages_sample(base),
        "words of a passage": {
            words: {
                "prompts": prompts(lengthened(one_a_passage(items)[:base], words)),
                "engine": {"share_prefixes": False},
            }
            for words in steps(80, 3 if quick else 4)
        },
        "batch budget, tokens": {
            budget: {"prompts": prompts(items[: 2 * base]), "engine": {"batch_tokens": budget}}
            for budget in steps(256, 3 if quick else 4)
        },
    }
    settings = {"threads": threads, "warm_up": prompts(items[:2])}
    texts, lines = [f"On {name}, {threads} threads."], []
    with Worker(Path(sys.executable), ["-m", "benchmarks.scaling_worker"], settings) as worker:
        for what, samples in tables.items():
            print(f"scaling: {what}", file=sys.stderr, flush=True)
            found = smaller_of_two(worker, samples)
            texts.append(measured_table(what, found))
            lines.extend(lines_of(what, found))
    return Section("Scaling", "\n\n".join(texts), lines)


def smaller_of_two(worker: Worker, samples: Samples) -> Samples:
    """Each size measured in two passes over all; of each figure the smaller."""
    passes = [
        {size: worker.ask({"engine": {}, **sample}) for size, sample in samples.items()}
        for _ in range(2)
    ]
    return {
        size: {
            **passes[0][size],
            "cpu_s": min(each[size]["cpu_s"] for each in passes),
            "wall_s": min(each[size]["wall_s"] for each in passes),
            "memory": min(memory(each[size]) for each in passes),
        }
        for size in samples
    }


def one_a_passage(items: Sequence[Item]) -> list[Item]:
    """The first item of each passage."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.flores_passage, item)
    return list(first.values())


def steps(first: int, count: int) -> list[int]:
    """Sizes, each twice the last."""
    return [first * 2**step for step in range(count)]


def prompts(items: Sequence[Item]) -> list[str]:
    return render_prompts(items, PromptFormat(), None)


def languages_sample(count: int) -> Samples:
    """So many items of one language, of two and so on; their tokens differ by language."""
    by_language: dict[str, list[Item]] = {}
    for item in load_items(LANGUAGES)[1]:
        by_language.setdefault(item.dialect, []).append(item)
    chosen = [items[:count] for items in by_language.values()]
    return {
        number: {"prompts": prompts([item for items in chosen[:number] for item in items])}
        for number in range(1, len(chosen) + 1)
    }


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of a least-squares line through the logarithms: the exponent of the growth."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def memory(sample: dict[str, Any]) -> float:
    """Bytes held beyond those before; NaN where the system does not say."""
    held = sample["held_bytes"]
    more = sample["peak_bytes"] - held if held is not None else 0
    return float(more) if more > 0 else math.nan


def measured_table(what: str, found: Samples) -> str:
    """One row a size."""
    rows = [
        [
            size,
            each["tokens"],
            f"{each['cpu_s']:.2f}",
            f"{each['wall_s']:.2f}",
            f"{1000 * each['cpu_s'] / each['tokens']:.3f}",
            "not measured" if math.isnan(each["memory"]) else f"{each['memory'] / 1024**2:.0f}",
        ]
        for size, each in found.items()
    ]
    heads = [what, "tokens", "CPU s", "wall s", "CPU ms a token", "memory, MiB"]
    return markdown(heads, rows)


def lines_of(what: str, found: Samples) -> list[Line]:
    """Exponents that are to be linear at most, or flat."""
    sizes = list(found)
    seconds = [each["cpu_s"] for each in found.values()]
    tokens = [each["tokens"] for each in found.values()]
    held = [each["memory"] for each in found.values()]
    known = not any(map(math.isnan, held))
    budget = what.startswith("batch")
    of_time = line(
        f"scaling: exponent of time in {what}",
        growth(sizes if budget else tokens, seconds),
        FLAT if budget else LINEAR,
        higher_is_better=False,
        note="same prompts: more room may not cost time" if budget else "by their tokens",
    )
    flat = what in ("items", "languages")
    of_memory = line(
        f"scaling: exponent of memory in {what}",
        growth(sizes, held) if known else math.nan,
        FLAT if flat else LINEAR,
        higher_is_better=False,
        note="not measured"
        if not known
        else "batches have a budget, whatever their number"
        if flat
        else "",
    )
    return [of_time, of_memory]
