"""What runs log, through a tracking server that fails in every way, at seeded places."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.reliability.stores import describe_store
from tests.tracking_servers import Proxy, Server, running_server
from xling import tracking
from xling.tracking.outbox import connection
from xling.tracking.outbox.entry import entries

pytestmark = pytest.mark.slow

SEEDS = 3 * int(os.environ.get("XLING_SOAK", "1"))
FAULTS = ("refuse", "error", "lose", "slow")
EXPERIMENT = "faults"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch, request) -> Iterator[Proxy]:
    """A way to the server that can fail; MLflow's own tries are quick."""
    made = Proxy(server.uri)
    made.delay = 0.2
    made.open()
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_EXPERIMENT_NAME": f"{EXPERIMENT}-{request.node.name}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(connection, "FIRST_PAUSE", 0.05)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(made.uri)
    yield made
    made.close()
    mlflow.set_tracking_uri(None)
    connection.connection_to.cache_clear()


def log_a_study(folder: Path) -> None:
    """A study as its cells log it: adapter, records, metrics that belong to the adapter."""
    adapter = folder / "trained" / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    save_file({"lora.weight": torch.arange(8.0)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    records = folder / "records.parquet"
    records.write_bytes(b"PAR1" + bytes(range(256)) * 8 + b"PAR1")
    run = {"study": "s", "params": {"a": 1, "b": {"c": "d"}}}
    with tracking.tracked_run("study", name="study", **run, tags={"command": "x"}):
        tracking.log_text("name: s\n", "study.yaml")
        with tracking.tracked_run(
            "finetune", name="finetune", **run, tags={"fingerprint": "f" * 64}
        ) as finetuned:
            tracking.log_data_set(name="d", sha256="a" * 64, source={"source": "m"}, context="all")
            tracking.log_curve([{"step": n, "loss": 1.0 / n} for n in range(1, 6)])
            model_id = tracking.log_adapter(
                adapter, settings={"weights": "w", "model": "m"}, example="1"
            )
            tracking.set_tags({"logged_model": model_id})
        known = tracking.find_finished("f" * 64, kind="finetune", study="s")
        assert known is not None and known.run_id == finetuned
        fetched = tracking.fetch_adapter(finetuned, folder / "fetched", at_hand=adapter)
        assert fetched.model_id == model_id
        with tracking.tracked_run(
            "evaluate", name="evaluate", **run, tags={"fingerprint": "e" * 64}
        ):
            tracking.log_file(records)
            tracking.log_metrics({"accuracy/heb_Hebr": 0.25}, model_id=fetched.model_id)
            tracking.set_tags({"logged_model": fetched.model_id})
        tracking.log_metrics({"cells_finished": 2})


def in_store(server: Server, proxy: Proxy) -> list:
    return describe_store(server.uri, os.environ["MLFLOW_EXPERIMENT_NAME"])


@pytest.fixture
def undisturbed(server: Server, proxy: Proxy, tmp_path: Path, monkeypatch) -> list:
    name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"{name}-undisturbed")
    tracking.open_store()
    log_a_study(tmp_path / "undisturbed")
    expected = in_store(server, proxy)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    assert [run["name"] for run in expected] == ["evaluate", "finetune", "study"]
    (model,) = next(run["models"] for run in expected if run["name"] == "finetune")
    assert ("accuracy/heb_Hebr", 0.25) in model["metrics"] and "MLmodel" in model["files"]
    return expected


def test_faults_at_seeded_requests_lose_nothing_and_double_nothing(
    server, proxy, undisturbed, tmp_path, monkeypatch, caplog
):
    name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    faults: list[str] = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"{name}-{seed}")
        monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"state-{seed}"))
        connection.connection_to.cache_clear()
        proxy.fault = lambda *request: ""
        tracking.open_store()
        begun = False

        def fault(number: int, method: str, path: str) -> str:
            nonlocal begun
            if not begun:  # the outermost run must begin
                begun = path.endswith("/runs/log-batch")
                return ""
            return str(rng.choice(FAULTS)) if rng.random() < 0.3 else ""  # noqa: B023

        proxy.fault = fault
        first = len(proxy.seen)
        log_a_study(tmp_path / f"work-{seed}")
        faults += [each[2] for each in proxy.seen[first:] if each[2]]
        proxy.fault = lambda *request: ""
        tracking.sync_store()
        assert tracking.account().lines == (), seed
        assert in_store(server, proxy) == undisturbed, seed
        before = len(proxy.seen)
        assert tracking.sync_store() == 0  # once is enough
        assert not [each for each in proxy.seen[before:] if each[0] != "GET"]
    assert len(faults) > 4 * SEEDS and set(faults) == set(FAULTS)
    print(f"{SEEDS} studies, {len(faults)} faults")


def test_a_server_that_is_gone_holds_back_what_sync_sends(server, proxy, undisturbed, tmp_path):
    tracking.open_store()
    with tracking.tracked_run("study", name="outer", study="s", params={}, tags={}):
        proxy.close()
        log_a_study(tmp_path)
        lines = tracking.account().lines
        assert lines[0].startswith("3 runs wait (") and proxy.uri in lines[0]
        assert [line.split(":")[0].strip() for line in lines[1:4]] == [
            "study", "finetune", "evaluate",
        ]  # fmt: skip
        assert "-e sync" in lines[4]
        with pytest.raises(tracking.StoreUnavailable, match="does not answer"):
            tracking.sync_store()
        proxy.open()
    # The outer run's end reached the store, and took with it what waited.
    assert tracking.account().lines == ()
    runs = [run for run in in_store(server, proxy) if run["name"] != "outer"]
    for run in runs:
        run["tags"] = {k: v for k, v in run["tags"].items() if k != "mlflow.parentRunId"}
    for run in undisturbed:
        run["tags"].pop("mlflow.parentRunId", None)
    assert len(runs) == 3
    key = repr
    assert sorted(runs, key=key) == sorted(undisturbed, key=key)


def test_a_run_that_the_store_refuses_for_good_keeps_no_other_from_it(
    server, proxy, tmp_path, caplog
):
    caplog.set_level(logging.WARNING)
    tracking.open_store()
    client = mlflow.MlflowClient()
    with tracking.tracked_run("study", name="outer", study="s", params={}, tags={}):
        with tracking.tracked_run("evaluate", name="deleted", study="s", params={}, tags={}) as run:
            client.delete_run(run)
            tracking.log_metrics({"a": 1.0})
        with tracking.tracked_run("evaluate", name="after", study="s", params={}, tags={}):
            tracking.log_metrics({"a": 1.0})
    assert {run["name"]: run["status"] for run in in_store(server, proxy)} == {
        "outer": "FINISHED", "after": "FINISHED",
    }  # fmt: skip
    assert "refuses run 'deleted'" in caplog.text
    (waits,) = [line for line in tracking.account().lines if line.startswith("  ")]
    assert waits.startswith("  deleted: FINISHED; ") and "deleted" in waits
    client.restore_run(run)
    assert tracking.sync_store() == 1
    assert tracking.account().lines == ()


def test_nothing_begins_where_the_outermost_run_cannot(server, proxy, tmp_path):
    tracking.open_store()
    proxy.fault = lambda number, method, path: "error" if path.endswith("runs/create") else ""
    with (
        pytest.raises(tracking.StoreUnavailable, match="takes no run in experiment"),
        tracking.tracked_run("study", name="outer", study="s", params={}, tags={}),
    ):
        pytest.fail("the block must not begin")
    assert entries(connection.outbox()) == []


def test_a_finished_run_that_another_machine_made_meanwhile_is_not_doubled(
    server, proxy, tmp_path, monkeypatch
):
    tags = {"fingerprint": "c" * 64}
    run = {"name": "cell", "study": "s", "params": {}, "tags": tags}
    tracking.open_store()
    with tracking.tracked_run("study", name="outer", study="s", params={}, tags={}):
        proxy.close()
        with tracking.tracked_run("evaluate", **run) as here:
            tracking.log_metrics({"a": 1.0})
        with tracking.tracked_run("evaluate", **{**run, "name": "repeated"}, again=True):
            tracking.log_metrics({"a": 1.0})
        there = mlflow.MlflowClient(server.uri)
        experiment = there.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
        other = there.create_run(
            experiment.experiment_id, run_name="cell elsewhere",
            tags={"xling.fingerprint": "c" * 64, "xling.kind": "evaluate", "xling.study": "s"},
        )  # fmt: skip
        there.set_terminated(other.info.run_id)
        proxy.open()
        assert tracking.delivered([here]) == {here: other.info.run_id}
    names = sorted(run["name"] for run in in_store(server, proxy))
    assert names == ["cell elsewhere", "outer", "repeated"]


def test_a_port_that_nothing_listens_on_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        mlflow.set_tracking_uri(f"http://127.0.0.1:{unused.getsockname()[1]}")
        try:
            with pytest.raises(tracking.StoreUnavailable, match=r"127\.0\.0\.1"):
                tracking.sync_store()
        finally:
            mlflow.set_tracking_uri(None)
