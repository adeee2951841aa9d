"""A study with its data at hand: loaded, checked and split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xling.data import (
    DataSet,
    Item,
    Split,
    check_disjoint,
    cross_fit_splits,
    limit_split,
    load_data,
    manifest,
    split_items,
)
from xling.data.leakage import without_repeats
from xling.data.schema import sha256_of_items
from xling.data.training_rows import (
    TrainingRow,
    control_source_rows,
    primer_rows,
    shuffled_label_rows,
    source_rows,
)
from xling.models import check_model_name
from xling.models.catalog import Recipe
from xling.prompts import PromptFormat
from xling.study import Cell, Study
from xling.study.settings import PRIMER

SHUFFLE_STREAM = 1
PRIMER_STREAM = 2

ItemsByPart = Mapping[str, Mapping[str, Sequence[Item]]]
"""Items by part (``heldout``, ``training``) and language."""


@dataclass(frozen=True)
class StudyData:
    """What every cell of a study needs to know of its data.

    Attributes:
        study: resolved; its name says which folder and limit it was given.
        questions: items of every evaluated language, and of the control-source languages.
        splits: ids of the training and held-out items, after the limit: one split, or with
            cross-fitting one of each fold.
        parameters: ``study``, ``data`` and ``limit`` as the entry point got them, for
            `xling.command`.
    """

    study: Study
    questions: DataSet
    splits: tuple[Split, ...]
    parameters: dict[str, Any]

    @property
    def cross_fitted(self) -> bool:
        """Whether every question is held out once, from an adapter of its fold."""
        return len(self.splits) > 1

    @property
    def fold_of(self) -> dict[str, int]:
        """The fold that holds an item out, by item id; 0 for all where there is one split."""
        return {
            item_id: fold for fold, split in enumerate(self.splits) for item_id in split.heldout_ids
        }

    def split_of(self, fold: int) -> Split:
        """Return the split of a fold; 0 where there is only one.

        Raises:
            ValueError: no such fold.
        """
        if not 0 <= fold < len(self.splits):
            valid = f"0 to {len(self.splits) - 1}" if self.cross_fitted else "0"
            raise ValueError(
                f"study {self.study.name!r} has no fold {fold}; valid: {valid}"
                + ("" if self.cross_fitted else " (its split is not cross-fit)")
            )
        return self.splits[fold]

    def items(self, language: str, part: str, fold: int = 0) -> tuple[Item, ...]:
        """Return a language's items in a part (``training``, ``heldout``), in the data's order."""
        split = self.split_of(fold)
        ids = split.heldout_ids if part == "heldout" else split.training_ids
        return self.questions.select(language, ids)

    def all_heldout(self, language: str) -> tuple[Item, ...]:
        """Return the items of a language that any fold holds out, in the data's order."""
        return self.questions.select(language, self.fold_of)

    def baseline_items(self, language: str) -> tuple[Item, ...]:
        """Return training-split items that the base model answers for the independent baseline."""
        return self.questions.select(language, self._baseline_ids)

    @property
    def _baseline_ids(self) -> tuple[str, ...]:
        split, wanted = self.splits[0], self.study.data.baseline_items
        if not wanted:
            return ()
        wanted = min(wanted, len(split.training_ids))
        return limit_split(split, wanted, seed=self.study.data.seed).training_ids

    def check_arm(self, arm: str) -> None:
        """Refuse an arm that the study does not have: its runs would be taken for the study's.

        Raises:
            ValueError: lists the study's arms.
        """
        if arm not in (*self.study.arms, PRIMER):
            raise ValueError(
                f"study {self.study.name!r} has no arm {arm!r}; valid: "
                f"{', '.join(self.study.arms)}. Add it to `arms` in the study file"
            )

    def training_rows(self, cell: Cell, fold: int = 0) -> list[TrainingRow]:
        """Return what a cell is trained on: items and labels.

        Raises:
            ValueError: the study does not have the arm, the arm has no training, or its labels
                cannot be shuffled.
        """
        self.check_arm(cell.arm)
        if cell.arm == PRIMER:
            return self._primer_rows(cell)
        languages = self.study.languages
        limit = cell.model.training_items
        match cell.arm:
            case "finetuned":
                return source_rows(self._training_items(languages.source, limit, fold))
            case "control-source":
                items = self._training_items(languages.control_source, limit, fold)
                return control_source_rows(items, repeats=len(languages.source))
            case "shuffled-labels":
                items = self._training_items(languages.source, limit, fold)
                # Its own stream: the seed also decides the adapter's first weights.
                rng = np.random.default_rng([cell.seed, fold, SHUFFLE_STREAM])
                return shuffled_label_rows(items, rng=rng)
            case _:
                raise ValueError(
                    "the base arm has no adapter; valid arms for finetune: "
                    + ", ".join(arm for arm in self.study.arms if arm != "base")
                )

    def _primer_rows(self, cell: Cell) -> list[TrainingRow]:
        """Return what primes a model: none of the held-out questions, none of the baseline's."""
        primed, seed = self.study.find_primer(cell.model), self.study.data.seed
        split = self.splits[0]
        asked = set(self._baseline_ids)
        free = tuple(item_id for item_id in split.training_ids if item_id not in asked)
        if not free:
            raise ValueError(
                f"model {cell.model.label}: no question is left to prime it on: the base model is "
                f"asked all {len(split.training_ids)} training questions for its baseline; lower "
                "data.baseline_items, or take more questions"
            )
        ids = limit_split(replace(split, training_ids=free), primed.items, seed=seed).training_ids
        items = {code: self.questions.select(code, ids) for code in primed.languages}
        shuffled = primed.labels == "shuffled"
        rng = np.random.default_rng([cell.seed, PRIMER_STREAM]) if shuffled else None
        return primer_rows(items, examples=primed.steps * self.study.training.batch_size, rng=rng)

    def all_training_rows(self, cell: Cell) -> list[TrainingRow]:
        """Return what a cell is trained on in any fold."""
        folds = range(len(self.splits))
        return [row for fold in folds for row in self.training_rows(cell, fold)]

    def _training_items(
        self, languages: Sequence[str], limit: int, fold: int
    ) -> dict[str, tuple[Item, ...]]:
        """Return training items by language; `limit` questions at most (0: all)."""
        ids = limit_split(self.split_of(fold), limit, seed=self.study.data.seed).training_ids
        return {code: self.questions.select(code, ids) for code in languages}

    def evaluated_items(self, cell: Cell) -> ItemsByPart:
        """Return what a cell is scored on: items by part and language.

        The base model also answers training-split questions, directly: the baseline that shares
        no item with the gains.
        """
        codes = self.study.languages.evaluated
        parts = {"heldout": {code: self.all_heldout(code) for code in codes}}
        if cell.arm == "base" and cell.reasoning == "direct":
            parts["training"] = {code: self.baseline_items(code) for code in codes}
        return parts

    def prompt_format(self, recipe: Recipe) -> PromptFormat:
        """Return how the study's items are put to a model."""
        prompt = self.study.prompt
        return PromptFormat(
            template=prompt.template,
            answer_prefix=prompt.answer_prefix,
            chat=recipe.chat,
            cloze_template=prompt.cloze_template,
            cloze_prefix=prompt.cloze_prefix,
        )

    def adapter_name(self, cell: Cell, fold: int) -> str:
        """Return an adapter's name in runs and messages; with cross-fitting it names the fold."""
        return f"{cell.adapter_name}/fold-{fold}" if self.cross_fitted else cell.adapter_name

    def manifest(self) -> dict[str, Any]:
        """Describe the data: source, revision, parts, sha256 and counts by language."""
        return manifest(self.questions, self.splits)

    @property
    def data_identity(self) -> dict[str, Any]:
        """What pins the data of a run: content by language, and both parts' ids."""
        return {
            "sha256": self.questions.sha256_by_language(),
            "training": [list(split.training_ids) for split in self.splits],
            "heldout": [list(split.heldout_ids) for split in self.splits],
        }


def rows_sha256(rows: Sequence[TrainingRow]) -> str:
    """Return the hexadecimal sha256 of training rows, labels included, in their order."""
    labels = "".join(str(row.label) for row in rows)
    return hashlib.sha256((sha256_of_items(row.item for row in rows) + labels).encode()).hexdigest()


def items_sha256(items: Mapping[str, Sequence[Item]]) -> str:
    """Return the hexadecimal sha256 of items by language, in the languages' order."""
    return sha256_of_items(item for rows in items.values() for item in rows)


def prepare_study(study: Study, *, data: str = "", limit: int = 0) -> StudyData:
    """Load, check and split a study's data.

    Args:
        study: a valid study.
        data: folder of ``<code>.jsonl`` to use instead of the study's data; empty: none.
        limit: training and held-out questions at most, each (with cross-fitting: questions in
            all); 0: all.

    Raises:
        ValueError: the data is missing, malformed or not parallel, a model is neither in the
            catalog, nor a folder with the needed files, nor a Hugging Face id, or no question is
            left to prime one on.
    """
    resolved = resolve_study(study, data=data, limit=limit)
    for model in resolved.models:
        check_model_name(model.id)
    settings = resolved.data
    loaded = load_data(
        settings.source,
        path=settings.path,
        repository=settings.repository,
        revision=settings.revision,
        languages=resolved.loaded_languages,
        difficulties=settings.difficulties,
        seed=settings.seed,
    )
    prepared = StudyData(
        study=resolved,
        questions=loaded,
        splits=_splits(resolved, loaded, limit),
        parameters={"study": study.origin, "data": data, "limit": limit or ""},
    )
    for model in resolved.models:
        if model.primed is not None:
            prepared.training_rows(resolved.primer_cell(model))  # before anything is computed
    return prepared


def _splits(study: Study, data: DataSet, limit: int) -> tuple[Split, ...]:
    settings = study.data
    if settings.split == "cross-fit":
        folds = cross_fit_splits(data, folds=settings.folds, seed=settings.seed, limit=limit)
        return tuple(without_repeats(data, split) for split in folds)
    split = split_items(data, split=settings.split, held_out=settings.held_out, seed=settings.seed)
    split = without_repeats(data, split)
    if limit:
        split = limit_split(split, limit, seed=settings.seed)
    check_disjoint(data, split)
    return (split,)


def resolve_study(study: Study, *, data: str = "", limit: int = 0) -> Study:
    """Return the study on other data or with a limit, under a name that says so.

    Other questions are another study: its runs must not be read as the same cells.
    """
    name = study.name
    if data:
        name += f"-{data_label(data)}"
    if limit:
        name += f"-limit-{limit}"
    return study.with_folder(data).model_copy(update={"name": name})


def data_label(path: str) -> str:
    """Return a folder's name as part of a study's name."""
    last = path.rstrip("/").rsplit("/", 1)[-1]
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in last) or "data"
