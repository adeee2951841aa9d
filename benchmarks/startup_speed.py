"""How long an entry point takes to start, before it loads a model.

From the repository's root: `python -m benchmarks --only startup`.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

from benchmarks.side_by_side import ROOT, Section, line, markdown

TIMES = 5
GOAL = 3.0
# Arguments of evaluate, its status, and what it must say.
STARTS = {
    "help": (["--help"], 0, "--model"),
    "an error found before a model loads": (["--model", "no-such-model"], None, "no-such-model"),
}


def run(quick: bool, threads: int) -> Section:
    """Five starts of each kind; `quick`: two."""
    times = 2 if quick else TIMES
    rows, lines = [], []
    for what, (arguments, status, said) in STARTS.items():
        taken = [start(arguments, status, said) for _ in range(times)]
        wall, cpu = (statistics.median(each) for each in zip(*taken, strict=True))
        walls = [each[0] for each in taken]
        spread = f"{min(walls):.2f} to {max(walls):.2f}"
        rows.append([what, f"{wall:.2f}", spread, f"{cpu:.2f}"])
        lines.append(
            line(
                f"start-up of evaluate up to {what}, seconds",
                wall,
                GOAL,
                ours=f"{wall:.2f} s",
                higher_is_better=False,
                note=f"{spread}; {cpu:.2f} CPU s",
            )
        )
    text = (
        f"`python -m entrypoints.evaluate`, medians of {times} processes.\n\n"
        f"{markdown(['up to', 'wall s', 'range', 'CPU s'], rows)}"
    )
    return Section("Start-up", text, lines)


def start(arguments: list[str], status: int | None, said: str) -> tuple[float, float]:
    """Wall and CPU seconds of one process.

    Args:
        arguments: of evaluate.
        status: that it must end with; None: any but 0.
        said: words that it must say.

    Raises:
        RuntimeError: it ended otherwise, so that something else would be measured.
    """
    before, wall = child_seconds(), time.perf_counter()
    command = [sys.executable, "-m", "entrypoints.evaluate", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - wall, child_seconds() - before
    text = done.stdout + done.stderr
    ended = done.returncode == status if status is not None else done.returncode != 0
    if not ended or said not in text:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{text[-2000:]}")
    return taken


def child_seconds() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
