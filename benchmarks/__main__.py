"""Runs the benchmarks side by side and writes benchmarks/RESULTS.md.

From the repository's root: `python -m benchmarks`, or `make bench`. Environments of other tools are
made on the first run. The report is written after every section, so that an interruption loses
nothing that is done. A section that fails does not lose the others: its error stands in the table
of targets, and the status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import math
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.side_by_side import ROOT, Line, Section, line, markdown, table

SECTIONS = {
    "scoring": "benchmarks.scoring_speed",
    "training": "benchmarks.training_speed",
    "floor": "benchmarks.floor",
    "analysis": "benchmarks.analysis_speed",
    "runs": "benchmarks.runs_speed",
    "prefix": "benchmarks.shared_prefix",
    "startup": "benchmarks.startup_speed",
    "scaling": "benchmarks.scaling",
    "demo": "benchmarks.demo_speed",
    "gpu": "benchmarks.gpu_speed",
}
# Too long beside the others: these run when `--only` names them, else say that they did not.
WHEN_ASKED = ("demo",)
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


@dataclass(frozen=True)
class Done:
    """A section that has run, and its seconds."""

    name: str
    section: Section
    seconds: float
    failed: bool = False


def run_section(name: str, *, quick: bool, threads: int, asked: bool = True) -> Done:
    """Runs one section; its failure becomes a line of the table.

    Args:
        name: of the section.
        quick: the least work that shows that it runs.
        threads: of each worker.
        asked: whether it was named; a section of `WHEN_ASKED` that was not only says so.
    """
    start = time.perf_counter()
    failed = False
    try:
        module = importlib.import_module(SECTIONS[name])
        if name in WHEN_ASKED and not asked:
            section = as_section(name, module.not_run())
        else:
            section = as_section(name, module.run(quick=quick, threads=threads))
    except Exception as error:
        traceback.print_exc()
        failed = True
        said = str(error).strip().splitlines() or [type(error).__name__]
        text = f"Failed: {type(error).__name__}\n\n```\n{error}\n```"
        lost = line(f"{name}: did not run to its end", math.nan, 1.0, note=said[-1])
        section = Section(name.capitalize(), text, [lost])
    return Done(name, section, time.perf_counter() - start, failed)


def as_section(name: str, result: Section | Sequence[Line]) -> Section:
    """What a module's `run` gave, as a section."""
    return result if isinstance(result, Section) else Section(name.capitalize(), "", list(result))


def report(done: Sequence[Done], *, command: str, threads: int, missing: Sequence[str] = ()) -> str:
    """RESULTS.md: the table of targets, the machine, and every section that is done."""
    lines = [each for one in done for each in one.section.lines]
    reached = sum(each.reached for each in lines)
    unknown = sum(math.isnan(each.ratio) for each in lines)
    minutes = [[one.section.title, f"{one.seconds / 60:.1f}"] for one in done]
    minutes.append(["in all", f"{sum(one.seconds for one in done) / 60:.1f}"])
    parts = [
        "# Results of the benchmarks",
        f"{reached} of {len(lines)} targets reached{f', {unknown} not measured' * bool(unknown)}. "
        "Ratios are of CPU seconds in one run unless the target says otherwise.",
        *([f"Not run, or not yet: {', '.join(missing)}."] if missing else []),
        table(lines),
        "## Machine and versions",
        describe_machine(command=command, threads=threads),
        "## How long each section took, in minutes",
        markdown(["section", "minutes"], minutes),
        *(part for one in done for part in (f"## {one.section.title}", one.section.text) if part),
    ]
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", help=f"sections, with commas between them: {','.join(SECTIONS)}"
    )
    parser.add_argument("--quick", action="store_true", help="the least work that shows it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=None,
        help=f"default: {RESULTS.relative_to(ROOT)}; with --only or --quick: printed alone",
    )  # fmt: skip
    found = parser.parse_args(arguments)
    found.asked = [name for name in found.only.split(",") if name]
    found.only = found.asked or list(SECTIONS)
    unknown = [name for name in found.only if name not in SECTIONS]
    if unknown:
        parser.error(f"--only: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if found.threads < 1:
        parser.error(f"--threads: {found.threads}; it must be at least 1")
    return found


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    whole = not chosen.quick and len(chosen.only) == len(SECTIONS)
    target = chosen.output or (RESULTS if whole else None)
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    done: list[Done] = []
    text = ""
    for place, name in enumerate(chosen.only, start=1):
        print(f"== {name}", file=sys.stderr, flush=True)
        asked = name in chosen.asked
        done.append(run_section(name, quick=chosen.quick, threads=chosen.threads, asked=asked))
        print(f"== {name}: {done[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        missing = chosen.only[place:]
        text = report(done, command=command, threads=chosen.threads, missing=missing)
        if target:
            target.write_text(text, encoding="utf-8")
    if target:
        print(f"written: {target}", file=sys.stderr)
    print(table(each for one in done for each in one.section.lines) if target == RESULTS else text)
    return int(any(one.failed for one in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
