"""Worker processes, and the tables of what they measured."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measuring import status_bytes

ROOT = Path(__file__).resolve().parent.parent
LAST_LINES = 40
ANSWER_LIMIT = 3600.0
KILLED = -9
# What torch, numpy and Python say when an allocation fails.
NO_ROOM = ("MemoryError", "can't allocate memory", "not enough memory", "out of memory")


class OutOfMemory(RuntimeError):
    """A worker that needed more memory than there was, or was killed, most likely for that."""


@dataclass(frozen=True)
class Line:
    """One target: what this package reaches beside what it is measured against.

    Attributes:
        target: what is asked for, in words.
        ours: this package's figure, with its unit.
        theirs: the other's figure; empty where there is no other.
        ratio: the figure that the goal is about.
        goal: what `ratio` must reach.
        higher_is_better: False where `ratio` must stay under the goal.
        reached: whether it does.
        note: spread, and why it does not.
    """

    target: str
    ours: str
    theirs: str
    ratio: float
    goal: float
    higher_is_better: bool
    reached: bool
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of RESULTS.md: a title, text (markdown), and lines of the table of targets."""

    title: str
    text: str
    lines: list[Line] = field(default_factory=list)


def line(
    target: str,
    ratio: float,
    goal: float,
    *,
    ours: str = "",
    theirs: str = "",
    higher_is_better: bool = True,
    note: str = "",
) -> Line:
    """A line whose `reached` follows from ratio and goal; a ratio that is NaN reaches nothing."""
    reached = ratio >= goal if higher_is_better else ratio <= goal
    return Line(target, ours, theirs, ratio, goal, higher_is_better, reached, note)


def table(lines: Iterable[Line]) -> str:
    """The table of targets as markdown."""
    rows = [
        [
            each.target,
            each.ours,
            each.theirs,
            "" if math.isnan(each.ratio) else f"{each.ratio:.3g}",
            f"{'≥' if each.higher_is_better else '≤'} {each.goal:g}",
            _reached(each),
            each.note,
        ]
        for each in lines
    ]
    return markdown(["target", "ours", "beside it", "figure", "goal", "reached", "note"], rows)


def _reached(each: Line) -> str:
    if math.isnan(each.ratio):
        return "not measured"
    return "yes" if each.reached else f"no ({each.ratio / each.goal:.0%} of it)"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; bars in cells are escaped."""
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in lines
    )


def run_worker(python: Path, module_or_file: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Runs a worker to its end.

    Args:
        python: its interpreter; `Path(sys.executable)` for this project's own.
        module_or_file: `["-m", "benchmarks.training_worker"]`, or a file and its arguments. A
            worker's main is `benchmarks.measuring.work_once(function of the settings)`.
        settings: handed over as a JSON file; `threads`, if there, is also the number of threads of
            OpenMP and MKL.

    Returns:
        What it wrote to its result file.

    Raises:
        RuntimeError: it failed or wrote nothing; the message ends with its stderr's last lines.
    """
    with tempfile.TemporaryDirectory(prefix="xling-bench-") as folder:
        source, target = Path(folder, "settings.json"), Path(folder, "result.json")
        source.write_text(json.dumps(settings), encoding="utf-8")
        said = Path(folder, "stderr")
        with said.open("wb") as errors:
            status = subprocess.run(
                [str(python), *module_or_file, str(source), str(target)],
                cwd=ROOT,
                env=_surroundings(settings),
                stdout=errors,
                stderr=errors,
                check=False,
            ).returncode
        if status or not target.is_file():
            raise _failure(module_or_file, status, said)
        result: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return result


class Worker:
    """A worker that stays, so that its model is loaded once while others take their turns.

    Its main is `benchmarks.measuring.work_on(start)`. Used as a context manager, which ends it.

    Args:
        python: its interpreter.
        module_or_file: as for `run_worker`.
        settings: as for `run_worker`.
        limit_s: seconds for one answer; a worker that takes longer is ended.

    Raises:
        OutOfMemory: it had too little memory, or was killed.
        RuntimeError: it failed, or took too long; on `ask`, `ready` and the context's start alike.
    """

    def __init__(
        self,
        python: Path,
        module_or_file: list[str],
        settings: dict[str, Any],
        *,
        limit_s: float = ANSWER_LIMIT,
    ) -> None:
        self._what = module_or_file
        self._limit_s = limit_s
        self._folder = tempfile.TemporaryDirectory(prefix="xling-bench-")
        source = Path(self._folder.name, "settings.json")
        source.write_text(json.dumps(settings), encoding="utf-8")
        self._errors = Path(self._folder.name, "stderr")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), *module_or_file, str(source)],
                cwd=ROOT,
                env=_surroundings(settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Worker:
        try:
            self._answer()  # it is ready
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, request: Any) -> Any:
        """What the worker answers; nobody else works meanwhile."""
        if self._process.stdin is None:
            raise RuntimeError("the worker has no stdin")
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise _failure(self._what, self._process.wait(), self._errors) from error
        return self._answer()

    def held_bytes(self) -> int:
        """Memory that the process holds now; 0 where the system does not say."""
        return status_bytes("VmRSS", self._process.pid) or 0

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None and self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _answer(self) -> Any:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._limit_s, end)
        timer.start()
        try:
            text = self._process.stdout.readline() if self._process.stdout else ""
        finally:
            timer.cancel()
        if late.is_set():
            raise RuntimeError(
                f"the worker {' '.join(self._what)} gave no answer in {self._limit_s:g} s"
            )
        if not text:
            raise _failure(self._what, self._process.wait(), self._errors)
        said = json.loads(text)
        if "failed" in said:
            kind = _kind_of(0, said["failed"])
            raise kind(f"the worker {' '.join(self._what)} failed:\n{said['failed']}")
        return said.get("answer")


def _surroundings(settings: dict[str, Any]) -> dict[str, str]:
    """The environment of a worker: this repository is importable, threads as asked for."""
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH", "")]))
    found["TOKENIZERS_PARALLELISM"] = "false"
    found["HF_HUB_OFFLINE"] = "1"
    if settings.get("threads"):
        found |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings["threads"]))
    return found


def _failure(what: list[str], status: int, errors: Path) -> RuntimeError:
    said = errors.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    why = " (killed, probably out of memory)" if status == KILLED else ""
    text = "\n".join(said)
    return _kind_of(status, text)(
        f"the worker {' '.join(what)} ended with status {status}{why}:\n{text}"
    )


def _kind_of(status: int, said: str) -> type[RuntimeError]:
    no_room = status == KILLED or any(words in said for words in NO_ROOM)
    return OutOfMemory if no_room else RuntimeError
