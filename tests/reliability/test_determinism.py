"""The same study twice is the same to the last digit; other threads and batches come close."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from safetensors.numpy import load_file

from tests.place import ROOT, Place
from tests.reliability.repeated import (
    Repetition,
    Run,
    file_hashes,
    logged_adapter,
    logged_runs,
)
from tests.reliability.study_processes import Zygote
from tests.training_jobs import EXAMPLES, LORA, TrainingJobs
from xling.models import locate_model
from xling.records import LOGPROB_COLUMNS
from xling.scoring import InProcessEngine
from xling.training.process_group import ProcessGroup
from xling.training.train import train_and_save

pytestmark = pytest.mark.slow

SOAK = int(os.environ.get("XLING_SOAK", "1"))
TOLERANCE = 1e-4  # in log-probability, in single precision
DROPOUT = {"r": 4, "alpha": 8, "dropout": 0.1}
EVERYTHING = {
    "languages": {"source": ["arb_Arab"], "target": ["heb_Hebr", "fra_Latn"], "branch": "Semitic"},
    "reasoning": ["direct", "cot"],
    "scoring_modes": ["answer-token", "permuted", "cloze"],
    # Sampled reasonings and dropout: draws must be the same, too.
    "chain_of_thought": {"arms": ["base"], "max_tokens": 8, "temperature": 0.8},
    "lora": DROPOUT,
}


@dataclass(frozen=True)
class Outcome:
    """A study's runs by name, and its adapters' folders by name of their finetune run."""

    repetition: Repetition
    runs: dict[str, Run]
    adapters: dict[str, Path]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> tuple[Outcome, Outcome]:
    """The study in two places, from two working directories, under two hash seeds of Python."""
    models = {"tiny-llama": tiny_model("llama"), "tiny-moe": tiny_model("qwen3_moe")}
    outcomes = []
    for number, hash_seed in enumerate(("1", "20231")):
        place = Place(tmp_path_factory.mktemp(f"time-{number}"), models, **EVERYTHING)
        cwd = (ROOT, place.folder)[number]
        repetition = Repetition(place, cwd=cwd, PYTHONHASHSEED=hash_seed, OMP_NUM_THREADS="1")
        repetition.run("main")
        runs = logged_runs(place, place.folder / "fetched")
        adapters = {
            name: logged_adapter(place, run, place.folder / "adapters" / name)
            for name, run in runs.items()
            if name.startswith("finetune ")
        }
        outcomes.append(Outcome(repetition, runs, adapters))
    return outcomes[0], outcomes[1]


def test_both_times_the_same_runs_finish(twice):
    first, second = twice
    assert set(first.runs) == set(second.runs)
    kinds = [run.tags["xling.kind"] for run in first.runs.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "study": 1, "prepare": 1, "finetune": 2, "evaluate": 14, "analyze": 1,
    }  # fmt: skip


def test_adapters_are_the_same_files(twice):
    first, second = twice
    assert len(first.adapters) == 2
    for name, folder in first.adapters.items():
        hashes = file_hashes(folder)
        assert {"adapter_model.safetensors", "adapter_config.json"} <= set(hashes)
        assert hashes == file_hashes(second.adapters[name])


def test_records_are_the_same_to_the_last_digit(twice):
    first, second = twice
    names = [name for name in first.runs if name.startswith("evaluate ")]
    assert len(names) == 14
    for name in names:
        records = first.runs[name].records
        assert len(records) > 0
        assert_frame_equal(records, second.runs[name].records, check_exact=True)


def test_files_and_metrics_of_every_run_are_the_same(twice):
    first, second = twice
    for name, run in first.runs.items():
        assert run.files == second.runs[name].files, name
        assert run.results == second.runs[name].results, name
    analysis = first.runs["analyze tiny"].files
    assert {"estimates.json", "figures/gains.svg", "figures/gains.png"} <= set(analysis)


def test_settings_and_fingerprints_are_the_same(twice):
    first, second = twice
    for name, run in first.runs.items():
        # Adapters are named by the run that made them, whose id is drawn.
        drawn = {"cfg.adapter"}
        other = second.runs[name]
        assert {k: v for k, v in run.params.items() if k not in drawn} == {
            k: v for k, v in other.params.items() if k not in drawn
        }
        if not run.params.get("cfg.adapter"):
            assert run.tags.get("xling.fingerprint") == other.tags.get("xling.fingerprint"), name


def test_another_thread_count_and_batch_come_close_and_are_reported(zygote, twice):
    """Adds runs to the first place, whose earlier ones are read already."""
    first, _ = twice
    place, repetition = first.repetition.place, first.repetition
    place.settings = {**place.settings, "scoring": {"batch_tokens": 512}}
    place.write()
    two = {"OMP_NUM_THREADS": "2"}
    for arm in ("base", "finetuned"):
        repetition.run(
            "evaluate", zygote=zygote, environment=two, model="tiny-llama", arm=arm, force="true"
        )
    after = logged_runs(place, place.folder / "again")
    for arm in ("base", "finetuned"):
        name = f"evaluate tiny-llama/{arm}/seed-0"
        before, now = first.runs[name], after[name]
        assert before.params["cfg.threads"] == "1"
        assert now.params["cfg.threads"] == "2"
        assert now.params["cfg.batch_tokens"] == "512" != before.params["cfg.batch_tokens"]
        _check_close(before.records, now.records)
    report = _analysed(zygote, repetition, place)
    assert "were not all made with the same" not in _text(first.runs["analyze tiny"])
    note = (
        f"runs of tiny-llama that are compared were not all made with the same threads 1, 2; "
        f"batch_tokens 512, {before.params['cfg.batch_tokens']}: differences of up to 1e-4 in "
        "log-probability come from that alone"
    )
    assert note in report
    assert "runs of tiny-moe that are compared" not in report


def _check_close(before, now) -> None:
    exact = [name for name in before.columns if before[name].dtype.kind != "f"]
    exact.remove("prediction")
    exact.remove("correct")
    assert_frame_equal(before[exact], now[exact], check_exact=True)
    columns = list(LOGPROB_COLUMNS)
    assert np.abs(before[columns].to_numpy() - now[columns].to_numpy()).max() <= TOLERANCE


def _analysed(zygote: Zygote, repetition: Repetition, place: Place) -> str:
    repetition.run("analyze", zygote=zygote)
    return _text(logged_runs(place, place.folder / "analysed")["analyze tiny"])


def _text(analysis: Run) -> str:
    return (analysis.folder / "report.html").read_text()


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives this process its threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "qwen3_moe"])
def test_scores_hold_for_any_threads_and_batches(tiny_model, threads, architecture):
    opened = locate_model(str(tiny_model(architecture))).open()
    prompts = [
        f"{'A passage of some length. ' * (1 + n % 9)}\nQuestion {n // 3}?\nAnswer: ("
        for n in range(20 * SOAK)
    ]
    reference = None
    for number in (1, 2, *range(3, 2 + SOAK)):
        torch.set_num_threads(number)
        for batch_tokens in (64, 2048, *(128 * step for step in range(1, SOAK))):
            for share in (True, False):
                engine = InProcessEngine(
                    opened.model,
                    opened.tokenizer,
                    add_special_tokens=True,
                    batch_tokens=batch_tokens,
                    share_prefixes=share,
                )
                scores = engine.score(prompts).logprobs
                assert np.array_equal(scores, engine.score(prompts).logprobs)
                reference = scores if reference is None else reference
                assert np.abs(scores - reference).max() <= TOLERANCE


def test_trainings_on_other_threads_and_in_other_passes_come_close(tiny_model, tmp_path, threads):
    """Without dropout, which is drawn by pass."""
    jobs = TrainingJobs(tiny_model("llama"), tmp_path)
    ways = {"one": (1, 2), "again": (1, 2), "two": (2, 2), "rows": (1, 8)}
    ways |= {f"{number}-{rows}": (number, rows) for number in range(3, 2 + SOAK) for rows in (1, 4)}
    made = {}
    for name, (number, rows) in ways.items():
        torch.set_num_threads(number)
        job = jobs.make(name, processes=1, lora=LORA)
        changes = {"micro_batch_size": rows, "epochs": 3 * SOAK}
        job = replace(job, training=job.training.model_copy(update=changes))
        train_and_save(job, EXAMPLES, job.locate().open(), ProcessGroup())
        folder = tmp_path / name
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        check = json.loads((folder / "check.json").read_text(encoding="utf-8"))
        made[name] = weights, np.array(check["logprobs"])
    first, scores = made["one"]
    assert file_hashes(tmp_path / "one" / "adapter") == file_hashes(tmp_path / "again" / "adapter")
    for name, (weights, others) in made.items():
        assert max(np.abs(first[key] - weights[key]).max() for key in first) <= TOLERANCE, name
        assert np.abs(scores - others).max() <= TOLERANCE, name
