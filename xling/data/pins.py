"""What a commit of the hub held when it was first loaded here: later it must hold the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from xling.files.atomic import atomic_write
from xling.files.paths import cache_folder

COMMIT = re.compile(r"[0-9a-f]{40}")


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
    if not COMMIT.fullmatch(revision):
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
