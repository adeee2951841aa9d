"""Every entry point on tiny models and a real store, in real processes.

The study itself goes through `mlflow run`; the others run the commands that it would (`Place.run`).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml
from safetensors.torch import load_file, save_file

from tests.place import HELD_OUT, SOURCE, TARGET, Place, estimates_of, served
from xling.records import read_records

pytestmark = pytest.mark.slow
SCREEN = 20  # lines


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> Place:
    folder = tmp_path_factory.mktemp("end-to-end")
    return Place(folder, {"tiny-llama": tiny_model("llama"), "tiny-qwen": tiny_model("qwen3")})


@pytest.fixture(scope="module")
def study(place: Place) -> subprocess.CompletedProcess:
    return place.mlflow_run("main", study=place.study)


def test_study_ends_well_and_says_where_to_look(study):
    assert study.returncode == 0, study.stderr[-3000:]
    assert "Runs      in experiment 'tiny' at sqlite:" in study.stdout
    assert "mini set: for trying the software" in study.stdout
    assert "\nReport    " in study.stdout and "\nNext      " in study.stdout
    assert len(study.stdout.rstrip().split("\n")) <= SCREEN
    assert "models:/tiny-tiny-llama@champion is version 1" in study.stdout


def test_every_cell_has_one_finished_child_run(place, study):
    (parent,) = place.runs("study")
    for kind, number in {"prepare": 1, "finetune": 2, "evaluate": 4, "analyze": 1}.items():
        runs = place.runs(kind)
        assert len(runs) == number, kind
        for run in runs:
            assert run.info.status == "FINISHED"
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["xling.study"] == "tiny"
            assert run.data.tags["xling.command"].startswith(
                f"mlflow run . -e {kind} --env-manager local --experiment-name tiny -P study="
            )
            if kind != "analyze":
                assert len(run.data.tags["xling.fingerprint"]) == 64
    assert parent.info.status == "FINISHED"


def test_evaluate_runs_follow_the_contract(place, study, tmp_path):
    for run in place.runs("evaluate"):
        params, metrics = run.data.params, run.data.metrics
        assert {params[f"cfg.{key}"] for key in ("reasoning", "scoring")} == {
            "direct",
            "answer-token",
        }
        for code in SOURCE + TARGET:
            assert 0 <= metrics[f"accuracy/{code}"] <= 1
            assert 0 < metrics[f"answer_mass/{code}"] < 1
        assert {"accuracy_family/related", "accuracy_family/control"} <= set(metrics)
        path = place.client().download_artifacts(run.info.run_id, "records.parquet", str(tmp_path))
        records = read_records(Path(path))
        heldout = records[records["part"] == "heldout"]
        assert heldout.groupby("language").size().to_dict() == dict.fromkeys(
            SOURCE + TARGET, HELD_OUT
        )
        is_base = params["cfg.arm"] == "base"
        assert ((records["part"] == "training").sum() > 0) == is_base
        assert set(heldout["item_id"]).isdisjoint(
            records.loc[records["part"] == "training", "item_id"]
        )
        assert metrics["accuracy/heb_Hebr"] == pytest.approx(
            heldout.loc[heldout["language"] == "heb_Hebr", "correct"].mean()
        )
        inputs = run.inputs.dataset_inputs
        assert len(inputs) == (2 if is_base else 1)
        assert all(len(each.dataset.digest) == 36 for each in inputs)


def test_finetune_runs_have_curve_adapter_and_evidence(place, study, tmp_path):
    client = place.client()
    for run in place.runs("finetune"):
        curve = client.get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in curve] == [1, 2]
        assert run.data.metrics["reload_difference"] <= 1e-4
        assert run.data.metrics["four_bit_share"] > 0.75
        assert run.data.metrics["tokens_per_second"] > 0
        names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
        assert {"modules.json", "pip-freeze.txt"} <= names
        modules = yaml.safe_load(
            Path(
                client.download_artifacts(run.info.run_id, "modules.json", str(tmp_path))
            ).read_text()
        )
        assert len(modules["lora_modules"]) == 14


def test_analysis_has_figures_tables_and_estimates(place, study, tmp_path):
    (run,) = place.runs("analyze")
    folder = Path(place.client().download_artifacts(run.info.run_id, "", str(tmp_path)))
    for name in (
        "figures/gains.png",
        "figures/gains.svg",
        "figures/baseline.png",
        "cells.csv",
        "languages.tex",
        "summary.txt",
        "runs.json",
    ):
        assert (folder / name).stat().st_size > 0, name
    rows = estimates_of(folder)
    assert {(row.estimand, row.scale) for row in rows} >= {
        (estimand, scale) for estimand in "DI" for scale in ("points", "logit")
    }
    assert all(row.status for row in rows)


def test_adapters_are_registered_and_load_in_a_new_process(place, study):
    client = place.client()
    for model in ("tiny-llama", "tiny-qwen"):
        version = client.get_model_version_by_alias(f"tiny-{model}", "champion")
        assert version.tags["xling.source_languages"] == " ".join(SOURCE)
        assert "xling.mean_gain_related" in version.tags
    code = (
        "import mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('models:/tiny-tiny-llama@champion')\n"
        "row = {'flores_passage': 'p', 'question': 'q', 'mc_answer1': 'a', 'mc_answer2': 'b',\n"
        "       'mc_answer3': 'c', 'mc_answer4': 'd'}\n"
        "fields = model.predict(pd.DataFrame([row]))\n"
        "text = 'p\\nq\\n(1) a\\n(2) b\\n(3) c\\n(4) d\\nAnswer: ('\n"
        "prompt = model.predict(pd.DataFrame({'prompt': [text]}))\n"
        "assert fields.equals(prompt), (fields, prompt)\n"
        "print(sorted(fields.columns), int(fields.prediction[0]) in (1, 2, 3, 4))\n"
    )
    # From elsewhere, so that the model's own copy of the code is what runs.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=place.environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'answer_mass', 'logprob_1'" in done.stdout and "True" in done.stdout


def test_registered_adapter_answers_over_http(place, study):
    with served(place, "models:/tiny-tiny-llama@champion") as url:
        row = {"flores_passage": "p", "question": "q"} | {f"mc_answer{n}": "a" for n in range(1, 5)}
        answer = requests.post(url, json={"dataframe_records": [row]}, timeout=300)
        assert answer.status_code == 200, answer.text
        (scores,) = answer.json()["predictions"]
        assert scores["prediction"] in (1, 2, 3, 4)
        assert 0 < scores["answer_mass"] < 1
        del row["question"]
        refused = requests.post(url, json={"dataframe_records": [row]}, timeout=300)
        assert refused.status_code >= 400
        assert "missing or empty: question" in refused.text


def test_the_same_study_again_repeats_nothing(zygote, place, study):
    before = {kind: len(place.runs(kind)) for kind in ("prepare", "finetune", "evaluate")}
    again = place.run(zygote, "main", study=place.study)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {kind: len(place.runs(kind)) for kind in before} == before
    version = place.client().get_model_version_by_alias("tiny-tiny-llama", "champion").version
    assert int(version) == 1


def test_single_entry_points_reuse_and_force(zygote, place, study):
    # MLflow has made a run for the command before it starts; one that repeats nothing marks it so.
    prepared = place.mlflow_run("prepare", study=place.study)
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    reused = place.run(zygote, "finetune", study=place.study, model="tiny-qwen")
    assert reused.returncode == 0, reused.stderr[-3000:]
    assert len(place.runs("finetune")) == 2
    assert len(place.runs("reused")) == 1
    uri = "models:/tiny-tiny-llama@champion"
    scored = place.run(
        zygote,
        "evaluate",
        study=place.study,
        model="tiny-llama",
        arm="finetuned",
        adapter=uri,
        force="true",
    )
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert "heb_Hebr  related" in scored.stdout
    forced = [run for run in place.runs("evaluate") if run.data.params["cfg.adapter"] == uri]
    assert len(forced) == 1
    twin = next(
        run
        for run in place.runs("evaluate")
        if run.data.params["cfg.model"] == "tiny-llama"
        and run.data.params["cfg.arm"] == "finetuned"
        and run.info.run_id != forced[0].info.run_id
    )
    assert forced[0].data.metrics["accuracy/heb_Hebr"] == twin.data.metrics["accuracy/heb_Hebr"]
    registered = place.run(zygote, "register", study=place.study, alias="best")
    assert registered.returncode == 0, registered.stderr[-3000:]
    analyzed = place.run(zygote, "analyze", study=place.study, bound="0.1")
    assert analyzed.returncode == 0, analyzed.stderr[-3000:]
    assert " on these runs: see the report" in analyzed.stdout  # the cell that was scored twice


def test_adapter_of_another_base_is_refused(zygote, place, study):
    wrong = place.run(
        zygote,
        "evaluate",
        study=place.study,
        model="tiny-qwen",
        arm="finetuned",
        adapter="models:/tiny-tiny-llama@champion",
    )
    assert wrong.returncode != 0
    assert "was trained on" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_failed_cell_is_recorded_and_the_others_go_on(zygote, place, tiny_model, study):
    damaged = shutil.copytree(tiny_model("qwen3"), place.folder / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    settings = yaml.safe_load(place.study.read_text())
    settings["name"] = "partly"
    settings["models"][0] = {"id": str(damaged), "name": "damaged"}
    path = place.folder / "partly.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = place.run(zygote, "main", study=path)
    assert done.returncode != 0
    assert "damaged/base/seed-0: ValueError: " in done.stderr
    failed = [run for run in place.runs("evaluate") if run.info.status == "FAILED"]
    assert failed and "model.norm.weight" in failed[0].data.tags["xling.error"]
    finished = [
        run
        for run in place.runs("evaluate")
        if run.data.tags["xling.study"] == "partly" and run.info.status == "FINISHED"
    ]
    assert {run.data.params["cfg.model"] for run in finished} == {"tiny-qwen"}
    (parent,) = [run for run in place.runs("study") if run.data.tags["xling.study"] == "partly"]
    assert parent.info.status == "FAILED"


def test_terminated_training_is_killed_and_goes_on(zygote, place, study):
    settings = yaml.safe_load(place.study.read_text())
    settings["name"] = "broken"
    settings["training"] |= {"epochs": 20, "checkpoints": 10}
    path = place.folder / "broken.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = ["finetune", "--study", str(path)]
    environment = {**place.environment, "MLFLOW_EXPERIMENT_NAME": "tiny"}
    kill = {"stage": "checkpoints", "count": 20, "signal": int(signal.SIGTERM)}
    code, output = zygote.run(command, environment, folder=place.folder, kill=kill)
    assert code == 128 + signal.SIGTERM, output[-3000:]
    assert list((place.folder / "state" / "xling").glob("*/checkpoints/checkpoint-*"))
    (killed,) = [run for run in place.runs("finetune") if run.info.status == "KILLED"]
    assert killed.data.tags["xling.study"] == "broken"
    code, output = zygote.run(command, environment, folder=place.folder)
    assert code == 0, output[-3000:]
    (finished,) = [
        run
        for run in place.runs("finetune")
        if run.data.tags["xling.study"] == "broken" and run.info.status == "FINISHED"
    ]
    curve = place.client().get_metric_history(finished.info.run_id, "train/loss")
    assert len(curve) == 40


def test_server_that_does_not_answer_is_named_before_any_work(zygote, place):
    environment = {**place.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = zygote.complete(["main", "--study", str(place.study)], environment, folder=place.folder)
    assert done.returncode == 1
    assert "tracking server http://127.0.0.1:9 does not answer" in done.stderr
    assert "Traceback" not in done.stderr
