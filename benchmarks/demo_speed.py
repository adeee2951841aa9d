"""How long the demonstration takes, installed: `make demo` without the making of .venv.

From the repository's root: `python -m benchmarks --only demo`. The working tree's files are copied
to a new folder, with caches of its own, so that models are converted and runs are made anew.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.side_by_side import LAST_LINES, ROOT, Line, Section, line

TARGET = "make demo, installed, minutes"
GOAL = 8.0
LIMIT_S = 1800
COMMAND = (
    "run", ".", "-e", "main", "-P", "study=demo",
    "--experiment-name", "xling", "--env-manager", "local",
)  # fmt: skip


def run(quick: bool, threads: int) -> Section:
    """The whole demonstration, whatever `quick` is.

    Raises:
        RuntimeError: it failed.
    """
    with TemporaryDirectory(prefix="xling-bench-demo-") as name:
        folder = Path(name, "tree")
        copy_tree(folder)
        start = time.perf_counter()
        log = Path(name, "log")
        with log.open("wb") as out:
            status = subprocess.run(
                [sys.executable, "-m", "mlflow", *COMMAND],
                cwd=folder,
                env=surroundings(Path(name), threads),
                stdout=out,
                stderr=out,
                timeout=LIMIT_S,
                check=False,
            ).returncode
        seconds = time.perf_counter() - start
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    if status:
        raise RuntimeError(f"the demonstration ended with status {status}:\n" + "\n".join(said))
    text = (
        f"`mlflow {' '.join(COMMAND)}` in a copy of the working tree with empty caches: "
        f"{seconds:.0f} s, {threads} threads."
    )
    return Section("The demonstration", text, [minutes(seconds / 60, f"{threads} threads")])


def not_run() -> Section:
    """What stands in the report where it was not asked for."""
    note = "not run here: `python -m benchmarks --only demo` does"
    return Section("The demonstration", f"{note[0].upper()}{note[1:]}.", [minutes(math.nan, note)])


def minutes(value: float, note: str) -> Line:
    ours = "" if math.isnan(value) else f"{value:.1f} min"
    return line(TARGET, value, GOAL, ours=ours, higher_is_better=False, note=note)


def copy_tree(folder: Path) -> None:
    """The files that git tracks or would track, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # one that was deleted is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def surroundings(folder: Path, threads: int) -> dict[str, str]:
    """This environment's python first, stores and caches of its own, so many threads."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    found.pop("PYTHONPATH", None)
    return found | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
