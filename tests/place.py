"""A folder with a store, a study file and tiny models, where commands run as a user's would."""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import yaml

from analysis.estimates import Estimate

if TYPE_CHECKING:
    from tests.reliability.study_processes import Zygote

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("arb_Arab", "arz_Arab")
TARGET = ("heb_Hebr", "mlt_Latn", "fra_Latn", "eng_Latn")
HELD_OUT = 8


def estimates_of(folder: Path) -> list[Estimate]:
    """The rows of an analysis's estimates.json."""
    text = (folder / "estimates.json").read_text(encoding="utf-8")
    return [Estimate(**row) for row in json.loads(text)]


@functools.cache
def _empty_store() -> bytes:
    from mlflow.store.db import utils

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")
        utils._initialize_tables(engine)
        engine.dispose()
        return path.read_bytes()


def make_store(path: Path) -> str:
    """Write a new SQLite store to `path`, and return its URI.

    Its tables are a copy of those that MLflow made once in this process: that takes it seconds,
    and a store without them is opened in tests/reliability/test_concurrency.py.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_store())
    return f"sqlite:///{path}"


class Place:
    """A folder with a store, a study file, and the environment that points at them."""

    def __init__(self, folder: Path, models: dict[str, Path], **changes: Any) -> None:
        self.folder = folder
        self.uri = make_store(folder / "mlflow.db")
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

    def run(
        self, zygote: Zygote, entry_point: str, **parameters: object
    ) -> subprocess.CompletedProcess[str]:
        """Run the command that `mlflow run` would, in a process that has the libraries loaded."""
        from mlflow.projects._project_spec import load_project

        given = {key: str(value) for key, value in parameters.items()}
        text = load_project(str(ROOT)).get_entry_point(entry_point).compute_command(given, None)
        python, option, module, *words = shlex.split(text)
        assert (python, option, module) == ("python", "-m", f"entrypoints.{entry_point}")
        environment = {**self.environment, "MLFLOW_EXPERIMENT_NAME": "tiny"}
        return zygote.complete([entry_point, *words], environment, folder=self.folder)

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri, registry_uri=self.uri)

    def runs(self, kind: str) -> list:
        client = self.client()
        experiment = client.get_experiment_by_name("tiny")
        return list(client.search_runs([experiment.experiment_id], f"tags.`xling.kind` = '{kind}'"))


@contextmanager
def served(place: Place, uri: str) -> Iterator[str]:
    """Serve a registered model over HTTP as a user would; gives the address that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", uri,
        "--port", str(port),
    ]  # fmt: skip
    log = place.folder / "serve.log"
    # From elsewhere, so that the model's own copy of the code is what runs.
    with log.open("wb") as sink:
        server = subprocess.Popen(
            command, env=place.environment, cwd="/", stdout=sink, stderr=sink,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
