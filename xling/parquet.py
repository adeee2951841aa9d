"""Reads parquet files of any origin as far as their pages and text are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xling.shown import named

_INDEX = re.compile(r"__index_level_\d+__")


def read_parquet(path: Path) -> pd.DataFrame:
    """The columns of a parquet file.

    What pandas writes beside the data is not looked at: no checksum covers it. An index without a
    name is left out.

    Args:
        path: the file; pages that have checksums are checked.

    Raises:
        ValueError: the file is truncated, corrupt or no parquet file, or a text is not UTF-8; one
            line that does not name the file.
    """
    try:
        # ParquetFile and not read_table: the latter makes columns of folder names like `a=b`.
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            table = source.read()
        table.validate(full=True)
        frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = named(" ".join(str(error).split()), 200)
        raise ValueError(f"the parquet file is truncated or corrupt ({reason})") from error
    return frame.loc[:, [not _INDEX.fullmatch(str(name)) for name in frame.columns]]
