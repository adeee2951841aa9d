"""Logs what runs did: to the outbox, and from there to the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.utils.validation import MAX_INPUT_TAG_VALUE_SIZE

from xling.tracking.runs import active_entry, log_operation, now

BATCH = 1000


def set_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the active run under ``xling.``."""
    log_operation({"do": "batch", "tags": {f"xling.{key}": value for key, value in tags.items()}})


def log_metrics(metrics: Mapping[str, float], *, model_id: str = "") -> None:
    """Log metrics of the active run in one call.

    Args:
        metrics: values by name.
        model_id: logged model that they belong to; empty: none.
    """
    if metrics:
        rows = [[key, float(value), now(), 0] for key, value in metrics.items()]
        log_operation({"do": "batch", "metrics": rows, "model": model_id})


def log_curve(rows: Sequence[Mapping[str, float]]) -> None:
    """Log a learning curve of the active run: each row has ``step`` and metrics."""
    time = now()
    entries = [
        [f"train/{key}", float(value), time, int(row["step"])]
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    for start in range(0, len(entries), BATCH):
        log_operation({"do": "batch", "metrics": entries[start : start + BATCH]})


def log_file(path: Path, folder: str = "") -> None:
    """Log a file or a folder's content as artifacts of the active run."""
    log_operation({"do": "file", "path": active_entry().keep(path), "target": folder})


def log_text(text: str, name: str) -> None:
    """Log text as an artifact of the active run."""
    folder, _, file = name.rpartition("/")
    log_operation({"do": "file", "path": active_entry().keep_text(text, file), "target": folder})


def log_json(content: Any, name: str) -> None:
    """Log a JSON document as an artifact of the active run."""
    log_text(json.dumps(content, indent=2, ensure_ascii=False), name)


def log_data_set(
    *, name: str, sha256: str, source: Mapping[str, str], context: str, languages: str = ""
) -> None:
    """Log what data the active run used, by digest; no rows are sent.

    Args:
        name: of the data set.
        sha256: of its content.
        source: where it came from.
        context: ``training``, ``heldout`` or ``all``.
        languages: codes, separated by spaces.
    """
    origin = CodeDatasetSource({**source, "sha256": sha256})
    data_set = MetaDataset(origin, name=name, digest=sha256[:36]).to_dict()
    keys = ("name", "digest", "source_type", "source", "schema", "profile")
    tags = {"mlflow.data.context": context, "sha256": sha256}
    log_operation(
        {
            "do": "input",
            "dataset": {key: data_set.get(key) for key in keys},
            "tags": tags | ({"languages": _listed(languages.split())} if languages else {}),
        }
    )


def _listed(codes: Sequence[str]) -> str:
    """Join codes, so far as MLflow takes them in a tag of an input; say how many are left out."""
    kept = list(codes)
    while len(text := _with_rest(kept, len(codes))) > MAX_INPUT_TAG_VALUE_SIZE:
        kept.pop()
    return text


def _with_rest(kept: Sequence[str], n: int) -> str:
    return " ".join(kept) if len(kept) == n else f"{' '.join(kept)} and {n - len(kept)} more"
