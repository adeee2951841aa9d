"""An evaluate cell over a server gives the records of the same cell in this process."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from tests.place import Place
from tests.serving import TinyServer
from xling import tracking
from xling.execution import prepare_study, run_evaluate, run_finetune
from xling.execution.evaluate.engines import check_servers, connect_server
from xling.models import BaseModelCache
from xling.records import LOGPROB_COLUMNS, read_records
from xling.study import Cell
from xling.study.load import load_study

pytestmark = pytest.mark.slow

CODES = ("arb_Arab", "arz_Arab", "heb_Hebr", "fra_Latn")
HELD_OUT, TRAINING = 4, 2


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model) -> Place:
    return Place(
        tmp_path_factory.mktemp("server-study"),
        {"tiny": tiny_model("llama")},
        data={
            "source": "mini",
            "difficulties": [1],
            "split": "given",
            "held_out": HELD_OUT,
            "baseline_items": TRAINING,
        },
        languages={"source": list(CODES[:2]), "target": list(CODES[2:]), "branch": "Semitic"},
        chain_of_thought={"max_tokens": 8},
    )


@pytest.fixture(scope="module")
def bases() -> BaseModelCache:
    return BaseModelCache()


@pytest.fixture(scope="module")
def server(tiny_model):
    with TinyServer(tiny_model("llama")).running() as running:
        yield running


@pytest.fixture
def store(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    monkeypatch.chdir(place.folder)  # the store keeps artifacts in the working folder
    mlflow.set_tracking_uri(place.uri)
    tracking.open_store()
    yield
    mlflow.set_tracking_uri(None)


def prepared_of(place: Place, url: str = ""):
    """The study with its model in this process, or on a server."""
    (model,) = place.settings["models"]
    model["quantise"] = "none"
    model.update({"engine": "server", "server": {"url": url}} if url else {})
    place.write()
    for key in ("engine", "server"):
        model.pop(key, None)
    return prepare_study(load_study(str(place.study)))


def cell_of(prepared, arm: str, **how) -> Cell:
    return Cell(prepared.study.models[0], arm, 0, **how)


def table(run_id: str, name: str, folder: Path) -> pd.DataFrame:
    path = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))
    return read_records(path) if name == "records.parquet" else pd.read_parquet(path)


def compare(here: pd.DataFrame, there: pd.DataFrame) -> None:
    same = [name for name in here if name not in (*LOGPROB_COLUMNS, "answer_mass")]
    pd.testing.assert_frame_equal(here[same], there[same])
    gap = here[list(LOGPROB_COLUMNS)].to_numpy() - there[list(LOGPROB_COLUMNS)].to_numpy()
    assert np.abs(gap).max() < 1e-5  # batches move float32's last digits


@pytest.mark.parametrize(
    "how", [{}, {"scoring": "permuted"}, {"scoring": "cloze"}, {"reasoning": "cot"}]
)
def test_base_records_are_those_of_this_process(place, bases, server, store, tmp_path, how):
    server.reset(by_id=True)
    local, remote = prepared_of(place), prepared_of(place, server.url)
    here = run_evaluate(local, cell_of(local, "base", **how), bases, force=False)
    there = run_evaluate(remote, cell_of(remote, "base", **how), BaseModelCache(), force=False)
    compare(*(table(run, "records.parquet", tmp_path) for run in (here, there)))
    run = mlflow.get_run(there)
    params = {name.removeprefix("cfg."): value for name, value in run.data.params.items()}
    assert params["engine"] == params["device"] == "server"
    assert params["server.host"] in server.url and params["server.model"] == "tiny"
    assert params["server.answers"] == "by id" and "server.adapter" in params
    for code in CODES:
        assert run.data.metrics[f"bounded/{code}"] == 0.0
        assert run.data.metrics[f"accuracy/{code}"] == pytest.approx(
            mlflow.get_run(here).data.metrics[f"accuracy/{code}"]
        )
    rows = table(there, "server.parquet", tmp_path)
    training = 0 if "reasoning" in how else TRAINING
    assert len(rows) == len(CODES) * (HELD_OUT + training) and (rows["tries"] >= 1).all()
    server.seen.bodies.clear()
    again = run_evaluate(remote, cell_of(remote, "base", **how), BaseModelCache(), force=False)
    assert again == there and not server.seen.bodies


def test_bounded_labels_are_counted(place, server, store, tmp_path):
    server.reset(echo=False, most_listed=5)
    remote = prepared_of(place, server.url)
    run_id = run_evaluate(remote, cell_of(remote, "base"), BaseModelCache(), force=True)
    rows = table(run_id, "server.parquet", tmp_path)
    heldout = rows[(rows["part"] == "heldout") & (rows["language"] == "heb_Hebr")]
    share = (heldout["bounded_labels"] != "").mean()
    assert share > 0
    assert mlflow.get_run(run_id).data.metrics["bounded/heb_Hebr"] == pytest.approx(share)
    assert mlflow.get_run(run_id).data.params["cfg.server.answers"] == "top, bound"


def test_bounds_stay_out_of_calibration_and_below_one(place, server, store, tmp_path):
    server.reset(echo=False, most_listed=5)
    remote = prepared_of(place, server.url)
    cell = cell_of(remote, "base", scoring="permuted")
    run_id = run_evaluate(remote, cell, BaseModelCache(), force=True)
    metrics = mlflow.get_run(run_id).data.metrics
    assert all(metrics[f"bounded/{code}"] > 0 for code in CODES)
    assert not [name for name in metrics if name.startswith(("ece/", "position_", "recall_std"))]
    assert table(run_id, "records.parquet", tmp_path)["answer_mass"].max() <= 1
    before = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    with pytest.raises(ValueError, match="which scoring cloze needs"):
        run_evaluate(remote, cell_of(remote, "base", scoring="cloze"), BaseModelCache(), force=True)
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == before


def test_unfinished_work_of_one_server_is_not_another_s(place, server, store):
    server.reset()
    first = connect_server(prepared_of(place, server.url).study.models[0])
    with TinyServer(server.folder).running() as other:
        other.models, other.base = {"other": other.models["tiny"]}, "other"
        remote = prepared_of(place, other.url)
        second = connect_server(remote.study.models[0])
        check_servers(remote.study)
    assert second.served.base == "other"
    assert first.work_key("cell") != second.work_key("cell")
    assert first.work_key("cell") == connect_server(
        prepared_of(place, server.url).study.models[0]
    ).work_key("cell")
    with pytest.raises(ValueError, match="Start the server"):
        check_servers(remote.study)


def test_a_tuned_arm_is_answered_by_the_adapter_that_was_trained(place, server, store, tmp_path):
    server.reset()
    local, remote = prepared_of(place), prepared_of(place, server.url)
    cell = cell_of(local, "finetuned")
    run_finetune(local, cell, BaseModelCache(), fold=0, force=False)
    here = run_evaluate(local, cell, BaseModelCache(), force=False)
    before = mlflow.search_runs(search_all_experiments=True, output_format="list")
    with pytest.raises(ValueError, match="does not serve adapter 'tiny-finetuned-seed-0'"):
        run_evaluate(remote, cell_of(remote, "finetuned"), BaseModelCache(), force=False)
    after = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(before) == len(after)
    server.behaviour.loads = True
    tuned = cell_of(remote, "finetuned")
    there = run_evaluate(remote, tuned, BaseModelCache(), force=False)
    compare(*(table(run, "records.parquet", tmp_path) for run in (here, there)))
    assert list(server.models) == ["tiny"]
    adapter = mlflow.get_run(there).data.params["cfg.server.adapter"]
    assert adapter.startswith("tiny-finetuned-seed-0-")
