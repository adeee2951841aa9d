"""A job comes back from its file as it was, and the worker's old name runs it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.place import ROOT
from tests.training_jobs import EXAMPLES, SHORT, read
from xling.training.batching import MemoryUse
from xling.training.job import read_job, write_job


@pytest.mark.parametrize("rate", [2e-4, math.nextafter(2e-4, 1), math.nextafter(2e-4, 0), 1 / 3])
def test_a_job_is_read_as_it_was_written(training_jobs, tmp_path, rate):
    job = training_jobs.make(f"rate-{rate.hex()}", processes=2, parallel="ddp")
    training = SHORT.model_copy(update={"learning_rate": rate, "gradient_checkpointing": "auto"})
    memory = MemoryUse(True, plain_copy=False, pass_rows=3, pass_tokens=100)
    for changed in (job, replace(job, training=training, memory=memory)):
        write_job(changed, EXAMPLES, tmp_path / "job.json")
        assert read_job(tmp_path / "job.json") == (changed, EXAMPLES)


@pytest.mark.slow
def test_a_command_that_names_the_worker_as_before_trains(training_jobs):
    job = training_jobs.make("old-name", processes=1)
    job = replace(job, training=SHORT)
    logs = training_jobs.folder / "old-name-logs"
    logs.mkdir()
    write_job(job, EXAMPLES, logs / "job.json")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node=1", "-m", "xling.distributed.worker", logs / "job.json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read(Path(job.target), "report")["steps"] == 4
