from __future__ import annotations

from pathlib import Path

import pytest

from tests.training_jobs import TrainingJobs


@pytest.fixture(scope="session")
def training_jobs(tiny_model, tmp_path_factory) -> TrainingJobs:
    """Jobs on one tiny model, and what became of those that were run already."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    return TrainingJobs(tiny_model("llama"), folder)
