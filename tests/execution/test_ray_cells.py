"""A study on a real Ray cluster of two worker nodes, tiny models, and a real store."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.place import ROOT, Place
from xling import tracking
from xling.execution import prepare_study, run_cells
from xling.execution.ray.cluster import connected
from xling.execution.ray.resources import Needs
from xling.execution.ray.scheduler import _Tasks
from xling.execution.ray.worker import Assignment
from xling.execution.run_study import StudyOutcome
from xling.execution.units import study_units
from xling.records import read_records
from xling.study.load import load_study
from xling.tracking.remote import ParentRun

LIMIT = 4
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two nodes with a core and, they say, a GPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster as LocalCluster

        node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 100 * MEBIBYTE}
        made = LocalCluster(
            initialize_head=True, head_node_args={**node, "include_dashboard": False}
        )
        made.add_node(**node)
        yield made.address
        made.shutdown()


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, and one whose weights are whole files that do not fit its configuration."""
    from safetensors.numpy import load_file, save_file

    broken = tmp_path_factory.mktemp("broken") / "broken"
    shutil.copytree(tiny_model("llama"), broken)
    (path,) = broken.glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file(tensors | {name: tensors[name][1:].copy()}, path, metadata={"format": "pt"})
    return {"good": tiny_model("llama"), "broken": broken}


def make_place(folder: Path, models: dict[str, Path]) -> Place:
    folder.mkdir()
    place = Place(folder, models)
    for model in place.settings["models"]:
        model["quantise"] = "none"
    place.write()
    return place


def enter(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process one that was started in the place."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(place.folder / "state"))


def run_study(place: Place, execution: str) -> StudyOutcome:
    prepared = prepare_study(load_study(str(place.study)), limit=LIMIT)
    tracking.open_store()
    with tracking.tracked_run("study", name="study", study=prepared.study.name, params={}, tags={}):
        return run_cells(prepared, execution=execution)


def statuses(place: Place) -> dict[str, list[str]]:
    return {
        kind: sorted(run.info.status for run in place.runs(kind))
        for kind in ("study", "prepare", "finetune", "evaluate")
    }


def artifacts(place: Place, run_id: str, folder: Path) -> Path:
    folder.mkdir()
    return Path(place.client().download_artifacts(run_id, "", str(folder)))


@pytest.mark.slow
def test_ray_gives_what_one_process_gives_and_records_a_broken_model(
    cluster, models, tmp_path, monkeypatch, zygote
):
    over_ray = make_place(tmp_path / "ray", models)
    environment = {
        **over_ray.environment,
        "RAY_ADDRESS": cluster,
        "MLFLOW_EXPERIMENT_NAME": "tiny",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    words = ["--study", str(over_ray.study), "--limit", str(LIMIT), "--execution", "ray"]
    done = zygote.complete(["main", *words], environment, folder=over_ray.folder, drawn=False)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "broken/base/seed-0: " in done.stderr
    assert "broken/finetuned/seed-0: " in done.stderr
    assert "item/s" not in done.stderr  # workers show no bars
    (study,) = over_ray.runs("study")
    assert study.info.status == "FAILED"
    assert study.data.metrics["cells_finished"] == 2
    assert study.data.metrics["cells_failed"] == 2
    for kind in ("finetune", "evaluate"):
        for run in over_ray.runs(kind):
            assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
            assert run.data.tags["xling.host"] == socket.gethostname()
            assert int(run.data.tags["xling.process"]) != os.getpid()
            good = run.data.params["cfg.model"] == "good"
            assert run.info.status == ("FINISHED" if good else "FAILED")
            assert good or run.data.tags["xling.error"]

    here = make_place(tmp_path / "local", {"good": models["good"]})
    enter(here, monkeypatch)
    outcome = run_study(here, "local")
    assert not outcome.failures
    for cell, run_id in outcome.evaluated.items():
        (twin,) = [
            run
            for run in over_ray.runs("evaluate")
            if (run.data.params["cfg.model"], run.data.params["cfg.arm"]) == ("good", cell.arm)
        ]
        tags = here.client().get_run(run_id).data.tags
        if cell.arm == "base":  # an adapter's identity is its logged model's id
            assert twin.data.tags["xling.fingerprint"] == tags["xling.fingerprint"]
        tables = [
            read_records(artifacts(place, each, tmp_path / each) / "records.parquet")
            for place, each in ((here, run_id), (over_ray, twin.info.run_id))
        ]
        numbers = [f"logprob_{label}" for label in range(1, 5)]
        assert np.abs(tables[0][numbers] - tables[1][numbers]).max().max() <= 1e-6
        assert (
            tables[0]
            .drop(columns=[*numbers, "answer_mass"])
            .equals(tables[1].drop(columns=[*numbers, "answer_mass"]))
        )
    trained = [
        next(run for run in place.runs("finetune") if run.data.params["cfg.model"] == "good")
        for place in (here, over_ray)
    ]
    assert len({run.data.tags["xling.fingerprint"] for run in trained}) == 1
    first, second = (adapter_tensors(place) for place in (here, over_ray))
    assert first.keys() == second.keys() and first
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=0, atol=1e-6)


def adapter_tensors(place: Place) -> dict[str, np.ndarray]:
    """The adapter that the place's only finished training left on its disk."""
    from safetensors.numpy import load_file

    (path,) = (place.folder / "state").glob("xling/*/trained/adapter/adapter_model.safetensors")
    return load_file(path)


@pytest.mark.slow
def test_a_primer_that_two_workers_need_at_once_is_trained_once(
    cluster, models, tmp_path, monkeypatch
):
    place = make_place(tmp_path / "primed", {"good": models["good"]})
    primed = {"languages": ["eng_Latn"], "steps": 4, "labels": True}
    (model,) = place.settings["models"]
    place.settings["models"] = [model, {**model, "name": "good-primed", "primed": primed}]
    place.settings["data"]["baseline_items"] = 1  # of the few that LIMIT leaves
    place.write()
    enter(place, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    outcome = run_study(place, "ray")
    assert not outcome.failures
    assert len(outcome.evaluated) == 4
    trained = [(run.data.params["cfg.model"], run.data.params["cfg.arm"], run.info.status)
               for run in place.runs("finetune")]  # fmt: skip
    assert sorted(trained) == [
        ("good", "finetuned", "FINISHED"),
        ("good-primed", "finetuned", "FINISHED"),
        ("good-primed", "primer", "FINISHED"),
    ]


@pytest.mark.slow
def test_the_cell_of_a_killed_worker_is_tried_again(cluster, models, tmp_path, monkeypatch, capfd):
    place = make_place(tmp_path / "killed", {"good": models["good"]})
    place.write(epochs=120, checkpoints=60)
    enter(place, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    killed: list[int] = []
    thread = threading.Thread(target=kill_when_training, args=(place, killed), daemon=True)
    thread.start()
    outcome = run_study(place, "ray")
    thread.join(10)
    assert len(killed) == 1
    assert not outcome.failures
    assert {cell.arm for cell in outcome.evaluated} == {"base", "finetuned"}
    found = statuses(place)
    assert found["evaluate"] == ["FINISHED", "FINISHED"]
    assert found["finetune"] == ["FINISHED", "KILLED"]
    (lost,) = [run for run in place.runs("finetune") if run.info.status == "KILLED"]
    assert lost.data.tags["xling.process"] == str(killed[0])
    assert "worker was lost" in lost.data.tags["xling.error"]
    (again,) = [run for run in place.runs("finetune") if run.info.status == "FINISHED"]
    assert again.data.tags["xling.process"] != str(killed[0])
    assert again.data.tags["xling.fingerprint"] == lost.data.tags["xling.fingerprint"]


def kill_when_training(place: Place, killed: list[int]) -> None:
    """Kills, as the kernel does when memory runs out, the process that trains."""
    deadline = time.monotonic() + 600
    state = place.folder / "state" / "xling"
    while time.monotonic() < deadline and not killed:
        time.sleep(0.05)
        if not list(state.glob("*/checkpoints/checkpoint-*")):
            continue
        for run in place.runs("finetune"):
            if run.info.status == "RUNNING":
                killed.append(int(run.data.tags["xling.process"]))
                os.kill(killed[0], signal.SIGKILL)
                return


@pytest.mark.slow
def test_a_terminated_study_leaves_no_run_running(cluster, models, tmp_path):
    place = make_place(tmp_path / "ended", {"good": models["good"]})
    # Longer than a worker has until it is ended by force: Python can lose an interrupt.
    place.write(epochs=4000, checkpoints=200)
    environment = {
        **place.environment,
        "RAY_ADDRESS": cluster,
        "MLFLOW_EXPERIMENT_NAME": "tiny",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "entrypoints.main", "--study", str(place.study),
             "--limit", str(LIMIT), "--execution", "ray"],
            env=environment, cwd=place.folder, stdout=log, stderr=log,
        )  # fmt: skip
        state = place.folder / "state" / "xling"
        deadline = time.monotonic() + 600
        while not list(state.glob("*/checkpoints/checkpoint-*")):
            assert process.poll() is None and time.monotonic() < deadline, (
                place.folder / "log"
            ).read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 128 + signal.SIGTERM
    found = statuses(place)
    assert found["study"] == ["KILLED"]
    assert found["finetune"] == ["KILLED"]
    assert "RUNNING" not in found["evaluate"]


def test_more_gpus_than_any_machine_has_are_refused_before_work(
    cluster, models, tmp_path, monkeypatch
):
    place = make_place(tmp_path / "gpus", {"good": models["good"]})
    place.settings["models"][0]["processes"] = 4
    place.write()
    enter(place, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    with pytest.raises(ValueError, match=r"model good asks for 4 GPUs .* \(1 GPUs\)"):
        run_study(place, "ray")
    assert statuses(place) == {"study": ["FAILED"], "prepare": [], "finetune": [], "evaluate": []}


@pytest.mark.slow
def test_a_store_that_workers_find_silent_ends_the_study(cluster, models, tmp_path, monkeypatch):
    place = make_place(tmp_path / "silent", {"good": models["good"]})
    enter(place, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    prepared = prepare_study(load_study(str(place.study)), limit=LIMIT)
    experiment = tracking.open_store()
    assert experiment == "tiny"
    units = study_units(prepared.study)
    with socket.socket() as unused, connected():
        unused.bind(("127.0.0.1", 0))
        gone = ParentRun("0" * 32, "0", {}, uri=f"http://127.0.0.1:{unused.getsockname()[1]}")
        assignment = Assignment(gone, str(place.folder), force=False, log_level=30, gpus=0)
        needs = {unit.name: Needs(gpus=0, cpus=1, memory=0) for unit in units}
        with pytest.raises(
            tracking.StoreUnavailable, match=r"http://127\.0\.0\.1.* cannot be used"
        ):
            _Tasks(prepared, units, needs, assignment).run()


@pytest.mark.parametrize("execution", ["local", "ray"])
def test_processes_that_cannot_share_a_batch_are_refused_before_work(
    execution, models, tmp_path, monkeypatch
):
    place = make_place(tmp_path / "shares", {"good": models["good"]})
    enter(place, monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun says
    with pytest.raises(ValueError, match="model good: batch_size 8 cannot be shared"):
        run_study(place, execution)
    assert statuses(place) == {"study": ["FAILED"], "prepare": [], "finetune": [], "evaluate": []}
