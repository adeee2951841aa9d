"""What this process knows of a store: whether it answers, and what it refused."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from xling.files.paths import state_folder
from xling.tracking.store import store_key, tracking_uri

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
MAX_CHARS = 200
_CAUSE = re.compile(r"\[Errno \d+\] [\w ]+|too many \d+ error responses|Read timed out")

logger = logging.getLogger(__name__)


@dataclass
class StoreConnection:
    """What this process knows of a store.

    Attributes:
        silent: why it does not answer; empty: it does.
        refused: why it will not have a run, by entry.
        pause: seconds until the next try.
        next_try: of the monotonic clock.
    """

    silent: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    pause: float = FIRST_PAUSE
    next_try: float = 0.0

    def fail(self, reason: str) -> None:
        """Note that the store did not answer."""
        if not self.silent:
            logger.warning(
                "the tracking store %s does not answer (%s); work goes on, and results wait in %s",
                tracking_uri(), in_short(reason), outbox(),
            )  # fmt: skip
        self.silent = reason
        self.next_try = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def forget(self) -> None:
        """Forget what the store refused, and that it was silent: it is asked anew."""
        self.refused.clear()
        self.next_try, self.pause = 0.0, FIRST_PAUSE

    def work(self) -> None:
        """Note that the store answered."""
        if self.silent:
            logger.warning("the tracking store %s answers again", tracking_uri())
        self.silent, self.pause = "", FIRST_PAUSE


def outbox() -> Path:
    """Return the folder of what waits for the selected store."""
    return state_folder() / "outbox" / store_key()


@cache
def connection_to(store: str) -> StoreConnection:
    """Return what this process knows of a store, by `store_key`."""
    return StoreConnection()


def in_short(reason: str) -> str:
    """Shorten a store's failure to the innermost cause where it names one."""
    cause = _CAUSE.search(reason)
    line = cause[0] if cause else reason.strip().splitlines()[0]
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]}…"
