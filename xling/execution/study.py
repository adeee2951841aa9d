"""Runs every cell of a study, here or on a Ray cluster."""

from dataclasses import dataclass
from typing import Literal, get_args

from xling import tracking
from xling.distributed.choosing import check_processes
from xling.execution.engines import check_servers
from xling.execution.prepare import run_prepare
from xling.execution.prepared import Prepared
from xling.execution.ray_cells import run_units_on_ray
from xling.execution.units import run_unit, study_units
from xling.models import BaseShelf
from xling.study import Cell

Execution = Literal["local", "ray"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)


class StudyFailed(RuntimeError):
    """Some cells of a study failed; the message lists them with their reasons."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study's cells.

    Attributes:
        evaluated: evaluate run id by cell.
        failures: reason by cell name, one line each.
    """

    evaluated: dict[Cell, str]
    failures: dict[str, str]

    def check(self) -> None:
        """Does nothing if every cell succeeded.

        Raises:
            StudyFailed: some did not.
        """
        if self.failures:
            lines = [f"  {name}: {reason}" for name, reason in self.failures.items()]
            raise StudyFailed("\n".join(["cells failed:", *lines]))


def run_cells(
    prepared: Prepared, *, force: bool = False, execution: Execution = "local"
) -> StudyOutcome:
    """Prepares, trains and evaluates every cell.

    Args:
        prepared: study and data.
        force: repeat what a finished run has already.
        execution: ``local``: one unit after another in this process, where one load of a base
            serves all its arms; ``ray``: on the cluster at ``RAY_ADDRESS``, or on a local one.

    Raises:
        ValueError: a model's tokenizer cannot be found or does not fit, its processes cannot
            share a batch, or its server or a Ray cluster cannot be used; raised before any cell.
        StoreUnavailable: the tracking store failed; what was computed is on disk.
    """
    check_processes(prepared.study)
    check_servers(prepared.study)
    units = study_units(prepared.study)
    if execution == "ray":
        outcomes = run_units_on_ray(prepared, units, force=force)
    else:
        run_prepare(prepared, force=force)
        shelf = BaseShelf()
        outcomes = [run_unit(prepared, unit, shelf, force=force) for unit in units]
    evaluated = {cell: run for each in outcomes for cell, run in each.evaluated.items()}
    failures = {name: why for each in outcomes for name, why in each.failures.items()}
    tracking.log_metrics({"cells_finished": len(evaluated), "cells_failed": len(failures)})
    return StudyOutcome(evaluated, failures)
