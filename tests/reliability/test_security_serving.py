"""A served adapter refuses what is too large, with status 400, and goes on answering."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests

from tests.place import make_store
from xling import tracking
from xling.models import locate_model
from xling.models.adapters import attach_lora, chosen_modules
from xling.prompts import PromptFormat
from xling.serving.limits import Limits, check_request, default_limits, find_limits

ROWS, CHARACTERS, WHOLE, TOKENS = 20, 3000, 20_000, 400
ROW = {"flores_passage": "p", "question": "q"} | {f"mc_answer{n}": "a" for n in range(1, 5)}
PROMPT = "p\nq\n(1) a\n(2) b\n(3) c\n(4) d\nAnswer: ("


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, tiny_model) -> Iterator[tuple[str, Path]]:
    """Address of a logged adapter, and the folder of its store."""
    folder = tmp_path_factory.mktemp("serving")
    mlflow.set_tracking_uri(make_store(folder / "store.db"))
    mlflow.MlflowClient().create_experiment("serving", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("serving")
    located = locate_model(str(tiny_model("llama")), quantise="none")
    base = located.open().model
    adapted = attach_lora(base, modules=chosen_modules(base), r=2, alpha=4, dropout=0.0, seed=0)
    adapted.save_pretrained(folder / "adapter")
    settings = {
        "model": str(tiny_model("llama")),
        "revision": "",
        "weights": located.weights.identity,
        "quantise": "none",
        "prompt": asdict(PromptFormat()),
    }
    with tracking.tracked_run("finetune", name="n", study="s", params={}, tags={}):
        model_id = tracking.log_adapter(folder / "adapter", settings=settings, example="1")
    yield f"models:/{model_id}", folder
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def url(logged: tuple[str, Path]) -> Iterator[str]:
    """The address of a server with low limits."""
    uri, folder = logged
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'store.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XLING_SERVE_ROWS": str(ROWS),
        "XLING_SERVE_CHARACTERS": str(CHARACTERS),
        "XLING_SERVE_REQUEST_CHARACTERS": str(WHOLE),
        "XLING_SERVE_TOKENS": str(TOKENS),
    }
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", uri,
        "--port", str(port),
    ]  # fmt: skip
    log = folder / "serve.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            command, env=environment, cwd="/", stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(url: str, rows: list[dict[str, object]]) -> requests.Response:
    return requests.post(url, json={"dataframe_records": rows}, timeout=300)


@pytest.mark.slow
def test_what_is_too_large_is_refused_and_the_server_goes_on(url: str) -> None:
    for rows, told in (
        ([ROW] * (ROWS + 1), f"{ROWS + 1} rows where {ROWS} are the most"),
        ([ROW | {"question": "x" * (CHARACTERS + 1)}], f"where {CHARACTERS} are the most; shorten"),
        ([ROW | {"mc_answer4": "x" * 10_000_000}], "10000000 characters where"),
        ([ROW | {"question": "x" * 2000}] * ROWS, f"request characters where {WHOLE} are the most"),
        ([{"prompt": "x " * TOKENS + PROMPT}], f"tokens where {TOKENS} are the most"),
        ([{"prompt": "x"} | dict.fromkeys(("question",), "y" * (CHARACTERS + 1))], "the most"),
        ([{"question": "q"}], "missing or empty: flores_passage"),
        ([ROW | {"question": None}], "missing or empty: question"),
        ([{"prompt": {"a": 1}}], "`prompt` must be text"),
        ([{"nothing": "x"}], ""),
    ):
        answer = ask(url, rows)
        assert answer.status_code == 400, (told, answer.text[:500])
        assert told in answer.text
        assert len(answer.text) < 20_000 and "Traceback" not in answer.text
    for body in (
        "{",
        "[]",
        "null",
        '{"dataframe_records": [{"prompt": 7}]}',
        '{"dataframe_records": 5}',
        "[" * 100_000,
        "\x00",
    ):
        headers = {"content-type": "application/json"}
        answer = requests.post(url, data=body.encode(), headers=headers, timeout=300)
        assert answer.status_code in (200, 400, 415, 422, 500), answer.text[:500]
    fine = ask(url, [ROW] * ROWS)
    assert fine.status_code == 200, fine.text[:500]
    assert len(fine.json()["predictions"]) == ROWS
    assert ask(url, []).status_code < 500


@pytest.mark.slow
def test_requests_at_once_get_the_answers_that_they_get_alone(url: str) -> None:
    rows = [ROW | {"question": f"number {n}?"} for n in range(8)]
    alone = [ask(url, [row]).json()["predictions"][0] for row in rows]
    together: dict[int, dict] = {}

    def one(number: int) -> None:
        together[number] = ask(url, [rows[number]]).json()["predictions"][0]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[n] for n in range(len(rows))] == alone


@pytest.mark.slow
def test_within_a_process_a_table_may_be_larger(logged: tuple[str, Path], monkeypatch) -> None:
    monkeypatch.setenv("XLING_SERVE_ROWS", "2")
    model = mlflow.pyfunc.load_model(logged[0])
    assert len(model.predict(pd.DataFrame([ROW] * 5))) == 5
    with pytest.raises(ValueError, match="the model's context is 512"):
        model.predict(pd.DataFrame({"prompt": ["x " * 600 + PROMPT]}))


def test_limits_come_from_environment_config_and_default(monkeypatch) -> None:
    assert find_limits({}) == Limits() and default_limits()["rows"] == 1000
    assert find_limits({"limits": {"rows": 3}}) == Limits(rows=3)
    monkeypatch.setenv("XLING_SERVE_ROWS", "2")
    assert find_limits({"limits": {"rows": 3, "tokens": 5}}) == Limits(rows=2, tokens=5)
    for wrong in ("0", "-1", "many", "1.5", "1e3"):
        monkeypatch.setenv("XLING_SERVE_ROWS", wrong)
        with pytest.raises(ValueError, match="XLING_SERVE_ROWS.*; give a whole number above 0"):
            find_limits({})
    monkeypatch.delenv("XLING_SERVE_ROWS")
    for limits in ({"rows": True}, {"rows": "5"}, {"lines": 5}, {"rows": None}):
        with pytest.raises(ValueError, match="limit"):
            find_limits({"limits": limits})


def test_a_request_is_counted_before_it_is_used() -> None:
    limits = Limits(rows=2, characters=10, request_characters=25, tokens=5)
    check_request(pd.DataFrame({"prompt": ["x" * 10, "y" * 10]}), limits)
    check_request(pd.DataFrame({"prompt": [None, 3.5]}), limits)
    check_request(pd.DataFrame({"prompt": []}), limits)
    for frame in (
        {"prompt": ["x"] * 3},
        {"prompt": ["x" * 11]},
        {"a": ["x" * 9] * 2, "b": "y" * 9},
    ):
        with pytest.raises(ValueError, match="are the most; .* or set XLING_SERVE_"):
            check_request(pd.DataFrame(frame), limits)
    assert json.loads(json.dumps(default_limits())) == asdict(Limits())
