"""The item record: one row per model, arm, seed, reasoning, scoring, language and item.

This is the contract between the runs that score models and the analysis that reads them. Anyone
may write records in this form. The module needs pandas and pyarrow only.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xling.record_metrics import clustered_stderr, position_entropy

ARMS = ("base", "finetuned", "control-source", "shuffled-labels")
REASONINGS = ("direct", "cot")
SCORINGS = ("answer-token", "cloze")
PARTS = ("heldout", "training")
FAMILIES = ("related", "control", "source")

RUN_COLUMNS = ("model", "arm", "seed", "reasoning", "scoring")
"""The columns that name one evaluate run."""
KEY_COLUMNS = (*RUN_COLUMNS, "language", "item_id")
"""The columns that together name one row."""

LOGPROB_COLUMNS = ("logprob_1", "logprob_2", "logprob_3", "logprob_4")

RECORD_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("scoring", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("gold", pa.int8(), nullable=False),
        pa.field("prediction", pa.int8(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in LOGPROB_COLUMNS),
        pa.field("answer_mass", pa.float64(), nullable=True),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
    ]
)

_VALUES = {"arm": ARMS, "reasoning": REASONINGS, "scoring": SCORINGS, "part": PARTS}
_INTEGERS = {"seed": "int64", "gold": "int8", "prediction": "int8", "n_tokens": "int32"}
# Probabilities are summed in single precision by some engines, so a mass may pass 1 by a little.
_MASS_SLACK = 1e-3

Mask = npt.NDArray[np.bool_]


def check_records(frame: pd.DataFrame) -> pd.DataFrame:
    """Check item records and give them back in the schema's column order and types.

    Args:
        frame: One row per item record, with exactly the columns of RECORD_SCHEMA in any order.

    Returns:
        A new frame with a fresh 0..n-1 index; the row order is kept.

    Raises:
        ValueError: If a column is missing or unknown, a value has the wrong type or range,
            `correct` contradicts `gold == prediction`, a log-probability is NaN or above 0,
            `answer_mass` is missing where scoring is not `cloze`, or a cell has an item twice.
            The message names the column and the first offending row (counted from 0).
    """
    missing = [name for name in RECORD_SCHEMA.names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"records: column {missing[0]!r} is missing; the columns needed are "
            f"{', '.join(RECORD_SCHEMA.names)}"
        )
    unknown = [str(name) for name in frame.columns if name not in RECORD_SCHEMA.names]
    if unknown:
        raise ValueError(
            f"records: column {unknown[0]!r} is not part of a record; drop it (the "
            f"columns are {', '.join(RECORD_SCHEMA.names)})"
        )
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"records: column {twice!r} appears twice; keep one")
    source = frame.reset_index(drop=True)
    columns = {field.name: _checked_column(source, field) for field in RECORD_SCHEMA}
    checked = pd.DataFrame(columns)
    _check_ranges(checked)
    duplicate = checked.duplicated(list(KEY_COLUMNS)).to_numpy()
    _refuse(
        checked,
        "item_id",
        duplicate,
        "the cell has this item already; keep one row per item "
        "(and never the same item in both parts)",
    )
    return checked


def _checked_column(frame: pd.DataFrame, field: pa.Field) -> pd.Series:
    """One column in its schema type, or ValueError at its first bad row."""
    name = str(field.name)
    values: pd.Series = frame[name]
    if pa.types.is_string(field.type):
        if not isinstance(values.dtype, pd.StringDtype):
            bad = np.fromiter((not isinstance(v, str) for v in values), np.bool_, len(values))
            _refuse(frame, name, bad, "must be text")
            values = values.astype("str")
        _refuse(
            frame,
            name,
            (values.isna() | (values == "")).to_numpy(np.bool_),
            "must be text that is not empty",
        )
        return values.astype("str")
    if pa.types.is_boolean(field.type):
        bad = (
            np.fromiter(
                (not isinstance(v, (bool, np.bool_)) for v in values), np.bool_, len(values)
            )
            if values.dtype != np.bool_
            else np.zeros(len(values), bool)
        )
        _refuse(frame, name, bad, "must be true or false")
        return values.astype("bool")
    is_bool = pd.api.types.is_bool_dtype(values.dtype)
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    not_number = (numbers.isna() & values.notna()).to_numpy() | is_bool
    _refuse(frame, name, not_number, "must be a number")
    if not field.nullable:
        _refuse(frame, name, numbers.isna().to_numpy(), "must not be empty or NaN")
    if name not in _INTEGERS:
        return numbers
    if pd.api.types.is_integer_dtype(values.dtype):
        exact = values.to_numpy(np.int64)
    else:
        _refuse(frame, name, (numbers != np.floor(numbers)).to_numpy(), "must be a whole number")
        exact = numbers.to_numpy(np.int64)
    limits = np.iinfo(_INTEGERS[name])
    _refuse(
        frame,
        name,
        (exact < limits.min) | (exact > limits.max),
        f"must lie in {limits.min} to {limits.max}",
    )
    return pd.Series(exact.astype(limits.dtype))


def _check_ranges(frame: pd.DataFrame) -> None:
    """Check what the values of a typed frame may be; ValueError at the first bad row."""
    for name, allowed in _VALUES.items():
        _refuse(
            frame,
            name,
            ~frame[name].isin(allowed).to_numpy(np.bool_),
            f"must be one of {', '.join(allowed)}",
        )
    for name in ("gold", "prediction"):
        _refuse(frame, name, ~frame[name].between(1, 4).to_numpy(), "must be 1, 2, 3 or 4")
    _refuse(
        frame,
        "correct",
        (frame["correct"] != (frame["gold"] == frame["prediction"])).to_numpy(),
        "must equal gold == prediction",
    )
    for name in LOGPROB_COLUMNS:
        _refuse(frame, name, (frame[name] > 1e-6).to_numpy(), "a log-probability is at most 0")
    mass = frame["answer_mass"]
    _refuse(
        frame,
        "answer_mass",
        (mass.isna() & (frame["scoring"] != "cloze")).to_numpy(np.bool_),
        "may be empty only where scoring is cloze",
    )
    _refuse(
        frame,
        "answer_mass",
        ((mass < 0) | (mass > 1 + _MASS_SLACK)).to_numpy(),
        "must lie in 0 to 1",
    )
    _refuse(frame, "n_tokens", (frame["n_tokens"] < 0).to_numpy(), "must not be negative")


def _refuse(frame: pd.DataFrame, column: str, bad: Mask, rule: str) -> None:
    """Raise ValueError for the first row that `bad` marks; do nothing when there is none."""
    if not bad.any():
        return
    row = int(np.argmax(bad))
    where = ", ".join(
        f"{name} {frame[name].iloc[row]}" for name in ("model", "arm", "language", "item_id")
    )
    raise ValueError(
        f"records: column {column!r}, row {row} ({where}): value {frame[column].iloc[row]!r} {rule}"
    )


def write_records(frame: pd.DataFrame, path: Path) -> None:
    """Check records and write them as one parquet file, whole or not at all.

    Args:
        frame: Item records, as check_records takes them.
        path: The file to write. Its folder is made if need be; an older file is replaced.

    Raises:
        ValueError: As check_records.
        OSError: If the folder cannot be written or the disk is full; an older file stays as it was.
    """
    table = pa.Table.from_pandas(check_records(frame), schema=RECORD_SCHEMA, preserve_index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file lies beside its target: a rename is atomic within one file system only.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as sink:
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_records(path: Path) -> pd.DataFrame:
    """Read and check a parquet file of item records.

    Args:
        path: A file as write_records makes it.

    Returns:
        As check_records.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, corrupt or no parquet file, or if its rows break
            the contract; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such records file")
    try:
        # ParquetFile and not read_table: the latter makes columns of folder names like `a=b`.
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            frame = source.read().to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: the parquet file is truncated or corrupt ({error}); fetch it "
            "again, or repeat the run that wrote it"
        ) from error
    try:
        return check_records(frame)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def records_sha256(frame: pd.DataFrame) -> str:
    """Hash the content of item records, whatever the order of rows and columns.

    Args:
        frame: Item records, as check_records takes them.

    Returns:
        64 hexadecimal digits. It depends on values alone, not on the parquet library's version.

    Raises:
        ValueError: As check_records.
    """
    ordered = check_records(frame).sort_values(list(KEY_COLUMNS), kind="stable")
    digest = hashlib.sha256(str(len(ordered)).encode())
    for field in RECORD_SCHEMA:
        digest.update(f"\n{field.name}:{field.type}\n".encode())
        if pa.types.is_string(field.type):
            encoded = [value.encode() for value in ordered[field.name]]
            # Lengths first, so that "a","bc" and "ab","c" differ.
            digest.update(np.array([len(value) for value in encoded], "<i8").tobytes())
            digest.update(b"".join(encoded))
            continue
        values = ordered[field.name].to_numpy()
        if values.dtype.kind == "f":
            # One bit pattern for every NaN, and for 0 and -0.
            values = np.where(np.isnan(values), np.nan, values + 0.0)
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def summarize_records(frame: pd.DataFrame, family: Mapping[str, str]) -> dict[str, float]:
    """Metrics of one evaluate run over its held-out items.

    Args:
        frame: Item records of one run (one model, arm, seed, reasoning and scoring).
        family: Language code to `related`, `control` or `source`, for every language in `frame`.

    Returns:
        For each language: `accuracy/<code>` and `stderr/<code>` (proportions; the error is
        clustered by passage, see clustered_stderr, and left out with fewer than two passages),
        `answer_mass/<code>` (mean, left out where there is none, as for cloze) and
        `position_entropy/<code>` (bits, 0 to 2). For the families: `accuracy_family/related` and
        `accuracy_family/control`, the unweighted mean over their languages, left out where there
        is no such language. Every value is finite.

    Raises:
        ValueError: As check_records; if there are no held-out rows; if the rows come from more
            than one run; or if a language has no family.
    """
    checked = check_records(frame)
    runs = checked[list(RUN_COLUMNS)].drop_duplicates()
    if len(runs) > 1:
        names = "; ".join("/".join(map(str, row)) for row in runs.itertuples(index=False))
        raise ValueError(f"records of {len(runs)} runs ({names}): summarise one run at a time")
    heldout = checked[checked["part"] == "heldout"]
    if heldout.empty:
        raise ValueError("records: no row has part 'heldout', so there is nothing to summarise")
    metrics: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for code, rows in heldout.groupby("language", sort=True):
        language = str(code)
        if family.get(language) not in FAMILIES:
            raise ValueError(
                f"language {language} has no family; give one of {', '.join(FAMILIES)}"
            )
        correct = rows["correct"].to_numpy()
        accuracy[language] = float(correct.mean())
        metrics[f"accuracy/{language}"] = accuracy[language]
        error = clustered_stderr(correct, rows["passage_id"].to_numpy(object))
        mass = float(rows["answer_mass"].mean())
        if np.isfinite(error):
            metrics[f"stderr/{language}"] = error
        if np.isfinite(mass):
            metrics[f"answer_mass/{language}"] = mass
        metrics[f"position_entropy/{language}"] = position_entropy(rows["prediction"].to_numpy())
    for name in ("related", "control"):
        members = [value for code, value in accuracy.items() if family[code] == name]
        if members:
            metrics[f"accuracy_family/{name}"] = float(np.mean(members))
    return metrics
