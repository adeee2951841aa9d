"""Adapters in the store, at hand and in the registry: only the right, unchanged one is used."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest

from tests.place import make_store
from tests.tiny_models import save_tiny_model
from tests.training_jobs import EXAMPLES, SHORT, TrainingJobs
from xling import tracking
from xling.execution.cell_run import CellJob
from xling.execution.evaluate.find_adapters import _fetch_adapter
from xling.execution.finetune.log_adapter import TrainedAdapter, log_adapter
from xling.models import BaseModelCache, locate_model
from xling.prompts import PromptFormat
from xling.tracking.adapters import fetch_adapter, score_logged_adapter
from xling.training.process_group import ProcessGroup
from xling.training.train import train_and_save

pytestmark = pytest.mark.slow

SOAK = int(os.environ.get("XLING_SOAK", "1"))
PROMPT = PromptFormat(
    template="{question}", answer_prefix="", chat=False, cloze_template="", cloze_prefix=""
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of its own, which this process works with."""
    folder = tmp_path_factory.mktemp("adapters")
    before, here = mlflow.get_tracking_uri(), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        # Another store's experiment may be the active one.
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        os.chdir(folder)
        mlflow.set_tracking_uri(make_store(folder / "mlflow.db"))
        tracking.open_store()
        yield folder
    mlflow.set_tracking_uri(before)
    os.chdir(here)


@pytest.fixture(scope="module")
def place(store):
    """A real adapter in the store, of a tiny base of its own."""
    folder = store
    base = folder / "base"
    save_tiny_model("llama", base)
    job = TrainingJobs(base, folder).make("job", processes=1)
    target = folder / "job" / "trained"
    target.mkdir()
    job = replace(job, target=str(target), training=SHORT)
    shelf = BaseModelCache()
    train_and_save(job, EXAMPLES, shelf.open(job.locate()), ProcessGroup())
    check = json.loads((target / "check.json").read_text())
    report = json.loads((target / "report.json").read_text())
    adapter = TrainedAdapter(
        target / "adapter", report, check["prompts"], np.array(check["logprobs"])
    )
    settings = {
        "model": job.model,
        "revision": "",
        "weights": job.weights,
        "quantise": job.quantise,
        "prompt": asdict(PROMPT),
        "arm": "finetuned",
        "seed": 0,
    }
    named = {"name": "finetune tiny", "study": "tiny", "params": {}, "tags": {}}
    with tracking.tracked_run("finetune", **named) as run_id:
        log_adapter(adapter, settings, folder / "job")
    (stored,) = folder.rglob("mlruns/**/artifacts/artifacts/adapter/adapter_config.json")
    return SimpleNamespace(
        folder=folder, base=base, uri=run_id, stored=stored.parent,
        trained=adapter.folder, prompts=check["prompts"],
    )  # fmt: skip


def harmed(path: Path, rng: random.Random) -> str:
    """Changes a file in one of three ways; says how."""
    how = rng.choice(["bit", "cut", "missing"])
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        path.unlink()
    return how


def test_any_change_of_a_stored_adapter_is_refused(place, tmp_path):
    rng = random.Random(0)
    for case in range(12 * SOAK):
        path = rng.choice(sorted(path for path in place.stored.iterdir() if path.is_file()))
        whole = path.read_bytes()
        harmed(path, rng)
        said = (
            "not an adapter that this package logged"
            "|are not those that were logged: .*train it again"
        )
        with pytest.raises(ValueError, match=said):
            fetch_adapter(place.uri, tmp_path / str(case))
        path.write_bytes(whole)
    assert fetch_adapter(place.uri, tmp_path / "whole").uri == place.uri


def test_any_change_of_an_adapter_at_hand_sends_to_the_store(place, tmp_path):
    rng = random.Random(1)
    at_hand = tmp_path / "at-hand"
    shutil.copytree(place.trained, at_hand)
    assert fetch_adapter(place.uri, tmp_path / "no", at_hand=at_hand).folder == at_hand
    for case in range(12 * SOAK):
        path = rng.choice(sorted(at_hand.iterdir()))
        whole = path.read_bytes()
        harmed(path, rng)
        fetched = fetch_adapter(place.uri, tmp_path / str(case), at_hand=at_hand)
        assert fetched.folder.is_relative_to(tmp_path / str(case))
        path.write_bytes(whole)


def test_a_changed_adapter_is_not_loaded_to_serve_it_either(place):
    model_id = fetch_adapter(place.uri, place.folder / "fetched").model_id
    assert score_logged_adapter(model_id, place.prompts).shape == (8, 4)
    path = place.stored / "adapter_model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="adapter's files in .* are not those that were logged"):
        score_logged_adapter(model_id, place.prompts)
    whole[-3] ^= 1
    path.write_bytes(whole)


def fetched_for(place, located, folder: Path, *, arm: str = "finetuned", seed: int = 0):
    model = SimpleNamespace(id=str(located.recipe.repository), primed=None, label="m")
    cell = SimpleNamespace(model=model, arm=arm)
    cell.seed = seed
    prepared = SimpleNamespace(splits=(None,))
    return _fetch_adapter(CellJob(prepared, cell, located), place.uri, folder)


def test_an_adapter_goes_onto_its_own_base_alone(place, tmp_path):
    right = locate_model(str(place.base))
    assert fetched_for(place, right, tmp_path / "right").uri == place.uri
    other = Path(shutil.copytree(place.base, tmp_path / "other"))
    path = other / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = locate_model(str(other))
    said = (
        f"adapter '{place.uri}' was trained on {place.base} \\({right.weights.identity}\\), "
        f"not on {other} \\({changed.weights.identity}\\)"
    )
    with pytest.raises(ValueError, match=said):
        fetched_for(place, changed, tmp_path / "changed")
    save_tiny_model("qwen3", tmp_path / "qwen")
    with pytest.raises(ValueError, match="was trained on .*/base .*not on .*/qwen"):
        fetched_for(place, locate_model(str(tmp_path / "qwen")), tmp_path / "a")
    with pytest.raises(ValueError, match="trained on a base quantised as nf4, not none"):
        fetched_for(place, locate_model(str(place.base), quantise="none"), tmp_path / "b")
    with pytest.raises(ValueError, match="is of arm finetuned and seed 0, not of .*use arm="):
        fetched_for(place, right, tmp_path / "c", seed=1)


def test_a_base_that_was_changed_since_the_training_is_not_loaded_with_the_adapter(place):
    model_id = fetch_adapter(place.uri, place.folder / "again").model_id
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = place.base / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[whole.rfind(b"0")] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="only fits the base that it was trained on"):
            score_logged_adapter(model_id, place.prompts)
        path.write_bytes(whole)
    assert score_logged_adapter(model_id, place.prompts).shape == (8, 4)
