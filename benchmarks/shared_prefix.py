"""How much time sharing an item's prompt saves, in cloze scoring and in option permutations.

From the repository's root: `python -m benchmarks --only prefix`, or with other settings
`python -m benchmarks.shared_prefix --items 24`.

Scores items of the embedded mini set with the embedded Gemma 3 270M, each way in turn, after one
item to warm up: cloze answers and 2, 4 and 8 (or 24) option orders, with what an item's sequences
begin with computed once and, beside it, each sequence by itself, in alternating rounds. `--words`
lengthens the passages to those of a real task (Belebele's have about 80 words), since the mini
set's are short. Prints CPU seconds, their ratio, and the largest difference between the
log-probabilities.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import measured, work_once
from benchmarks.side_by_side import Section, line, markdown, run_worker
from xling.data import Item, load_data
from xling.models import locate_model
from xling.prompts import PromptFormat, render_prompts
from xling.scoring import InProcessEngine, option_orders, reorder

Way = Callable[[InProcessEngine, Sequence[Item]], np.ndarray]
ROUNDS = 3
# Of the number of sequences that begin alike.
GOALS = {"2 option orders": 1.3, "8 option orders": 2.25}


def lengthened(items: Sequence[Item], words: int) -> list[Item]:
    """The items, each passage followed by those of other items until it has so many words."""
    result = []
    for index, item in enumerate(items):
        passage = item.flores_passage
        step = 1
        while len(passage.split()) < words:
            passage += " " + items[(index + step) % len(items)].flores_passage
            step += 1
        result.append(dataclasses.replace(item, flores_passage=passage))
    return result


def cloze(engine: InProcessEngine, items: Sequence[Item]) -> np.ndarray:
    prompts = [f"{item.flores_passage}\n{item.question}\nAnswer:" for item in items]
    return engine.score_choices(prompts, [item.answers for item in items]).total


def permuted(count: int) -> Way:
    """So many of the 24 option orders, evenly spread: two that follow each other share more."""

    def score(engine: InProcessEngine, items: Sequence[Item]) -> np.ndarray:
        every = option_orders("all")
        orders = every[:: len(every) // count]
        prompts = [
            render_prompts([reorder(item, order) for order in orders], PromptFormat(), None)
            for item in items
        ]
        return engine.score_variants(prompts).logprobs

    return score


WAYS: dict[str, Way] = {
    "2 option orders": permuted(2),
    "4 option orders": permuted(4),
    "8 option orders": permuted(8),
    "cloze, 4 answers": cloze,
}


@dataclass(frozen=True)
class Compared:
    """One way of scoring, with its shared beginnings computed once and each sequence by itself."""

    name: str
    shared: list[float]
    alone: list[float]
    difference: float

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        return [slow / fast for slow, fast in zip(self.alone, self.shared, strict=True)]

    @property
    def ratio(self) -> float:
        """The rounds' median."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        return f"{min(self.ratios):.2f} to {max(self.ratios):.2f} (n = {len(self.ratios)})"


def compare(items: Sequence[Item], ways: dict[str, Way], rounds: int = ROUNDS) -> list[Compared]:
    """Scores items each way in CPU seconds, after one item to warm up; rounds alternate."""
    opened = locate_model("gemma3-270m", quantise="none").open()

    def engine(share: bool) -> InProcessEngine:
        """A new one each time: an engine may know what it has answered."""
        return InProcessEngine(
            opened.model, opened.tokenizer, add_special_tokens=True, share_prefixes=share
        )

    found = []
    for name, way in ways.items():
        for share in (True, False):
            way(engine(share), items[:1])
        seconds: dict[bool, list[float]] = {True: [], False: []}
        scores: dict[bool, np.ndarray] = {}
        for index in range(rounds):
            for share in (True, False) if index % 2 == 0 else (False, True):
                scores[share], took = measured(partial(way, engine(share), items))
                seconds[share].append(took["cpu_s"])
        largest = float(np.abs(scores[True] - scores[False]).max())
        found.append(Compared(name, seconds[True], seconds[False], largest))
    return found


def chosen_items(language: str, count: int, words: int) -> list[Item]:
    """Items of the mini set, as long as asked for."""
    data = load_data("mini", languages=[language])
    return lengthened(data.items[language][:count], words)


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """A worker's work: `items` of them, `threads` threads."""
    import torch

    torch.set_num_threads(settings["threads"])
    items = chosen_items("fra_Latn", settings["items"], 80)
    return {"compared": [asdict(each) for each in compare(items, WAYS, settings["rounds"])]}


def run(quick: bool, threads: int) -> Section:
    """6 items in three rounds; `quick`: 2 items, once."""
    settings = {"items": 2 if quick else 6, "rounds": 1 if quick else ROUNDS, "threads": threads}
    worker = ["-m", "benchmarks.shared_prefix", "--worker"]
    result = run_worker(Path(sys.executable), worker, settings)
    found = [Compared(**each) for each in result["compared"]]
    rows = [
        [
            each.name,
            f"{statistics.median(each.shared):.1f}",
            f"{statistics.median(each.alone):.1f}",
            f"{each.ratio:.2f}, {each.spread}",
            f"{each.difference:.1e}",
        ]
        for each in found
    ]
    heads = ["", "shared, CPU s", "each alone, CPU s", "times as fast", "largest difference, nats"]
    text = (
        f"{settings['items']} items of the mini set in French, passages of at least 80 words, "
        f"{threads} threads; medians of {settings['rounds']} rounds, and the ratios' range."
        f"\n\n{markdown(heads, rows)}"
    )
    lines = [
        line(
            f"shared beginnings computed once: {each.name}",
            each.ratio,
            GOALS[each.name],
            ours=f"{statistics.median(each.shared):.1f} CPU s",
            theirs=f"{statistics.median(each.alone):.1f} CPU s",
            note=each.spread,
        )
        for each in found
        if each.name in GOALS
    ]
    return Section("Shared beginnings", text, lines)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work_once(work)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--words", type=int, default=80, help="words of a passage, at least")
    parser.add_argument("--language", default="fra_Latn")
    parser.add_argument("--all-orders", action="store_true", help="24 orders as well")
    args = parser.parse_args()
    items = chosen_items(args.language, args.items, args.words)
    ways = dict(WAYS)
    if args.all_orders:
        ways["24 option orders"] = permuted(24)
    print(f"{len(items)} items of {args.language}")
    for each in compare(items, ways):
        print(
            f"{each.name:18} shared {statistics.median(each.shared):7.2f} CPU s, each alone "
            f"{statistics.median(each.alone):7.2f}: {each.ratio:.2f} times, {each.spread}; "
            f"largest difference {each.difference:.1e}"
        )


if __name__ == "__main__":
    main()
