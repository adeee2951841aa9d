"""Which process a run belongs to, and whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

HOST, PROCESS, STARTED = "host", "process", "process_started"
# Start times pass through rounding.
SAME_START = 2.0


def process_tags() -> dict[str, str]:
    """Return tags of a run that say where it is made: host, process id, and when that began where.

    Process ids are unique within a name space only, and are given again after a while.
    """
    import psutil  # type: ignore[import-untyped]

    return {
        HOST: socket.gethostname(),
        PROCESS: str(os.getpid()),
        STARTED: f"{psutil.Process().create_time():.1f} in {_process_space()}",
    }


def is_gone(process: str, started: str) -> bool:
    """Return whether a process of this host is no more, by the tags that `process_tags` made.

    One of another container on this host, whose processes cannot be seen from here, is not.
    """
    import psutil

    since, _, space = started.partition(" in ")
    if not process.isdecimal() or space != _process_space():
        return False
    try:
        return bool(abs(psutil.Process(int(process)).create_time() - float(since)) > SAME_START)
    except psutil.NoSuchProcess:
        return True


def _process_space() -> str:
    """Return the name of what process ids are unique in; ``host`` where a system has no such."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    except OSError:
        return "host"
