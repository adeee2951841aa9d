"""What the finetune and the evaluate cells share."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling import tracking
from xling.execution.study_data import ItemsByPart, StudyData, items_sha256, prompt_format
from xling.files.atomic import work_lock
from xling.files.paths import state_folder
from xling.models import ModelFiles
from xling.models.loading import compute_dtype, device_name
from xling.study import Cell
from xling.study.study import trained_languages

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


def cell_identity(prepared: StudyData, cell: Cell, located: ModelFiles) -> dict[str, Any]:
    """What decides any cell's result but the items that it uses."""
    return {
        "model": cell.model.label,
        "prompt": prompt_format(prepared, located.recipe).sha256,
        "weights": located.weights.identity,
        "quantise": located.quantise,
        "arm": cell.arm,
        "seed": cell.seed,
        "device": [device_name(), str(compute_dtype())],
    }


def cell_params(
    prepared: StudyData, cell: Cell, located: ModelFiles, fold: int | None = None
) -> dict[str, Any]:
    """Parameters that every cell's run logs under ``cfg.``; of one fold, or of all together.

    ``threads`` are those of this process. They are in no fingerprint: they decide the order of
    sums, and so the last digits only, and a run is reused by machines with more or fewer cores.
    """
    import torch

    study = prepared.study
    whole = fold is None and prepared.cross_fitted
    split = prepared.split_of(fold or 0)
    return {
        "model": cell.model.label,
        "arm": cell.arm,
        "seed": cell.seed,
        "base_model": cell.model.id,
        "revision": located.weights.revision or cell.model.revision,
        "weights": located.weights.identity,
        "quantise": located.quantise,
        "chat": located.recipe.chat,
        "dtype": str(compute_dtype()).removeprefix("torch."),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "prompt_sha256": prompt_format(prepared, located.recipe).sha256,
        "data.source": study.data.source,
        "data.revision": prepared.data.revision,
        "data.split": study.data.split,
        "data.training": "by fold" if whole else len(split.training_ids),
        "data.heldout": len(prepared.fold_of if whole else split.heldout_ids),
        "data.folds": len(prepared.splits),
        "source_languages": " ".join(trained_languages(study, cell.arm)),
    }


def cell_command(entry_point: str, prepared: StudyData, cell: Cell, **more: Any) -> str:
    """The ``mlflow run`` line that repeats a cell alone."""
    return tracking.run_command(
        entry_point,
        {
            **prepared.parameters,
            "model": cell.model.label,
            "arm": cell.arm,
            "seed": cell.seed,
            **more,
        },
    )


@contextmanager
def one_at_a_time(digest: str, *, kind: str, name: str) -> Iterator[None]:
    """One process of this machine at a time that computes a result; others wait, and reuse it.

    Args:
        digest: its fingerprint.
        kind: tag ``xling.kind``.
        name: of the cell, for the log.
    """

    def say() -> None:
        logger.info("%s %s: another process is at it; waiting for it", kind, name)

    with work_lock(digest[:32], waiting=say):
        yield


def reuse(digest: str, *, kind: str, prepared: StudyData, name: str, force: bool) -> str | None:
    """Id of the finished run that has a result already; None if it must be computed."""
    if force:
        return None
    finished = tracking.find_finished(digest, kind=kind, study=prepared.study.name)
    if finished is None:
        return None
    logger.info("%s %s: run %s has it already", kind, name, finished.run_id)
    tracking.note_reuse(finished.run_id)
    return finished.run_id


def log_items(prepared: StudyData, parts: ItemsByPart) -> None:
    """Logs, by digest, which items the active run used.

    Args:
        prepared: where they came from.
        parts: items by part and language.
    """
    for part, items in parts.items():
        if not any(items.values()):
            continue
        tracking.log_data_set(
            name=f"{prepared.data.name}-{part}",
            sha256=items_sha256(items),
            source={"source": prepared.data.source, "revision": prepared.data.revision},
            context=part,
            languages=" ".join(items),
        )
    tracking.log_json(prepared.manifest(), "data/manifest.json")


def work_folder(fingerprint: str, *, fresh: bool) -> Path:
    """Folder in which a cell's work lies until it is logged; emptied if `fresh`."""
    folder = state_folder() / fingerprint[:32]
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def trained_adapter_folder(fingerprint: str) -> Path:
    """Where a finetune cell leaves its adapter on this machine; need not exist."""
    return state_folder() / fingerprint[:32] / "trained" / "adapter"


def scoring_params(cell: Cell) -> Mapping[str, str]:
    """The two parameters that only evaluate runs have."""
    return {"reasoning": cell.reasoning, "scoring": cell.scoring}
