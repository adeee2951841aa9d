"""A tiny study, run by commands in new processes, and all that it left behind."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.place import ROOT, Place
from tests.reliability.study_processes import Zygote
from xling.records import read_records

# What a clock or the machine's memory decides, and no result.
MEASURED = ("system/", "tokens_per_second", "train_seconds", "peak_memory_bytes")
# Files that name runs, whose ids are drawn.
NAMING_RUNS = ("report.html", "runs.json", "summary.txt")


class Repetition:
    """A study in a folder of its own, and the environment of its commands."""

    def __init__(self, place: Place, *, cwd: Path, **environment: str) -> None:
        self.place = place
        self.cwd = cwd
        self.environment = {
            **place.environment,
            "MLFLOW_EXPERIMENT_NAME": "tiny",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(place.folder / "cache"),
            **environment,
        }

    def run(
        self,
        entry_point: str,
        *,
        zygote: Zygote | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> str:
        """Run a command of the study, in a new interpreter if there is no zygote.

        Returns:
            What it wrote.
        """
        named = {"study": self.place.study, **options}
        words = [word for key, value in named.items() for word in (f"--{key}", str(value))]
        if zygote is not None:
            done = zygote.complete(
                [entry_point, *words], {**self.environment, **(environment or {})}, folder=self.cwd
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout
        done = subprocess.run(
            [sys.executable, "-m", f"entrypoints.{entry_point}", *words],
            env={**self.environment, **(environment or {})},
            cwd=self.cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@dataclass(frozen=True)
class Run:
    """A run as the store has it, with its files on this machine."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    folder: Path

    @property
    def files(self) -> dict[str, str]:
        """sha256 of its artifacts by path, but of those that name runs."""
        hashes = file_hashes(self.folder)
        return {name: value for name, value in hashes.items() if name not in NAMING_RUNS}

    @property
    def results(self) -> dict[str, float]:
        """Its metrics, but for those that a clock decides."""
        return {key: v for key, v in self.metrics.items() if not key.startswith(MEASURED)}

    @property
    def records(self) -> pd.DataFrame:
        """Its item records."""
        return read_records(self.folder / "records.parquet")


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file below a folder, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def logged_runs(place: Place, folder: Path) -> dict[str, Run]:
    """Newest finished run of each name, with its files fetched below `folder`."""
    client = place.client()
    experiment = client.get_experiment_by_name("tiny")
    found: dict[str, Run] = {}
    for run in client.search_runs(
        [experiment.experiment_id],
        "attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    ):
        if run.info.run_name not in found:
            target = folder / run.info.run_id
            target.mkdir(parents=True)
            client.download_artifacts(run.info.run_id, "", str(target))
            found[run.info.run_name] = Run(
                dict(run.data.params), dict(run.data.metrics), dict(run.data.tags), target
            )
    return found


def logged_adapter(place: Place, run: Run, folder: Path) -> Path:
    """Fetches the adapter of a finetune run, PEFT's files alone."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True)
    logged = place.client().get_logged_model(run.tags["xling.logged_model"])
    model = download_artifacts(artifact_uri=logged.artifact_location, dst_path=str(folder))
    return Path(model) / "artifacts" / "adapter"
