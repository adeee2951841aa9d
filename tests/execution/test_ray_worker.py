"""What a worker process does before its unit, where the tracking store is silent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.place import ROOT

SCRIPT = """
import os, sys
from xling.execution.ray.worker import Assignment, work
from xling.execution.units import Unit
from xling.study import Cell
from xling.study.settings import ModelSettings
from xling.tracking import StoreUnavailable
from xling.tracking.remote import ParentRun

unit = Unit((Cell(ModelSettings(id="gemma3-270m"), "base", 0),), first=1, total=1)
parent = ParentRun("0" * 32, "0", {}, uri=sys.argv[1])
try:
    work(None, unit, Assignment(parent, ".", force=False, log_level=30, gpus=int(sys.argv[2])))
except StoreUnavailable as error:
    print(os.environ["CUDA_VISIBLE_DEVICES"] or "none", error)
"""


@pytest.mark.parametrize(("gpus", "seen"), [(0, "none"), (1, "3")])
def test_a_unit_without_gpus_sees_none_and_a_silent_store_is_named(gpus, seen, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
            "CUDA_VISIBLE_DEVICES": "3",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, uri, str(gpus)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{seen} tracking store http://***@127.0.0.1")
    assert "secret" not in done.stdout
