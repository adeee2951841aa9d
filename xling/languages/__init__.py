"""The languages: names, scripts and genealogy, and who is related to a source.

No data set and no study file is read here.
"""

from __future__ import annotations

from xling.languages.languages import (
    SNAPSHOT,
    belebele_codes,
    family_of,
    get_language,
    shared_branches,
)

__all__ = [
    "SNAPSHOT",
    "belebele_codes",
    "family_of",
    "get_language",
    "shared_branches",
]
