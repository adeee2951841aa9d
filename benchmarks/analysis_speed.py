"""How long the item path of the analysis takes: encoding, cells, contrasts, bootstrap.

From the repository's root: `python -m benchmarks --only analysis`, or with other settings
`python -m benchmarks.analysis_speed --responses 3600000`.

Makes records of a study (base and fine-tuned arm, Belebele's two items per passage), one frame
per run put together as analysis.pull does, and times every step on the second of two passes, so
that imports and caches do not count. The naive way beside it takes the cells of one pandas groupby
in turn: pivot, `pingouin.chi2_mcnemar`, an interval and a loop over bootstrap draws. It is timed on
a few cells and scaled up to all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pingouin
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis.estimates import OK
from analysis.estimators.baseline_strength import strength_rows
from analysis.estimators.contrasts import contrast_rows
from analysis.gains.baselines import BaselineGroups
from analysis.gains.bootstrap import bootstrap_interval, passage_bootstrap
from analysis.gains.cells import gain_cells
from analysis.gains.gain_table import PRIMARY, GainTable, gain_table
from analysis.gains.responses import encode_responses
from benchmarks.measuring import measured, peak_bytes, work_once
from benchmarks.side_by_side import Section, line, markdown, run_worker
from xling.languages import belebele_codes
from xling.records import RUN_COLUMNS, check_records

T = TypeVar("T")
ARMS = ("base", "finetuned")
LANGUAGES, ITEMS, DRAWS = 40, 900, 2000
CATEGORIES = (*(name for name in RUN_COLUMNS if name != "seed"),
              "language", "item_id", "passage_id", "part", "prompt_sha256")  # fmt: skip


class Stopwatch:
    """Wall-clock seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, step: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        self.seconds[step] = time.perf_counter() - start
        return result


def run_frames(
    rng: np.random.Generator, models: int, languages: int, items: int
) -> list[pd.DataFrame]:
    """One checked frame per model and arm."""
    n = languages * items
    item = np.tile(np.arange(items), languages)
    gold = (item % 4 + 1).astype("int8")
    fixed = pd.DataFrame(
        {
            "model": "", "arm": "", "reasoning": "direct", "scoring": "answer-token",
            "language": np.repeat(belebele_codes()[:languages], items),
            "seed": 0,
            "item_id": np.tile([f"item-{k:05d}" for k in range(items)], languages),
            "passage_id": np.tile([f"passage-{k // 2:05d}" for k in range(items)], languages),
            "part": "heldout", "gold": gold, "prediction": gold, "correct": True,
            **{f"logprob_{k}": -1.4 for k in range(1, 5)},
            "answer_mass": 0.9, "n_tokens": np.full(n, 200, "int32"),
            "prompt_sha256": [f"{k:064x}" for k in range(n)], "fold": np.int16(0),
        }
    )  # fmt: skip
    frames = []
    for model in range(models):
        level = 0.3 + 0.4 * model / models
        draws = rng.random(n)
        for arm in ARMS:
            again = draws if arm == "base" else np.where(rng.random(n) < 0.3, rng.random(n), draws)
            correct = again < level + (0.1 if arm == "finetuned" else 0.0)
            prediction = np.where(correct, gold, gold % 4 + 1).astype("int8")
            frames.append(
                fixed.assign(
                    model=f"model-{model:03d}", arm=arm, correct=correct, prediction=prediction
                )
            )
    return [check_records(frames[0]), *frames[1:]]


def accuracies_of(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracies as pull_records gives them."""
    keys = [*RUN_COLUMNS, "language"]
    table = records.groupby(keys, observed=True)["correct"].mean().rename("accuracy").reset_index()
    names = {name: str for name in keys if name != "seed"}
    return table.astype(names).assign(has_records=True, run_id="r")


def contrasts(table: GainTable) -> None:
    """D, B and I with all that judges them, weak and strong models split in the middle."""
    half = (len(table.models) + 1) // 2
    group = {m: "weak" if k < half else "strong" for k, m in enumerate(table.models)}
    groups = BaselineGroups({}, group, "training split", OK, "")
    contrast_rows(table, groups, 0.05)
    strength_rows(table, groups)


def one_pass(
    records: pd.DataFrame, accuracies: pd.DataFrame, family: dict[str, str], draws: int
) -> dict[str, float]:
    """Seconds of each step."""
    clock = Stopwatch()
    responses = clock.time("encode records", lambda: encode_responses(records))
    cells = clock.time("cells, their intervals and p",
                       lambda: gain_cells(responses, accuracies, family))  # fmt: skip
    table = clock.time("gain table", lambda: gain_table(cells, responses, family, PRIMARY))
    clock.time("D, B and I, points and logit", lambda: contrasts(table))
    items = table.items
    if items is None:
        raise RuntimeError(f"the benchmark's records have no item gains: {table.item_status}")
    drawn = clock.time(
        f"passage bootstrap of {table.before.size} cells, {draws} draws",
        lambda: passage_bootstrap(items.gain, items.passage, draws, np.random.default_rng(1)),
    )
    clock.time("its intervals", lambda: bootstrap_interval(drawn, 0.95))
    return clock.seconds


def naive_seconds(records: pd.DataFrame, draws: int, sample: int, n_cells: int) -> float:
    """Seconds of a loop over cells, measured on `sample` of them and scaled to n_cells."""
    rng = np.random.default_rng(2)
    start = time.perf_counter()
    groups = records.groupby(["model", "language"], observed=True)
    keys = list(groups.groups)
    once = time.perf_counter() - start
    chosen = [keys[k] for k in rng.choice(len(keys), size=min(sample, len(keys)), replace=False)]
    start = time.perf_counter()
    for key in chosen:
        naive_cell(groups.get_group(key), draws, rng)
    return once + (time.perf_counter() - start) * n_cells / len(chosen)


def naive_cell(cell: pd.DataFrame, draws: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Gain, interval, McNemar's p and bootstrap of one cell, the plain way."""
    wide = cell.pivot(index=["passage_id", "item_id"], columns="arm", values="correct")
    _, tested = pingouin.chi2_mcnemar(wide.reset_index(), "base", "finetuned")
    after, before, n = int(wide["finetuned"].sum()), int(wide["base"].sum()), len(wide)
    interval = confint_proportions_2indep(after, n, before, n, method="newcomb")
    gain = wide["finetuned"].astype(float) - wide["base"].astype(float)
    sums = gain.groupby("passage_id").agg(["sum", "count"]).to_numpy()
    means = []
    for _ in range(draws):
        total = sums[rng.integers(len(sums), size=len(sums))].sum(axis=0)
        means.append(total[0] / total[1])
    return tested, interval, np.percentile(means, [2.5, 97.5])


def family_of(accuracies: pd.DataFrame) -> dict[str, str]:
    """Every second language is a relative."""
    return {
        code: "related" if k % 2 else "control"
        for k, code in enumerate(sorted(accuracies["language"].unique()))
    }


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """A worker's work: seconds of each step in `passes` passes after one to warm up."""
    frames = run_frames(np.random.default_rng(0), settings["models"], LANGUAGES, ITEMS)
    records = pd.concat(frames, ignore_index=True)
    del frames
    accuracies = accuracies_of(records)
    family = family_of(accuracies)
    one_pass(records, accuracies, family, DRAWS)
    steps, totals = [], []
    for _ in range(settings["passes"]):
        seconds, total = measured(lambda: one_pass(records, accuracies, family, DRAWS))
        steps.append(seconds)
        totals.append(total)
    n_cells = settings["models"] * LANGUAGES
    naive = naive_seconds(records, DRAWS, settings["naive_cells"], n_cells)
    return {"responses": len(records), "steps": steps, "totals": totals, "naive_s": naive}


def run(quick: bool, threads: int) -> Section:
    """3.6 million responses, five passes; `quick`: 144,000, once."""
    settings = {"models": 2 if quick else 50, "passes": 1 if quick else 5, "naive_cells": 5}
    worker = ["-m", "benchmarks.analysis_speed", "--worker"]
    found = run_worker(Path(sys.executable), worker, {**settings, "threads": threads})
    walls = [total["wall_s"] for total in found["totals"]]
    rows = [
        [step, f"{statistics.median(steps[step] for steps in found['steps']):.3f}"]
        for step in found["steps"][0]
    ]
    rows.append(["in all", f"{statistics.median(walls):.3f}"])
    peak = max(total["peak_bytes"] for total in found["totals"])
    text = (
        f"{found['responses']:,} responses of {settings['models']} models in {LANGUAGES} "
        f"languages; medians of {len(walls)} passes, {min(walls):.2f} to {max(walls):.2f} s; "
        f"peak memory {peak / 1024**3:.2f} GiB, the records included. A loop over cells with "
        f"pingouin and pandas takes {found['naive_s']:.0f} s, scaled from "
        f"{settings['naive_cells']} cells.\n\n{markdown(['step', 'wall s'], rows)}"
    )
    target = line(
        f"analysis of {found['responses']:,} responses, seconds",
        statistics.median(walls),
        5.0,
        ours=f"{statistics.median(walls):.2f} s",
        theirs=f"{found['naive_s']:.0f} s, a loop",
        higher_is_better=False,
        note=f"{min(walls):.2f} to {max(walls):.2f}",
    )
    return Section("Analysis", text, [target])


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work_once(work)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--languages", type=int, default=40)
    parser.add_argument("--items", type=int, default=900)
    parser.add_argument(
        "--responses", type=int, default=0,
        help="rows in all, both arms together; sets the number of models (0: as --models says)",
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--naive-cells", type=int, default=5, help="0 leaves the naive loop out")
    parser.add_argument("--categories", action="store_true", help="string columns as categories")
    args = parser.parse_args()
    models = args.models
    if args.responses:
        models = max(2, args.responses // (len(ARMS) * args.languages * args.items))
    frames = run_frames(np.random.default_rng(0), models, args.languages, args.items)
    records = pd.concat(frames, ignore_index=True)
    del frames
    if args.categories:
        records = records.astype(dict.fromkeys(CATEGORIES, "category"))
    accuracies = accuracies_of(records)
    family = family_of(accuracies)
    print(
        f"{len(records):,} responses: {models} models x {len(ARMS)} arms x {args.languages} "
        f"languages x {args.items} items; {os.cpu_count()} cores; "
        f"string columns as {'categories' if args.categories else records['model'].dtype}"
    )
    one_pass(records, accuracies, family, args.draws)
    seconds = one_pass(records, accuracies, family, args.draws)
    for step, value in seconds.items():
        print(f"{value:8.3f} s  {step}")
    total = sum(seconds.values())
    print(f"{total:8.3f} s  in all")
    print(f"{peak_bytes() / 1024**3:8.1f} GiB peak memory, the records included")
    if args.naive_cells:
        n_cells = models * args.languages
        slow = naive_seconds(records, args.draws, args.naive_cells, n_cells)
        print(
            f"{slow:8.0f} s  naive loop, scaled from {args.naive_cells} cells to {n_cells}: "
            f"{slow / total:.0f} times as long"
        )


if __name__ == "__main__":
    main()
