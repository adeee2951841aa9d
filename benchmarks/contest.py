"""Contestants that take turns on the same work, and what their turns come to."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from benchmarks.side_by_side import Worker

Turns = list[dict[str, Any]]
# Until a contestant has had a turn, it is thought to need so much beyond what it holds.
FIRST_NEED = 5 * 1024**3


class Asked(Protocol):
    """What answers requests."""

    def ask(self, request: Any) -> Any: ...


class Contestants:
    """Workers that stay while the machine has room for them all.

    Before a turn, others are ended, the largest first, until there is room for it; they start anew
    at their own turns, warm-up included.

    Args:
        makers: makes each contestant's worker, by name.
        available: bytes of memory that the machine can still give; None: it does not say.
    """

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Worker]],
        available: Callable[[], int | None] | None = None,
    ) -> None:
        self._makers = makers
        self._available = available or available_bytes
        self._open: dict[str, tuple[Worker, ExitStack]] = {}
        self._need: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.ended = 0

    def __enter__(self) -> dict[str, Asked]:
        return {name: _Seat(self, name) for name in self._makers}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._open):
            self._end(name)

    def ask(self, name: str, request: Any) -> Any:
        """The answer of the contestant of that name, started if it is not there."""
        self._make_room(name)
        if name not in self._open:
            stack = ExitStack()
            self._open[name] = (stack.enter_context(self._makers[name]()), stack)
        worker = self._open[name][0]
        answer = worker.ask(request)
        self.held[name] = worker.held_bytes()
        if isinstance(answer, dict) and "peak_bytes" in answer:
            self._need[name] = max(self._need.get(name, 0), int(answer["peak_bytes"]))
        return answer

    def _make_room(self, name: str) -> None:
        own = self._open[name][0].held_bytes() if name in self._open else 0
        need = self._need[name] - own if name in self._need else FIRST_NEED
        others = {
            other: worker.held_bytes() for other, (worker, _) in self._open.items() if other != name
        }
        for other in sorted(others, key=lambda each: -others[each]):
            free = self._available()
            if free is None or free >= need:
                return
            print(f"{other} is ended: no room for {name} beside it", file=sys.stderr)
            self._end(other)
            self.ended += 1

    def _end(self, name: str) -> None:
        self._open.pop(name)[1].close()


class _Seat:
    """One contestant of `Contestants`."""

    def __init__(self, contestants: Contestants, name: str) -> None:
        self._contestants = contestants
        self._name = name

    def ask(self, request: Any) -> Any:
        return self._contestants.ask(self._name, request)


def available_bytes() -> int | None:
    """Memory that the machine can still give; None where the system does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="ascii").splitlines() if info.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def take_turns(
    workers: Mapping[str, Asked],
    requests: Sequence[Any],
    *,
    what: str,
    only: Mapping[str, Collection[int]] | None = None,
    check: Callable[[dict[str, Turns]], None] | None = None,
) -> dict[str, Turns]:
    """Every worker does the requests in turn; the order moves on by one from request to request.

    Args:
        workers: contestants by name, loaded and warm.
        requests: what each of them is asked, one after the other.
        what: said on stderr.
        only: numbers of the requests that a contestant does, where that is not all.
        check: called with all answers so far after every request, to stop early.

    Returns:
        Each contestant's answers, in the order of `requests`, with their number as ``turn``.
    """
    names = list(workers)
    answers: dict[str, Turns] = {name: [] for name in names}
    for index, request in enumerate(requests):
        first = index % len(names)
        start = time.perf_counter()
        for name in names[first:] + names[:first]:
            if index in (only or {}).get(name, (index,)):
                answers[name].append({**workers[name].ask(request), "turn": index})
        if check is not None:
            check(answers)
        seconds = time.perf_counter() - start
        print(f"{what}: {index + 1} of {len(requests)}, {seconds:.0f} s", file=sys.stderr)
    return answers


def total(turns: Turns, field: str) -> float:
    """Sum of a field over a contestant's turns."""
    return float(sum(turn[field] for turn in turns))


def peak(turns: Turns) -> float:
    """Most memory of any turn, in bytes."""
    return float(max(turn["peak_bytes"] for turn in turns))


def matched(first: Turns, second: Turns) -> tuple[Turns, Turns]:
    """The turns of both that answer the same requests."""
    both = {turn["turn"] for turn in first} & {turn["turn"] for turn in second}
    return (
        [turn for turn in first if turn["turn"] in both],
        [turn for turn in second if turn["turn"] in both],
    )


def ratios(slow: Turns, fast: Turns, field: str) -> list[float]:
    """By turn that both had, how many times as much the first took as the second."""
    pairs = zip(*matched(slow, fast), strict=True)
    return [one[field] / other[field] for one, other in pairs]


def spread(values: Sequence[float]) -> str:
    """Median and range in words."""
    return (
        f"by part: median {statistics.median(values):.2f}, "
        f"{min(values):.2f} to {max(values):.2f} (n = {len(values)})"
    )


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 1024**3:.2f} GiB"
