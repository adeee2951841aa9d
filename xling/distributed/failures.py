"""How a process that trains with others says why it failed."""

import json
import time
from pathlib import Path

from xling.distributed.running import OtherProcessFailed

# What gloo and NCCL say when the other side is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process")


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leaves the reason in a file; a failure that only follows another's is marked so."""
    import torch.distributed as dist

    text = str(error).strip() or "no message"
    lost = isinstance(error, (OtherProcessFailed, dist.DistError)) or any(
        sign in text for sign in LOST
    )
    content = {
        "rank": rank,
        "time": time.time(),
        "error": f"{type(error).__name__}: {text}",
        "follows_another": lost,
    }
    (folder / f"failed-{rank}.json").write_text(json.dumps(content), encoding="utf-8")


def clear_failures(folder: Path) -> None:
    """Removes what an earlier try left."""
    for path in (*folder.glob("failed-*.json"), *folder.glob("traceback-*.txt")):
        path.unlink()


def first_failure(folder: Path, processes: int) -> str:
    """Why a training failed, in one sentence that names the process."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("failed-*.json")]
    own = sorted((each for each in found if not each["follows_another"]), key=lambda e: e["time"])
    if own:
        last_line = own[0]["error"].splitlines()[-1]
        kind = own[0]["error"].split(":", 1)[0]
        message = last_line if last_line.startswith(kind) else f"{kind}: {last_line}"
        return f"training process {own[0]['rank']} of {processes} failed: {message}"
    silent = sorted(set(range(processes)) - {each["rank"] for each in found})
    which = f"one of the processes {', '.join(map(str, silent))}" if silent else "a process"
    return (
        f"training ended early: {which} of {processes} was killed or crashed without a message "
        "(out of memory?)"
    )
