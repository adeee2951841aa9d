"""Scoring beside lm-evaluation-harness and a bare loop: the same prompts, item by item.

From the repository's root: `python -m benchmarks --only scoring`.

All score the same converted weights of Gemma 3 270M in float32, on genuine Belebele in English
where it is there. The prompts are cut into parts, and each part is scored by every contestant in
turn, each in a process that lives through all parts; the package without passage reuse and the
bare loop do every second part, which is enough for their ratio, and a naive bare loop every third.
The harness gets the smallest batch size within 3 % of the best: its own search (`batch_size=auto`)
tries 64 rows of the longest request, with the logits of all their positions, and more memory than
small machines have.
"""

from __future__ import annotations

import sys
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
from benchmarks.scored_items import Prompts, chunks, load_prompts
from benchmarks.scoring_worker import model_folder
from benchmarks.side_by_side import Line, OutOfMemory, Section, Worker, line, markdown

OURS = "xling"
PLAIN = "xling, no passage reuse"
BARE = "bare loop"
NAIVE = "bare loop, naive"
HARNESS = "lm-evaluation-harness"
PARTS = 6
BATCH_SIZES = (1, 4, 8)
TRIAL = 16
BARE_TOKENS = 2048
# A smaller size that takes this much longer than the best is taken: it needs less memory.
NEAR_BEST = 1.03


def run(quick: bool, threads: int) -> Section:
    """Scores all prompts with every contestant; `quick`: one part of 24 prompts."""
    prompts = load_prompts()
    parts = chunks(prompts, 1, most=24) if quick else chunks(prompts, PARTS)
    warm_up = parts[0][:2]
    trial = trial_prompts(prompts, 4 if quick else TRIAL)
    sizes = tried_sizes(trial, warm_up, threads, BATCH_SIZES[:2] if quick else BATCH_SIZES)
    batch_size = best_size(sizes)
    makers = {
        name: partial(contestant, name, warm_up, threads, batch_size)
        for name in (OURS, PLAIN, BARE, NAIVE, HARNESS)
    }
    second, third = range(0, len(parts), 2), range(0, len(parts), 3)
    with Contestants(makers) as workers:
        turns = take_turns(
            workers,
            [{"prompts": part} for part in parts],
            what="scoring",
            only={PLAIN: second, BARE: second, NAIVE: third},
        )
    count = sum(map(len, parts))
    text = (
        f"{count} prompts of {prompts.name} ({'part of it, ' if quick else ''}"
        f"{len(prompts.passages)} passages in all), {len(parts)} parts, {threads} threads.\n\n"
        f"{contestants_table(turns)}\n\n"
        f"{BARE}: batches of at most {BARE_TOKENS} padded tokens, and the head reads contiguous "
        f"rows. {NAIVE}: 16 prompts a batch, and the head reads a slice.\n\n"
        f"The harness by batch size, on {len(trial)} prompts, the longest among them (the smallest "
        f"within 3 % of the best is used: {batch_size}):\n\n{sizes_table(sizes, len(trial))}"
    )
    return Section("Scoring", text, lines_of(turns, batch_size, sizes))


def trial_prompts(prompts: Prompts, count: int) -> list[str]:
    """The longest prompt, and the first others."""
    texts = [text for passage in prompts.passages for text in passage]
    longest = max(range(len(texts)), key=lambda row: len(texts[row]))
    return [texts[longest], *(text for row, text in enumerate(texts) if row != longest)][:count]


def contestant(name: str, warm_up: list[str], threads: int, batch_size: int) -> Worker:
    """A worker that has loaded the model and is warm."""
    settings: dict[str, Any] = {
        "folder": str(model_folder()),
        "threads": threads,
        "warm_up": warm_up,
    }
    if name == HARNESS:
        python = environment("lm-eval", requirements("lm-eval"))
        settings["batch_size"] = batch_size
        return Worker(python, ["-m", "benchmarks.lm_eval_worker"], settings)
    settings["way"] = "bare" if name in (BARE, NAIVE) else "package"
    settings["engine"] = {"share_prefixes": False} if name == PLAIN else {}
    settings["tokens"] = BARE_TOKENS if name == BARE else 0
    if settings["way"] == "package":
        settings["folder"] = "gemma3-270m"
    return Worker(Path(sys.executable), ["-m", "benchmarks.scoring_worker"], settings)


def tried_sizes(
    prompts: list[str], warm_up: list[str], threads: int, sizes: tuple[int, ...]
) -> dict[int, dict[str, Any] | None]:
    """What the harness takes with each batch size, each in a new process; None: did not fit."""
    found: dict[int, dict[str, Any] | None] = {}
    for size in sizes:
        try:
            with contestant(HARNESS, warm_up, threads, size) as worker:
                found[size] = worker.ask({"prompts": prompts})
        except OutOfMemory as error:
            print(f"the harness with batch size {size}: {error}", file=sys.stderr)
            found[size] = None
    return found


def best_size(sizes: dict[int, dict[str, Any] | None]) -> int:
    """The smallest batch size within 3 % of the least CPU seconds.

    Raises:
        RuntimeError: none fitted into memory.
    """
    seconds = {size: each["cpu_s"] for size, each in sizes.items() if each is not None}
    if not seconds:
        raise RuntimeError(
            f"the harness did not fit into memory with any batch size of {list(sizes)}; "
            "free memory, or take a smaller model"
        )
    least = min(seconds.values())
    return min(size for size, each in seconds.items() if each <= NEAR_BEST * least)


def contestants_table(turns: dict[str, Turns]) -> str:
    """Seconds, rates and memory of all contestants; each beside ours on the same prompts."""
    rows = []
    for name, each in turns.items():
        cpu, count = total(each, "cpu_s"), len(logprobs(each))
        ours = matched(turns[OURS], each)[0]
        rows.append(
            [
                name,
                count,
                f"{cpu:.1f}",
                f"{total(each, 'wall_s'):.1f}",
                f"{count / cpu:.2f}",
                f"{cpu / total(ours, 'cpu_s'):.2f}",
                gib(peak(each)),
                f"{agreement(ours, each):.4f}",
                f"{difference(ours, each):.1e}",
            ]
        )
    heads = [
        "",
        "prompts",
        "CPU s",
        "wall s",
        "prompts per CPU s",
        "times xling's CPU s",
        "peak memory",
    ]
    return markdown([*heads, "predictions as xling's", "largest difference, nats"], rows)


def sizes_table(sizes: dict[int, dict[str, Any] | None], count: int) -> str:
    rows = [
        [size, "did not fit", "", ""]
        if each is None
        else [size, f"{each['cpu_s']:.1f}", f"{count / each['cpu_s']:.2f}", gib(each["peak_bytes"])]
        for size, each in sizes.items()
    ]
    return markdown(["batch size", "CPU s", "prompts per CPU s", "peak memory"], rows)


def logprobs(turns: Turns) -> np.ndarray:
    """All parts' log-probabilities, shape (prompts, 4)."""
    return np.concatenate([np.array(turn["logprobs"]) for turn in turns])


def agreement(first: Turns, second: Turns) -> float:
    """Share of prompts with the same best label."""
    same = logprobs(first).argmax(axis=1) == logprobs(second).argmax(axis=1)
    return float(same.mean())


def difference(first: Turns, second: Turns) -> float:
    """Largest difference of log-probabilities."""
    return float(np.abs(logprobs(first) - logprobs(second)).max())


def lines_of(
    turns: dict[str, Turns], batch_size: int, sizes: dict[int, dict[str, Any] | None]
) -> list[Line]:
    """The targets' lines; memory also beside the harness's with batch size 1, if it was tried."""
    ours, plain, bare, harness = (turns[name] for name in (OURS, PLAIN, BARE, HARNESS))
    single = sizes.get(1)
    beside_single = (
        f"beside batch size 1, {gib(single['peak_bytes'])}: {peak(ours) / single['peak_bytes']:.2f}"
        if single
        else ""
    )
    wall = total(harness, "wall_s") / total(ours, "wall_s")
    return [
        compared(
            "scoring, CPU seconds, beside lm-evaluation-harness",
            harness,
            ours,
            4.0,
            f"; by wall clock {wall:.2f}",
        ),
        line(
            "scoring: predictions the same as the harness's",
            agreement(ours, harness),
            1.0,
            note=f"log-probabilities differ by {difference(ours, harness):.1e} nats at most",
        ),
        line(
            f"scoring: peak memory beside the harness's, batch size {batch_size}",
            peak(ours) / peak(harness),
            0.4,
            ours=gib(peak(ours)),
            theirs=gib(peak(harness)),
            higher_is_better=False,
            note=beside_single,
        ),
        compared(
            "scoring through the package, no passage reuse, beside a bare loop", bare, plain, 0.95
        ),
    ]


def compared(target: str, slow: Turns, fast: Turns, goal: float, more: str = "") -> Line:
    """How many times as fast the second is, in CPU seconds."""
    ours, theirs = total(fast, "cpu_s"), total(slow, "cpu_s")
    return line(
        target,
        theirs / ours,
        goal,
        ours=f"{ours:.1f} CPU s",
        theirs=f"{theirs:.1f} CPU s",
        note=spread(ratios(slow, fast, "cpu_s")) + more,
    )
