"""Belebele, or a data set laid out like it, from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xling.data.parallel import make_data_set
from xling.data.schema import DataSet, Item, parse_row, sha256_of_items
from xling.files.atomic import atomic_write
from xling.files.paths import cache_folder
from xling.messages.values import format_name, join_names

BELEBELE = "facebook/belebele"
# The commit that mteb (BelebeleRetrieval) and lighteval pin.
BELEBELE_REVISION = "75b399394a9803252cfec289d103de462763db7c"
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
    # In the hub's order: the data set's is that of the first language asked for.
    check_pinned(
        repository, revision, {code: sha256_of_items(rows) for code, rows in items.items()}
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
        f"({type(error).__name__}: {format_name(reason[0], 200)}). Check the name, the revision "
        "and the network; set HF_TOKEN if the repository asks for a login; set HF_HUB_OFFLINE=1 "
        "to use what an earlier run has cached; or give a folder of <code>.jsonl files with "
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


def check_pinned(repository: str, revision: str, sha256_by_language: Mapping[str, str]) -> None:
    """Check data against what the same commit gave before, and keep what is new.

    A commit never changes; what a cache or a mirror holds under its name can. A tag or a branch
    may move, so it is not pinned.

    Args:
        repository: Name on the hub, or a local folder laid out as one.
        revision: What was loaded.
        sha256_by_language: Of the items, in the repository's order.

    Raises:
        ValueError: A language's items are not those that the commit had before.
    """
    if not _COMMIT.fullmatch(revision):
        return
    path = _pins_file(repository, revision)
    known = _known(path)
    for code, sha256 in sha256_by_language.items():
        if known.get(code, sha256) != sha256:
            raise ValueError(
                f"{repository} at {revision}: the items of {code} have sha256 {sha256}, but had "
                f"{known[code]} when they were first loaded, and a commit does not change. The "
                "cached data is damaged or was changed: delete the data set's folder in the cache "
                f"of `datasets` (HF_DATASETS_CACHE) and load it again. If what was loaded first "
                f"was wrong, delete {path}."
            )
    if not set(sha256_by_language) <= set(known):
        with atomic_write(path) as temporary:
            content = json.dumps({**known, **sha256_by_language}, indent=1, sort_keys=True)
            temporary.write_text(content + "\n", encoding="utf-8")


def _pins_file(repository: str, revision: str) -> Path:
    place = Path(repository)
    named = str(place.resolve()) if place.is_dir() else repository
    short = hashlib.sha256(f"{named}@{revision}".encode()).hexdigest()[:16]
    return cache_folder() / "data-pins" / f"{short}.json"


def _known(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {str(code): str(value) for code, value in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
