"""The power command: what it logs and says."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from simulated_records import FAMILY, accuracies_of, study

from analysis.estimators.power import (
    POWER_COLUMNS,
    power_table,
)
from analysis.estimators.variance import (
    DEFAULT_COMPONENTS,
    VarianceComponents,
    variance_components,
)
from analysis.gains.comparisons import StudyDesign, compare_runs
from entrypoints.power import main
from tests.place import make_store
from xling import tracking
from xling.records import check_records, write_records

pytestmark = pytest.mark.slow

FEW = (3, 3)


def records(**changes: object) -> pd.DataFrame:
    settings: dict = {"base": {"a": 0.3, "b": 0.35, "c": 0.6}, "n_items": 60} | changes
    return check_records(study(np.random.default_rng(2), **settings))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of its own; what MLflow and a command leave in the process is put back."""
    folder = tmp_path_factory.mktemp("power")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", make_store(folder / "store.db"))
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.setenv(name, "")  # so that it is put back
            patch.delenv(name)
        tracking.open_store()
        yield folder
    signal.signal(signal.SIGTERM, handler)


def log_study(frame: pd.DataFrame, folder: Path, name: str) -> None:
    for (model, arm), rows in frame.groupby(["model", "arm"]):
        path = folder / name / f"{model}-{arm}" / "records.parquet"
        path.parent.mkdir(parents=True)
        write_records(rows.reset_index(drop=True), path)
        cell = {"model": model, "arm": arm, "seed": 0, "reasoning": "direct",
                "scoring": "answer-token"}  # fmt: skip
        with tracking.tracked_run("evaluate", name=path.parent.name, study=name, params=cell,
                                  tags={}):  # fmt: skip
            tracking.log_file(path)


def test_the_command_logs_what_the_asked_design_sees(store: Path) -> None:
    done = CliRunner().invoke(main, ["--items", "250", "--related", "4"])
    assert done.exit_code == 0, done.output
    run, *_ = tracking.find_runs(kind="power", study="")
    expected = power_table(
        DEFAULT_COMPONENTS, items=[250], languages=[(4, 3)], models=[7], seeds=[1]
    ).iloc[0]
    for name in ("mde_d", "bound_d", "mde_i", "bound_i"):
        assert run.metrics[name] == pytest.approx(expected[name])
    assert f"D: an effect of {100 * expected['mde_d']:.1f} points is found" in done.output
    assert "-e power" in run.tags["xling.command"] and "items=250" in run.tags["xling.command"]
    for name in ("power.tex", "figures/power.svg", "figures/power.png"):
        assert tracking.download_artifact(run.run_id, name, store).stat().st_size > 100
    components = tracking.download_artifact(run.run_id, "components.json", store)
    assert VarianceComponents(**json.loads(components.read_text())) == DEFAULT_COMPONENTS
    table = pd.read_csv(tracking.download_artifact(run.run_id, "power.csv", store))
    assert tuple(table.columns) == POWER_COLUMNS
    asked = (table["items"] == 250) & (table["related"] == 4) & (table["models"] == 7)
    assert table.loc[asked & (table["seeds"] == 1), "mde_d"].item() == pytest.approx(
        expected["mde_d"]
    )


def test_the_command_takes_the_variances_of_a_study(store: Path) -> None:
    frame = records(language_sd=0.05)
    log_study(frame, store, "demo")
    done = CliRunner().invoke(main, ["--study", "demo", "--models", "3"])
    assert done.exit_code == 0, done.output
    (run,) = tracking.find_runs(kind="power", study="demo")
    primary = compare_runs(frame, accuracies_of(frame), StudyDesign(FAMILY)).primary
    found = variance_components(primary.table)
    expected = power_table(found, items=[100], languages=[FEW], models=[3], seeds=[1]).iloc[0]
    assert run.metrics["mde_d"] == pytest.approx(expected["mde_d"])
    assert "the study itself:\n  MDE of D by languages: " in done.output
    rows = tracking.download_artifact(run.run_id, "estimates.json", store)
    assert [row["estimand"] for row in json.loads(rows.read_text())] == [
        "MDE of D", "MDE of D", "MDE of B", "MDE of I",
        "provable bound of D", "provable bound of I",
    ]  # fmt: skip


def test_a_study_without_components_is_told_and_logs_nothing(store: Path) -> None:
    log_study(records(base={"a": 0.3}), store, "paper")
    done = CliRunner().invoke(main, ["--study", "paper"])
    assert done.exit_code == 1
    assert "study 'paper' gives no variance components: needs 2 models" in done.output
    assert tracking.find_runs(kind="power", study="paper") == []


def test_one_model_leaves_i_out(store: Path) -> None:
    done = CliRunner().invoke(main, ["--models", "1"])
    assert done.exit_code == 0, done.output
    assert "I: needs two models" in done.output
    run, *_ = tracking.find_runs(kind="power", study="")
    assert set(run.metrics) == {"mde_d", "bound_d"}
