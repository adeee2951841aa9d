"""The item record: one row per model, arm, seed, reasoning, scoring, language and item.

This is the contract between the runs that score models and the analysis that reads them. Anyone
may write records in this form. The module needs pandas and pyarrow only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xling.files.atomic import atomic_write
from xling.files.parquet import read_parquet
from xling.records.metrics import (
    LABELS,
    clustered_stderr,
    expected_calibration_error,
    option_probabilities,
    position_entropy,
    position_shares,
)
from xling.records.schema import (
    FAMILIES,
    KEY_COLUMNS,
    LOGPROB_COLUMNS,
    RECORD_SCHEMA,
    RUN_COLUMNS,
    check_records,
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
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_records(path: Path) -> pd.DataFrame:
    """Read and check a parquet file of item records.

    Args:
        path: A file as write_records makes it.

    Returns:
        As check_records.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, corrupt or not a parquet file, or if its rows break
            the contract; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such records file")
    frame = read_parquet(path, remedy="fetch it again, or repeat the run that wrote it")
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
    """Return the metrics of one evaluate run over its held-out items.

    Args:
        frame: Item records of one run (one model, arm, seed, reasoning and scoring).
        family: Language code to `related`, `control` or `source`, for every language in `frame`.

    Returns:
        For each language: `accuracy/<code>` and `stderr/<code>` (proportions; the error is
        clustered by passage, see clustered_stderr, and left out with fewer than two passages),
        `answer_mass/<code>` (mean, left out where there is none, as for cloze),
        `position_entropy/<code>` (bits, 0 to 2) and `ece/<code>` (expected calibration error over
        the four options, 0 to 1). For the families: `accuracy_family/related` and
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
        metrics[f"ece/{language}"] = expected_calibration_error(_logprobs(rows), correct)
    for name in ("related", "control"):
        members = [value for code, value in accuracy.items() if family[code] == name]
        if members:
            metrics[f"accuracy_family/{name}"] = float(np.mean(members))
    return metrics


def describe_format(frame: pd.DataFrame) -> pd.DataFrame:
    """Describe the answers of one run, right or wrong, over its held-out items.

    Args:
        frame: Item records of one run, as check_records takes them.

    Returns:
        One row per language: `language`, `n_items`, `accuracy`, `answer_mass` (NaN for cloze),
        `position_entropy` (bits), `ece`; for each position k of 1 to 4 `gold_k` and `predicted_k`
        (how often the right answer and the prediction are there) and `prior_k` (mean
        probability of the option there, the four made to sum to 1: the learned position prior).

    Raises:
        ValueError: As check_records.
    """
    checked = check_records(frame)
    rows = []
    for code, found in checked[checked["part"] == "heldout"].groupby("language", sort=True):
        logprobs, correct = _logprobs(found), found["correct"].to_numpy()
        prediction = found["prediction"].to_numpy()
        positions = {
            "gold": position_shares(found["gold"].to_numpy()),
            "predicted": position_shares(prediction),
            "prior": option_probabilities(logprobs).mean(axis=0),
        }
        rows.append(
            {
                "language": str(code),
                "n_items": len(found),
                "accuracy": float(correct.mean()),
                "answer_mass": float(found["answer_mass"].mean()),
                "position_entropy": position_entropy(prediction),
                "ece": expected_calibration_error(logprobs, correct),
                **{
                    f"{name}_{label}": float(values[label - 1])
                    for name, values in positions.items()
                    for label in LABELS
                },
            }
        )
    return pd.DataFrame(rows)


def _logprobs(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    return rows[list(LOGPROB_COLUMNS)].to_numpy(np.float64)
