"""What a store holds, in a form that can be compared: ids and times left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

# Ids, times and machines differ between two stores that hold the same.
VARYING = ("xling.entry", "xling.process", "xling.process_started", "xling.command")


def describe_store(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Every run of an experiment with all that it has; ids are replaced by run names."""
    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id], run_view_type=ViewType.ACTIVE_ONLY))
    names = {run.info.run_id: run.info.run_name for run in runs}
    models = list(client.search_logged_models([found.experiment_id]))
    names |= {model.model_id: f"model of {names[model.source_run_id]}" for model in models}
    described = [_describe(client, run, names, models) for run in runs]
    return sorted(described, key=lambda run: (run["name"], json.dumps(run, sort_keys=True)))


def _describe(
    client: MlflowClient, run: Any, names: dict[str, str], models: list[Any]
) -> dict[str, Any]:
    metrics = {
        key: [
            (point.value, point.step) for point in client.get_metric_history(run.info.run_id, key)
        ]
        for key in run.data.metrics
        if not key.startswith("system/")
    }
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": {key: _named(value, names) for key, value in run.data.params.items()},
        "tags": {
            key: _named(value, names)
            for key, value in run.data.tags.items()
            if key not in VARYING and not key.startswith("mlflow.source")
        },
        "metrics": metrics,
        "inputs": sorted(each.dataset.digest for each in run.inputs.dataset_inputs),
        "artifacts": _artifacts(client, run.info.run_id),
        "models": [
            {
                "name": model.name,
                "status": str(model.status),
                "metrics": sorted((m.key, m.value) for m in model.metrics or ()),
                "files": sorted(
                    each.path for each in client.list_logged_model_artifacts(model.model_id)
                ),
            }
            for model in models
            if model.source_run_id == run.info.run_id
        ],
    }


def _named(value: str, names: dict[str, str]) -> str:
    for known, name in names.items():
        value = value.replace(known, name)
    return value


def _artifacts(client: MlflowClient, run_id: str, folder: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in client.list_artifacts(run_id, folder or None):
        if entry.is_dir:
            found |= _artifacts(client, run_id, entry.path)
        else:
            content = Path(client.download_artifacts(run_id, entry.path)).read_bytes()
            found[entry.path] = hashlib.sha256(content).hexdigest()
    return found
