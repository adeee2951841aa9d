"""Scoring and training of a 4B-shaped model in four bits, by the matrix rate of the GPU.

From the repository's root: `python -m benchmarks --only gpu`.

The model has Qwen3-4B's shape, random weights and a tokenizer trained on the prompts. Operations
are those of the blocks' linear layers for the prompts' own tokens: two a weight in scoring, four in
training, where the frozen weights get no gradient. Attention, padding, the adapter and what
checkpointing computes twice are time, but not counted as work.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_worker import SCORED, TRAINED
from benchmarks.side_by_side import Section, line, markdown, run_worker

GOAL = 0.45
TITLE = "On a GPU"
Ways = dict[str, dict[str, float]]


def run(quick: bool, threads: int) -> Section:
    """Scores 900 prompts and trains on 256 in several ways; `quick`: 64 and 64."""
    import torch

    if not torch.cuda.is_available():
        return Section(TITLE, "No GPU here.", lines_of({}, {}, math.nan, "no GPU here"))
    settings = {
        "scored": 64 if quick else 900,
        "trained": 64 if quick else 256,
        "changed": {},
        "limit_s": 3600,
        "threads": threads,
    }
    found = run_worker(Path(sys.executable), ["-m", "benchmarks.gpu_worker"], settings)
    rate = max(found["rates"].values())
    tables = "\n\n".join(ways_table(found[what], rate) for what in ("scoring", "training"))
    products = markdown(
        ["product", "TFLOP per s"],
        [[name, f"{each / 1e12:.0f}"] for name, each in found["rates"].items()],
    )
    back = found["backing_off"]
    text = (
        f"{found['device']}; {settings['scored']} prompts of {found['data']} scored, "
        f"{settings['trained']} trained on. Padding in batches of 16,384 tokens: "
        f"{found['padding'] - 1:.1%}.\n\n{products}\n\n{tables}\n\nWhere memory ran out on batches "
        f"of 65,536 tokens, scoring went on with {back['tokens']}; log-probabilities differ by "
        f"{back['difference']:.1e} nats at most from those with room."
    )
    return Section(TITLE, text, lines_of(found["scoring"], found["training"], rate, ""))


def lines_of(scoring: Ways, training: Ways, rate: float, note: str) -> list[Any]:
    """The two targets; without figures they are not measured."""
    return [
        line(
            f"{what} of a 4B-shaped model on a GPU: share of the card's matrix rate",
            ways.get(name, {}).get("operations_per_s", math.nan) / rate,
            GOAL,
            note=note,
        )
        for what, ways, name in (("scoring", scoring, SCORED), ("training", training, TRAINED))
    ]


def ways_table(ways: Ways, rate: float) -> str:
    """One row a way."""
    rows = [
        [
            name,
            f"{each['seconds']:.2f}",
            f"{each['tokens_per_s']:.0f}",
            f"{each['operations_per_s'] / rate:.2f}",
            f"{each['peak_bytes'] / 1e9:.1f}",
            f"{each['warm_up_s']:.1f}",
            f"{each['difference']:.2f}" if "difference" in each else "",
        ]
        for name, each in ways.items()
    ]
    heads = ["", "s", "tokens per s", "share of the rate", "peak memory, GB", "warm-up, s"]
    return markdown([*heads, "largest difference from the first, nats"], rows)
