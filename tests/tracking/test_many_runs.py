"""A study's runs among thousands of others in one real store."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from analysis.runs.pull import pull_records
from xling import tracking
from xling.records import check_records, write_records

OTHERS = 5000

pytestmark = pytest.mark.slow


def log_run(folder: Path, study: str, model: str, arm: str) -> str:
    from tests.analysis.simulated_records import frame_of

    params = {
        "cfg.model": model, "cfg.arm": arm, "cfg.seed": "0",
        "cfg.reasoning": "direct", "cfg.scoring": "answer-token",
    }  # fmt: skip
    path = folder / "records.parquet"
    frame = frame_of(np.arange(20) % 3 > 0, model=model, language="heb_Hebr", arm=arm)
    write_records(check_records(frame), path)
    with mlflow.start_run(tags={"xling.kind": "evaluate", "xling.study": study}) as run:
        mlflow.log_params(params)
        mlflow.log_metric("accuracy/heb_Hebr", float(frame["correct"].mean()))
        mlflow.log_artifact(str(path))
    return str(run.info.run_id)


def copy_run(path: Path, run_id: str, times: int, study: str) -> None:
    """Copies of a finished run under other ids, in one transaction."""
    with sqlite3.connect(path) as store:
        ids = [(uuid.uuid4().hex,) for _ in range(times)]
        store.execute("create temp table copies (id text primary key)")
        store.executemany("insert into copies values (?)", ids)
        for table, value in (("runs", None), ("tags", study), ("params", None)):
            names = [row[1] for row in store.execute(f"pragma table_info({table})")]
            chosen = ", ".join("copies.id" if name == "run_uuid" else f"t.{name}" for name in names)
            store.execute(
                f"insert into {table} ({', '.join(names)}) "
                f"select {chosen} from {table} t, copies where t.run_uuid = ?",
                (run_id,),
            )
            if value:
                store.execute(
                    "update tags set value = ? where key = 'xling.study' "
                    "and run_uuid in (select id from copies)",
                    (value,),
                )


def test_a_study_does_not_read_the_other_runs_of_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shared")
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    try:
        mlflow.create_experiment("shared", artifact_location=str(tmp_path / "artifacts"))
        mlflow.set_experiment("shared")
        mine = {log_run(tmp_path, "mine", "m", arm) for arm in ("base", "finetuned")}
        copy_run(path, min(mine), OTHERS, study="another")
        read, asked, looked_up = [], [], []
        search, fetch, look_up = (
            MlflowClient.search_runs,
            tracking.download_artifact,
            MlflowClient.get_run,
        )

        def search_runs(self, *arguments, **named):  # type: ignore[no-untyped-def]
            page = search(self, *arguments, **named)
            read.extend(run.info.run_id for run in page)
            return page

        def download_artifact(run_id, *arguments, **named):  # type: ignore[no-untyped-def]
            asked.append(run_id)
            return fetch(run_id, *arguments, **named)

        def get_run(self, run_id):  # type: ignore[no-untyped-def]
            looked_up.append(run_id)
            return look_up(self, run_id)

        monkeypatch.setattr(MlflowClient, "search_runs", search_runs)
        monkeypatch.setattr(MlflowClient, "get_run", get_run)
        monkeypatch.setattr(tracking, "download_artifact", download_artifact)
        pulled = pull_records(
            tracking, study="mine", experiment="", folder=tmp_path / "runs", progress=False
        )
        assert len(MlflowClient().search_experiments()) == 2
        with sqlite3.connect(path) as store:
            assert store.execute("select count(*) from runs").fetchone() == (OTHERS + 2,)
        assert set(read) == set(asked) == set(pulled.run_ids) == mine
        assert len(read) == 2
        assert looked_up == []  # the search has said where their artifacts lie
        assert len(pulled.records) == 40
    finally:
        mlflow.set_tracking_uri(None)
