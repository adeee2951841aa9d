"""Belebele, or a data set laid out like it, from the Hugging Face hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xling.data.parallel import make_data_set
from xling.data.pins import check_pinned
from xling.data.schema import DataSet, Item, parse_row, sha256_of_items
from xling.messages.values import format_name, join_names

BELEBELE = "facebook/belebele"
# The commit that mteb (BelebeleRetrieval) and lighteval pin.
BELEBELE_REVISION = "75b399394a9803252cfec289d103de462763db7c"


def load_hub(
    repository: str = BELEBELE,
    *,
    revision: str = BELEBELE_REVISION,
    languages: Sequence[str],
) -> DataSet:
    """Load parallel items through ``datasets``.

    Two layouts are read, since Belebele has had both: a configuration for each language with a
    split ``test``, or one configuration with a split for each language (the pinned commit).

    Args:
        repository: Name on the hub, or a local folder that is laid out as a repository.
        revision: Commit to load; pin it, so that results can be repeated.
        languages: Codes to load; the first one sets the order of items.

    Raises:
        ConnectionError: The repository cannot be reached or read; the message says what to try.
        ValueError: No revision, a language that the repository lacks, a malformed row,
            languages that are not parallel, or other items than the commit gave before.
    """
    if not revision:
        raise ValueError(
            f"{repository}: no revision given. Name a commit of the repository, so that the same "
            "data is loaded every time."
        )
    configurations, splits = _layout(repository, revision)
    there = configurations if "test" in splits else splits
    missing = [code for code in languages if code not in there]
    if missing:
        raise ValueError(
            f"{repository} at {revision} has no {join_names(missing)}. It has {join_names(there)}."
        )
    items = {}
    for code in dict.fromkeys(languages):
        name, split = (code, "test") if "test" in splits else (configurations[0], code)
        rows = _fetch(repository, revision, name, split)
        items[code] = tuple(_items(rows, f"{repository}@{revision} {code}", code))
    data = make_data_set(
        items,
        name=repository.rstrip("/").rsplit("/", 1)[-1],
        source=f"hub:{repository}",
        revision=revision,
    )
    check_pinned(
        repository,
        revision,
        {
            # In the hub's order: the data set's is that of the first language asked for.
            code: sha256_of_items(rows)
            for code, rows in items.items()
        },
    )
    return data


def _layout(repository: str, revision: str) -> tuple[list[str], list[str]]:
    """Return the repository's configurations, and the splits of the first one."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(repository, revision=revision)
        splits = datasets.get_dataset_split_names(repository, names[0], revision=revision)
    except Exception as error:  # whatever the client raises, the user needs the same advice
        raise _unreachable(repository, revision, error) from error
    return list(names), list(splits)


def _fetch(repository: str, revision: str, name: str, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            repository, name=name, split=split, revision=revision
        )
    except Exception as error:  # as above
        raise _unreachable(repository, revision, error) from error
    return rows


def _unreachable(repository: str, revision: str, error: Exception) -> ConnectionError:
    reason = str(error).strip().splitlines()[:1] or [""]
    return ConnectionError(
        f"the data set {repository} at revision {revision} could not be loaded from the hub "
        f"({type(error).__name__}: {format_name(reason[0], 200)}). Check the name, the revision and the "
        "network; set HF_TOKEN if the repository asks for a login; set HF_HUB_OFFLINE=1 to use "
        "what an earlier run has cached; or give a folder of <code>.jsonl files with "
        "-P data=FOLDER."
    )


def _items(rows: Iterable[Mapping[str, Any]], where: str, code: str) -> list[Item]:
    """Make items; the configuration or split, not the row, says which language it is."""
    items = []
    others: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row.get("dialect") not in (code, None):
            others.add(str(row["dialect"]))
        items.append(parse_row({**row, "dialect": code}, where=f"{where} row {number}"))
    if others:
        warnings.warn(
            f"{where}: some rows name another dialect ({join_names(sorted(others), 3)}); they are "
            f"taken as {code}.",
            UserWarning,
            stacklevel=3,
        )
    return items
