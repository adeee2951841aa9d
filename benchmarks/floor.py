"""How much of the machine's measured matrix rate scoring uses.

From the repository's root: `python -m benchmarks --only floor`.

The rate is the best of several products in float32, of a large square one and of those of the
model's own shapes, measured before and after every round of scoring. torch counts the operations
of a scoring run while it runs once more, untimed. The share that a contestant computes is its own
operations by its seconds by the rate; the share that is of use counts what the bare loop computes,
and shows a contestant that projects positions which nobody reads.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contest import Turns, take_turns, total
from benchmarks.scored_items import chunks, load_prompts
from benchmarks.scoring_speed import BARE, HARNESS, OURS, PLAIN, contestant
from benchmarks.side_by_side import Section, Worker, line, markdown

ROUNDS = 2
PROMPTS = 24
BATCH_SIZE = 8


def run(quick: bool, threads: int) -> Section:
    """Two rounds of the same 24 prompts; `quick`: one round of 8."""
    prompts = load_prompts()
    part = chunks(prompts, 1, most=8 if quick else PROMPTS)[0]
    rounds = 1 if quick else ROUNDS
    rates: list[dict[str, dict[str, float]]] = []
    turns: dict[str, Turns] = {}
    with ExitStack() as stack:
        matrix = stack.enter_context(
            Worker(Path(sys.executable), ["-m", "benchmarks.matrix_worker"], {"threads": threads})
        )
        workers = {
            name: stack.enter_context(contestant(name, part[:2], threads, BATCH_SIZE))
            for name in (PLAIN, BARE, OURS, HARNESS)
        }
        names = list(workers)
        for index in range(rounds):
            order = names[index % len(names) :] + names[: index % len(names)]
            rates.append(matrix.ask({}))
            asked = {name: workers[name] for name in order}
            for name, answers in take_turns(asked, [{"prompts": part}], what="floor").items():
                turns.setdefault(name, []).extend(answers)
            rates.append(matrix.ask({}))
        counted = {"prompts": part, "count": True}
        flops = {name: rounds * float(workers[name].ask(counted)["flops"]) for name in names}
    best = {
        field: {shape: max(rate[shape][field] for rate in rates) for shape in rates[0]}
        for field in ("cpu", "wall")
    }
    text = (
        f"{len(part)} prompts of {prompts.name}, {rounds} rounds, {threads} "
        f"threads. Attention is counted whole, what its mask leaves out too: that is up to 4 % in "
        f"our favour where there is no padding.\n\n{rates_table(best)}\n\n"
        f"{shares_table(turns, flops, best)}"
    )
    share = {
        field: flops[PLAIN] / total(turns[PLAIN], f"{field}_s") / max(best[field].values())
        for field in ("cpu", "wall")
    }
    rate = max(best["cpu"].values())
    target = line(
        "scoring through the package, no passage reuse: share of the measured matrix rate",
        share["cpu"],
        0.75,
        ours=f"{share['cpu'] * rate / 1e9:.1f} GFLOP per CPU s",
        theirs=f"{rate / 1e9:.1f} GFLOP per CPU s",
        note=f"by wall clock {share['wall']:.2f}",
    )
    return Section("The floor: share of the matrix rate", text, [target])


def rates_table(best: dict[str, dict[str, float]]) -> str:
    rows = [
        [shape, f"{best['cpu'][shape] / 1e9:.1f}", f"{best['wall'][shape] / 1e9:.1f}"]
        for shape in best["cpu"]
    ]
    return markdown(["product", "GFLOP per CPU s", "GFLOP per s"], rows)


def shares_table(
    turns: dict[str, Turns], flops: dict[str, float], best: dict[str, dict[str, float]]
) -> str:
    rate = {field: max(values.values()) for field, values in best.items()}
    rows: list[list[Any]] = []
    for name in (OURS, PLAIN, BARE, HARNESS):
        cpu, wall = (total(turns[name], f"{field}_s") for field in ("cpu", "wall"))
        rows.append(
            [
                name,
                f"{flops[name] / 1e9:.0f}",
                f"{cpu:.1f}",
                f"{flops[name] / cpu / rate['cpu']:.2f}",
                f"{flops[name] / wall / rate['wall']:.2f}",
                f"{flops[BARE] / cpu / rate['cpu']:.2f}",
            ]
        )
    heads = ["", "GFLOP counted", "CPU s", "share of the rate", "by wall clock"]
    return markdown([*heads, "share, of the bare loop's operations"], rows)
