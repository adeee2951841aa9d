from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.reliability.study_processes import Zygote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# Files that take longest, from long to short: two workers that share a run end together.
LONGEST = (
    "test_end_to_end_arms.py",
    "test_end_to_end.py",
    "test_determinism.py",
    "test_outages.py",
    "test_kills.py",
    "test_ray_cells.py",
    "test_distributed_failures.py",
    "test_distributed_training.py",
    "test_planted_arms.py",
    "test_security_secrets.py",
    "test_accounts.py",
    "test_concurrency.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """Leave libraries and tests out of every later search for garbage: models are freed often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's unfinished work."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def _no_experiment_left_behind() -> Iterator[None]:
    """MLflow puts the experiment that a process selects into its environment."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory):
    """Maker of tiny models of true architectures, saved as a user's folder would be."""
    from tests.tiny_models import save_tiny_model

    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
            save_tiny_model(architecture, folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn."""
    from matplotlib.figure import Figure

    from tests.undrawn import save_picture

    monkeypatch.setattr(Figure, "savefig", save_picture)


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts commands as real processes, with the libraries loaded already."""
    from tests.reliability.study_processes import Zygote

    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()
