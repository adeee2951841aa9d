"""What the runs of a cell share: where its model is, its parameters, its command and its work."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xling import tracking
from xling.execution.study_data import ItemsByPart, StudyData, items_sha256
from xling.files.paths import state_folder
from xling.models import BaseModelCache, ModelFiles, fetch_weights, find_recipe, locate_model
from xling.models.loading import compute_dtype, device_name
from xling.prompts import PromptFormat
from xling.study import Cell
from xling.study.settings import PRIMER, ModelSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellJob:
    """A cell with all that its runs need.

    Attributes:
        data: study and data.
        cell: model, arm, seed, reasoning and scoring.
        model: its files on this machine.
        bases: opens the base; may hold it already.
        fold: the fold that a training holds out; 0 where there is one split.
    """

    data: StudyData
    cell: Cell
    model: ModelFiles
    bases: BaseModelCache = field(default_factory=BaseModelCache)
    fold: int = 0

    @property
    def primer(self) -> CellJob | None:
        """The training of what lies beneath this cell's adapter; None: nothing does."""
        if self.cell.arm == PRIMER or self.cell.model.primed is None:
            return None
        return replace(self, cell=self.data.study.primer_cell(self.cell.model))

    @property
    def prompt_format(self) -> PromptFormat:
        """How the study's items are put to the model."""
        return self.data.prompt_format(self.model.recipe)

    @property
    def adapter_name(self) -> str:
        """Name of the fold's adapter in runs and messages."""
        return self.data.adapter_name(self.cell, self.fold)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides any cell's result but the items that it uses."""
        return {
            "model": self.cell.model.label,
            "prompt": self.prompt_format.sha256,
            "weights": self.model.weights.identity,
            "quantise": self.model.quantise,
            "arm": self.cell.arm,
            "seed": self.cell.seed,
            "device": [device_name(), str(compute_dtype())],
        }

    def params(self, fold: int | None = None) -> dict[str, Any]:
        """Return what every cell's run logs under ``cfg.``; of one fold, or of all together.

        ``threads`` are those of this process. They are in no fingerprint: they decide the order of
        sums, and so the last digits only, and a run is reused by machines with more or fewer cores.
        """
        import torch

        data, cell, model = self.data, self.cell, self.model
        whole = fold is None and data.cross_fitted
        split = data.split_of(fold or 0)
        return {
            "model": cell.model.label,
            "arm": cell.arm,
            "seed": cell.seed,
            "base_model": cell.model.id,
            "revision": model.weights.revision or cell.model.revision,
            "weights": model.weights.identity,
            "quantise": model.quantise,
            "chat": model.recipe.chat,
            "dtype": str(compute_dtype()).removeprefix("torch."),
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "prompt_sha256": self.prompt_format.sha256,
            "data.source": data.study.data.source,
            "data.revision": data.questions.revision,
            "data.split": data.study.data.split,
            "data.training": "by fold" if whole else len(split.training_ids),
            "data.heldout": len(data.fold_of if whole else split.heldout_ids),
            "data.folds": len(data.splits),
            **({"primed": cell.model.primed.as_params()} if cell.model.primed else {}),
            "source_languages": " ".join(data.study.trained_languages(cell)),
        }

    def command(self, entry_point: str, **more: Any) -> str:
        """Return the ``mlflow run`` line that repeats the cell alone."""
        parameters = {
            "model": self.cell.model.label,
            "arm": self.cell.arm,
            "seed": self.cell.seed,
        }
        return tracking.run_command(entry_point, {**self.data.parameters, **parameters, **more})

    @property
    def training_command(self) -> str:
        """The ``mlflow run`` line that trains the fold's adapter."""
        fold = {"fold": self.fold} if self.data.cross_fitted else {}
        return self.command("finetune", **fold)


def locate(model: ModelSettings) -> ModelFiles:
    """Bring a study's model to this machine; see `xling.models.locate_model`."""
    return locate_model(
        model.id,
        revision=model.revision,
        chat=model.chat,
        lora_modules=model.lora_modules,
        quantise=model.quantise,
    )


def locate_served(model: ModelSettings) -> ModelFiles:
    """Bring a study's model without weights that are on the hub: a server has them.

    It has the identity of the whole model, since tokenizer and weights are of one commit; it
    cannot be opened.

    Raises:
        ValueError: unknown model, or missing files.
    """
    recipe = find_recipe(model.id, revision=model.revision)
    if model.chat is not None:
        recipe = replace(recipe, chat=model.chat)
    return ModelFiles(recipe, fetch_weights(recipe, tokenizer_only=True), model.quantise)


def log_items(data: StudyData, parts: ItemsByPart) -> None:
    """Log, by digest, which items the active run used.

    Args:
        data: where they came from.
        parts: items by part and language.
    """
    for part, items in parts.items():
        if not any(items.values()):
            continue
        tracking.log_data_set(
            name=f"{data.questions.name}-{part}",
            sha256=items_sha256(items),
            source={"source": data.questions.source, "revision": data.questions.revision},
            context=part,
            languages=" ".join(items),
        )
    tracking.log_json(data.manifest(), "data/manifest.json")


def work_folder(fingerprint: str, *, fresh: bool) -> Path:
    """Make the folder in which a cell's work lies until it is logged; emptied if `fresh`."""
    folder = state_folder() / fingerprint[:32]
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def trained_adapter_folder(fingerprint: str) -> Path:
    """Return where a finetune cell leaves its adapter on this machine; need not exist."""
    return state_folder() / fingerprint[:32] / "trained" / "adapter"


def scoring_params(cell: Cell) -> Mapping[str, str]:
    """Return the two parameters that only evaluate runs have."""
    return {"reasoning": cell.reasoning, "scoring": cell.scoring}
