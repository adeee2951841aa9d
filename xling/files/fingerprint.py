"""A hash of all that decides a result, so that a finished run is reused and not repeated."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from xling.files.requirements import DECIDING_PACKAGES
from xling.files.result_versions import result_versions


def fingerprint(content: Mapping[str, Any], *, stages: Collection[str]) -> str:
    """Hash settings, the versions of the deciding stages and those of the deciding packages.

    Args:
        content: whatever else decides the result: data, weights, settings, seed; JSON types.
        stages: whose code makes the result, as in `xling.files.result_versions`.

    Returns:
        Hexadecimal sha256. Where the code lies, and how it is written, is no part of it.

    Raises:
        ValueError: there is no such stage.
    """
    whole = {
        "content": content,
        "versions": result_versions(stages),
        "packages": package_versions(),
    }
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each deciding package."""
    return {name: importlib.metadata.version(name) for name in DECIDING_PACKAGES}
