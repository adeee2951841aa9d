"""Training beside TRL's SFTTrainer: same model, first adapter, rows, order, steps and loss.

From the repository's root: `python -m benchmarks --only training`.

All train LoRA (r 16) on Gemma 3 270M in float32, with the loss on the answer's token, a linear
schedule and clipping. TRL computes logits of every position where there is no CUDA; one contestant
is TRL made to compute those with a label alone. Two more contestants of ours train on the four-bit
base, with plain copies of its matrices and without. Losses are to be the same for all in float32.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import (
    Contestants,
    Turns,
    gib,
    matched,
    peak,
    ratios,
    spread,
    take_turns,
    total,
)
from benchmarks.environments import environment
from benchmarks.requirements import requirements
from benchmarks.scored_items import load_items
from benchmarks.scoring_worker import model_folder
from benchmarks.side_by_side import Line, Section, Worker, line, markdown

OURS = "xling"
FOUR_BIT = "xling, nf4"
NO_COPIES = "xling, nf4, no copies"
TRL = "TRL as it comes"
COMPACT = "TRL, compact head forced on"
PLAIN_FLOATS = (OURS, TRL, COMPACT)
# Contestants that take one turn less: the slowest, and the one whose ratio is no target.
ONE_LESS = (TRL, NO_COPIES)
LARGEST_DIFFERENCE = 1e-3
LANGUAGES = ("eng_Latn", "deu_Latn", "ind_Latn")
ROWS, STEPS, TURNS = 48, 6, 3
TRL_LENGTH = 1024
RECIPE = {"learning_rate": 2e-4, "warmup_steps": 2}
LORA = {"r": 16, "alpha": 32, "seed": 0}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Rows:
    """What is trained on.

    Attributes:
        name: of the data.
        languages: their codes.
        examples: prompts with their answers, 1–4.
        ids: token ids of each, the answer's at the end, in the order of training.
        label_ids: token id of each label.
    """

    name: str
    languages: tuple[str, ...]
    examples: list[tuple[str, int]]
    ids: list[list[int]]
    label_ids: list[int]

    def request(self, batch_size: int) -> dict[str, Any]:
        """What a contestant is asked; each takes of it what it reads."""
        return {
            **RECIPE,
            "batch_size": batch_size,
            "examples": self.examples,
            "rows": self.ids,
            "label_ids": self.label_ids,
        }


def run(quick: bool, threads: int) -> Section:
    """Trains for some steps with every contestant in turn; `quick`: two steps, twice."""
    steps, turns_each = (2, 2) if quick else (STEPS, TURNS)
    batch_size = ROWS // STEPS
    rows = load_rows(batch_size * steps)
    warm_up = load_rows(2).request(2)
    contestants = Contestants(
        {
            name: partial(contestant, name, warm_up, threads)
            for name in (OURS, TRL, COMPACT, FOUR_BIT, NO_COPIES)
        }
    )
    less = dict.fromkeys(ONE_LESS, range(turns_each - 1))
    with contestants as workers:
        requests = [rows.request(batch_size)] * turns_each
        turns = take_turns(
            workers, requests, what="training", only=less, check=check_first_adapters
        )
    lengths = [len(ids) for ids in rows.ids]
    cut = sum(length > TRL_LENGTH for length in lengths)
    text = (
        f"{len(lengths)} rows of {rows.name} ({', '.join(rows.languages)}; {min(lengths)} to "
        f"{max(lengths)} tokens), {steps} steps of {batch_size}, {turns_each} turns each "
        f"({' and '.join(ONE_LESS)}: {turns_each - 1}), {threads} threads. TRL as it comes is "
        "favoured: gradient checkpointing, which it has on by itself, is off; nothing is cut off; "
        "and it gets rows that are tokenised already and in our order. Its "
        f"default of {TRL_LENGTH} tokens would cut the answer off {cut} "
        f"of them.\n\n{contestants_table(turns, sum(lengths))}\n\nLoss by step:\n\n"
        f"{curves_table(turns)}\n\n{held_text(contestants)}"
    )
    return Section("Training", text, lines_of(turns))


def check_first_adapters(turns: dict[str, Turns]) -> None:
    """All in float32 must begin with the same adapter, in every turn.

    Raises:
        RuntimeError: they do not, so that losses and seconds are not of the same work.
    """
    sums = {
        name: [turn["first_weights"] for turn in turns[name]]
        for name in PLAIN_FLOATS
        if name in turns
    }
    expected = (sums[OURS] or [0.0])[0]
    for name, each in sums.items():
        if not np.allclose(each, expected, rtol=1e-5, atol=0.0):
            raise RuntimeError(
                f"{name} begins with another adapter: sums of sizes {each}, {OURS} {expected}; "
                "make sure that all draw it with the same seed"
            )


def held_text(contestants: Contestants) -> str:
    """What each process held between its turns."""
    held = ", ".join(f"{name} {gib(size)}" for name, size in contestants.held.items())
    ended = contestants.ended
    return f"Held between turns: {held}. " + (
        f"{ended} times one was ended to make room for another, and started anew."
        if ended
        else "All had room beside each other."
    )


def load_rows(count: int) -> Rows:
    """Rows of all languages in turn, in the order in which `train_adapter` takes them."""
    from xling.models.loading import load_tokenizer
    from xling.prompts import PromptFormat, label_token_ids, render_prompts
    from xling.training.batching import example_order

    name, items = load_items(LANGUAGES)
    codes = dict.fromkeys(item.dialect for item in items)
    by_language = [[item for item in items if item.dialect == code] for code in codes]
    mixed = [item for group in zip(*by_language, strict=False) for item in group]
    chosen = mixed[:count]
    tokenizer = load_tokenizer(model_folder())
    prompts = render_prompts(chosen, PromptFormat(), tokenizer)
    labels = list(label_token_ids(tokenizer, prompts[0], add_special_tokens=True))
    ids = [
        [*row, labels[item.correct_answer_num - 1]]
        for row, item in zip(tokenizer(prompts)["input_ids"], chosen, strict=True)
    ]
    order = example_order(len(ids), batch_size=len(ids), epochs=1, seed=LORA["seed"])[0]
    return Rows(
        name=name,
        languages=tuple(codes),
        examples=[
            (prompt, item.correct_answer_num) for prompt, item in zip(prompts, chosen, strict=True)
        ],
        ids=[ids[row] for row in order],
        label_ids=labels,
    )


def contestant(name: str, warm_up: dict[str, Any], threads: int) -> Worker:
    """A worker that has loaded the model and is warm."""
    settings: dict[str, Any] = {**LORA, "threads": threads, "warm_up": warm_up}
    if name in (TRL, COMPACT):
        settings |= {
            "folder": str(model_folder()),
            "modules": MODULES,
            "compact": name == COMPACT,
        }
        python = environment("trl", requirements("trl"))
        return Worker(python, ["-m", "benchmarks.trl_training"], settings)
    four_bit = name in (FOUR_BIT, NO_COPIES)
    settings |= {
        "model": "gemma3-270m",
        "quantise": "nf4" if four_bit else "none",
        "plain_copy": name == FOUR_BIT,
    }
    return Worker(Path(sys.executable), ["-m", "benchmarks.training_worker"], settings)


def contestants_table(turns: dict[str, Turns], tokens: int) -> str:
    """Seconds and memory of a turn, medians; each beside ours in the same turn."""
    rows = []
    for name, each in turns.items():
        cpu = [turn["cpu_s"] for turn in each]
        times = ratios(each, turns[OURS], "cpu_s")
        rows.append(
            [
                name,
                f"{statistics.median(cpu):.1f} ({min(cpu):.1f} to {max(cpu):.1f})",
                f"{statistics.median(turn['wall_s'] for turn in each):.1f}",
                f"{tokens / statistics.median(cpu):.0f}",
                f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
                gib(peak(each)),
                f"{difference(turns[OURS], each):.1e}",
                f"{each[0]['first_weights']:.4f}",
            ]
        )
    heads = [
        "",
        "CPU s",
        "wall s",
        "tokens per CPU s",
        "times xling's CPU s",
        "peak memory",
        "largest difference of loss, nats",
        "first adapter, sum of sizes",
    ]
    return markdown(heads, rows)


def curves_table(turns: dict[str, Turns]) -> str:
    """The loss of each step, by contestant."""
    steps = range(1, len(turns[OURS][0]["losses"]) + 1)
    rows = [[name, *(f"{loss:.5f}" for loss in each[0]["losses"])] for name, each in turns.items()]
    return markdown(["", *map(str, steps)], rows)


def difference(first: Turns, second: Turns) -> float:
    """Largest difference of losses, step by step, over all turns of both, in nats."""
    return float(
        max(
            np.abs(np.subtract(one["losses"], other["losses"])).max()
            for one in first
            for other in second
        )
    )


def lines_of(turns: dict[str, Turns]) -> list[Line]:
    """The targets' lines."""
    lines = []
    for name, goal in ((TRL, 4.0), (COMPACT, 1.1)):
        times = ratios(turns[name], turns[OURS], "cpu_s")
        theirs, ours = matched(turns[name], turns[OURS])
        wall = total(theirs, "wall_s") / total(ours, "wall_s")
        lines.append(
            line(
                f"training, CPU seconds, beside {name}",
                statistics.median(times),
                goal,
                ours=f"{total(ours, 'cpu_s'):.1f} CPU s",
                theirs=f"{total(theirs, 'cpu_s'):.1f} CPU s",
                note=f"{spread(times)}; by wall clock {wall:.2f}; losses differ by "
                f"{difference(turns[OURS], turns[name]):.1e} nats at most",
            )
        )
    largest = max(
        difference(turns[first], turns[second])
        for place, first in enumerate(PLAIN_FLOATS)
        for second in PLAIN_FLOATS[place:]
    )
    lines.append(
        line(
            "training: losses differ by at most 1e-3 nats, float32",
            largest,
            LARGEST_DIFFERENCE,
            higher_is_better=False,
            note=f"{', '.join(PLAIN_FLOATS)}; all turns and steps",
        )
    )
    return lines
