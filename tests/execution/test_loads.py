"""One load of a base serves a whole study: baseline, reasoning, trainings, checks and adapters."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from tests.place import make_store
from tests.tiny_models import save_tiny_model
from xling import tracking
from xling.execution import prepare_study, run_cells
from xling.execution.run_study import StudyOutcome
from xling.models import loaded
from xling.models.loading import load_base
from xling.study import Study
from xling.tracking import adapters

pytestmark = pytest.mark.slow
REASONED = ("base", "finetuned")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of the bases that are really loaded, as they are."""
    folders = []

    def counted(folder, **settings):
        folders.append(folder)
        return load_base(folder, **settings)

    monkeypatch.setattr(loaded, "load_base", counted)
    return folders


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of the adapters that are really downloaded."""
    addresses = []
    download = adapters.mlflow.artifacts.download_artifacts

    def counted(**settings):
        addresses.append(settings["artifact_uri"])
        return download(**settings)

    monkeypatch.setattr(adapters.mlflow.artifacts, "download_artifacts", counted)
    return addresses


def run(folder: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> StudyOutcome:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(make_store(folder / "mlflow.db"))
    study = Study.model_validate(
        {
            "name": "loads",
            "models": [{"id": str(path), "training_items": 4} for path in models],
            "data": {
                "source": "mini",
                "difficulties": (1,),
                "split": "given",
                "held_out": 3,
                "baseline_items": 2,
            },
            "languages": {"source": ("arb_Arab",), "target": ("heb_Hebr",), "branch": "Semitic"},
            "reasoning": ("direct", "cot"),
            "scoring_modes": ("answer-token", "permuted"),
            "chain_of_thought": {"max_tokens": 4, "arms": REASONED},
            "seeds": (0, 1),
            "lora": {"r": 4, "alpha": 8},
            "training": {"batch_size": 4},
        },
        strict=False,
    )
    try:
        tracking.open_store()
        with tracking.tracked_run("study", name="loads", study="loads", params={}, tags={}):
            return run_cells(prepare_study(study))
    finally:
        mlflow.set_tracking_uri(None)  # or other tests would use this store


def test_a_base_is_loaded_once_and_no_adapter_is_fetched_that_is_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loads: list[Path],
    downloads: list[str],
) -> None:
    models = [tmp_path / "first", tmp_path / "second"]
    for folder, architecture in zip(models, ("llama", "qwen3"), strict=True):
        save_tiny_model(architecture, folder)
    outcome = run(tmp_path, models, monkeypatch)
    outcome.check()
    assert len(outcome.evaluated) == len(models) * 3 * 3  # base and two seeds, in three ways
    assert [folder.name for folder in loads] == ["first", "second"]
    assert not [address for address in downloads if address.startswith("runs:/")]
