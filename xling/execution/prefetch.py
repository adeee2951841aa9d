"""Fetches and converts a study's next model while the present one works.

A process of its own does it (`xling.execution.prefetch_worker`), not a thread: transformers changes what is
global to a process while it loads a model (the default precision, how weights begin), and a
training beside it would go wrong silently. Its output goes to a file, so that no two progress bars
mix, and is shown while there is nothing to do but wait for it.

One model at a time, the next one, and only when the present one is here: no two downloads or
conversions compete. A conversion begins only if half of the memory that is free then will do for
it; the other half is for the present model's work. What cannot be brought ahead is left to the
model's own cells, which try again and say why.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

from xling.execution.models import locate
from xling.execution.prefetch_worker import GRACE, conversion_bytes, is_here
from xling.files.paths import ROOT
from xling.models import find_recipe
from xling.study.settings import ModelSettings

POLL = 0.1

logger = logging.getLogger(__name__)


@dataclass
class _Fetch:
    """A process that brings a model.

    Attributes:
        model: which.
        process: its standard input is a pipe, whose end ends it.
        output: file that it writes to.
    """

    model: ModelSettings
    process: subprocess.Popen[bytes]
    output: IO[bytes]


class Prefetcher:
    """Brings the next model; a block, after which nothing is left running, however it ends.

    Args:
        patience: seconds that the process has to end when it is told to, before it is killed.
    """

    def __init__(self, *, patience: float = GRACE + 5) -> None:
        self._patience = patience
        self._fetch: _Fetch | None = None
        self._tried: list[ModelSettings] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def arrive(self, model: ModelSettings) -> None:
        """Waits for a model that is being brought, and shows what it says."""
        fetch = self._fetch
        if fetch is None or fetch.model != model:
            return
        if fetch.process.poll() is None:
            logger.info("waiting for %s, which is being fetched or converted", model.label)
            _show_until_end(fetch)
        self._report()

    def begin(self, model: ModelSettings, *, after: ModelSettings) -> None:
        """Begins to bring a model, once, if there is something to bring and room for it.

        Args:
            model: the next one.
            after: the present one, which is brought first if need be.
        """
        if self._fetch is not None or model in self._tried or model.server is not None:
            return
        self._tried.append(model)
        try:
            recipe = find_recipe(model.id, revision=model.revision)
            if is_here(recipe):
                return
            if after.server is None:
                locate(after)
            needed, free = conversion_bytes(recipe), _free_bytes()
        except (ValueError, OSError, RuntimeError) as error:
            logger.debug("%s is not brought ahead: %s", model.label, error)
            return  # the cells of either model say so
        if needed > free / 2:
            logger.info(
                "%s is converted when its turn comes: that takes %.1f GB beside %s, and %.1f GB "
                "are free",
                model.label,
                needed / 1e9,
                after.label,
                free / 1e9,
            )
            return
        logger.info("%s is fetched meanwhile, for the cells that follow", model.label)
        self._fetch = _start(model)

    def stop(self) -> None:
        """Ends what is under way, and waits until it has ended."""
        fetch, self._fetch = self._fetch, None
        if fetch is None:
            return
        try:
            _end(fetch.process, self._patience)
        finally:
            fetch.output.close()

    def _report(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is None:
            return
        if fetch.process.returncode != 0:
            fetch.output.seek(0)
            lines = fetch.output.read().decode(errors="replace").strip().splitlines()
            logger.info(
                "%s could not be fetched ahead (%s); its cells try again",
                fetch.model.label,
                lines[-1] if lines else f"exit code {fetch.process.returncode}",
            )
        if fetch.process.stdin is not None:
            fetch.process.stdin.close()
        fetch.output.close()


def _start(model: ModelSettings) -> _Fetch:
    settings: dict[str, Any] = {
        "model": model.id,
        "revision": model.revision,
        "chat": model.chat,
        "lora_modules": model.lora_modules,
        "quantise": model.quantise,
    }
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(
        [sys.executable, "-m", "xling.execution.prefetch_worker", json.dumps(settings)],
        stdin=subprocess.PIPE,  # closes when this process is gone, however it went
        stdout=output,
        stderr=output,
        # One thread: a second would wait for its turn while the present model's threads wait too.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other
    )
    return _Fetch(model, process, output)


def _show_until_end(fetch: _Fetch) -> None:
    """Passes on what the process says from now on, and what it said last."""
    place = max(0, os.fstat(fetch.output.fileno()).st_size - 1)
    while True:
        ended = fetch.process.poll() is not None
        while data := os.pread(fetch.output.fileno(), 65536, place):
            place += len(data)
            sys.stderr.write(data.decode(errors="replace"))
            sys.stderr.flush()
        if ended:
            return
        time.sleep(POLL)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        logger.debug("a fetch did not end in %s s and is killed", patience)
    finally:
        with suppress(ProcessLookupError):  # a download that it started may be left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_bytes() -> int:
    """Memory of this machine that is free."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)
