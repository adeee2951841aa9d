"""Runs a study's units on a Ray cluster; a lost worker's unit is tried again elsewhere."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from xling import tracking
from xling.execution.prepare import run_prepare
from xling.execution.ray.cluster import connected, worker_uri
from xling.execution.ray.resources import Needs, check_needs
from xling.execution.ray.worker import Assignment, work
from xling.execution.study_data import StudyData
from xling.execution.units import Unit, UnitOutcome
from xling.tracking.remote import active_parent, end_lost_runs

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

TRIES = 4
CANCEL_SECONDS = 30.0


@contextmanager
def _noted_sigterm() -> Iterator[Callable[[], None]]:
    """Give a check that raises `Terminated` if SIGTERM came.

    Raised by the handler itself, inside a call of Ray, it would come out as another exit.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise tracking.Terminated(128 + received[0])

    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)


def run_units_on_ray(data: StudyData, units: Sequence[Unit], *, force: bool) -> list[UnitOutcome]:
    """Run units as tasks of a Ray cluster, each under the active run, with a bar over cells.

    Args:
        data: study and data; workers get them through Ray.
        units: what to run.
        force: repeat what a finished run has already.

    Returns:
        One outcome a unit, in their order.

    Raises:
        ValueError: no cluster at the address, too few GPUs on its machines, or a tracking store
            that they cannot reach; raised before any work.
        StoreUnavailable: the tracking store failed; what was computed is on the workers' disks.
    """
    with connected() as cluster:
        parent = active_parent()
        uri = worker_uri(parent.uri, cluster)
        needs = {unit.name: check_needs(unit.cells[0], cluster) for unit in units}
        run_prepare(data, force=force)
        assignment = Assignment(
            # An argument, which Ray's dashboard does not show.
            parent=replace(parent, uri=uri),
            folder=str(Path.cwd()),
            force=force,
            log_level=logging.getLogger("xling").getEffectiveLevel(),
            gpus=0,
            host=socket.gethostname(),
        )
        return _Tasks(data, units, needs, assignment).run()


@dataclass
class _Tasks:
    """The tasks of one study.

    Attributes:
        data: study and data.
        units: to run.
        needs: resources by unit name.
        assignment: what every worker is told; each gets its unit's number of GPUs.
        pending: unit and number of the try, by task.
    """

    data: StudyData
    units: Sequence[Unit]
    needs: dict[str, Needs]
    assignment: Assignment
    pending: dict[ObjectRef[Any], tuple[Unit, int]] = field(default_factory=dict)

    def run(self) -> list[UnitOutcome]:
        """Run all units; whatever ends it early cancels those under way."""
        import ray

        outcomes: dict[str, UnitOutcome] = {}
        total = sum(len(unit.cells) for unit in self.units)
        self._study = ray.put(self.data)
        try:
            with (
                tqdm(total=total, desc="cells", unit="cell") as bar,
                _noted_sigterm() as check_sigterm,
            ):
                for unit in self.units:
                    self._submit(unit, number=1)
                while self.pending:
                    check_sigterm()
                    ready, _ = ray.wait(list(self.pending), num_returns=1, timeout=1.0)
                    for task in ready:
                        unit, number = self.pending[task]
                        outcome = self._outcome(task, unit, number)
                        del self.pending[task]
                        if outcome is None:
                            self._submit(unit, number=number + 1)
                        else:
                            outcomes[unit.name] = outcome
                            bar.update(len(unit.cells))
        except BaseException:
            self._cancel()
            raise
        return [outcomes[unit.name] for unit in self.units]

    def _submit(self, unit: Unit, number: int) -> None:
        import ray

        needs = self.needs[unit.name]
        # A fresh process for each: none keeps a base in memory.
        task = ray.remote(max_calls=1)(work).options(
            name=unit.name,
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory or None,
            max_retries=0,  # tried again here, after the lost runs are ended
            scheduling_strategy="SPREAD",
        )
        assignment = replace(self.assignment, gpus=needs.gpus)
        self.pending[task.remote(self._study, unit, assignment)] = (unit, number)

    def _outcome(self, task: ObjectRef[Any], unit: Unit, number: int) -> UnitOutcome | None:
        """Return a finished task's outcome; None: its worker was lost, it may be tried again."""
        import ray
        from ray import exceptions

        try:
            outcome: UnitOutcome = ray.get(task)
            return outcome
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, tracking.StoreUnavailable):
                raise tracking.StoreUnavailable(str(cause)) from error
            reason = f"{type(cause).__name__}: {cause}"
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            reason = f"the worker was lost ({type(error).__name__})"
            self._end_runs(unit, reason)
            if number < TRIES:
                logger.warning("%s: %s; it is tried again", unit.name, reason)
                return None
            reason += f" {TRIES} times"
        except exceptions.RayError as error:
            reason = f"{type(error).__name__}: {error}"
        logger.error("%s failed: %s", unit.name, reason)
        return UnitOutcome.failed(unit, reason)

    def _end_runs(self, unit: Unit, reason: str) -> None:
        ended = end_lost_runs(self.assignment.parent, unit=unit.name, reason=reason)
        if ended:
            logger.info("%s: %d run(s) of the lost worker end as KILLED", unit.name, ended)

    def _cancel(self) -> None:
        """Interrupt all tasks, so that their runs end as KILLED; end those that do not stop."""
        import ray

        tasks = list(self.pending)
        if not tasks:
            return
        logger.info("cancelling %d unit(s) on the cluster", len(tasks))
        for task in tasks:
            ray.cancel(task)
        _, left = ray.wait(tasks, num_returns=len(tasks), timeout=CANCEL_SECONDS)
        for task in left:
            ray.cancel(task, force=True)
        for unit, _ in self.pending.values():
            try:
                self._end_runs(unit, "the study was cancelled")
            except tracking.MlflowException as error:  # must not hide what ended the study
                logger.warning("runs of %s may stay RUNNING: %s", unit.name, error)
