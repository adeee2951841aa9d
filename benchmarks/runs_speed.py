"""How long a study's runs take to be found among thousands of others on a local SQLite store.

From the repository's root: `python -m benchmarks --only runs`.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.side_by_side import Section, line, markdown, run_worker

RUNS, OTHERS = 280, 5000
WAYS = {
    "found": "found, with parameters, metrics and tags",
    "kept": "pulled: found, and their records read, which are kept",
    "fetched": "pulled: found, and their records fetched from the artifact store and kept",
}


def run(quick: bool, threads: int) -> Section:
    """280 runs among 5,000 others, three times; `quick`: 40 among 500, once."""
    runs, others = (40, 500) if quick else (RUNS, OTHERS)
    settings = {"runs": runs, "others": others, "times": 1 if quick else 3, "threads": threads}
    found = run_worker(Path(sys.executable), ["-m", "benchmarks.runs_worker"], settings)
    walls = {way: [each["wall_s"] for each in found[way]] for way in WAYS}
    rows = [
        [
            what,
            f"{statistics.median(walls[way]):.2f}",
            f"{min(walls[way]):.2f} to {max(walls[way]):.2f}",
            f"{statistics.median(each['cpu_s'] for each in found[way]):.2f}",
        ]
        for way, what in WAYS.items()
    ]
    text = (
        f"{runs} evaluate runs among {others:,} others in a SQLite store made in "
        f"{found['made_s']:.0f} s ({', '.join(f'{n:,} {t}' for t, n in found['rows'].items())}; "
        f"{found['params']} parameters and {found['metrics']} metrics a run; "
        f"{found['records']:,} records in all).\n\n"
        f"{markdown(['', 'wall s, median', 'range', 'CPU s'], rows)}"
    )
    reading = statistics.median(walls["kept"]) - statistics.median(walls["found"])
    fetching = statistics.median(walls["fetched"]) - statistics.median(walls["found"])
    lines = [
        line(
            f"{runs} runs of a study {what} among {others:,} others, seconds",
            statistics.median(walls[way]),
            2.0,
            ours=f"{statistics.median(walls[way]):.2f} s",
            higher_is_better=False,
            note=note,
        )
        for way, what, note in (
            ("found", "found", "with parameters, metrics and tags"),
            (
                "fetched",
                "pulled for the first time",
                f"found, and {found['records']:,} records fetched from the artifact store, kept, "
                f"read and checked: {fetching / runs:.3f} s a run",
            ),
            (
                "kept",
                "pulled again",
                f"found, and {found['records']:,} records read and checked run by run: "
                f"{reading / runs:.3f} s a run",
            ),
        )
    ]
    return Section("Runs of a study among others", text, lines)
