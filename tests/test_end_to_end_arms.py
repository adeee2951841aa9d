"""Every arm, reasoning and scoring, cross-fitting and routing, on tiny models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.place import SOURCE, Place, estimates_of
from xling.records import LOGPROB_COLUMNS, read_records

pytestmark = pytest.mark.slow

TARGET = ["heb_Hebr", "mlt_Latn", "fra_Latn", "eng_Latn", "kor_Hang"]
LANGUAGES = {
    "source": list(SOURCE),
    "target": TARGET,
    "branch": "Semitic",
    "control_source": ["fra_Latn"],
}
ARMS = ["base", "finetuned", "control-source", "shuffled-labels"]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory, tiny_model, zygote) -> Place:
    """A place where a study of every arm, reasoning and scoring was run."""
    place = Place(
        tmp_path_factory.mktemp("arms"),
        {"tiny-llama": tiny_model("llama")},
        languages=LANGUAGES,
        arms=ARMS,
        reasoning=["direct", "cot"],
        scoring_modes=["answer-token", "permuted", "cloze"],
        chain_of_thought={"max_tokens": 12},
    )
    done = place.run(zygote, "main", study=place.study)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def evaluate_run(place: Place, arm: str, *, reasoning="direct", scoring="answer-token"):
    wanted = {"cfg.arm": arm, "cfg.reasoning": reasoning, "cfg.scoring": scoring}
    (run,) = [
        run
        for run in place.runs("evaluate")
        if all(run.data.params[key] == value for key, value in wanted.items())
    ]
    return run


def fetched(place: Place, run, name: str, folder: Path) -> Path:
    return Path(place.client().download_artifacts(run.info.run_id, name, str(folder)))


def test_every_cell_has_one_finished_run(arms):
    runs = arms.runs("evaluate")
    cells = {
        tuple(run.data.params[f"cfg.{key}"] for key in ("arm", "reasoning", "scoring"))
        for run in runs
    }
    direct = {
        (arm, "direct", scoring)
        for arm in ARMS
        for scoring in ("answer-token", "permuted", "cloze")
    }
    assert cells == direct | {("base", "cot", "answer-token")}
    assert len(runs) == len(cells) == 13 and len(arms.runs("finetune")) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_arms_are_trained_on_the_same_questions_as_often(arms):
    runs = {run.data.params["cfg.arm"]: run for run in arms.runs("finetune")}
    steps = {run.data.metrics["train_steps"] for run in runs.values()}
    assert len(steps) == 1
    assert runs["control-source"].data.params["cfg.source_languages"] == "fra_Latn"
    assert runs["shuffled-labels"].data.params["cfg.source_languages"] == " ".join(SOURCE)
    agreement = {arm: run.data.metrics["label_agreement"] for arm, run in runs.items()}
    assert agreement["finetuned"] == agreement["control-source"] == 1
    assert agreement["shuffled-labels"] < 1


def test_tuned_runs_know_which_labels_were_trained_on(arms):
    names = [f"label_share_{k}" for k in (1, 2, 3, 4)]
    (trained,) = [
        run for run in arms.runs("finetune") if run.data.params["cfg.arm"] == "shuffled-labels"
    ]
    shares = [trained.data.metrics[name] for name in names]
    asked = evaluate_run(arms, "shuffled-labels").data.metrics
    assert [asked[name] for name in names] == shares and sum(shares) == pytest.approx(1)
    assert names[0] not in evaluate_run(arms, "base").data.metrics


def test_a_reasoning_that_fills_the_limit_is_scored_and_flagged(arms, tmp_path):
    run = evaluate_run(arms, "base", reasoning="cot")
    written = pd.read_parquet(fetched(arms, run, "reasoning.parquet", tmp_path))
    records = read_records(fetched(arms, run, "records.parquet", tmp_path))
    assert len(written) == len(records) == 8 * len((*SOURCE, *TARGET))
    assert written["n_tokens"].max() <= 12
    full = written[written["n_tokens"] == 12]
    assert full["truncated"].all() and not full.empty
    assert run.data.metrics["truncated/heb_Hebr"] > 0
    assert set(records["part"]) == {"heldout"}
    direct = evaluate_run(arms, "base")
    plain = read_records(fetched(arms, direct, "records.parquet", tmp_path / "direct"))
    both = records.merge(plain, on=["language", "item_id"], suffixes=("", "_direct"))
    assert (both["n_tokens"] > both["n_tokens_direct"]).all()
    assert (both["prompt_sha256"] != both["prompt_sha256_direct"]).all()


def test_the_options_own_order_scores_as_without_permutations(arms, tmp_path):
    orders = pd.read_parquet(
        fetched(
            arms, evaluate_run(arms, "finetuned", scoring="permuted"), "orders.parquet", tmp_path
        )
    )
    records = read_records(
        fetched(arms, evaluate_run(arms, "finetuned"), "records.parquet", tmp_path)
    )
    assert sorted(orders["order"].unique()) == ["1234", "2341", "3412", "4123"]
    own = orders[orders["order"] == "1234"].merge(
        records, on=["language", "item_id"], suffixes=("_order", "")
    )
    assert len(own) == len(records)
    for name in LOGPROB_COLUMNS:
        np.testing.assert_allclose(own[f"{name}_order"], own[name], atol=1e-4)


def test_cloze_records_are_means_per_token(arms, tmp_path):
    run = evaluate_run(arms, "base", scoring="cloze")
    cloze = pd.read_parquet(fetched(arms, run, "cloze.parquet", tmp_path))
    records = read_records(fetched(arms, run, "records.parquet", tmp_path))
    first = cloze[(cloze["option"] == 3) & (cloze["part"] == "heldout")]
    both = first.merge(records, on=["language", "item_id", "part"], suffixes=("_cloze", ""))
    np.testing.assert_allclose(both["logprob"] / both["n_tokens_cloze"], both["logprob_3"])
    assert records["answer_mass"].isna().all()
    names = ("acc_raw", "acc_per_token", "acc_per_char", "acc_norm", "acc_uncond")
    for name in (*names, "acc_mutual_info"):
        assert 0 <= run.data.metrics[f"{name}/heb_Hebr"] <= 1
    assert run.data.metrics["acc_per_token/heb_Hebr"] == run.data.metrics["accuracy/heb_Hebr"]


def test_every_evaluate_run_measures_the_format(arms, tmp_path):
    for run in arms.runs("evaluate"):
        table = pd.read_csv(fetched(arms, run, "format.csv", tmp_path / run.info.run_id))
        assert set(table["language"]) == {*SOURCE, *TARGET}
        assert 0 <= run.data.metrics["ece/heb_Hebr"] <= 1
        prior = table[[f"prior_{k}" for k in (1, 2, 3, 4)]].sum(axis=1)
        np.testing.assert_allclose(prior, 1)


def test_the_analysis_uses_the_arms_and_leaves_the_control_source_out(arms, tmp_path):
    (run,) = arms.runs("analyze")
    folder = fetched(arms, run, "", tmp_path)
    rows = estimates_of(folder)
    named = {row.estimand for row in rows}
    assert "D (finetuned - control-source)" in named
    assert "format share of the gain" in named
    difference = next(row for row in rows if row.estimand == "D (finetuned - control-source)")
    assert "fra_Latn" in difference.note and difference.n_control == 2
    report = (folder / "report.html").read_text(encoding="utf-8")
    for word in ("shuffled-labels", "control-source", "cloze", "permuted"):
        assert word in report


def test_an_adapter_of_another_arm_can_be_asked_alone(zygote, arms):
    (trained,) = [
        run for run in arms.runs("finetune") if run.data.params["cfg.arm"] == "shuffled-labels"
    ]
    scored = arms.run(
        zygote,
        "evaluate",
        study=arms.study,
        arm="shuffled-labels",
        scoring="cloze",
        adapter=trained.info.run_id,
    )
    assert scored.returncode == 0, scored.stderr[-2000:]
    wrong = arms.run(
        zygote, "evaluate", study=arms.study, arm="finetuned", adapter=trained.info.run_id
    )
    assert wrong.returncode != 0
    assert "is of arm shuffled-labels and seed 0, not of finetuned and 0" in wrong.stderr
    wrong = arms.run(zygote, "evaluate", study=arms.study, reasoning="cot", scoring="cloze")
    assert wrong.returncode != 0
    assert "use scoring answer-token with it, not cloze" in wrong.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"reasoning": ["direct", "cot"], "chain_of_thought": {"max_tokens": 500}},
            "with 500 tokens of reasoning and 32 for the answer it exceeds the model's context",
        ),
        (
            {"chat": "{% for message in messages %}{{ message.content }}{% endfor %}"},
            "generation prompt",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_training(
    zygote, tmp_path, tiny_model, changes, told
):
    model = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    template = changes.pop("chat", None)
    place = Place(tmp_path, {"tiny": model}, **changes)
    if template:
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
        place.settings["models"][0]["chat"] = True
        place.write()
    wrong = place.run(zygote, "main", study=place.study)
    assert wrong.returncode != 0
    assert told in wrong.stderr and "Traceback" not in wrong.stderr.split("Error:")[-1]
    assert not place.runs("finetune") and not place.runs("evaluate")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, tiny_model, zygote) -> Place:
    """A place where a cross-fitted study was run."""
    place = Place(
        tmp_path_factory.mktemp("folds"),
        {"tiny-llama": tiny_model("llama"), "tiny-qwen": tiny_model("qwen3")},
        data={"source": "mini", "difficulties": [1], "split": "cross-fit", "folds": 2},
    )
    done = place.run(zygote, "main", study=place.study, limit=16)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_every_question_is_answered_once_by_the_adapter_of_its_fold(folds, tmp_path):
    trained = folds.runs("finetune")
    assert len(trained) == 4 and {run.data.params["cfg.fold"] for run in trained} == {"0", "1"}
    held: dict[str, pd.Series] = {}
    for run in folds.runs("evaluate"):
        records = read_records(fetched(folds, run, "records.parquet", tmp_path / run.info.run_id))
        assert not records.duplicated(["language", "item_id"]).any()
        assert records.groupby("language").size().eq(16).all()
        fold = records.drop_duplicates("item_id").set_index("item_id")["fold"].sort_index()
        held[f"{run.data.params['cfg.model']} {run.data.params['cfg.arm']}"] = fold
        if run.data.params["cfg.arm"] == "finetuned":
            assert len(run.data.params["cfg.adapter"].split()) == 2
    first, *others = held.values()
    assert sorted(first.value_counts()) == [8, 8]
    for other in others:
        pd.testing.assert_series_equal(first, other)
    for run in trained:
        labels = folds.client().download_artifacts(run.info.run_id, "labels.json", str(tmp_path))
        ids = set(yaml.safe_load(Path(labels).read_text())["labels"])
        assert not ids & set(first[first == int(run.data.params["cfg.fold"])].index)


def test_the_analysis_takes_other_folds_for_the_baseline(folds, tmp_path):
    (run,) = folds.runs("analyze")
    rows = estimates_of(fetched(folds, run, "", tmp_path))
    interaction = next(r for r in rows if (r.estimand, r.estimator) == ("I", "intersection_union"))
    assert interaction.status == "ok" or interaction.estimate is not None, interaction
    assert interaction.baseline_source == "other folds"


def test_one_adapter_for_all_folds_is_refused(zygote, folds):
    trained = folds.runs("finetune")[0]
    wrong = folds.run(
        zygote,
        "evaluate",
        study=folds.study,
        arm="finetuned",
        adapter=trained.info.run_id,
        limit=16,
    )
    assert wrong.returncode != 0
    assert "each fold has its own adapter" in wrong.stderr
    wrong = folds.run(zygote, "finetune", study=folds.study, fold=2, limit=16)
    assert wrong.returncode != 0
    assert "has no fold 2; valid: 0 to 1" in wrong.stderr


def test_a_mixture_of_experts_leaves_its_routing(zygote, tmp_path_factory, tiny_model, tmp_path):
    place = Place(tmp_path_factory.mktemp("routing"), {"tiny-moe": tiny_model("qwen3_moe")})
    (model,) = place.settings["models"]
    model |= {"quantise": "none", "lora_modules": r"self_attn\.(q|k|v|o)_proj$"}
    place.write()
    done = place.run(zygote, "main", study=place.study)
    assert done.returncode == 0, done.stderr[-3000:]
    for run in place.runs("evaluate"):
        table = pd.read_parquet(fetched(place, run, "routing.parquet", tmp_path / run.info.run_id))
        assert set(table["language"]) == {*SOURCE, *TARGET} - {"kor_Hang"}
        assert table.groupby(["language", "layer"])["share"].sum().round(9).eq(1).all()
        assert 0 < run.data.metrics["routing_entropy/heb_Hebr"] <= 2
        assert 0 < run.data.metrics["routing_divergence/heb_Hebr"] < 1
    (run,) = place.runs("analyze")
    report = fetched(place, run, "report.html", tmp_path).read_text(encoding="utf-8")
    assert "experts" in report


def test_an_interrupted_chain_of_thought_goes_on_where_it_stopped(
    zygote, tmp_path_factory, tiny_model, tmp_path
):
    place = Place(
        tmp_path_factory.mktemp("thought"),
        {"tiny-llama": tiny_model("llama")},
        languages={"source": ["arb_Arab"], "target": ["heb_Hebr", "fra_Latn"], "branch": "Semitic"},
        reasoning=["direct", "cot"],
        chain_of_thought={"max_tokens": 100},
        scoring={"batch_tokens": 600},
    )
    command = ["evaluate", "--study", str(place.study), "--reasoning", "cot"]
    environment = {**place.environment, "MLFLOW_EXPERIMENT_NAME": "tiny"}
    log = zygote.start(command, environment, folder=place.folder)
    process = zygote.pid(log)
    deadline = time.monotonic() + 600
    unfinished: list[Path] = []
    while not any(path.stat().st_size for path in unfinished):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        unfinished = list((place.folder / "state").rglob("unfinished.jsonl"))
        time.sleep(0.005)
    os.kill(process, signal.SIGTERM)
    assert zygote.wait() == 128 + signal.SIGTERM, log.read_text()[-3000:]
    kept = {path: path.read_bytes() for path in unfinished}
    assert sum(content.count(b"\n") for content in kept.values()) < 8 * 3
    code, output = zygote.run(command, environment, folder=place.folder)
    assert code == 0, output[-3000:]
    for path, content in kept.items():
        whole = content[: content.rfind(b"\n") + 1]
        assert path.read_bytes().startswith(whole)
    forced = [*command, "--force", "true"]
    code, output = zygote.run(forced, environment, folder=place.folder)
    assert code == 0, output[-3000:]
    finished = [run for run in place.runs("evaluate") if run.info.status == "FINISHED"]
    first, second = (
        read_records(fetched(place, run, "records.parquet", tmp_path / run.info.run_id))
        for run in finished
    )
    pd.testing.assert_frame_equal(first, second, atol=1e-4)


def test_a_training_prompt_beyond_the_context_is_refused(zygote, tmp_path, tiny_model):
    model = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 200}))
    place = Place(tmp_path, {"tiny": model})
    wrong = place.run(zygote, "finetune", study=place.study)
    assert wrong.returncode != 0
    assert "the prompt of item" in wrong.stderr and "context of 200" in wrong.stderr
    assert not list(tmp_path.rglob("checkpoint-*"))
