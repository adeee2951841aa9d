"""A base that is given up is freed, and an adapter that does not score as it did is not kept."""

import json
import weakref
from dataclasses import asdict, replace

import mlflow
import numpy as np
import pytest

from tests.training_jobs import EXAMPLES, TRAINING, TrainingJobs
from xling.distributed.running import train_and_save
from xling.distributed.team import Team
from xling.execution.trained import TrainedAdapter, log_trained
from xling.models import BaseShelf
from xling.prompts import PromptFormat
from xling.tracking.adapters import score_logged_adapter

PROMPT = PromptFormat(
    template="{question}", answer_prefix="", chat=False, cloze_template="", cloze_prefix=""
)


@pytest.fixture
def trained(tiny_model, tmp_path):
    """A trained adapter, with the shelf that has its base still, and the job."""
    jobs = TrainingJobs(tiny_model("llama"), tmp_path)
    job = jobs.make("job", processes=1)
    target = tmp_path / "job" / "trained"
    target.mkdir()
    job = replace(job, target=str(target), training=TRAINING | {"epochs": 1, "checkpoints": 1})
    shelf = BaseShelf()
    train_and_save(job, EXAMPLES, shelf.open(job.locate()), Team())
    check = json.loads((target / "check.json").read_text())
    report = json.loads((target / "report.json").read_text())
    logprobs = np.array(check["logprobs"])
    return shelf, job, TrainedAdapter(target / "adapter", report, check["prompts"], logprobs)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Another store's experiment may be the active one.
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield
    mlflow.set_tracking_uri(before)


def four_bit_weights():
    """All that are in memory, whoever has them."""
    import gc

    from bitsandbytes.nn import Params4bit

    return [weakref.ref(each) for each in gc.get_objects() if type(each) is Params4bit]


def alive(references) -> int:
    return sum(reference() is not None for reference in references)


def settings(job):
    return {
        "model": job.model,
        "revision": "",
        "weights": job.weights,
        "quantise": job.quantise,
        "prompt": asdict(PROMPT),
    }


def test_released_base_is_freed_after_a_training(trained):
    shelf, job, _ = trained
    opened = shelf.open(job.locate())
    weights = [weakref.ref(each) for each in opened.model.parameters()]
    del opened
    shelf.release()
    assert len(weights) > 14
    assert alive(weights) == 0


def test_logged_adapter_is_loaded_back_and_its_base_freed(trained, store, tmp_path):
    shelf, job, adapter = trained
    shelf.release()
    before = len(four_bit_weights())
    with mlflow.start_run() as run:
        log_trained(adapter, settings(job), tmp_path / "job")
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert (tmp_path / "job" / "checkpoints").is_dir()
    assert len(four_bit_weights()) == before
    model_id = next(value for key, value in tags.items() if key.endswith("logged_model"))
    scores = score_logged_adapter(model_id, adapter.check_prompts)
    assert np.abs(scores - adapter.check_logprobs).max() < 1e-4


def test_adapter_that_scores_differently_leaves_nothing_to_go_on_from(trained, store, tmp_path):
    _, job, adapter = trained
    wrong = replace(adapter, check_logprobs=adapter.check_logprobs + 0.01)
    with mlflow.start_run(), pytest.raises(RuntimeError, match="difference 0.01 .* trains it anew"):
        log_trained(wrong, settings(job), tmp_path / "job")
    assert not (tmp_path / "job").exists()
