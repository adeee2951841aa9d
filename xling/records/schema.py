"""The schema of an item record, its words, and the checks that rows must pass.

Import these from xling.records; this module keeps the contract apart from the files it is put in.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from xling.messages.values import format_name, format_value

ARMS = ("base", "finetuned", "control-source", "shuffled-labels")
REASONINGS = ("direct", "cot")
SCORINGS = ("answer-token", "permuted", "cloze")
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
        pa.field("fold", pa.int16(), nullable=False),
    ]
)

_VALUES = {"arm": ARMS, "reasoning": REASONINGS, "scoring": SCORINGS, "part": PARTS}
_INTEGERS = {
    "seed": "int64",
    "gold": "int8",
    "prediction": "int8",
    "n_tokens": "int32",
    "fold": "int16",
}
# Columns that a record may lack, and the value that they then have.
_DEFAULTS = {"fold": 0}
# Probabilities are summed in single precision by some engines, so a mass may pass 1 by a little.
_MASS_SLACK = 1e-3

Mask = npt.NDArray[np.bool_]


def check_records(frame: pd.DataFrame) -> pd.DataFrame:
    """Check item records and give them back in the schema's column order and types.

    Args:
        frame: One row per item record, with exactly the columns of RECORD_SCHEMA in any order;
            `fold` may be left out where there is one split.

    Returns:
        A new frame with a fresh 0..n-1 index; the row order is kept.

    Raises:
        ValueError: If a column is missing or unknown, a value has the wrong type or range,
            `correct` contradicts `gold == prediction`, a log-probability is NaN or above 0,
            `answer_mass` is missing where scoring is not `cloze`, or a cell has an item twice.
            The message names the column and the first offending row (counted from 0).
    """
    lacking = {name: value for name, value in _DEFAULTS.items() if name not in frame.columns}
    if lacking:
        frame = frame.assign(**lacking)
    missing = [name for name in RECORD_SCHEMA.names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"records: column {missing[0]!r} is missing; the columns needed are "
            f"{', '.join(RECORD_SCHEMA.names)}"
        )
    unknown = [str(name) for name in frame.columns if name not in RECORD_SCHEMA.names]
    if unknown:
        raise ValueError(
            f"records: column {format_value(unknown[0])} is not part of a record; drop it (the "
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
    """Return one column in its schema type, or raise ValueError at its first bad row."""
    name = str(field.name)
    values: pd.Series = frame[name]
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    if pa.types.is_string(field.type):
        return _texts(frame, name, values)
    if pa.types.is_boolean(field.type):
        bad = np.fromiter(
            (not isinstance(v, (bool, np.bool_)) for v in values)
            if values.dtype != np.bool_
            else (),
            np.bool_,
        )
        _refuse(frame, name, bad, "must be true or false")
        return values.astype("bool")
    if values.dtype == object:
        bad = np.fromiter((not _is_number(v) for v in values), np.bool_, len(values))
    else:
        kind = values.dtype
        bad = np.full(len(values), pd.api.types.is_bool_dtype(kind) or not _is_real(kind))
    _refuse(frame, name, bad, "must be a number")
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    _refuse(frame, name, (numbers.isna() & values.notna()).to_numpy(), "must be a number")
    if not field.nullable:
        _refuse(frame, name, numbers.isna().to_numpy(), "must not be empty or NaN")
    return _whole_numbers(frame, name, values, numbers) if name in _INTEGERS else numbers


def _texts(frame: pd.DataFrame, name: str, values: pd.Series) -> pd.Series:
    if getattr(values.dtype, "storage", "") != "pyarrow":  # which holds UTF-8 and nothing else
        bad = np.fromiter((not _is_text(v) for v in values), np.bool_, len(values))
        _refuse(frame, name, bad, "must be text")
        values = values.astype("str")
    empty = (values.isna() | (values == "")).to_numpy(np.bool_)
    _refuse(frame, name, empty, "must be text that is not empty")
    return values.astype("str")


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _is_number(value: object) -> bool:
    """Return whether a value may be among numbers; NaN and None are distinguished later."""
    if value is None or value is pd.NA:
        return True
    return isinstance(value, (int, float, Decimal, np.number)) and not isinstance(value, bool)


def _is_real(kind: Any) -> bool:
    types = pd.api.types
    return bool(types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind))


def _whole_numbers(
    frame: pd.DataFrame, name: str, values: pd.Series, numbers: pd.Series
) -> pd.Series:
    """Return a column as the integers that it holds, not as those nearest to its floats."""
    limits = np.iinfo(_INTEGERS[name])
    rule = f"must lie in {limits.min} to {limits.max}"
    if not pd.api.types.is_integer_dtype(values.dtype):
        floats = numbers.to_numpy(np.float64)
        whole = np.isfinite(floats)
        whole[whole] = floats[whole] == np.floor(floats[whole])
        _refuse(frame, name, ~whole, "must be a whole number")
        values = pd.Series([int(value) for value in values], dtype=object)
    outside = ((values < limits.min) | (values > limits.max)).to_numpy(np.bool_)
    _refuse(frame, name, outside, rule)
    return pd.Series(values.to_numpy(dtype=limits.dtype))


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
    for name in ("n_tokens", "fold"):
        _refuse(frame, name, (frame[name] < 0).to_numpy(), "must not be negative")


def _refuse(frame: pd.DataFrame, column: str, bad: Mask, rule: str) -> None:
    """Raise ValueError for the first row that `bad` marks; do nothing when there is none."""
    if not bad.any():
        return
    row = int(np.argmax(bad))
    where = ", ".join(
        f"{name} {format_name(str(frame[name].iloc[row]), 40)}"
        for name in ("model", "arm", "language", "item_id")
    )
    value = frame[column].iloc[row]
    text = format_value(value.item() if isinstance(value, np.generic) else value)
    raise ValueError(f"records: column {column!r}, row {row} ({where}): value {text} {rule}")
