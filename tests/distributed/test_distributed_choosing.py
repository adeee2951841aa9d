from __future__ import annotations

import json

import pytest

from xling.execution.run_study import check_processes
from xling.models.catalog import Recipe, catalog
from xling.study import Study
from xling.study.load import parse_study

SETTINGS = {
    "name": "small",
    "data": {"source": "mini"},
    "languages": {"source": ["arb_Arab"], "target": ["heb_Hebr", "fra_Latn"], "branch": "Semitic"},
}


def study(model, **changes) -> Study:
    return parse_study(json.dumps(SETTINGS | {"models": [model]} | changes), where="small")


def test_processes_that_cannot_share_a_step_are_refused_with_the_study():
    three = {"id": "gemma3-270m", "processes": 3}
    with pytest.raises(ValueError, match="model gemma3-270m: batch_size 16 cannot be shared equa"):
        study(three, training={"batch_size": 16})
    study(three, training={"batch_size": 18})
    study(three, training={"batch_size": 16}, arms=["base"])  # nothing is trained


def test_catalogs_processes_are_checked_where_there_are_gpus(monkeypatch):
    pair = Recipe("pair", repository="owner/pair", gpus=2, processes=2)
    monkeypatch.setattr("xling.models.weights.find.catalog", lambda: catalog() | {"pair": pair})
    odd = study("pair", training={"batch_size": 15})
    check_processes(odd)  # without GPUs one process trains
    monkeypatch.setattr("xling.training.processes._gpus_here", lambda: 2)
    with pytest.raises(ValueError, match="model pair: batch_size 15 cannot be shared"):
        check_processes(odd)
    check_processes(study("pair", training={"batch_size": 16}))


def test_torchruns_processes_are_checked(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"model gemma3-270m: .* 4 processes do not divide it"):
        check_processes(study("gemma3-270m", training={"batch_size": 6}))
