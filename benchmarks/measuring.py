"""Seconds, memory and messages of a worker process; nothing but the standard library.

Workers run in the environments of other tools, where this project's packages are not installed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Most memory that this process has held since it started, or since `reset_peak`.

    `ru_maxrss` begins with the memory of the process that started this one; VmHWM does not.
    """
    found = status_bytes("VmHWM")
    if found is None:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return found


def give_back() -> bool:
    """Hands freed memory back to the system, where it can be told; says whether it could."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return False
    return True


def reset_peak() -> int | None:
    """Lets `peak_bytes` begin anew, and says what is held now; None where the system cannot.

    What was freed goes back to the system first: else later work fits into what earlier work held.
    """
    if not give_back():
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the peak stays the process's
        return None
    return status_bytes("VmRSS")


def status_bytes(field: str, process: int | str = "self") -> int | None:
    """Bytes of a field of a process's status; None where the system has none."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return None
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 if found else None


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What some work gives, and its `wall_s`, `cpu_s` (all threads) and `peak_bytes` so far."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return result, {**seconds, "peak_bytes": peak_bytes()}


def work_once(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Main of a worker that does one thing: argv ends with the settings' file and the result's."""
    source, target = Path(sys.argv[-2]), Path(sys.argv[-1])
    result = work(json.loads(source.read_text(encoding="utf-8")))
    target.write_text(json.dumps(result), encoding="utf-8")


def work_on(start: Callable[[dict[str, Any]], Callable[[Any], Any]]) -> None:
    """Main of a worker that stays: one JSON request a line on stdin, one answer a line.

    Whatever else is printed goes to stderr, so that no library can spoil an answer.

    Args:
        start: makes ready (loads a model) with the settings of argv's last file, and gives what
            answers requests.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = start(json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")))
        give_back()
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            found = answer(json.loads(line))
            give_back()  # others take their turns now
            print(json.dumps({"answer": found}), file=answers, flush=True)
    except Exception:
        print(json.dumps({"failed": traceback.format_exc()}), file=answers, flush=True)
        raise
