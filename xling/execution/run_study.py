"""Runs every cell of a study, here or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xling import tracking
from xling.execution.evaluate.engines import check_servers
from xling.execution.prepare import run_prepare
from xling.execution.ray.scheduler import run_units_on_ray
from xling.execution.study_data import StudyData
from xling.execution.units import run_unit, study_units
from xling.models import BaseModelCache, find_recipe
from xling.study import Cell, Study
from xling.study.settings import Execution, per_process
from xling.training.processes import processes_for


class StudyFailed(RuntimeError):
    """Some cells of a study failed; the message lists them with their reasons."""


class ResultsWait(RuntimeError):
    """A study's results are on this machine's disk, and not yet in the tracking store."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study's cells.

    Attributes:
        evaluated: evaluate run id by cell.
        failures: reason by cell name, one line each.
        waiting: what waits for the tracking store on other machines, as lines of text.
    """

    evaluated: dict[Cell, str]
    failures: dict[str, str]
    waiting: tuple[str, ...] = ()

    def in_store(self) -> StudyOutcome:
        """Return the outcome with the ids that the store gave its runs; what waits is sent first.

        Raises:
            ResultsWait: the store still lacks some of them.
        """
        ids = tracking.delivered(self.evaluated.values())
        left = [cell for cell, run_id in self.evaluated.items() if run_id not in ids]
        if self.waiting:
            lines = "\n".join(self.waiting)
            raise ResultsWait(f"results wait on other machines; run `sync` there:\n{lines}")
        if left:
            raise ResultsWait(
                f"the results of {len(left)} of {len(self.evaluated)} cells wait for the tracking "
                f"store {tracking.tracking_uri()}; the same command sends them when it answers, "
                "computes nothing again, and then analyses the study and registers its adapters"
            )
        evaluated = {cell: ids[run_id] for cell, run_id in self.evaluated.items()}
        return replace(self, evaluated=evaluated)

    def check(self) -> None:
        """Check that every cell succeeded.

        Raises:
            StudyFailed: some did not.
        """
        if self.failures:
            lines = [f"  {name}: {reason}" for name, reason in self.failures.items()]
            raise StudyFailed("\n".join(["cells failed:", *lines]))


def run_cells(
    data: StudyData, *, force: bool = False, execution: Execution = "local"
) -> StudyOutcome:
    """Prepare, train and evaluate every cell.

    Args:
        data: study and data.
        force: repeat what a finished run has already.
        execution: ``local``: one unit after another in this process, where one load of a base
            serves all its arms; ``ray``: on the cluster at ``RAY_ADDRESS``, or on a local one.

    Raises:
        ValueError: a model's tokenizer cannot be found or does not fit, its processes cannot
            share a batch, or its server or a Ray cluster cannot be used; raised before any cell.
        StoreUnavailable: the tracking store failed; what was computed is on disk.
    """
    check_processes(data.study)
    check_servers(data.study)
    units = study_units(data.study)
    if execution == "ray":
        outcomes = run_units_on_ray(data, units, force=force)
    else:
        run_prepare(data, force=force)
        bases = BaseModelCache()
        outcomes = [run_unit(data, unit, bases, force=force) for unit in units]
    evaluated = {cell: run for each in outcomes for cell, run in each.evaluated.items()}
    failures = {name: why for each in outcomes for name, why in each.failures.items()}
    tracking.log_metrics({"cells_finished": len(evaluated), "cells_failed": len(failures)})
    return StudyOutcome(
        evaluated, failures, tuple(line for each in outcomes for line in each.waiting)
    )


def check_processes(study: Study) -> None:
    """Refuse, before any work, a study of which a model's processes cannot share a step.

    What the study file alone says is checked when it is read; this knows the catalog, torchrun and
    this machine's GPUs too.

    Raises:
        ValueError: names the model and what would fit.
    """
    training = study.training
    for model in study.models:
        if set(study.arms) == {"base"} and model.primed is None:
            continue
        usual = find_recipe(model.id, revision=model.revision).processes
        processes = processes_for(model.processes, usual=usual)
        try:
            per_process(training.batch_size, training.micro_batch_size, processes)
        except ValueError as error:
            raise ValueError(f"model {model.label}: {error}") from error
