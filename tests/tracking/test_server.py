"""Against a real tracking server process, up, gone in the middle, and back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from tests.tracking_servers import running_server

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("arb_Arab", "heb_Hebr", "fra_Latn")

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path):
    with running_server(tmp_path / "server") as made:
        yield made


def test_results_outlive_a_server_that_goes_away(server, tiny_model, tmp_path):
    study = tmp_path / "tiny.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "models": [{"id": str(tiny_model("llama")), "name": "tiny-llama"}],
                "data": {"source": "mini", "split": "given", "held_out": 100},
                "languages": {
                    "source": [LANGUAGES[0]], "target": list(LANGUAGES[1:]), "branch": "Semitic",
                },
            }
        )
    )  # fmt: skip
    state = tmp_path / "state"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "XDG_STATE_HOME": str(state),
    }
    command = [sys.executable, "-m", "entrypoints.evaluate", "--study", str(study)]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not list(state.glob("xling/*/all/*_*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(state.glob("xling/*/all/*_*.parquet"))
    server.kill()
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 1, errors[-3000:]
    assert f"the tracking store {server.uri} does not answer" in errors
    assert re.search(r"1 run waits \(.* MB\) in " + re.escape(str(state)), errors)
    assert "evaluate tiny-llama/base/seed-0: FINISHED" in errors
    assert "fra_Latn  control" in output  # what the store does not say yet
    computed = {path: path.stat().st_mtime_ns for path in state.glob("xling/*/all/*_*.parquet")}
    assert {path.stem for path in computed} == set(LANGUAGES)

    refused = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert f"tracking server {server.uri} does not answer" in refused.stderr

    server.start()
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fra_Latn  control" in done.stdout
    assert "1 run that waited for the store: sent" in done.stderr
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("xling")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {path: path.stat().st_mtime_ns for path in computed} == computed  # sent, not repeated
