"""A folder with a store, a study file and tiny models, where commands run as a user's would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from analysis.estimates import Estimate

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("arb_Arab", "arz_Arab")
TARGET = ("heb_Hebr", "mlt_Latn", "fra_Latn", "eng_Latn")
HELD_OUT = 8


def estimates_of(folder: Path) -> list[Estimate]:
    """The rows of an analysis's estimates.json."""
    text = (folder / "estimates.json").read_text(encoding="utf-8")
    return [Estimate(**row) for row in json.loads(text)]


class Place:
    """A folder with a store, a study file, and the environment that points at them."""

    def __init__(self, folder: Path, models: dict[str, Path], **changes: Any) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.study = folder / "tiny.yaml"
        self.settings = {
            "name": "tiny",
            "models": [{"id": str(path), "name": name} for name, path in models.items()],
            "data": {
                "source": "mini",
                "difficulties": [1],
                "split": "given",
                "held_out": HELD_OUT,
                "baseline_items": 4,
            },
            "languages": {"source": list(SOURCE), "target": list(TARGET), "branch": "Semitic"},
            "lora": {"r": 4, "alpha": 8},
            "training": {"batch_size": 8, "learning_rate": 1e-2},
            **changes,
        }
        self.write()

    def write(self, **training: object) -> None:
        self.settings["training"].update(training)
        for model in self.settings["models"]:
            model["training_items"] = 8
        self.study.write_text(yaml.safe_dump(self.settings))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "XDG_STATE_HOME": str(self.folder / "state"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def mlflow_run(self, entry_point: str, **parameters: object) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            str(ROOT),
            "-e",
            entry_point,
            "--env-manager",
            "local",
            "--experiment-name",
            "tiny",
        ]
        for key, value in parameters.items():
            command += ["-P", f"{key}={value}"]
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri, registry_uri=self.uri)

    def runs(self, kind: str) -> list:
        client = self.client()
        experiment = client.get_experiment_by_name("tiny")
        return list(client.search_runs([experiment.experiment_id], f"tags.`xling.kind` = '{kind}'"))
