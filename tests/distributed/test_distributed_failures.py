from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.place import ROOT
from tests.training_jobs import EXAMPLES, LORA, STEPS, TRAINING, processes_with, read
from xling.study.settings import per_process
from xling.training.batching import batches_of, example_order
from xling.training.failures import clear_failures, first_failure, record_failure
from xling.training.job import write_job
from xling.training.launch import launch

LAUNCH = (
    "import signal, sys; from pathlib import Path;"
    "from xling.training.job import read_job; from xling.training.launch import launch;"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
    "path = Path(sys.argv[1]);"
    "launch(*read_job(path), path.parent)"
)


def wait_for_checkpoint(folder: str) -> None:
    deadline = time.monotonic() + 600
    while not list(Path(folder).glob("checkpoint-*")):
        assert time.monotonic() < deadline, f"no checkpoint in {folder}"
        time.sleep(0.02)


def assert_ended(text: str) -> None:
    deadline = time.monotonic() + 300
    while processes_with(text):
        assert time.monotonic() < deadline, f"still alive: {processes_with(text)}"
        time.sleep(0.1)


@pytest.mark.slow
def test_killed_worker_is_named_and_the_same_command_goes_on(training_jobs):
    undisturbed = training_jobs.undisturbed("fsdp")
    job = training_jobs.make("killed", processes=2, parallel="fsdp", lora=LORA)
    logs = training_jobs.folder / "killed-logs"
    failure: list[Exception] = []

    def run() -> None:
        try:
            launch(job, EXAMPLES, logs)
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_checkpoint(job.checkpoints)
    # The youngest is a worker: the launcher has the job on its command line too.
    os.kill(max(processes_with(str(logs / "job.json"))), signal.SIGKILL)
    thread.join(600)
    assert not thread.is_alive()
    assert isinstance(failure[0], RuntimeError)
    assert "of 2 was killed or crashed without a message" in str(failure[0])
    assert_ended(str(logs))
    done = max(int(path.name[11:]) for path in Path(job.checkpoints).glob("checkpoint-*"))
    assert 0 < done < STEPS
    launch(job, EXAMPLES, logs)
    report, whole = read(Path(job.target), "report"), read(undisturbed, "report")
    assert report["curve"] == whole["curve"]
    assert report["tokens_per_second"] * report["seconds"] == pytest.approx(
        whole["tokens"] * (1 - done / STEPS)
    )
    adapters = [
        load_file(Path(folder) / "adapter" / "adapter_model.safetensors")
        for folder in (job.target, undisturbed)
    ]
    assert all((adapters[0][name] == adapters[1][name]).all() for name in adapters[1])


@pytest.mark.slow
def test_worker_that_cannot_open_the_base_is_named(training_jobs, capfd):
    job = training_jobs.make("wrong", processes=2, weights="sha256:0")
    logs = training_jobs.folder / "wrong-logs"
    with pytest.raises(
        RuntimeError, match=r"training process [01] of 2 failed: ValueError: .*sha256:0 were expec"
    ):
        launch(job, EXAMPLES, logs)
    assert_ended(str(logs))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_launched_it(training_jobs, sign):
    name = f"ended-{sign.name}"
    job = training_jobs.make(name, processes=2, parallel="ddp")
    job = replace(job, training=TRAINING.model_copy(update={"epochs": 400, "checkpoints": 400}))
    logs = training_jobs.folder / f"{name}-logs"
    logs.mkdir()
    write_job(job, EXAMPLES, logs / "job.json")
    parent = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(logs / "job.json")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_for_checkpoint(job.checkpoints)
    assert len(processes_with(str(logs))) == 4  # parent, launcher, two workers
    parent.send_signal(sign)
    assert parent.wait(600) == (143 if sign == signal.SIGTERM else -9)
    assert_ended(str(logs))


def test_steps_that_cannot_be_shared_are_refused():
    assert per_process(16, 0, 1) == 16
    assert per_process(16, 0, 4) == 4
    assert per_process(16, 2, 4) == 2
    with pytest.raises(ValueError, match="batch_size 16 .* 3 processes .* 1, 2, 4, 8, 16 proc"):
        per_process(16, 0, 3)
    with pytest.raises(ValueError, match="micro_batch_size 8 × 4 processes .* 1, 2 processes"):
        per_process(16, 8, 4)
    with pytest.raises(ValueError, match="a multiple of 32"):
        per_process(16, 0, 32)


def test_whole_message_is_passed_on_but_no_traceback(tmp_path):
    record_failure(tmp_path, 1, ValueError("model 'odd' has no head\nname another"))
    assert first_failure(tmp_path, 2) == (
        "training process 1 of 2 failed: ValueError: model 'odd' has no head\nname another"
    )
    record_failure(tmp_path, 1, RuntimeError("Traceback (most recent call last):\n  …\nit broke"))
    assert first_failure(tmp_path, 2).endswith("of 2 failed: RuntimeError: it broke")
    record_failure(tmp_path, 1, OSError("long " * 1000))
    assert len(first_failure(tmp_path, 2)) < 2100
    clear_failures(tmp_path)
    record_failure(tmp_path, 0, ConnectionError("Connection reset by peer"))
    assert "one of the processes 1 of 2 was killed" in first_failure(tmp_path, 2)


def test_no_two_epochs_of_neighbouring_seeds_have_one_order():
    orders = [
        tuple(row for step in steps[epoch * 4 : epoch * 4 + 4] for row in step)
        for seed in range(3)
        for steps in [example_order(29, batch_size=8, epochs=3, seed=seed)]
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(29))}


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_processes_share_each_step_and_wait_for_each_other(size):
    lengths = [10 + 7 * (row % 9) for row in range(29)]
    for rows in example_order(29, batch_size=8, epochs=2, seed=0):
        shares = [
            batches_of(rows, lengths, rank=r, size=size, most_rows=2, most_tokens=100)
            for r in range(size)
        ]
        assert len({len(share) for share in shares}) == 1
        counted = [row for share in shares for b in share for row in b.rows[: b.counted]]
        assert sorted(counted) == sorted(rows)
        assert all(1 <= len(b.rows) <= 2 for share in shares for b in share)
        padded = [len(b.rows) * max(lengths[row] for row in b.rows) for s in shares for b in s]
        assert max(padded) <= 100


def test_examples_of_like_length_are_computed_together():
    lengths = [5, 50, 6, 48, 7, 47]
    batches = batches_of(range(6), lengths, rank=0, size=1, most_rows=3)
    assert [set(batch.rows) for batch in batches] == [{1, 3, 5}, {0, 2, 4}]
