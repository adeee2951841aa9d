"""The next model is brought by a real process, from real checkpoints and a hub that is too slow."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import torch

from tests.native_checkpoints import save_mxfp4_model
from xling.execution import prefetch as ahead_module
from xling.execution.models import locate
from xling.execution.prefetch import Prefetcher
from xling.files.paths import cache_folder
from xling.study.settings import ModelSettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def present(tiny_model) -> ModelSettings:
    return ModelSettings(id=str(tiny_model("llama")), name="present")


@pytest.fixture
def quantised(tmp_path: Path) -> ModelSettings:
    save_mxfp4_model(tmp_path / "tiny-oss", dtype=torch.bfloat16)
    return ModelSettings(id=str(tmp_path / "tiny-oss"), name="next")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A hub that takes a request, and does not answer before the test ends."""
    asked, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            over.wait(600)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")
    yield asked
    over.set()
    server.shutdown()
    server.server_close()


def fetches() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [
        each for each in children if "xling.execution.prefetch_worker" in " ".join(each.cmdline())
    ]


def made() -> list[Path]:
    return [each for each in (cache_folder() / "dequantised").glob("*") if each.is_dir()]


def test_the_next_model_is_converted_by_another_process(
    present: ModelSettings, quantised: ModelSettings
) -> None:
    with Prefetcher() as ahead:
        ahead.begin(quantised, after=present)
        assert len(fetches()) == 1
        ahead.begin(quantised, after=present)
        assert len(fetches()) == 1
        ahead.arrive(quantised)
        assert not fetches()
        (folder,) = made()
        when = (folder / "config.json").stat().st_mtime_ns
    assert locate(quantised).weights.folder == folder
    assert (folder / "config.json").stat().st_mtime_ns == when


def test_a_model_that_is_here_starts_no_process(present: ModelSettings) -> None:
    with Prefetcher() as ahead:
        ahead.begin(present.model_copy(update={"name": "same"}), after=present)
        assert not fetches()


def test_no_conversion_begins_where_memory_is_short(
    present: ModelSettings,
    quantised: ModelSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ahead_module, "_free_bytes", lambda: 10**9)
    caplog.set_level(logging.INFO, "xling")
    with Prefetcher() as ahead:
        ahead.begin(quantised, after=present)
        assert not fetches()
        ahead.arrive(quantised)
    assert "next is converted when its turn comes" in caplog.text
    assert "1.0 GB are free" in caplog.text


def test_a_failure_is_told_once_and_left_to_the_model_s_cells(
    present: ModelSettings, quantised: ModelSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xling")
    cache_folder().parent.mkdir()
    cache_folder().write_text("a file, where a folder should be")
    with Prefetcher() as ahead:
        ahead.begin(quantised, after=present)
        ahead.arrive(quantised)
        ahead.begin(quantised, after=present)
        assert not fetches()
    (told,) = [each.getMessage() for each in caplog.records if "again" in each.getMessage()]
    assert "next could not be fetched ahead" in told and "dequantised" in told
    with pytest.raises(OSError, match="dequantised"):
        locate(quantised)


def test_an_exception_ends_a_slow_fetch(
    present: ModelSettings, silent_hub: threading.Event
) -> None:
    with pytest.raises(KeyError), Prefetcher() as ahead:
        ahead.begin(ModelSettings(id="someone/slow"), after=present)
        assert silent_hub.wait(600)
        assert len(fetches()) == 1
        started = time.monotonic()
        raise KeyError
    assert not fetches()
    assert time.monotonic() - started < 50


STUDY = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this runs in background
from entrypoints.common import _prepare_process
from xling.execution.prefetch import Prefetcher
from xling.study.settings import ModelSettings
_prepare_process()
with Prefetcher() as ahead:
    ahead.begin(ModelSettings(id="someone/slow"), after=ModelSettings(id=sys.argv[1]))
    print(ahead._fetch.process.pid, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_after_a_signal(
    sent: signal.Signals, present: ModelSettings, silent_hub: threading.Event
) -> None:
    study = subprocess.Popen(
        [sys.executable, "-c", STUDY, present.id],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert study.stdout is not None
    fetch = int(study.stdout.readline())
    assert silent_hub.wait(600)
    study.send_signal(sent)
    study.communicate(timeout=600)
    assert study.returncode == (128 + sent if sent == signal.SIGTERM else -sent)
    deadline = time.monotonic() + 300
    while psutil.pid_exists(fetch) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(fetch)


def test_the_process_gives_way(present: ModelSettings, silent_hub: threading.Event) -> None:
    with Prefetcher() as ahead:
        ahead.begin(ModelSettings(id="someone/slow"), after=present)
        assert silent_hub.wait(600)
        (fetch,) = fetches()
        assert fetch.nice() == 19
        assert Path(f"/proc/{fetch.pid}/oom_score_adj").read_text().strip() == "1000"
        assert os.getpgid(fetch.pid) != os.getpgrp()
