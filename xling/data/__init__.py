"""Data: one schema, three sources (hub, folder, the embedded mini set), splits and leakage.

Items are checked when they are read, and never changed. No prompt, model or run is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xling.data.folds import check_folds, cross_fit_splits
from xling.data.hub import BELEBELE, BELEBELE_REVISION, load_hub
from xling.data.local import load_folder
from xling.data.mini import DIFFICULTIES, build_mini, difficulty_of, mini_languages
from xling.data.parallel import check_parallel
from xling.data.schema import DataSet, Item, parse_row
from xling.data.splits import (
    Split,
    SplitKind,
    check_disjoint,
    limit_split,
    passages_of,
    shared_passages,
    split_items,
)

__all__ = [
    "BELEBELE",
    "BELEBELE_REVISION",
    "DIFFICULTIES",
    "SOURCES",
    "DataSet",
    "Item",
    "Split",
    "SplitKind",
    "build_mini",
    "check_disjoint",
    "check_folds",
    "check_parallel",
    "cross_fit_splits",
    "difficulty_of",
    "limit_split",
    "load_data",
    "load_folder",
    "load_hub",
    "manifest",
    "mini_languages",
    "parse_row",
    "passages_of",
    "shared_passages",
    "split_items",
]

SOURCES = ("mini", "hub", "folder")


def load_data(
    source: str,
    *,
    languages: Sequence[str],
    path: str = "",
    repository: str = BELEBELE,
    revision: str = "",
    difficulties: Sequence[int] = DIFFICULTIES,
    seed: int = 0,
) -> DataSet:
    """Load a data set from any of the three sources.

    Args:
        source: ``mini``, ``hub`` or ``folder``.
        languages: Codes to load.
        path: For ``folder``: the folder of ``<code>.jsonl`` files.
        repository: For ``hub``: the repository's name.
        revision: For ``hub``: the commit; empty means the pinned one of Belebele.
        difficulties: For ``mini``: which of 1, 2 and 3.
        seed: For ``mini``: decides every draw.

    Raises:
        ValueError: An unknown source, no path for ``folder``, no revision for a repository other
            than Belebele's, or what the source's own loader raises.
        ConnectionError: The hub cannot be reached.
    """
    if source == "mini":
        return build_mini(languages=languages, difficulties=difficulties, seed=seed)
    if source == "folder":
        if not path:
            raise ValueError("source folder needs a path: the folder of <code>.jsonl files.")
        return load_folder(path, languages=languages)
    if source == "hub":
        pinned = BELEBELE_REVISION if repository == BELEBELE else ""
        return load_hub(repository, revision=revision or pinned, languages=languages)
    raise ValueError(f"source: {source!r}; it must be {', '.join(SOURCES)}.")


def manifest(data: DataSet, splits: Sequence[Split]) -> dict[str, Any]:
    """Return what is to be recorded of the data and its split, ready for JSON.

    Args:
        data: The data set.
        splits: Its split, limited or not; with cross-fitting, one of each fold, of which the
            counts are given by fold.
    """
    split = splits[0]
    described: dict[str, Any] = {
        "name": data.name,
        "source": data.source,
        "revision": data.revision,
        "split": split.kind,
        "seed": split.seed,
        "training_questions": len(split.training_ids),
        "heldout_questions": len(split.heldout_ids),
        "training_passages": len(passages_of(data, split.training_ids)),
        "heldout_passages": len(passages_of(data, split.heldout_ids)),
        "shared_passages": len(shared_passages(data, split)),
        "items_by_language": {code: len(items) for code, items in data.items.items()},
        "sha256_by_language": data.sha256_by_language(),
    }
    if len(splits) > 1:
        described["folds"] = [
            {
                "training_questions": len(each.training_ids),
                "heldout_questions": len(each.heldout_ids),
                "heldout_passages": len(passages_of(data, each.heldout_ids)),
                "heldout_ids": list(each.heldout_ids),
            }
            for each in splits
        ]
    return described
