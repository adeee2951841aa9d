"""One command under torchrun: the first process does what it always does, the others train along.

``torchrun --nproc_per_node 2 -m entrypoints.finetune …`` starts the command twice. The process of
rank 0 opens runs and talks to the store; the others wait until it tells them of a training, of
which each does its part, or that there is nothing (more) to do. When a process fails, rank 0 says
why, and all end.

One limit: on GPUs, a process that fails in the middle of a step can leave rank 0 waiting inside a
CUDA call for what NCCL no longer brings. torchrun then kills rank 0, and its run stays RUNNING; the
reason is in ``failed-<rank>.json``. With `processes` on the model instead of torchrun, the process
that holds the run trains nothing itself, and ends it as FAILED.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

from xling.training.failures import clear_failures, first_failure, record_failure
from xling.training.job import TrainingJob, write_job
from xling.training.loop import Example
from xling.training.process_group import connected, environment_rank, environment_size
from xling.training.train import run_job

logger = logging.getLogger(__name__)

Command = Callable[..., Any]
# What a command is marked with that shares torchrun's processes.
LED = "led"
# The first process may fetch weights and score for days before it trains.
PATIENCE = timedelta(days=7)
# Seconds in which the first process can say why a training failed, before the others end and
# torchrun ends it too.
GRACE = 20.0
SETTLE = 5.0


class _Lead:
    """Rank 0's line to the others."""

    def __init__(self) -> None:
        self._connection = ExitStack()
        self._connected = False
        self._broken = False

    def train(self, job: TrainingJob, examples: Sequence[Example], folder: Path) -> None:
        """Train with the others; see `train_together`."""
        if self._broken:
            raise RuntimeError("a training failed before, and its processes are gone; start again")
        folder.mkdir(parents=True, exist_ok=True)
        clear_failures(folder)
        path = folder / "job.json"
        write_job(job, examples, path)
        self._tell(str(path))
        self._broken = True  # until it has ended well: the others cannot be spoken to
        try:
            run_job(path)
            self._broken = False
        except Exception as error:
            record_failure(folder, environment_rank(), error)
            self._connection.close()  # wakes those that wait for this process
            time.sleep(SETTLE)  # so that the one that failed can leave its reason
            reason = first_failure(folder, job.processes)
            raise RuntimeError(f"{reason}\nLogs: {folder}") from error

    def dismiss(self) -> None:
        """Let the others end."""
        if not self._broken:
            self._tell("")
            self._connection.close()

    def _tell(self, message: str) -> None:
        import torch.distributed as dist

        if not self._connected:
            self._connection.enter_context(connected(PATIENCE))
            self._connected = True
        dist.broadcast_object_list([message], src=0)


_lead: ContextVar[_Lead | None] = ContextVar("lead", default=None)


def led(command: Command) -> Command:
    """Let a command run under torchrun: once, with all processes at its trainings."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if environment_size() == 1:
            return command(*arguments, **options)
        if environment_rank() > 0:
            return follow()
        with _leading():
            return command(*arguments, **options)

    setattr(wrapped, LED, True)
    return wrapped


def check_started_alone(command: Command) -> None:
    """Refuse torchrun for a command that would do its work once in every process.

    Raises:
        ValueError: torchrun started several processes, and `command` is not `led`.
    """
    if environment_size() > 1 and not getattr(command, LED, False):
        raise ValueError(
            f"torchrun started {environment_size()} processes, and each would do all of this; "
            "start the command alone (a model's `processes` says how many train it), or only its "
            "training: torchrun … -m entrypoints.finetune"
        )


def current_lead() -> _Lead | None:
    """Return the line to the other processes of this command; None where there are none."""
    return _lead.get()


@contextmanager
def _leading() -> Iterator[None]:
    lead = _Lead()
    token = _lead.set(lead)
    try:
        yield
    finally:
        _lead.reset(token)
        lead.dismiss()


def follow() -> None:
    """Do this process's part of each training that rank 0 announces, until there are no more.

    Raises:
        SystemExit: a training failed; rank 0 says why.
    """
    import torch.distributed as dist

    with ExitStack() as connection:
        connection.enter_context(connected(PATIENCE))
        while True:
            message = [""]
            dist.broadcast_object_list(message, src=0)
            if not message[0]:
                return
            path = Path(message[0])
            try:
                run_job(path)
            except Exception as error:
                record_failure(path.parent, environment_rank(), error)
                logger.debug("this process's part failed", exc_info=True)
                connection.close()
                time.sleep(GRACE)
                raise SystemExit(1) from error
