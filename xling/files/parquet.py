"""Parquet files of any origin, read as far as their pages and text are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xling.messages.values import format_name

MAGIC = b"PAR1"
# Of the footer, whose length and magic end a file.
_ENDING = 4 + len(MAGIC)
_INDEX = re.compile(r"__index_level_\d+__")


def read_parquet(path: Path, *, remedy: str = "") -> pd.DataFrame:
    """Read the columns of a parquet file.

    What pandas writes beside the data is not looked at: no checksum covers it. An index without a
    name is left out.

    Args:
        path: the file; pages that have checksums are checked.
        remedy: what to do about one that is damaged.

    Raises:
        ValueError: the file is missing, truncated, corrupt or not a parquet file, or a text is
            not UTF-8; one line, which names file and remedy if there is one.
    """
    try:
        # ParquetFile and not read_table: the latter makes columns of folder names like `a=b`.
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            table = source.read()
        table.validate(full=True)
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = (path.is_file() and cut_off(path)) or format_name(
            " ".join(str(error).split()), 200
        )
        what = f"the parquet file is truncated or corrupt ({reason})"
        raise ValueError(f"{path}: {what}; {remedy}" if remedy else what) from error
    return frame.loc[:, [not _INDEX.fullmatch(str(name)) for name in frame.columns]]


def cut_off(path: Path) -> str:
    """Say how a parquet file is cut off; empty if it ends as a parquet file does."""
    size = path.stat().st_size
    with path.open("rb") as source:
        begins = source.read(len(MAGIC))
        source.seek(max(0, size - _ENDING))
        ending = source.read(_ENDING)
    if begins != MAGIC[: len(begins)]:
        return ""
    if size < len(MAGIC) + _ENDING or not ending.endswith(MAGIC):
        return f"it is cut off at {size} bytes, before its footer"
    needed = int.from_bytes(ending[:4], "little") + len(MAGIC) + _ENDING
    if size < needed:
        return f"it is cut off: it has {size} bytes, its footer alone {needed}"
    return ""
