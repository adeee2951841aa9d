"""A unit: the cells that share one adapter, which are run together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import groupby

from xling import tracking
from xling.execution.evaluate.run_evaluate import run_evaluate
from xling.execution.finetune.run_finetune import run_finetune
from xling.execution.study_data import StudyData
from xling.models import BaseModelCache
from xling.study import Cell, Study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """One model in one arm with one seed: what is trained once and evaluated in every way.

    Attributes:
        cells: at least one; they share model, arm and seed.
        first: number of the first cell in its study, from 1.
        total: cells of the study.
    """

    cells: tuple[Cell, ...]
    first: int
    total: int

    @property
    def name(self) -> str:
        """Name of what is trained, such as ``gemma3-270m/finetuned/seed-0``."""
        return self.cells[0].adapter_name


@dataclass
class UnitOutcome:
    """What became of a unit's cells.

    Attributes:
        evaluated: evaluate run id by cell.
        failures: reason by cell name, one line each.
        waiting: what waits for the tracking store on the machine that ran it, if another one did.
    """

    evaluated: dict[Cell, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    @classmethod
    def failed(cls, unit: Unit, reason: str) -> UnitOutcome:
        """Record that every cell of a unit failed for one reason."""
        return cls(failures={cell.name: reason for cell in unit.cells})


def study_units(study: Study) -> tuple[Unit, ...]:
    """Group a study's cells by adapter, in their order."""
    numbered = enumerate(study.cells(), start=1)
    groups = [list(group) for _, group in groupby(numbered, key=lambda row: row[1].adapter_name)]
    total = sum(map(len, groups))
    return tuple(
        Unit(tuple(cell for _, cell in group), first=group[0][0], total=total) for group in groups
    )


def run_unit(data: StudyData, unit: Unit, bases: BaseModelCache, *, force: bool) -> UnitOutcome:
    """Train a unit's adapter, with cross-fitting one of each fold, and evaluate its cells.

    A cell that fails is recorded, and the others go on; without an adapter none can.

    Raises:
        StoreUnavailable: the tracking store failed, in a run or between two; what was computed is
            on disk.
    """
    outcome = UnitOutcome()
    first = unit.cells[0]
    trained = first.arm == "base" and first.model.primed is None
    for number, cell in enumerate(unit.cells, start=unit.first):
        logger.info("cell %d of %d: %s", number, unit.total, cell.name)
        if outcome.failures and not trained:
            outcome.failures[cell.name] = "not evaluated: its training failed"
            continue
        try:
            if not trained:
                what = data.study.primer_cell(cell.model) if cell.arm == "base" else cell
                for fold in range(len(data.splits)):
                    run_finetune(data, what, bases, fold=fold, force=force)
                trained = True
            outcome.evaluated[cell] = run_evaluate(data, cell, bases, force=force)
        except tracking.StoreUnavailable:
            raise  # the next cells would wait for the store without effect
        except Exception as error:
            # The run has the reason too (tag xling.error); the study ends non-zero.
            logger.error("cell %s failed: %s", cell.name, error)
            logger.debug("its traceback", exc_info=True)
            outcome.failures[cell.name] = f"{type(error).__name__}: {error}"
    return outcome
