"""One of several processes that train: ``torchrun … -m xling.training.worker JOB``."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import warnings
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from xling.messages.secrets import mask_output, without_secrets
from xling.training.failures import record_failure
from xling.training.process_group import connected, environment_rank
from xling.training.train import run_job

# How long one process waits for another: a checkpoint or a slow load is no failure.
PATIENCE = timedelta(hours=2)
WATCH = "XLING_WATCH_STDIN"


def main() -> int:
    """Run the job named on the command line.

    Returns:
        Exit code: 0, or 1 after the reason was left beside the job.
    """
    path = Path(sys.argv[1])
    rank = environment_rank()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    mask_output()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    if rank > 0:
        write_to_log(path.parent / f"process-{rank}.log")
    if os.environ.get(WATCH):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with connected(PATIENCE):
            run_job(path)
    except Exception as error:
        record_failure(path.parent, rank, error)
        text = without_secrets(traceback.format_exc())
        (path.parent / f"traceback-{rank}.txt").write_text(text, encoding="utf-8")
        return 1
    return 0


def write_to_log(path: Path) -> None:
    """Send all that this process and its libraries print to a file."""
    with path.open("wb") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())


def _end_with_parent() -> None:
    """End this process when the one that launched it is gone: its pipe closes then."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def run() -> NoReturn:
    """Run the job and end the process with the exit code."""
    # Without the interpreter's own end: a process group that lost a member can hang in it.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
