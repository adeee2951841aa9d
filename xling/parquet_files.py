"""Parquet files that are whole, or said to be cut off."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = b"PAR1"
# Of the footer, whose length and magic end a file.
_ENDING = 4 + len(MAGIC)


def read_parquet(path: Path, *, remedy: str) -> pd.DataFrame:
    """Read a whole parquet file, with the checksums of its pages where it has them.

    Args:
        path: The file.
        remedy: What to do about one that is damaged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is cut off, corrupt or no parquet file; names file and remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        # ParquetFile and not read_table: the latter makes columns of folder names like `a=b`.
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            frame: pd.DataFrame = source.read().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        what = cut_off(path) or str(error)
        raise ValueError(
            f"{path}: the parquet file is truncated or corrupt: {what}; {remedy}"
        ) from error
    return frame


def cut_off(path: Path) -> str:
    """How a parquet file is cut off, in words; empty if it ends as a parquet file does."""
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
