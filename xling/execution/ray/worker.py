"""What a Ray worker does: one unit, under the study's run."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from xling import tracking
from xling.execution.study_data import StudyData
from xling.execution.units import Unit, UnitOutcome, run_unit
from xling.models import BaseModelCache
from xling.tracking.remote import ParentRun, work_under
from xling.tracking.store import select_experiment


@dataclass(frozen=True)
class Assignment:
    """What a worker is told besides study and data.

    Attributes:
        parent: the study's run, and its store as this worker reaches it.
        folder: the driver's working folder, from which relative paths go.
        force: repeat what a finished run has already.
        log_level: of the project's own lines.
        gpus: that the unit was given.
        host: of the driver, which sends what waits there itself.
    """

    parent: ParentRun
    folder: str
    force: bool
    log_level: int
    gpus: int
    host: str = ""


def work(data: StudyData, unit: Unit, assignment: Assignment) -> UnitOutcome:
    """Run one unit in this worker process, which serves no other after it.

    Raises:
        StoreUnavailable: the tracking store failed, or does not answer.
    """
    if not assignment.gpus:
        # Ray leaves all of the machine's GPUs to a task that asked for none; others have them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, _terminate)
    _prepare_log(assignment.log_level)
    if Path(assignment.folder).is_dir():
        os.chdir(assignment.folder)
    work_under(assignment.parent, unit=unit.name)
    select_experiment()
    outcome = run_unit(data, unit, BaseModelCache(), force=assignment.force)
    if assignment.host != socket.gethostname():
        outcome.waiting = list(tracking.account().lines)
    return outcome


def _prepare_log(level: int) -> None:
    """Send lines to stderr, which Ray shows at the driver after the task's name."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr, force=True)
    logging.getLogger("xling").setLevel(level)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")


def _terminate(number: int, frame: object) -> None:
    raise tracking.Terminated(128 + number)
