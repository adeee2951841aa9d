"""The item record: its columns, checks, metrics and warnings.

The contract between runs and analysis; it needs pandas and pyarrow, never torch or MLflow.
"""

from __future__ import annotations

from xling.files.parquet import read_parquet
from xling.records.records import (
    describe_format,
    read_records,
    records_sha256,
    summarize_records,
    write_records,
)
from xling.records.schema import (
    ARMS,
    FAMILIES,
    KEY_COLUMNS,
    LOGPROB_COLUMNS,
    PARTS,
    REASONINGS,
    RECORD_SCHEMA,
    RUN_COLUMNS,
    SCORINGS,
    check_records,
)
from xling.records.warnings import (
    ANSWER_MASS,
    CONSTANT,
    EMPTY,
    LEAST_CONSTANT,
    NO_MASS,
    SAME_AS_BASE,
    UNCHANGED,
    suspicious_languages,
    unchanged_languages,
    warning_text,
)

__all__ = [
    "ANSWER_MASS",
    "ARMS",
    "CONSTANT",
    "EMPTY",
    "FAMILIES",
    "KEY_COLUMNS",
    "LEAST_CONSTANT",
    "LOGPROB_COLUMNS",
    "NO_MASS",
    "PARTS",
    "REASONINGS",
    "RECORD_SCHEMA",
    "RUN_COLUMNS",
    "SAME_AS_BASE",
    "SCORINGS",
    "UNCHANGED",
    "check_records",
    "describe_format",
    "read_parquet",
    "read_records",
    "records_sha256",
    "summarize_records",
    "suspicious_languages",
    "unchanged_languages",
    "warning_text",
    "write_records",
]
