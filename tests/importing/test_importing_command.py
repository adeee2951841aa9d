"""The command `import`: what it refuses, and what it leaves in the store."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.place import make_store
from xling.records import read_records

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "data" / "lm_eval" / "tiny-llama"
TABLE = """\
model,arm,language,accuracy,n_items
gpt-x,base,heb_Hebr,0.53,100
gpt-x,base,deu_Latn,0.613,
gpt-x,finetuned,heb_Hebr,0.57,100
"""


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command handles SIGTERM; the test run must not keep its handler."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "option file is empty: give a CSV table with the columns model, arm, language"),
        (["--file", "none.csv"], "none.csv does not exist; paths are looked up from"),
        (["--file", "t.csv", "--model", "x"], "names model and arm in its columns"),
        (["--file", "t.csv", "--format", "lm-eval"], "the name is not samples_<task>_<time>.jsonl"),
        (["--file", ".", "--format", "csv"], "is a folder; give the CSV file, or format lm-eval"),
        (["--file", "."], "run lm_eval with --log_samples"),
        (["--file", "t.csv", "--format", "xlsx"], "'xlsx' is not one of 'auto', 'csv', 'lm-eval'"),
        (["--file", "t.csv", "--arm", "tuned"], "'shuffled-labels'"),
    ],
)
def test_wrong_input_is_told_before_the_store_is_opened(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TABLE)
    result = CliRunner().invoke(importlib.import_module("entrypoints.import").main, arguments)
    assert result.exit_code in (1, 2)
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert told in result.output
    assert not (tmp_path / "store.db").exists()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, zygote) -> tuple[MlflowClient, list[str]]:
    """The store after both forms were imported, and what the commands said."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "published.csv").write_text(TABLE, encoding="utf-8")
    uri = make_store(folder / "store.db")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    said = []
    for file in ("published.csv", str(FIXTURE)):
        done = zygote.complete(["import", "--file", file], environment, folder=folder)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    return MlflowClient(tracking_uri=uri), said


def runs_of(client: MlflowClient, kind: str) -> dict[str, Run]:
    experiment = client.get_experiment_by_name("xling")
    query = f"tags.`xling.kind` = '{kind}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment.experiment_id], query)
    return {run.info.run_name: run for run in runs}


@pytest.mark.slow
def test_accuracies_are_logged_in_the_form_of_the_contract(
    logged: tuple[MlflowClient, list[str]],
) -> None:
    client, (said, _) = logged
    runs = runs_of(client, "evaluate")
    run = runs["evaluate gpt-x/base/seed-0"]
    assert run.data.tags["xling.study"] == "paper"
    assert run.data.params == {
        "cfg.model": "gpt-x",
        "cfg.arm": "base",
        "cfg.seed": "0",
        "cfg.reasoning": "direct",
        "cfg.scoring": "answer-token",
    }
    assert run.data.metrics["accuracy/heb_Hebr"] == 0.53
    assert run.data.metrics["accuracy_family/related"] == 0.53
    assert run.data.metrics["accuracy_family/control"] == 0.613  # German is outside the study
    assert run.data.tags["xling.imported"].startswith("published.csv sha256:")
    assert "-e import" in run.data.tags["xling.command"]
    assert "-P file=published.csv" in run.data.tags["xling.command"]
    parent = runs_of(client, "import")["import published.csv"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [entry.path for entry in client.list_artifacts(parent.info.run_id)] == ["published.csv"]
    assert f"accuracies only (run {run.info.run_id})" in said
    assert "2 runs logged to study paper" in said
    assert "-e analyze" in said.splitlines()[-1]
    assert said.endswith("-P study=paper\n")


@pytest.mark.slow
def test_samples_are_logged_with_their_records(
    logged: tuple[MlflowClient, list[str]], tmp_path: Path
) -> None:
    client, (_, said) = logged
    run = runs_of(client, "evaluate")["evaluate tiny-llama/base/seed-0"]
    assert run.data.params["cfg.engine"] == "lm-evaluation-harness 0.4.13"
    path = client.download_artifacts(run.info.run_id, "records.parquet", str(tmp_path))
    records = read_records(Path(path))
    assert len(records) == 36
    means = records.groupby("language")["correct"].mean()
    for code, accuracy in means.items():
        assert run.data.metrics[f"accuracy/{code}"] == pytest.approx(accuracy)
    assert "3 languages, mean accuracy 0.194, items" in said
