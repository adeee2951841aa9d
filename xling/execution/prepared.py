"""A study with its data at hand: loaded, checked and split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xling.data import (
    DataSet,
    Item,
    Split,
    check_disjoint,
    limit_split,
    load_data,
    manifest,
    split_items,
)
from xling.data.schema import sha256_of_items
from xling.models import check_model_name
from xling.study import Study

ItemsByPart = Mapping[str, Mapping[str, Sequence[Item]]]
"""Items by part (``heldout``, ``training``) and language."""


@dataclass(frozen=True)
class Prepared:
    """What every cell of a study needs to know of its data.

    Attributes:
        study: resolved; its name says which folder and limit it was given.
        data: items of every evaluated language.
        split: ids of the training and held-out items, after the limit.
        parameters: ``study``, ``data`` and ``limit`` as the entry point got them, for
            `xling.command`.
    """

    study: Study
    data: DataSet
    split: Split
    parameters: dict[str, Any]

    def items(self, language: str, part: str) -> tuple[Item, ...]:
        """Items of a language in a part (``training``, ``heldout``), in the data's order."""
        ids = self.split.heldout_ids if part == "heldout" else self.split.training_ids
        return self.data.select(language, ids)

    def baseline_items(self, language: str) -> tuple[Item, ...]:
        """Training-split items that the base model answers for the independent baseline."""
        wanted = min(self.study.data.baseline_items, len(self.split.training_ids))
        if wanted == 0:
            return ()
        chosen = limit_split(self.split, wanted, seed=self.study.data.seed).training_ids
        return self.data.select(language, chosen)

    def training_items(self, limit: int) -> dict[str, tuple[Item, ...]]:
        """Training items by source language; `limit` questions at most (0: all)."""
        ids = limit_split(self.split, limit, seed=self.study.data.seed).training_ids
        return {code: self.data.select(code, ids) for code in self.study.languages.source}

    def evaluated_items(self, arm: str) -> ItemsByPart:
        """What an arm is scored on: items by part and language."""
        codes = self.study.languages.evaluated
        parts = {"heldout": {code: self.items(code, "heldout") for code in codes}}
        if arm == "base":
            parts["training"] = {code: self.baseline_items(code) for code in codes}
        return parts

    def manifest(self) -> dict[str, Any]:
        """What the data is: source, revision, parts, sha256 and counts by language."""
        return manifest(self.data, self.split)

    @property
    def data_identity(self) -> dict[str, Any]:
        """What pins the data of a run: content by language, and both parts' ids."""
        return {
            "sha256": self.data.sha256_by_language(),
            "training": list(self.split.training_ids),
            "heldout": list(self.split.heldout_ids),
        }


def items_sha256(items: Mapping[str, Sequence[Item]]) -> str:
    """Hexadecimal sha256 of items by language, in the languages' order."""
    return sha256_of_items(item for rows in items.values() for item in rows)


def prepare_study(study: Study, *, data: str = "", limit: int = 0) -> Prepared:
    """Loads, checks and splits a study's data.

    Args:
        study: a valid study.
        data: folder of ``<code>.jsonl`` to use instead of the study's data; empty: none.
        limit: training and held-out questions at most, each; 0: all.

    Raises:
        ValueError: the data is missing, malformed or not parallel, or a model is neither in the
            catalog, nor a folder with the needed files, nor a Hugging Face id.
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
        languages=resolved.languages.evaluated,
        difficulties=settings.difficulties,
        seed=settings.seed,
    )
    split = split_items(
        loaded, split=settings.split, held_out=settings.held_out, seed=settings.seed
    )
    if limit:
        split = limit_split(split, limit, seed=settings.seed)
    check_disjoint(loaded, split)
    return Prepared(
        study=resolved,
        data=loaded,
        split=split,
        parameters={"study": study.origin, "data": data, "limit": limit or ""},
    )


def resolve_study(study: Study, *, data: str = "", limit: int = 0) -> Study:
    """The study on other data or with a limit, under a name that says so.

    Other questions are another study: its runs must not be read as the same cells.
    """
    name = study.name
    if data:
        name += f"-{data_label(data)}"
    if limit:
        name += f"-limit-{limit}"
    return study.with_folder(data).model_copy(update={"name": name})


def data_label(path: str) -> str:
    """A folder's name as part of a study's name."""
    last = path.rstrip("/").rsplit("/", 1)[-1]
    return "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in last) or "data"
