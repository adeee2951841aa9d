from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.place import ROOT, Place

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def torchrun(place: Place, *arguments: str) -> subprocess.CompletedProcess:
    return finetune(place, *arguments, launcher=TORCHRUN)


def finetune(
    place: Place, *arguments: str, launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *launcher, "-m", "entrypoints.finetune", *arguments],
        env={**place.environment, "MLFLOW_EXPERIMENT_NAME": "tiny", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory) -> Place:
    folder: Path = tmp_path_factory.mktemp("together")
    return Place(folder, {"tiny-llama": tiny_model("llama")})


@pytest.mark.slow
def test_torchrun_logs_one_run_which_any_number_of_processes_reuses(place):
    done = torchrun(place, "--study", str(place.study))
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = place.runs("finetune")
    assert run.info.status == "FINISHED"
    assert run.data.params["cfg.training.processes"] == "2"
    assert run.data.params["cfg.training.parallel"] == "fsdp"
    assert run.data.metrics["reload_difference"] < 1e-4
    # The study asks for no number of processes, so it is the same adapter for one alone.
    for start in (torchrun, finetune):
        again = start(place, "--study", str(place.study))
        assert again.returncode == 0, again.stderr[-3000:]
        assert f"run {run.info.run_id} has it already" in again.stderr
    assert len(place.runs("finetune")) == 1


@pytest.mark.slow
def test_torchrun_says_once_what_is_wrong(place):
    settings = yaml.safe_load(place.study.read_text())
    settings["name"] = "odd"
    settings["training"]["batch_size"] = 7
    path = place.folder / "odd.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = torchrun(place, "--study", str(path))
    assert done.returncode == 1
    assert done.stderr.count("batch_size 7 cannot be shared equally") == 1
    client = place.client()
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert not client.search_runs(experiments, "tags.`xling.study` = 'odd'")


@pytest.mark.slow
def test_study_that_asks_for_two_processes_gets_them(place):
    settings = yaml.safe_load(place.study.read_text())
    settings["name"] = "two"
    settings["models"][0] |= {"processes": 2, "parallel": "ddp"}
    path = place.folder / "two.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = place.mlflow_run("finetune", study=path)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = [run for run in place.runs("finetune") if run.data.tags["xling.study"] == "two"]
    assert run.info.status == "FINISHED"
    assert run.data.params["cfg.training.parallel"] == "ddp"
