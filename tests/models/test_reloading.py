"""A base that is given up is freed, and an adapter that does not score as it did is not kept."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import asdict, replace

# Before any test: on some processors it logs a warning with the error that it caught, whose frames
# would keep the base of the test that imports it first.
import bitsandbytes  # noqa: F401
import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.place import make_store
from tests.training_jobs import EXAMPLES, SHORT, TrainingJobs
from xling.execution.finetune.log_adapter import TrainedAdapter, log_adapter
from xling.models import BaseModelCache, loaded
from xling.models.loaded import checksums
from xling.models.loading import load_base
from xling.prompts import PromptFormat
from xling.scoring import InProcessEngine
from xling.tracking import tracked_run
from xling.tracking.adapters import fetch_adapter, score_logged_adapter
from xling.training.process_group import ProcessGroup
from xling.training.train import train_and_save

pytestmark = pytest.mark.slow

PROMPT = PromptFormat(
    template="{question}", answer_prefix="", chat=False, cloze_template="", cloze_prefix=""
)


@pytest.fixture(scope="module")
def training(tiny_model, tmp_path_factory):
    """A training and its folder, and whether its base was freed after it."""
    folder = tmp_path_factory.mktemp("training")
    job = TrainingJobs(tiny_model("llama"), folder).make("job", processes=1)
    target = folder / "job" / "trained"
    target.mkdir()
    job = replace(job, target=str(target), training=SHORT)
    shelf = BaseModelCache()
    train_and_save(job, EXAMPLES, shelf.open(job.locate()), ProcessGroup())
    base = shelf.open(job.locate())
    weights = [weakref.ref(each) for each in base.model.parameters()]
    del base
    shelf.release()
    return job, folder / "job", weights


@pytest.fixture
def trained(training, tmp_path):
    """A trained adapter, with a shelf that has its base, and the job."""
    job, folder, _ = training
    shutil.copytree(folder, tmp_path / "job")
    target = tmp_path / "job" / "trained"
    job = replace(job, target=str(target), checkpoints=str(tmp_path / "job" / "checkpoints"))
    shelf = BaseModelCache()
    shelf.open(job.locate())
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
    mlflow.set_tracking_uri(make_store(tmp_path / "mlflow.db"))
    yield
    mlflow.set_tracking_uri(before)


def a_run():
    return tracked_run("finetune", name="job", study="s", params={}, tags={})


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


def test_released_base_is_freed_after_a_training(training):
    _, _, weights = training
    assert len(weights) > 14
    assert alive(weights) == 0


def test_logged_adapter_is_loaded_back_and_its_base_freed(trained, store, tmp_path):
    shelf, job, adapter = trained
    shelf.release()
    before = len(four_bit_weights())
    with a_run() as run_id:
        log_adapter(adapter, settings(job), tmp_path / "job")
    tags = mlflow.get_run(run_id).data.tags
    assert (tmp_path / "job" / "checkpoints").is_dir()
    assert len(four_bit_weights()) == before
    model_id = next(value for key, value in tags.items() if key.endswith("logged_model"))
    scores = score_logged_adapter(model_id, adapter.check_prompts)
    assert np.abs(scores - adapter.check_logprobs).max() < 1e-4


def test_adapter_that_scores_differently_leaves_nothing_to_go_on_from(trained, store, tmp_path):
    _, job, adapter = trained
    wrong = replace(adapter, check_logprobs=adapter.check_logprobs + 0.01)
    with a_run(), pytest.raises(RuntimeError, match="difference 0.01 .* trains it anew"):
        log_adapter(wrong, settings(job), tmp_path / "job")
    assert not (tmp_path / "job").exists()


@pytest.fixture
def loads(monkeypatch):
    """Folders of the bases that are really loaded, as they are."""
    folders = []

    def counted(folder, **settings):
        folders.append(folder)
        return load_base(folder, **settings)

    monkeypatch.setattr(loaded, "load_base", counted)
    return folders


def test_logged_adapter_is_checked_on_the_shelf_s_base(trained, store, tmp_path, loads):
    shelf, job, adapter = trained
    base = shelf.open(job.locate()).model
    before = checksums(base)
    with shelf.share(), a_run():
        log_adapter(adapter, settings(job), tmp_path / "job")
    assert not loads
    assert shelf.open(job.locate()).model is base
    assert checksums(base) == before
    assert not [name for name, _ in base.named_modules() if "lora" in name]


def test_an_empty_shelf_keeps_the_base_that_a_check_loads(trained, store, tmp_path, loads):
    shelf, job, adapter = trained
    shelf.release()
    with shelf.share(), a_run():
        log_adapter(adapter, settings(job), tmp_path / "job")
    shelf.open(job.locate())
    assert len(loads) == 1


def test_adapter_of_a_base_that_its_training_changed_is_refused(trained, store, tmp_path, loads):
    shelf, job, adapter = trained
    base = shelf.open(job.locate())
    with torch.no_grad():
        base.model.model.norm.weight[0] += 1.0
    with base.adapted(adapter.folder) as live:
        engine = InProcessEngine(live.model, live.tokenizer, add_special_tokens=True)
        scores = engine.score(adapter.check_prompts).logprobs
    live = base = engine = None
    with shelf.share(), a_run(), pytest.raises(RuntimeError, match="scores differently"):
        log_adapter(replace(adapter, check_logprobs=scores), settings(job), tmp_path / "job")
    assert len(loads) == 1


def test_broken_logged_adapter_is_caught_on_the_shelf_s_base(trained, store, tmp_path, loads):
    shelf, job, adapter = trained
    shelf.open(job.locate())
    path = adapter.folder / "adapter_model.safetensors"
    save_file({name: 3 * value for name, value in load_file(path).items()}, path)
    kept = tmp_path / "kept"
    kept.mkdir()
    with shelf.share(), a_run(), pytest.raises(RuntimeError, match="scores differently"):
        log_adapter(adapter, settings(job), kept)
    path.write_bytes(b"cut")
    with shelf.share(), a_run(), pytest.raises(Exception, match="safetensors|header"):
        log_adapter(adapter, settings(job), kept)
    assert not loads


def test_a_base_with_something_left_on_it_is_forgotten(trained, loads):
    shelf, job, adapter = trained
    with shelf.share():
        shelf.open(job.locate()).with_adapter(adapter.folder)
    assert not shelf.holds(job.locate())
    model = shelf.open(job.locate()).model
    assert len(loads) == 1
    assert not [name for name, _ in model.named_modules() if "lora" in name]


def test_files_on_this_machine_are_used_if_they_are_those_that_were_logged(
    trained, store, tmp_path
):
    _, job, adapter = trained
    with a_run() as uri:
        log_adapter(adapter, settings(job), tmp_path / "job")
    assert fetch_adapter(uri, tmp_path / "new", at_hand=adapter.folder).folder == adapter.folder
    assert not (tmp_path / "new").exists()
    fetched = fetch_adapter(uri, tmp_path / "new", at_hand=tmp_path / "nowhere")
    assert fetched.folder.is_relative_to(tmp_path / "new")
    path = adapter.folder / "adapter_model.safetensors"
    save_file({name: 3 * value for name, value in load_file(path).items()}, path)
    fetched = fetch_adapter(uri, tmp_path / "other", at_hand=adapter.folder)
    assert fetched.folder.is_relative_to(tmp_path / "other")
    (logged,) = (tmp_path / "mlruns").rglob("artifacts/artifacts/adapter/adapter_model.safetensors")
    logged.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="not those that were logged"):
        fetch_adapter(uri, tmp_path / "damaged")
