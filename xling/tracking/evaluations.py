"""Logs evaluate runs in the contract's form, whoever did the evaluating."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from xling.files.checksums import hash_file
from xling.records import summarize_records, write_records
from xling.study.settings import ACCURACY_LIMITS
from xling.tracking.logs import log_data_set, log_file, log_metrics, set_tags
from xling.tracking.runs import tracked_run

RECORDS_FILE = "records.parquet"


def log_evaluation(
    *,
    study: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    families: Mapping[str, str],
    records: pd.DataFrame | None = None,
    accuracy: Mapping[str, float] | None = None,
    known: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Log one evaluate run, from item records or from accuracies alone.

    Args:
        study: tag ``xling.study``.
        name: run name.
        params: logged under ``cfg.``; must hold model, arm, seed, reasoning and scoring.
        tags: logged under ``xling.``.
        families: language code to ``related``, ``control`` or ``source``.
        records: item records of this run (xling.records).
        accuracy: instead of records: proportion right by language code.
        known: with `accuracy`: what else is known of it, by language code: ``n_items``, ``stderr``
            (where it is not given it is the binomial one of n_items) and ``n_options``.

    Returns:
        The run's id.

    Raises:
        ValueError: neither or both of records and accuracies, or values that break the
            contract; nothing is logged then.
    """
    if (records is None) == (accuracy is None):
        raise ValueError(f"{name}: give either item records or accuracies")
    if records is not None:
        metrics = summarize_records(records, families)
    else:
        metrics = _accuracy_metrics(name, accuracy or {}, known or {}, families)
    with (
        tracked_run("evaluate", name=name, study=study, params=params, tags=tags) as run_id,
        TemporaryDirectory(prefix="xling-") as folder,
    ):
        if records is not None:
            _log_items(study, records)
            path = Path(folder) / RECORDS_FILE
            write_records(records, path)
            log_records_file(path)
        log_metrics(metrics)
    return run_id


def log_records_file(path: Path) -> None:
    """Log a records file to the active run, and its digest as ``xling.records_sha256``.

    Args:
        path: a file that xling.records.write_records made, called records.parquet.
    """
    log_file(path)
    set_tags({"records_sha256": hash_file(path)})


def _log_items(study: str, records: pd.DataFrame) -> None:
    """Log which items were answered, by a digest of their ids and right answers."""
    columns = ["language", "item_id", "passage_id", "gold"]
    for part, rows in records.groupby("part"):
        items = rows[columns].sort_values(columns[:2]).to_csv(index=False)
        log_data_set(
            name=study,
            sha256=hashlib.sha256(items.encode()).hexdigest(),
            source={"source": "item records"},
            context=str(part),
            languages=" ".join(sorted(rows["language"].unique())),
        )


def _accuracy_metrics(
    name: str,
    accuracy: Mapping[str, float],
    known: Mapping[str, Mapping[str, float]],
    families: Mapping[str, str],
) -> dict[str, float]:
    """Metrics of a run that has no item records; the error takes items as independent."""
    if not accuracy:
        raise ValueError(f"{name}: no language has an accuracy")
    metrics: dict[str, float] = {}
    for code, value in accuracy.items():
        if code not in families:
            raise ValueError(f"{name}: language {code} has no family")
        if not 0 <= value <= 1:  # NaN fails this too
            raise ValueError(
                f"{name}: accuracy {value} in {code} lies outside 0 to 1; give a proportion"
            )
        metrics[f"accuracy/{code}"] = float(value)
        given = {key: values[code] for key, values in known.items() if code in values}
        for key, number in given.items():
            least, most = ACCURACY_LIMITS[key]
            if not least <= number <= most:
                raise ValueError(
                    f"{name}: {key} {number} in {code}; give {least} to {most}, or none"
                )
        if "n_items" in given:
            given = {"stderr": math.sqrt(value * (1 - value) / given["n_items"]), **given}
        metrics |= {f"{key}/{code}": float(number) for key, number in given.items()}
    for family in ("related", "control"):
        members = [value for code, value in accuracy.items() if families[code] == family]
        if members:
            metrics[f"accuracy_family/{family}"] = float(sum(members) / len(members))
    return metrics
