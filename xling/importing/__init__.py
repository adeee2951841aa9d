"""Importing: results that were made elsewhere, as evaluate runs in the contract's form.

Two forms are read: a table of published accuracies (CSV), and what lm-evaluation-harness writes
with ``--log_samples``, which has every item. Nothing is scored or corrected here.
"""

from __future__ import annotations

from xling.importing.imported import ImportedResults, ImportedRun
from xling.importing.lm_eval import read_lm_eval
from xling.importing.log_runs import log_imported, read_results
from xling.importing.tables import read_table

__all__ = [
    "ImportedResults",
    "ImportedRun",
    "log_imported",
    "read_lm_eval",
    "read_results",
    "read_table",
]
