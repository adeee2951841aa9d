"""How a process that trains with others says why it failed."""

from __future__ import annotations

import json
import time
from pathlib import Path

from xling.messages.secrets import without_secrets
from xling.training.train import OtherProcessFailed

# What gloo and NCCL say when the other side is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process")

# Errors whose messages were written to be read: thing, place and remedy, in one line or several.
MESSAGES = (ValueError, OSError, RuntimeError)
TRACEBACK = "Traceback (most recent call last)"
LONGEST = 2000


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave the reason in a file; a failure that only follows another's is marked so."""
    import torch.distributed as dist

    text = without_secrets(str(error).strip()) or "no message"
    lost = isinstance(error, (OtherProcessFailed, dist.DistError)) or any(
        phrase in text for phrase in LOST
    )
    content = {
        "rank": rank,
        "time": time.time(),
        "kind": type(error).__name__,
        "message": _short(error, text),
        "follows_another": lost,
    }
    (folder / f"failed-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def _short(error: BaseException, text: str) -> str:
    """Shorten a message to what is passed on: of one that holds a traceback, the last line."""
    if isinstance(error, MESSAGES) and TRACEBACK not in text:
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return text.splitlines()[-1]


def clear_failures(folder: Path) -> None:
    """Remove what an earlier try left."""
    for path in (*folder.glob("failed-*.json"), *folder.glob("traceback-*.txt")):
        path.unlink()


def first_failure(folder: Path, processes: int) -> str:
    """Say why a training failed: the process, and its whole message."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("failed-*.json")]
    own = sorted((each for each in found if not each["follows_another"]), key=lambda e: e["time"])
    if own:
        reason = f"{own[0]['kind']}: {own[0]['message']}"
        return f"training process {own[0]['rank']} of {processes} failed: {reason}"
    silent = sorted(set(range(processes)) - {each["rank"] for each in found})
    which = f"one of the processes {', '.join(map(str, silent))}" if silent else "a process"
    return (
        f"training ended early: {which} of {processes} was killed or crashed without a message "
        "(out of memory?)"
    )
