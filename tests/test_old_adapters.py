"""An adapter that the version before logged still loads, and scores as it did.

``tests/data/before/adapter.zip`` holds an adapter as commit e182968 logged it (`log_adapter`, so
its code is that version's), the tiny base that it was trained on, and the scores that it gave
there in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from xling import tracking
from xling.models import locate_model
from xling.scoring import InProcessEngine
from xling.tracking.adapters import fetch_adapter, score_logged_adapter

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "tests" / "data" / "before" / "adapter.zip"
LOAD = """
import json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
with open(sys.argv[2]) as file:
    known = json.load(file)
columns = ["logprob_1", "logprob_2", "logprob_3", "logprob_4"]
scores = [
    model.predict(pd.DataFrame(rows))[columns].to_numpy().tolist()
    for rows in ({"prompt": known["prompts"]}, known["items"])
]
import xling
print(json.dumps({"code": xling.__file__, "scores": scores}))
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of ``adapter``, ``base`` and ``scores.json``; the adapter names the base there."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(folder)
    path = folder / "adapter" / "MLmodel"
    text = path.read_text()
    assert "model: /tmp/study/base\n" in text
    path.write_text(text.replace("model: /tmp/study/base\n", f"model: {folder / 'base'}\n"))
    return folder


def known(old: Path) -> dict[str, Any]:
    return json.loads((old / "scores.json").read_text())


def load_in_a_process(old: Path, script: str, **variables: str) -> dict[str, Any]:
    """Run a script in a new process, outside of the project."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(old / "adapter"), str(old / "scores.json")],
        cwd=old,
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_scores(old: Path, found: list[Any]) -> None:
    expected = known(old)["prompt_logprobs"], known(old)["item_logprobs"]
    for scores, wanted in zip(found, expected, strict=True):
        assert np.abs(np.array(scores) - wanted).max() < 1e-4


@pytest.mark.slow
def test_in_a_new_process_it_runs_the_code_that_was_logged_with_it(old: Path) -> None:
    result = load_in_a_process(old, LOAD)
    assert Path(result["code"]).is_relative_to(old / "adapter" / "code")
    check_scores(old, result["scores"])


@pytest.mark.slow
def test_in_a_process_that_imported_this_package_it_runs_with_that(old: Path) -> None:
    result = load_in_a_process(old, f"import xling\n{LOAD}", PYTHONPATH=str(ROOT))
    assert result["code"] == str(ROOT / "xling" / "__init__.py")
    check_scores(old, result["scores"])


def log_in_a_store(adapter: Path) -> str:
    """Put the old adapter into a new store, as a logged model; return its id there."""
    tracking.open_store()
    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        model = client.create_logged_model(
            run.info.experiment_id, name="adapter", source_run_id=run.info.run_id
        )
        path = adapter / "MLmodel"
        path.write_text(
            re.sub("(?m)^model_id: .*", f"model_id: {model.model_id}", path.read_text())
        )
        client.log_model_artifacts(model.model_id, str(adapter))
        client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def test_this_package_loads_and_fetches_it_from_the_store(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        model_id = log_in_a_store(Path(shutil.copytree(old / "adapter", tmp_path / "adapter")))
        prompts = known(old)["prompts"]
        loaded = score_logged_adapter(model_id, prompts)
        adapter = fetch_adapter(f"models:/{model_id}", tmp_path / "fetched")
    finally:
        mlflow.set_tracking_uri(before)
    settings = adapter.settings
    assert (settings["arm"], settings["seed"], settings["quantise"]) == ("finetuned", 0, "nf4")
    files = locate_model(settings["model"], expected_identity=settings["weights"])
    with files.open().adapted(adapter.folder) as model:
        engine = InProcessEngine(model.model, model.tokenizer, add_special_tokens=True)
        fetched = engine.score(prompts).logprobs
    for scores in (loaded, fetched):
        assert np.abs(scores - known(old)["prompt_logprobs"]).max() < 1e-4


def test_the_old_names_are_those_of_this_package() -> None:
    import xling.sealed
    import xling.serving_limits

    from xling.files.checksums import hash_folder
    from xling.models import get_base, open_base
    from xling.serving.limits import Limits

    assert xling.sealed.files_sha256 is hash_folder
    assert xling.serving_limits.Limits is Limits
    assert open_base is get_base
    with pytest.raises(ModuleNotFoundError, match="xling.folders"):
        import xling.folders
