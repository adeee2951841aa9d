"""Brings one model to this machine, as a process of its own: ``python -m xling.execution.prefetch_worker JSON``.

The process works beside another one, and gives way to it: it has the lowest priority, and where
memory runs out it is ended first. It ends when what started it closes its standard input, or is
gone, and leaves nothing half made.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from xling.messages.secrets import Terminated, mask_output, without_password
from xling.models.catalog import Recipe
from xling.models.loaded import locate_model
from xling.models.weights.dequantise import SHARD_BYTES, stored_precision
from xling.models.weights.gguf import converted_path

LOWEST_PRIORITY = 19
# Seconds in which it can clean up.
GRACE = 10.0
LIBRARIES = 10**9
# Measured: converting the largest GGUF file that is packaged, of 270M parameters, takes 3.4 GB.
GGUF_BYTES = 4 * 10**9


def is_here(recipe: Recipe) -> bool:
    """Whether there is nothing to fetch or convert, as far as can be told without asking."""
    if recipe.weights is not None:
        return converted_path(recipe.weights.sha256).is_dir()
    folder = Path(recipe.repository)
    return folder.is_dir() and stored_precision(folder) == "float"


def conversion_bytes(recipe: Recipe) -> int:
    """Memory that it takes, at most, to convert a model; 0: it is only fetched."""
    if recipe.weights is not None:
        return GGUF_BYTES
    folder = Path(recipe.repository)
    quantised = recipe.precision if not folder.is_dir() else stored_precision(folder)
    # One shard, and as much again while it is written.
    return 0 if quantised == "float" else LIBRARIES + 2 * SHARD_BYTES


def main() -> int:
    """Brings the model whose settings, those of `locate_model`, are the command line.

    Returns:
        Exit code: 0, or 1 after the reason was written to standard error.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    mask_output()
    logging.getLogger("xling").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _give_way()
    try:
        locate_model(**json.loads(sys.argv[1]))
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"{without_password(str(error))}\n")
        return 1
    return 0


def _give_way() -> None:
    os.nice(LOWEST_PRIORITY)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000", encoding="ascii")


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)


def _end_with_parent() -> None:
    """Ends this process when the pipe that it reads closes; by force if it does not listen."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
