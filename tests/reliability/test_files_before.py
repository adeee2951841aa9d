"""Files that an earlier version wrote are read, sent and appended to."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from xling import tracking
from xling.scoring.answer_cache import AnswerCache, ReasoningFile, answer_key
from xling.scoring.generation import Generation
from xling.tracking.outbox.connection import outbox
from xling.tracking.outbox.entry import entries
from xling.tracking.outbox.pending import finished_before, known_ids

BEFORE = Path(__file__).resolve().parents[1] / "data" / "before"
SENT, WAITS = "0d50dc37c3ed4196a62fa57fda98efcf", "dac22af68e62431fb4cc7c58eb1096de"
SENT_ID = "8dd8c672ef5b4955b114623620420ef7"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new store, and beside it the outbox that an earlier version left."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    shutil.copytree(BEFORE / "outbox", outbox())
    yield outbox()
    mlflow.set_tracking_uri(None)


def runs() -> dict[str, mlflow.entities.Run]:
    found = mlflow.MlflowClient().search_runs(["1"])
    assert len(found) == 3
    return {run.info.run_name: run for run in found}


@pytest.mark.parametrize("torn", [b"", b'{"do": "batch", "ta', b"\0" * 300])
def test_runs_that_waited_are_sent(store: Path, torn: bytes) -> None:
    for log in (store / "ids.jsonl", *store.glob("*/operations.jsonl")):
        with log.open("ab") as file:
            file.write(torn)
    tracking.open_store()
    assert tracking.account().lines == ()
    sent = runs()
    assert {name: run.info.status for name, run in sent.items()} == {
        "outer": "KILLED", "waits": "FINISHED", "killed": "KILLED",
    }  # fmt: skip
    assert all(run.data.params == {"cfg.a": "1", "cfg.b.c": "é"} for run in sent.values())
    client = mlflow.MlflowClient()
    waits = sent["waits"].info.run_id
    losses = [point.value for point in client.get_metric_history(waits, "train/loss")]
    assert losses == [1.0, 0.5, 1 / 3]
    (data,) = sent["waits"].inputs.dataset_inputs
    assert data.dataset.name == "d" and data.dataset.digest == "d" * 36
    path = client.download_artifacts(waits, "notes/text.txt")
    assert Path(path).read_text(encoding="utf-8") == "é\n"
    killed = sent["killed"]
    assert killed.data.metrics == {"accuracy/eng_Latn": 0.25}
    assert killed.data.tags["xling.of"] == f"{SENT_ID} {waits}"
    assert killed.data.tags["mlflow.parentRunId"] == sent["outer"].info.run_id
    assert "killed" in killed.data.tags["xling.error"]
    assert entries(store) == []
    known = known_ids(store)
    assert known[f"waiting-{SENT}"] == SENT_ID and known[f"waiting-{WAITS}"] == waits


def test_a_run_that_was_sent_is_known(store: Path) -> None:
    known = finished_before(store, "a" * 64, kind="finetune", study="s")
    assert known is not None and known.run_id == SENT_ID and known.metrics == {"loss": 0.5}


def test_what_was_sent_of_a_run_is_known(store: Path) -> None:
    for path in store.glob("*/sent.json"):
        sent = json.loads(path.read_text(encoding="utf-8"))
        assert "twin" in sent and sent["referred"] is True
        path.write_text(json.dumps(sent | {"twin": True, "run_id": "1" * 32}), encoding="utf-8")
    assert [(each.is_sent, each.run_id) for each in entries(store)] == [
        (False, "1" * 32), (True, "1" * 32), (False, "1" * 32),
    ]  # fmt: skip


def test_kept_answers_are_read_and_appended_to(tmp_path: Path) -> None:
    path = Path(shutil.copy(BEFORE / "answers.jsonl", tmp_path))
    kept = AnswerCache(path)
    for number in range(3):
        answer = {"logprobs": [-0.5 * number, -math.inf], "text": "نص \u2028 é"}
        assert kept[answer_key("label", [number])] == answer
    kept.put("new", {"text": "é"})
    again = AnswerCache(path)
    assert again["new"] == {"text": "é"} and answer_key("label", [2]) in again


def test_reasonings_are_read_and_appended_to(tmp_path: Path) -> None:
    path = Path(shutil.copy(BEFORE / "reasonings.jsonl", tmp_path))
    known = {
        "eng_Latn/1": Generation('line\nbreak "é" سؤال', 3, False),
        "eng_Latn/2": Generation("", 0, True),
    }
    assert ReasoningFile(path).done() == known
    new = {"eng_Latn/3": Generation("é", 1, False)}
    ReasoningFile(path).append(new)
    assert ReasoningFile(path).done() == known | new
