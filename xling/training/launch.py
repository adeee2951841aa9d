"""Starts the processes that train an adapter, and ends them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from xling.files.paths import ROOT
from xling.training.failures import clear_failures, first_failure
from xling.training.job import TrainingJob, write_job
from xling.training.loop import Example
from xling.training.worker import WATCH

LAUNCHER = "XLING_LAUNCHER"
# Seconds that a launcher has to end its processes before it is killed.
GRACE = 40
LAUNCHERS_OWN = re.compile(rb"^[WEIF]\d{4} .*torch/distributed/|^Traceback ")


def launch(job: TrainingJob, examples: Sequence[Example], folder: Path) -> None:
    """Train in new processes, on this machine or as ``XLING_LAUNCHER`` says.

    ``XLING_LAUNCHER`` is a command line that starts ``-m xling.training.worker JOB`` in as
    many processes as the job asks for, on all nodes, such as
    ``srun torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint $HOST:29500``.

    Args:
        job: what they do.
        examples: what they train on.
        folder: gets the job and the processes' logs; every process must see it.

    Raises:
        RuntimeError: a process failed; names it, its reason and where the logs are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_failures(folder)
    path = folder / "job.json"
    write_job(job, examples, path)
    process = subprocess.Popen(
        [*_launcher(job.processes), "-m", "xling.training.worker", str(path)],
        stdin=subprocess.PIPE,  # closes when this process is gone, however it went
        stderr=subprocess.PIPE,
        env=_environment(job.processes),
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others
    )
    shown = threading.Thread(target=_show, args=(process.stderr, folder / "launcher.log"))
    shown.start()
    try:
        code = process.wait()
    finally:
        _end(process)
        shown.join(timeout=GRACE)
    if code != 0:
        raise RuntimeError(
            f"{first_failure(folder, job.processes)}\nLogs: {folder}; the same command goes on "
            "from the last checkpoint"
        )


def _launcher(processes: int) -> list[str]:
    own = os.environ.get(LAUNCHER, "")
    if own:
        return shlex.split(own)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc_per_node", str(processes)]


def _environment(processes: int) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if not os.environ.get(LAUNCHER):
        environment[WATCH] = "1"
    return environment


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher and with it its processes; do nothing if it has ended."""
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _show(stream: IO[bytes], log: Path) -> None:
    """Pass on the progress bar and warnings; what the launcher says of itself is only logged."""
    quiet = False
    with log.open("wb") as file:
        rest = b""
        while data := os.read(stream.fileno(), 65536):
            file.write(data)
            file.flush()
            *pieces, rest = re.split(rb"(?<=[\r\n])", rest + data)
            for piece in pieces:
                # The launcher speaks last: after its first word comes its own traceback.
                quiet = quiet or bool(LAUNCHERS_OWN.match(piece))
                if not quiet:
                    sys.stderr.write(piece.decode(errors="replace"))
            sys.stderr.flush()
