"""What waits is sent when the store will have it, and listed when it will not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from xling.messages.secrets import without_secrets
from xling.tracking.outbox.connection import StoreConnection, connection_to, in_short, outbox
from xling.tracking.outbox.entry import PLACEHOLDER, Entry, entries, locked
from xling.tracking.outbox.pending import known_ids, latest_id, note_finished, resolved
from xling.tracking.outbox.sender import is_final, send
from xling.tracking.process_identity import PROCESS
from xling.tracking.store import StoreSilent, check_server, store_errors, store_key, tracking_uri

# Seconds between the last tries of a process: a database may be locked for a moment.
LAST_PAUSES = (1.0, 3.0, 0.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """A run that the store does not have, or not all of.

    Attributes:
        name: run name.
        status: that it ended with.
        reason: why it waits.
        bytes: that it takes on disk.
        own: whether this process made it.
    """

    name: str
    status: str
    reason: str
    bytes: int
    own: bool


@dataclass(frozen=True)
class Account:
    """What waits for the store.

    Attributes:
        lines: to be read by people; none if nothing waits.
        own: whether this process made some of it.
    """

    lines: tuple[str, ...]
    own: bool


def deliver(entry: Entry, above: Sequence[Entry] = (), *, at_once: bool = False) -> bool:
    """Send what a run of this process has logged, if the store answers.

    After a silence all that waits goes first: later runs may name earlier ones.

    Args:
        entry: held by this process.
        above: runs that it lies in, the outermost first; they go first.
        at_once: see `sender.send`.

    Returns:
        Whether the store has all of it.
    """
    known = connection_to(store_key())
    if known.silent:
        if time.monotonic() < known.next_try or not _answers(known):
            return False
        deliver_waiting()
        if known.silent:
            return False
    return all(_try(each, known, at_once=at_once) for each in (*above, entry))


def deliver_waiting() -> int:
    """Send all that waits for the selected store and that no living process holds.

    Runs whose process is no more end as KILLED, with what they had logged.

    Returns:
        How many runs the store has now that it had not, or not all of.
    """
    known, sent = connection_to(store_key()), 0
    for entry in entries(outbox()):
        with locked(entry) as held:
            if not held:
                continue
            _end_if_dead(entry)
            if not _try(entry, known):
                if known.silent:
                    break
                continue
            finish(entry)
            sent += 1
    return sent


def is_silent() -> bool:
    """Return whether the store did not answer just now, and is not to be asked again yet."""
    known = connection_to(store_key())
    return bool(known.silent) and time.monotonic() < known.next_try


def finish(entry: Entry) -> None:
    """Remove an ended entry that the store has all of."""
    note_finished(outbox(), entry)
    entry.remove()


def retry_now() -> None:
    """Forget what the store refused, and that it was silent: it is asked anew."""
    connection_to(store_key()).forget()


def delivered(run_ids: Iterable[str]) -> dict[str, str]:
    """Try to send all that waits, and say which of these runs the store has.

    Args:
        run_ids: ids, or what stood for them.

    Returns:
        Ids that the store gave, by those asked for; runs that wait are left out.
    """
    waiting()  # tries them
    left = {each.run_id for each in entries(outbox()) if each.ended}
    ids = {each: latest_id(outbox(), each) for each in run_ids}
    return {
        each: found
        for each, found in ids.items()
        if not PLACEHOLDER.fullmatch(found) and not {each, found} & left
    }


def waiting() -> list[Waiting]:
    """Return ended runs that the selected store does not have all of, oldest first.

    They are tried a few more times first: a database may be locked, or another process may just
    be sending them. Those that it still holds do not count.
    """
    known = connection_to(store_key())
    for pause in LAST_PAUSES:
        if all(each.header.id in known.refused for each in entries(outbox()) if each.ended):
            break
        known.next_try = 0.0
        if _answers(known):
            deliver_waiting()
        time.sleep(pause if any(each.ended for each in entries(outbox())) else 0.0)
    process = str(os.getpid())
    return [
        Waiting(
            name=entry.header.name,
            status=entry.ended,
            reason=known.refused.get(entry.header.id) or known.silent or "not sent yet",
            bytes=entry.bytes(),
            own=entry.header.tags.get(f"xling.{PROCESS}") == process,
        )
        for entry in _ended_entries()
    ]


def account() -> Account:
    """Describe what waits; no lines if nothing does."""
    left = waiting()
    if not left:
        return Account((), own=False)
    size = sum(each.bytes for each in left) / 1e6
    number = "1 run waits" if len(left) == 1 else f"{len(left)} runs wait"
    lines = [f"{number} ({size:.1f} MB) in {outbox()} for {tracking_uri()}:"]
    lines += [f"  {each.name}: {each.status}; {in_short(each.reason)}" for each in left]
    lines += [
        "Nothing is lost. They are sent by: mlflow run . -e sync --env-manager local (or any other "
        "command, which sends them first)",
    ]
    return Account(tuple(lines), own=any(each.own for each in left))


def _ended_entries() -> list[Entry]:
    """Return ended runs in the outbox that no other process holds."""
    found = []
    for entry in entries(outbox()):
        with locked(entry) as held:
            if held and entry.ended and not entry.is_sent:
                found.append(entry)
    return found


def _answers(known: StoreConnection) -> bool:
    """Ask a silent server whether it is back; a cheap question, before anything large."""
    try:
        check_server()
    except StoreSilent as error:
        known.fail(_reason(error))
        return False
    return True


def _try(entry: Entry, known: StoreConnection, *, at_once: bool = False) -> bool:
    if entry.header.id in known.refused:
        return False
    try:
        send(entry, MlflowClient(), _resolver(), at_once=at_once)
    except LookupError:
        return False  # it names a run that waits itself
    except store_errors() as error:
        if not is_final(error) and not isinstance(error, FileNotFoundError):
            known.fail(_reason(error))
            return False
        known.refused[entry.header.id] = _reason(error)
        logger.warning(
            "the tracking store %s refuses run %r, which waits in %s: %s",
            tracking_uri(), entry.header.name, entry.folder, _reason(error),
        )  # fmt: skip
        return False
    known.work()
    return True


def _resolver() -> Callable[[Any], Any]:
    """Resolve placeholders; what they stand for is read only if there are any."""
    ids: dict[str, str] = {}

    def resolve(value: Any) -> Any:
        try:
            return resolved(value, ids)
        except LookupError:
            ids.update(known_ids(outbox()))
            return resolved(value, ids)

    return resolve


def _end_if_dead(entry: Entry) -> None:
    """End as KILLED a run that no process holds and that has not ended."""
    if entry.ended:
        return
    reason = "its process ended without a word: killed, or out of memory"
    last = int(entry.folder.stat().st_mtime * 1000)
    entry.append({"do": "batch", "tags": {"xling.error": reason}})
    entry.append({"do": "end", "status": "KILLED", "time": last})


def _reason(error: Exception) -> str:
    return without_secrets(str(error)) or type(error).__name__
