"""Whole studies while the tracking store is away, locked, full or read-only."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.place import Place
from tests.reliability.outcomes import outcome_of, statuses, versions
from tests.reliability.study_processes import Zygote
from tests.tracking_servers import Server, running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CELLS = ["evaluate tiny/base/seed-0", "evaluate tiny/finetuned/seed-0", "finetune tiny/finetuned/seed-0", "prepare tiny"]  # fmt: skip  # noqa: E501
WAITS = "work goes on, and results wait in"
WAITING = "the results of [12] of 2 cells wait for the tracking store"


@pytest.fixture
def place(tmp_path: Path, tiny_model) -> Place:
    folder = tmp_path / "place"
    folder.mkdir()
    made = Place(folder, {"tiny": tiny_model("llama")})
    made.write(epochs=3, checkpoints=3)
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model, zygote) -> dict[str, Any]:
    """The same study, left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = Place(folder, {"tiny": tiny_model("llama")})
    made.write(epochs=3, checkpoints=3)
    code, output = main(zygote, made)
    assert code == 0, output[-3000:]
    return outcome_of(made, tmp_path_factory.mktemp("downloads"))


def environment(place: Place) -> dict[str, str]:
    return {
        **place.environment,
        "MLFLOW_EXPERIMENT_NAME": "tiny",
        "MLFLOW_TRACKING_URI": place.uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    }


def main(zygote: Zygote, place: Place, meanwhile: Callable[[Path], None] | None = None) -> Any:
    """Exit code and output of a study; `meanwhile` is called with the file of its output."""
    arguments = ["main", "--study", str(place.study)]
    log = zygote.start(arguments, environment(place), folder=place.folder, drawn=False)
    if meanwhile is not None:
        meanwhile(log)
    return zygote.wait(), log.read_text(errors="replace")


def until(seen: Callable[[], Any], what: str, log: Path, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: {log.read_text()[-3000:]}"
        time.sleep(0.02)


def trained(place: Place) -> list[Path]:
    return list(place.folder.glob("state/xling/*/checkpoints/checkpoint-*"))


def check(place: Place, expected: dict[str, Any], downloads: Path) -> None:
    downloads.mkdir(exist_ok=True)
    outcome = outcome_of(place, downloads)
    assert outcome["cells"] == CELLS
    assert outcome == expected
    assert statuses(place)["RUNNING"] == 0
    assert [number for number, _ in versions(place, "tiny-tiny")] == [1]


def send_what_waits(zygote: Zygote, place: Place, code: int, output: str) -> None:
    """Bring a study to its end that may have been over before the store was back.

    Which results the store has by then is a matter of time: all; or some wait, with the study's
    own end among them or not, and with its analysis still to come.
    """
    if code != 0:
        assert code == 1 and "Traceback" not in output, output[-3000:]
        assert " wait (" in output or re.search(WAITING, output), output[-3000:]
        code, output = zygote.run(["sync"], environment(place), folder=place.folder)
        assert code == 0, output[-3000:]
        code, output = main(zygote, place)
    assert code == 0, output[-3000:]


@pytest.fixture
def server(tmp_path: Path, place: Place) -> Iterator[Server]:
    with running_server(tmp_path / "server") as made:
        place.uri = made.uri
        yield made


def test_a_server_that_goes_away_for_good_holds_back_what_sync_sends(
    zygote, server, place, expected, tmp_path
):
    def meanwhile(log: Path) -> None:
        until(lambda: trained(place), "no checkpoint", log)
        server.kill()

    code, output = main(zygote, place, meanwhile)
    assert code == 1, output[-3000:]
    assert WAITS in output and "cell 2 of 2" in output and "Traceback" not in output
    assert re.search(WAITING, output)
    account = output[output.index(" wait (") :]
    cell = "tiny/finetuned/seed-0"
    for name in ("study tiny: FAILED", f"finetune {cell}: FINISHED", f"evaluate {cell}: FINISHED"):
        assert name in account
    assert "-e sync" in account

    code, output = main(zygote, place)
    assert code == 1 and f"tracking server {server.uri} does not answer" in output

    server.start()
    code, output = zygote.run(["sync"], environment(place), folder=place.folder)
    assert code == 0, output[-3000:]
    assert re.search("[34] runs sent to", output)
    computed = {path: path.stat().st_mtime_ns for path in place.folder.glob("state/xling/*/all/*")}
    code, output = main(zygote, place)
    assert code == 0, output[-3000:]
    assert {path: path.stat().st_mtime_ns for path in computed} == computed
    check(place, expected, tmp_path / "downloads")


def test_a_server_that_is_restarted_in_mid_run_is_told_all(
    zygote, server, place, expected, tmp_path
):
    def meanwhile(log: Path) -> None:
        until(lambda: trained(place), "no checkpoint", log)
        server.kill()
        until(lambda: WAITS in log.read_text(), "no outage", log)
        server.start()

    send_what_waits(zygote, place, *main(zygote, place, meanwhile))
    check(place, expected, tmp_path / "downloads")


def test_a_database_that_is_locked_is_waited_for(zygote, place, expected, tmp_path):
    def meanwhile(log: Path) -> None:
        until(lambda: trained(place), "no checkpoint", log)
        lock = sqlite3.connect(place.folder / "mlflow.db", isolation_level=None, timeout=60)
        lock.execute("BEGIN EXCLUSIVE")
        until(lambda: WAITS in log.read_text(), "no outage", log)
        lock.execute("ROLLBACK")
        lock.close()

    send_what_waits(zygote, place, *main(zygote, place, meanwhile))
    check(place, expected, tmp_path / "downloads")


@pytest.mark.parametrize("fault", ["full", "read-only", "no folder"])
def test_an_artifact_store_that_takes_nothing_holds_back_what_the_next_command_sends(
    fault, zygote, place, expected, tmp_path
):
    folder = tmp_path / "artifacts"
    _break(fault, folder)
    try:
        place.client().create_experiment("tiny", artifact_location=str(folder / "runs"))
        code, output = main(zygote, place)
        assert code == 1, output[-3000:]
        assert WAITS in output and "Traceback" not in output
        assert re.search(WAITING, output)
        _mend(fault, folder)
        code, output = main(zygote, place)
        assert code == 0, output[-3000:]
        check(place, expected, tmp_path / "downloads")
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def _break(fault: str, folder: Path) -> None:
    if fault == "no folder":
        folder.write_text("in the way")
        return
    folder.mkdir()
    options = "size=64k" if fault == "full" else "ro"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no right to mount here")


def _mend(fault: str, folder: Path) -> None:
    if fault == "no folder":
        folder.unlink()
        return
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(folder)], check=True)
