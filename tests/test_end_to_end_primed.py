"""Primed models: trained, stacked, logged, registered, and loaded elsewhere, on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import torch
from safetensors.torch import load_file

from tests.place import SOURCE, Place, estimates_of, served
from xling.data.leakage import TRAINING_ITEMS
from xling.records import LOGPROB_COLUMNS, read_records

pytestmark = pytest.mark.slow

LANGUAGES = {
    "source": list(SOURCE),
    "target": ["heb_Hebr", "mlt_Latn", "amh_Ethi", "fra_Latn", "eng_Latn", "kor_Hang"],
    "branch": "Semitic",
    "control_source": ["jpn_Jpan"],
}
PRIMED = {"languages": ["eng_Latn"], "steps": 12, "labels": True}


@pytest.fixture(scope="module")
def primed(tmp_path_factory: pytest.TempPathFactory, tiny_model, zygote) -> Place:
    """A place where a study of a model and of the same, primed, was run."""
    place = Place(
        tmp_path_factory.mktemp("primed"),
        {"tiny": tiny_model("llama")},
        languages=LANGUAGES,
        arms=["base", "finetuned", "control-source"],
    )
    (model,) = place.settings["models"]
    place.settings["models"].append({**model, "name": "tiny-primed", "primed": PRIMED})
    place.write()
    done = place.run(zygote, "main", study=place.study)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def run_of(place: Place, kind: str, model: str, arm: str):
    wanted = {"cfg.model": model, "cfg.arm": arm}
    (run,) = [
        run
        for run in place.runs(kind)
        if all(run.data.params[key] == value for key, value in wanted.items())
    ]
    return run


def adapter_of(place: Place, arm: str, folder: Path) -> Path:
    run = run_of(place, "finetune", "tiny-primed", arm)
    uri = f"models:/{run.data.tags['xling.logged_model']}"
    code = f"import mlflow; mlflow.artifacts.download_artifacts('{uri}', dst_path='{folder}')"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code], env=place.environment, check=True)
    return next(folder.rglob("adapter_config.json")).parent


def test_what_primes_a_model_is_a_run_of_its_own(primed):
    run = run_of(primed, "finetune", "tiny-primed", "primer")
    assert run.data.metrics["train_steps"] == PRIMED["steps"]
    assert run.data.params["cfg.source_languages"] == "eng_Latn"
    assert run.data.params["cfg.primed.steps"] == "12"
    rise = run.data.metrics["accuracy_after"] - run.data.metrics["accuracy_before"]
    assert run.data.metrics["rise"] == pytest.approx(rise)
    command = run.data.tags["xling.command"]
    assert "-e finetune" in command and "-P model=tiny-primed -P arm=primer" in command
    assert len(list(primed.runs("finetune"))) == 5


def test_the_base_of_a_primed_model_answers_with_its_primer(primed, tmp_path):
    primer = run_of(primed, "finetune", "tiny-primed", "primer")
    base = run_of(primed, "evaluate", "tiny-primed", "base")
    assert base.data.params["cfg.adapter"] == primer.info.run_id
    assert (
        "adapter" in base.data.tags["xling.disjoint"] or "0 of" in base.data.tags["xling.disjoint"]
    )
    records = {
        model: read_records(
            Path(
                primed.client().download_artifacts(
                    run_of(primed, "evaluate", model, "base").info.run_id,
                    "records.parquet",
                    str(tmp_path),
                )
            )
        )
        for model in ("tiny", "tiny-primed")
    }
    both = [records[model][list(LOGPROB_COLUMNS)].to_numpy() for model in records]
    assert np.abs(both[0] - both[1]).max() > 0.1
    asked = set(records["tiny-primed"].query("part == 'training'")["item_id"])
    labels = json.loads(
        Path(
            primed.client().download_artifacts(primer.info.run_id, "labels.json", str(tmp_path))
        ).read_text()
    )
    assert asked and not asked & set(labels["labels"])  # the baseline's questions are not primed on


def test_a_tuned_adapter_holds_the_primer_unchanged_and_says_what_both_saw(primed, tmp_path):
    lower, upper = (adapter_of(primed, arm, tmp_path / arm) for arm in ("primer", "finetuned"))
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (lower, upper)]
    rank = json.loads((lower / "adapter_config.json").read_text())["r"]
    config = json.loads((upper / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2 * rank, 4 * rank)
    for name, beneath in weights[0].items():
        whole = weights[1][name]
        part = whole[:rank] if ".lora_A." in name else whole[:, :rank]
        assert torch.equal(part, beneath), name
    seen = [json.loads((folder / TRAINING_ITEMS).read_text()) for folder in (lower, upper)]
    assert set(seen[0]["ids"]) < set(seen[1]["ids"])
    run = run_of(primed, "finetune", "tiny-primed", "finetuned")
    assert run.data.metrics["reload_difference"] < 1e-4


def test_a_registered_primed_adapter_answers_alike_in_a_new_process_and_over_http(primed, tmp_path):
    run = run_of(primed, "evaluate", "tiny-primed", "finetuned")
    path = primed.client().download_artifacts(run.info.run_id, "records.parquet", str(tmp_path))
    records = read_records(Path(path)).query("language == 'heb_Hebr'").head(4)
    from xling.data import build_mini

    items = {
        item.item_id: item
        for item in build_mini(languages=["heb_Hebr"], difficulties=[1]).items["heb_Hebr"]
    }
    rows = [
        {
            name: getattr(items[item_id], name)
            for name in (
                "flores_passage", "question", "mc_answer1", "mc_answer2", "mc_answer3",
                "mc_answer4",
            )
        }
        for item_id in records["item_id"]
    ]  # fmt: skip
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(rows), encoding="utf-8")
    code = (
        "import mlflow, pandas as pd, sys\n"
        "model = mlflow.pyfunc.load_model('models:/tiny-tiny-primed@champion')\n"
        f"answers = model.predict(pd.read_json('{asked}', dtype=str))\n"
        f"answers.to_json('{tmp_path}/answers.json', double_precision=12)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=primed.environment, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = pd.read_json(tmp_path / "answers.json")
    columns = list(LOGPROB_COLUMNS)
    np.testing.assert_allclose(answers[columns], records[columns], atol=1e-4)
    with served(primed, "models:/tiny-tiny-primed@champion") as url:
        reply = requests.post(url, json={"dataframe_records": rows}, timeout=300)
    over_http = pd.DataFrame(reply.json()["predictions"])
    np.testing.assert_allclose(over_http[columns], records[columns], atol=1e-4)


def test_primed_models_are_in_a_section_of_their_own(primed, tmp_path):
    (run,) = primed.runs("analyze")
    folder = Path(primed.client().download_artifacts(run.info.run_id, "", str(tmp_path)))
    rows = estimates_of(folder)
    d = next(row for row in rows if (row.estimand, row.estimator) == ("D", "welch"))
    assert d.n_models == 1
    names = {row.estimand for row in rows}
    assert "rise of the base (tiny-primed, related)" in names
    assert "finetuned - control-source (tiny-primed, control)" in names
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Baselines raised on purpose" in report
    assert "What does the source add once the task is known?" in report


@pytest.mark.parametrize(
    ("model", "adapter", "words"),
    [
        ("tiny", "tiny-primed", ("on a base primed with", "languages eng_Latn", "is not primed")),
        ("tiny-primed", "tiny", ("on a base not primed", "is primed with", "languages eng_Latn")),
    ],
)
def test_an_adapter_of_the_other_base_is_refused(primed, zygote, model, adapter, words):
    uri = f"models:/tiny-{adapter}@champion"
    wrong = primed.run(zygote, "evaluate", study=primed.study, model=model, arm="finetuned",
                       adapter=uri)  # fmt: skip
    assert wrong.returncode != 0
    assert all(each in wrong.stderr for each in (uri, *words)), wrong.stderr[-2000:]


def test_another_primer_makes_other_adapters_and_leaves_the_twin_alone(primed, zygote):
    before = {run.info.run_id for run in primed.runs("finetune")}
    primed.settings["models"][1]["primed"] = PRIMED | {"labels": "shuffled"}
    primed.write()
    done = primed.run(zygote, "finetune", study=primed.study, model="tiny-primed")
    assert done.returncode == 0, done.stderr[-3000:]
    new = [run for run in primed.runs("finetune") if run.info.run_id not in before]
    assert sorted(run.data.params["cfg.arm"] for run in new) == ["finetuned", "primer"]
    (primer,) = [run for run in new if run.data.params["cfg.arm"] == "primer"]
    assert primer.data.metrics["label_agreement"] < 0.6
    done = primed.run(zygote, "finetune", study=primed.study, model="tiny")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(primed.runs("finetune")) == len(before) + 2


def test_a_primer_of_an_unprimed_model_is_refused(primed, zygote):
    wrong = primed.run(zygote, "finetune", study=primed.study, model="tiny", arm="primer")
    assert wrong.returncode != 0
    assert "model tiny of study 'tiny' is not primed, so it has no primer" in wrong.stderr
    assert "primed: tiny-primed" in wrong.stderr


def test_no_question_is_left_to_prime_on(primed, zygote):
    primed.settings["data"]["baseline_items"] = 100_000
    primed.write()
    wrong = primed.run(zygote, "main", study=primed.study)
    assert wrong.returncode != 0
    assert "no question is left to prime it on" in wrong.stderr
    assert "cell 1 of" not in wrong.stderr  # before anything is computed
