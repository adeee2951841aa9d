from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from tests.place import make_store
from xling.models.loading import compute_dtype
from xling.planning.gpus import gpus
from xling.planning.lengths import estimated_lengths
from xling.planning.memory import Setting, training_memory
from xling.planning.memory_limits import (
    HeldModel,
    TrainingLoad,
    available_bytes,
    check_scoring_peak,
    check_training_peak,
)
from xling.planning.plan import Plan, plan_study
from xling.planning.report import WIDTH, plan_lines
from xling.planning.sizes import model_sizes
from xling.study import Study
from xling.study.load import load_study
from xling.study.settings import ModelSettings

ROOT = Path(__file__).resolve().parents[2]
H100 = gpus()["H100-80GB"]


def planned(study: Study, gpu: str = "H100-80GB", count: int = 8) -> Plan:
    return plan_study(study, gpus()[gpu], count)


def with_models(study: Study, *models: ModelSettings) -> Study:
    return study.model_copy(update={"models": models})


@pytest.fixture(scope="module")
def paper() -> Plan:
    return planned(load_study("paper"))


@pytest.mark.slow
def test_the_paper_is_planned_without_data_or_weights(paper: Plan) -> None:
    rows = {row.model: row for row in paper.models}
    assert not any(row.problem for row in paper.models)
    assert rows["qwen3-32b"].training is not None and rows["qwen3-32b"].training.gpus == 1
    assert rows["qwen3-32b"].commands == (
        "mlflow run . -e main -P study=paper -P models=qwen3-32b",
    )
    large = rows["deepseek-v3.1"]
    # No GPU holds 345 GB while processes would share it out: one spreads the layers.
    assert large.training is not None and large.training.fits == "one node"
    assert 6 <= large.training.gpus <= 8 and large.training.processes == 1
    assert any("spreads its layers" in note for note in large.notes)
    middle = rows["gpt-oss-120b"].training
    assert middle is not None and (middle.gpus, middle.processes) == (2, 2)
    # 800 questions in six varieties, of about 230 tokens each.
    tokens = rows["qwen3-32b"].training.tokens
    assert 4800 * 200 < tokens < 4800 * 350


def test_a_reasoning_base_costs_more_than_the_same_without() -> None:
    study = load_study("paper").only_models(["qwen3-4b-instruct-2507"])
    direct = study.model_copy(update={"reasoning": ("direct",)})
    hours = [planned(each).models[0].scoring.hours for each in (study, direct)]
    assert hours[0] > 2 * hours[1]  # 700 reasonings of 512 tokens


def test_what_primes_a_model_is_in_its_training() -> None:
    study = load_study("primed")
    plain, primed = (row.training for row in planned(study).models)
    assert plain is not None and primed is not None
    assert primed.tokens > 1.2 * plain.tokens
    (row,) = planned(study, "H100-80GB").models[1:]
    assert row.commands == ("mlflow run . -e main -P study=primed -P models=gemma3-270m-primed",)


def test_a_smaller_gpu_takes_more_of_them_and_more_time() -> None:
    study = load_study("paper").only_models(["qwen3-32b"])
    large, small = (planned(study, name).models[0].training for name in ("H100-80GB", "L4-24GB"))
    assert large is not None and small is not None
    assert small.gpus > large.gpus
    assert small.hours > large.hours


def test_small_gpus_are_shared_by_processes_or_by_one_that_spreads_the_layers() -> None:
    rows = {row.model: row for row in planned(load_study("paper"), "L4-24GB").models}
    assert rows["qwen3-32b"].commands[0] == (
        "torchrun --nproc_per_node 2 -m entrypoints.finetune --study paper --model qwen3-32b"
    )
    # 63 GB of weights: two processes, as on larger GPUs, could not even load them.
    assert rows["gpt-oss-120b"].training.processes == 1 < rows["gpt-oss-120b"].training.gpus
    assert any("`processes: 1`" in note for note in rows["gpt-oss-120b"].notes)
    assert rows["deepseek-v3.1"].training.fits == "no"


@pytest.mark.slow
def test_the_demo_is_counted_with_its_own_questions() -> None:
    plan = planned(load_study("demo"))
    gemma = plan.models[0]
    assert gemma.training is not None and gemma.training.fits == "one GPU"
    # 100 questions in six varieties.
    assert 600 * 20 < gemma.training.tokens < 600 * 150


def test_estimates_grow_linearly_in_items_and_steps() -> None:
    study = load_study("paper").only_models(["qwen3-4b-instruct-2507"])
    study = study.model_copy(update={"reasoning": ("direct",)})

    def plan(**changed: object) -> tuple[float, float, float]:
        row = planned(study.model_copy(update=changed)).models[0]
        assert row.training is not None and row.scoring is not None
        return row.training.tokens, row.training.hours, row.scoring.tokens

    tokens, hours, scored = plan()
    training = study.training.model_copy(update={"epochs": 3})
    assert plan(training=training)[:2] == pytest.approx((3 * tokens, 3 * hours))
    assert plan(seeds=(0, 1, 2, 3))[:2] == pytest.approx((4 * tokens, 4 * hours))
    # 100 held-out questions twice and 100 of the baseline once; then 200 twice and 100 once.
    data = study.data.model_copy(update={"held_out": 200})
    grown = plan(data=data)
    assert grown[2] / scored == pytest.approx(500 / 300)
    assert grown[0] / tokens == pytest.approx(700 / 800)


def test_every_cell_of_a_study_is_counted() -> None:
    study = load_study("paper").only_models(["qwen3-4b-instruct-2507"])
    direct = planned(study.model_copy(update={"reasoning": ("direct",)})).models[0].scoring
    more = study.model_copy(
        update={"scoring_modes": ("answer-token", "permuted"), "reasoning": ("direct", "cot")}
    )
    row = planned(more).models[0]
    assert direct is not None and row.scoring is not None
    held, languages = 100, 12
    assert row.written_tokens == held * languages * study.chain_of_thought.max_tokens
    assert row.scoring.tokens > 2 * direct.tokens
    assert row.scoring.memory.activations > 0  # keys and values


def test_cross_fitting_trains_one_adapter_a_fold_seed_and_arm() -> None:
    study = load_study("extended").only_models(["qwen3-32b"])
    assert planned(study).models[0].adapters == 5 * 3 * 3


def test_a_model_without_a_configuration_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    study = load_study("paper")
    plan = planned(
        with_models(study, ModelSettings(id="nobody/nothing-1b"), study.find_model("qwen3-32b"))
    )
    unknown, known = plan.models
    assert unknown.problem.startswith("configuration unknown: ")
    assert "config.json" in unknown.problem
    assert known.parameters == 32_762_123_264
    assert any("configuration unknown" in line for line in plan_lines(plan))


def test_a_folders_own_configuration_wins(tiny_model) -> None:
    folder = tiny_model("llama")
    row = planned(with_models(load_study("demo"), ModelSettings(id=str(folder)))).models[0]
    assert row.configuration == "the model's own"
    assert 0 < row.parameters < 1e6


def test_a_server_scores_with_all_its_gpus() -> None:
    study = load_study("paper")
    served = {"engine": "server", "server": {"url": "http://localhost:8000/v1"}}
    model = ModelSettings.model_validate({"id": "openai/gpt-oss-120b", **served})
    row = planned(with_models(study, model)).models[0]
    assert any("vllm serve openai/gpt-oss-120b --enable-lora" in note for note in row.notes)


def test_the_table_fits_a_terminal_and_says_what_it_rests_on(paper: Plan) -> None:
    lines = plan_lines(paper)
    commands = [line for line in lines if "mlflow run" in line or "torchrun" in line]
    assert all(len(line) <= WIDTH for line in lines if line not in commands)
    text = "\n".join(lines)
    assert f"measured on CPU and an H200: within {paper.memory_error:.0%}" in text
    assert "12% (training)" in text


def test_lengths_say_how_they_are_known() -> None:
    assert estimated_lengths("eng_Latn", chat=False).basis == "measured"
    assert estimated_lengths("amh_Ethi", chat=False).basis == "measured"
    assert estimated_lengths("spa_Latn", chat=False).basis == "script"
    assert estimated_lengths("tha_Thai", chat=False).basis == "overall"
    short, long = (estimated_lengths(code, chat=False).prompt for code in ("eng_Latn", "tir_Ethi"))
    assert long > 2 * short


def test_what_surely_does_not_fit_is_refused_with_what_would(tiny_model) -> None:
    folder = tiny_model("llama")
    model, load = HeldModel(folder), TrainingLoad(length=400, rows=8)
    check_training_peak(model, load, name="tiny", available=10**9)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    setting = Setting(value_bytes=compute_dtype().itemsize, mask_bytes=4)
    less = training_memory(
        model_sizes(config), setting, rows=8, length=400, gradient_checkpointing=True
    )
    with pytest.raises(ValueError, match=r"training tiny takes about .* GB") as refused:
        check_training_peak(model, load, name="tiny", available=less.total)
    assert "prompts of up to 400 tokens" in str(refused.value)
    assert "micro_batch_size" in str(refused.value)
    assert "gradient_checkpointing: true" in str(refused.value)
    with pytest.raises(ValueError, match="scoring tiny takes .*engine: server"):
        check_scoring_peak(model, name="tiny", length=400, available=10_000)


def test_this_machine_has_room_for_a_tiny_model(tiny_model) -> None:
    assert 0 < available_bytes(2) <= available_bytes()
    model = HeldModel(tiny_model("llama"))
    check_training_peak(model, TrainingLoad(length=256, rows=16), name="tiny")
    check_scoring_peak(model, name="tiny", length=256)


def test_an_unknown_gpu_lists_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from entrypoints.plan import main

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    result = CliRunner().invoke(main, ["--gpu", "H100"])
    assert result.exit_code == 2
    assert "'H100-80GB'" in result.output and "'L4-24GB'" in result.output
    assert not (tmp_path / "store.db").exists()


@pytest.mark.slow
def test_the_command_logs_table_json_and_metrics(tmp_path: Path, zygote) -> None:
    store = make_store(tmp_path / "store.db")
    done = zygote.complete(
        ["plan", "--study", "paper", "--gpu", "A100-80GB"],
        {**os.environ, "MLFLOW_TRACKING_URI": store},
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "study paper on A100-80GB, 8 a node" in done.stdout
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("xling")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["xling.kind"] == "plan"
    assert run.data.tags["xling.study"] == "paper"
    assert "-P gpu=A100-80GB" in run.data.tags["xling.command"]
    assert run.data.metrics["parameters/qwen3-32b"] == 32_762_123_264
    folder = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    assert "gpt-oss-20b" in [row["model"] for row in content["models"]]
    assert (folder / "plan.txt").read_text(encoding="utf-8") in done.stdout
    assert (folder / "plan.csv").read_text(encoding="utf-8").startswith("model,repository")


def test_a_stated_utilisation_scales_the_hours() -> None:
    from xling.planning.compute import UTILISATION

    study = load_study("paper").only_models(["qwen3-32b"])
    half = replace(UTILISATION, training=UTILISATION.training / 2)
    usual, slower = (
        plan_study(study, H100, 8, utilisation=each).models[0].training
        for each in (UTILISATION, half)
    )
    assert usual is not None and slower is not None
    assert slower.hours == pytest.approx(2 * usual.hours)
