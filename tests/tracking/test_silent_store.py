"""A tracking store that falls silent between the cells of a study."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.place import Place
from xling import tracking
from xling.execution import prepare_study, run_cells
from xling.execution.run_study import ResultsWait
from xling.study.load import load_study


class Breaker(logging.Handler):
    """Spoils a SQLite file when a line of the log comes by."""

    def __init__(self, line: str, path: Path) -> None:
        super().__init__()
        self.line, self.path = line, path

    def emit(self, record: logging.LogRecord) -> None:
        if self.line in record.getMessage():
            size = self.path.stat().st_size
            self.path.write_bytes(b"no database " * (size // 12))


@pytest.fixture
def place(tmp_path: Path, tiny_model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(
        tmp_path,
        {"one": tiny_model("llama"), "two": tiny_model("llama")},
        arms=["base"],
    )
    for model in made.settings["models"]:
        model["quantise"] = "none"
    made.write()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(made.uri)
    yield made
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_a_store_that_breaks_between_cells_holds_the_study_s_results_back(place, caplog):
    caplog.set_level(logging.INFO, logger="xling")
    logger = logging.getLogger("xling.execution.units")
    breaker = Breaker("cell 2 of 2", place.folder / "mlflow.db")
    logger.addHandler(breaker)
    try:
        prepared = prepare_study(load_study(str(place.study)), limit=4)
        tracking.open_store()
        with (
            pytest.raises(ResultsWait, match="the results of 1 of 2 cells wait for .*mlflow.db"),
            tracking.tracked_run("study", name="s", study="tiny", params={}, tags={}),
        ):
            run_cells(prepared).in_store()
    finally:
        logger.removeHandler(breaker)
    lines = [record.getMessage() for record in caplog.records]
    assert "cell 2 of 2: two/base/seed-0" in lines
    assert not [line for line in lines if line.startswith("cell two") and "failed" in line]
    account = tracking.account().lines
    assert "  evaluate two/base/seed-0: FINISHED; " in account[2]
    assert account[1].startswith("  s: FAILED; ")


def test_a_server_that_is_gone_is_no_wrong_input_of_a_cell(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        mlflow.set_tracking_uri(f"http://127.0.0.1:{unused.getsockname()[1]}")
        try:
            for ask in (
                tracking.check_store,
                tracking.open_store,
                lambda: tracking.find_finished("0" * 64, kind="evaluate", study="tiny"),
                lambda: tracking.run_command("evaluate", {}),
            ):
                with pytest.raises(tracking.StoreUnavailable, match="127.0.0.1") as silent:
                    ask()
                assert isinstance(silent.value, ValueError)  # before any work, it is input
        finally:
            mlflow.set_tracking_uri(None)
