"""What goes wrong between a server and us: tries, refusals, secrets, and work that is cut off."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback

import numpy as np
import pytest

from tests.place import ROOT
from tests.server_engines import CHOICES, ENDING, PROMPTS, engine_of, settings_of
from tests.serving_http import Refused
from xling.scoring import InProcessEngine
from xling.scoring.server import (
    ServerError,
    Transport,
    find_served_models,
)
from xling.study.settings import ServerSettings

pytestmark = pytest.mark.slow

SECRET = "sk-very-secret-key-123"

FAULTS = ["429", "500", "slow", "torn", "cut", "drop"]


@pytest.mark.parametrize("fault", FAULTS)
def test_passing_faults_are_tried_again(server, local, fault):
    engine = engine_of(server, timeout=1.5)
    server.seen.bodies.clear()
    server.behaviour.faults = [fault, "", fault]
    start = time.monotonic()
    there = engine.score(PROMPTS[:4])
    assert np.abs(there.logprobs - local.score(PROMPTS[:4]).logprobs).max() < 1e-6
    assert there.tries.sum() == len(server.seen.bodies) >= 6
    if fault == "429":
        assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "status 500; it said: .*broken.* \\(2 tries\\); see the server's log"),
        ("429", "status 429"),
        ("torn", "not whole JSON"),
        ("drop", "no connection"),
        ("slow", "no answer in 0.5 s"),
    ],
)
def test_lasting_faults_name_server_fault_and_remedy(server, fault, words):
    engine = engine_of(server, retries=1, timeout=0.5)
    server.behaviour.fault_always = fault
    with pytest.raises(ServerError, match=words) as caught:
        engine.score(PROMPTS)
    assert server.url in str(caught.value) and "server.retries" in str(caught.value)


def test_no_more_requests_at_once_than_allowed(server):
    for limit in (1, 3):
        server.reset(delay=0.05)
        engine_of(server, concurrency=limit).score(PROMPTS)
        assert server.seen.most_running == limit


def test_key_is_sent_and_never_shown(server, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TINY_KEY", SECRET)
    server.reset(key=SECRET, faults=["429", "500"])
    kept = tmp_path / "kept.jsonl"
    engine = engine_of(server, kept=kept, key_variable="TINY_KEY")
    engine.score(PROMPTS[:2])
    assert server.seen.keys == {SECRET}
    server.reset(key="another", says_key=True)
    with pytest.raises(ServerError) as caught:
        engine.score(PROMPTS)
    with pytest.raises(ValueError, match="TINY_KEY, which is set, but not to a key") as refused:
        engine_of(server, key_variable="TINY_KEY")
    for error in (caught.value, refused.value):
        assert SECRET not in "".join(traceback.format_exception(error))
    assert SECRET not in caplog.text and SECRET not in kept.read_text()
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(ValueError, match="TINY_KEY, which is not set"):
        engine_of(server, key_variable="TINY_KEY")


def test_servers_that_cannot_be_used_are_refused_at_once(server):
    server.reset(logprobs=False)
    with pytest.raises(ValueError, match="returns no log-probabilities"):
        engine_of(server)
    server.reset(extra_first=True)
    with pytest.raises(ValueError, match="the server counted .* tokens in a prompt that has"):
        engine_of(server)
    server.reset()
    transport = Transport(settings_of(server))
    with pytest.raises(ValueError, match="does not serve 'other'; it serves tiny, tuned"):
        find_served_models(transport, model="other", study_model="any")
    nowhere = ServerSettings(url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(ValueError, match="127.0.0.1:9/v1.*no connection(.|\n)*Start the server"):
        find_served_models(Transport(nowhere), model="", study_model="any")


def test_echo_off_by_one_position_is_found_out(server, local):
    server.reset(echo_shift=1, most_listed=3)
    engine = engine_of(server)
    assert engine.capabilities.answers == "top, bound"
    assert (engine.score(PROMPTS).logprobs >= local.score(PROMPTS).logprobs - 1e-6).all()
    with pytest.raises(ValueError, match="gives no log-probabilities of a prompt's tokens"):
        engine.score_choices(PROMPTS, CHOICES)


def failing(monkeypatch, server, chosen, status: int, times: int) -> None:
    """Lets chosen requests fail so many times."""
    answered, left = server.complete, [times]

    def complete(body):
        if chosen(body) and left[0]:
            left[0] -= 1
            raise Refused(status, "not now")
        return answered(body)

    monkeypatch.setattr(server, "complete", complete)


def test_a_passing_outage_does_not_lower_how_labels_are_asked_for(server, monkeypatch):
    server.reset(most_listed=3)
    with monkeypatch.context() as patch:
        failing(patch, server, lambda body: body.get("echo"), 503, 9)
        with pytest.raises(ValueError, match="status 503"):
            engine_of(server, retries=1)
    with monkeypatch.context() as patch:
        failing(patch, server, lambda body: body.get("echo"), 500, 2)
        assert engine_of(server, retries=1).capabilities.answers == "top, echo"
    server.reset(by_id=True)
    with monkeypatch.context() as patch:
        failing(patch, server, lambda body: "logprob_token_ids" in body, 500, 2)
        assert engine_of(server, retries=1).capabilities.answers == "by id"


def test_a_limit_on_the_list_names_its_setting(server, monkeypatch):
    answered = server.complete

    def complete(body):
        if body.get("logprobs", 0) > 5:
            raise Refused(400, "logprobs must be at most 5")
        return answered(body)

    monkeypatch.setattr(server, "complete", complete)
    with pytest.raises(ValueError, match="lower `server.top_logprobs`"):
        engine_of(server)


def test_answers_without_logprobs_are_no_ends_of_text(server, monkeypatch):
    engine = engine_of(server)
    monkeypatch.setattr(server.behaviour, "logprobs", False)
    with pytest.raises(ServerError, match="the answer has no log-probabilities"):
        engine.score(PROMPTS[:1])


@pytest.mark.parametrize("hides", [False, True])
def test_repeated_prompts_without_counts_are_read_rightly(server, local, hides):
    server.reset(counts=False, most_listed=3)
    engine = engine_of(server)
    server.behaviour.hide_end = hides
    assert engine.capabilities.answers == "top, echo"
    gap = engine.score(PROMPTS).logprobs - local.score(PROMPTS).logprobs
    assert np.abs(gap).max() < 1e-6


def test_the_first_failure_is_raised_and_no_job_begins_after_it(server):
    transport = Transport(settings_of(server, concurrency=3))
    begun = []

    def work(job: int) -> int:
        begun.append(job)
        if job == 0:
            raise ServerError("the cause")
        time.sleep(0.3)
        return job

    for _ in range(20):
        begun.clear()
        with pytest.raises(ServerError, match="the cause"):
            list(transport.map(work, range(50)))
        assert 0 in begun and len(begun) <= 3


def test_an_interrupted_scoring_ends_at_once():
    script = textwrap.dedent(
        """
        import os, signal, threading, time
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        from xling.scoring.server import Transport
        from xling.study.settings import ServerSettings

        # A process of a background job inherits that it is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Slow(BaseHTTPRequestHandler):
            def do_POST(self):
                os.write(1, b"asked\\n")  # whole, whichever thread writes beside it
                time.sleep(3600)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        transport = Transport(ServerSettings(url=f"http://127.0.0.1:{server.server_port}/v1"))
        list(transport.map(lambda job: transport.post("/completions", {"job": job}), range(40)))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)  # an answer takes an hour
    assert "KeyboardInterrupt" in said


def test_a_first_token_that_no_prompt_has_is_refused(server):
    server.reset(takes_tokens=False)
    engine = engine_of(server, special=False)
    with pytest.raises(ValueError, match="beginning-of-text token before every text"):
        engine.check_scoring("answer-token", PROMPTS[0])
    with pytest.raises(ServerError, match="beginning-of-text token before every text"):
        engine.score(PROMPTS)


def test_prompts_with_their_own_first_token_do_not_get_two(server, tiny_model, local):
    plain = InProcessEngine(
        local._model, server.tokenizer, add_special_tokens=False, batch_tokens=1
    )
    prompts = [f"<s>{prompt}" for prompt in PROMPTS]
    for first in (True, False):
        server.reset(takes_tokens=False, text_gets_first=first)
        there = engine_of(server, special=False).score(prompts)
        assert np.abs(there.logprobs - plain.score(prompts).logprobs).max() < 1e-6


def test_prompts_beyond_the_context_are_refused_before_a_request(server):
    engine = engine_of(server)
    server.seen.bodies.clear()
    with pytest.raises(ValueError, match="exceeds the model's context of 510"):
        engine.score([PROMPTS[0], "long " * 200 + ENDING])
    assert not server.seen.bodies


def test_finished_items_are_not_asked_again(server, local, tmp_path):
    kept = tmp_path / "folder" / "kept.jsonl"
    engine_of(server, kept=kept).score(PROMPTS[:4])
    with kept.open("ab") as file:
        file.write(b'{"key": "torn off in')
    engine = engine_of(server, kept=kept)
    server.seen.bodies.clear()
    there = engine.score(PROMPTS)
    assert np.abs(there.logprobs - local.score(PROMPTS).logprobs).max() < 1e-6
    asked = {str(body["prompt"]) for body in server.seen.bodies if not body.get("echo")}
    assert len(asked) == 2
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == 6
    kept.write_text("nonsense\n" + kept.read_text())
    with pytest.raises(ValueError, match="line 1, is not a kept answer"):
        engine_of(server, kept=kept)


def test_a_killed_scoring_goes_on_where_it_was(server, local, tmp_path):
    kept = tmp_path / "kept.jsonl"
    server.reset(delay=0.5)
    script = textwrap.dedent(
        f"""
        import json, sys
        from pathlib import Path
        from xling.models.loading import load_tokenizer
        from xling.scoring.server import ServedModel, ServerEngine, Transport, find_served_models
        from xling.study.settings import ServerSettings
        settings = ServerSettings(url={server.url!r}, concurrency=2)
        transport = Transport(settings)
        served = find_served_models(transport, model="", study_model="any")
        model = ServedModel(served, "", 512, Path({str(kept)!r}))
        tokenizer = load_tokenizer(Path({str(server.folder)!r}))
        engine = ServerEngine(
            transport, settings, model, tokenizer, add_special_tokens=True, ending={ENDING!r}
        )
        engine.score({PROMPTS!r})
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    for _ in range(2400):
        if kept.is_file() and len(kept.read_text().splitlines()) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = kept.read_text().count("\n")
    assert 2 <= finished < len(PROMPTS)
    time.sleep(1)
    server.reset()
    engine = engine_of(server, kept=kept)
    server.seen.bodies.clear()
    there = engine.score(PROMPTS)
    asked = [body for body in server.seen.bodies if not body.get("echo")]
    assert len(asked) == len(PROMPTS) - finished
    assert np.abs(there.logprobs - local.score(PROMPTS).logprobs).max() < 1e-6
