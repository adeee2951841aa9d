"""What a study came to, in a form that must be the same however often it was interrupted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from tests.place import Place

CELLS = ("prepare", "finetune", "evaluate")


def outcome_of(place: Place, downloads: Path) -> dict[str, Any]:
    """Records, adapters and estimates of a study's finished runs; exact values."""
    client = place.client()
    finished = {kind: _finished(place, kind) for kind in (*CELLS, "analyze")}
    records = {}
    for run in finished["evaluate"]:
        path = client.download_artifacts(run.info.run_id, "records.parquet", str(_new(downloads)))
        records[run.info.run_name] = pd.read_parquet(path).to_dict("list")
    adapters = {}
    for run in finished["finetune"]:
        model = client.get_logged_model(run.data.tags["xling.logged_model"])
        assert str(model.status) == "READY"
        adapters[run.info.run_name] = model.params["files_sha256"]
    newest = max(finished["analyze"], key=lambda run: run.info.start_time)
    path = client.download_artifacts(newest.info.run_id, "estimates.json", str(_new(downloads)))
    return {
        "cells": sorted(run.info.run_name for kind in CELLS for run in finished[kind]),
        "records": records,
        "metrics": {
            run.info.run_name: {key: value for key, value in run.data.metrics.items() if "/" in key}
            for run in finished["evaluate"]
        },
        "adapters": adapters,
        "estimates": json.loads(Path(path).read_text()),
    }


def statuses(place: Place) -> Counter[str]:
    """How many runs of the experiment there are of each status."""
    client = place.client()
    experiment = client.get_experiment_by_name("tiny")
    return Counter(run.info.status for run in client.search_runs([experiment.experiment_id]))


def versions(place: Place, name: str) -> list[tuple[int, str]]:
    """Versions of a registered model, and the logged model of each."""
    found = place.client().search_model_versions(f"name = '{name}'")
    return sorted((int(each.version), each.source) for each in found)


def _finished(place: Place, kind: str) -> list[Any]:
    return [run for run in place.runs(kind) if run.info.status == "FINISHED"]


def _new(downloads: Path) -> Path:
    folder = downloads / str(len(list(downloads.iterdir())) if downloads.is_dir() else 0)
    folder.mkdir(parents=True)
    return folder
