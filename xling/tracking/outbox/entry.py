"""A run's folder in the outbox: what it logged, and how much of that the store has."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from xling.files.append_log import AppendLog
from xling.files.atomic import atomic_directory, atomic_write
from xling.files.paths import state_folder

HEADER, OPERATIONS, SENT, LOCK, FILES, MODELS = (
    "run.json", "operations.jsonl", "sent.json", "lock", "files", "models",
)  # fmt: skip
Operation = dict[str, Any]
# Stands for the id of a run, or of its adapter, that the store has not given yet.
PLACEHOLDER = re.compile(r"waiting-([0-9a-f]{32})(-adapter)?")
ADAPTER = "adapter"
# What earlier versions called the fields of `Sent`.
_EARLIER_KEYS = {"twin": "duplicate", "referred": "has_placeholder"}
LARGE = 1_000_000
# Seconds after which half an entry cannot be one that is being made.
ABANDONED = 3600.0

logger = logging.getLogger(__name__)


def run_placeholder(entry_id: str) -> str:
    """Return what stands for a run's id until the store has given one."""
    return f"waiting-{entry_id}"


def model_placeholder(entry_id: str) -> str:
    """Return what stands for the id of a run's adapter until the store has given one."""
    return f"waiting-{entry_id}-{ADAPTER}"


@dataclass(frozen=True)
class RunHeader:
    """What a run is; never changes.

    Attributes:
        id: 32 hexadecimal digits, in the run's tag ``xling.entry``.
        store: address, without password.
        experiment_id: in the store.
        experiment: its name.
        kind: tag ``xling.kind``.
        name: run name.
        study: tag ``xling.study``.
        started: milliseconds since 1970.
        parent: id, or placeholder, of the run above; empty: none.
        adopted: id of a run that the store had before; empty: none.
        again: whether it repeats what another run may have already.
        tags: all that it began with.
    """

    id: str
    store: str
    experiment_id: str
    experiment: str
    kind: str
    name: str
    study: str
    started: int
    parent: str = ""
    adopted: str = ""
    again: bool = False
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Sent:
    """How much of a run the store has.

    Attributes:
        run_id: as the store gave it; empty: none yet.
        operations: how many of them, from the first.
        models: ids of logged models by name.
        tries: how often a run was asked for: an answer that was lost may have made one.
        model_tries: the same of its adapter.
        duplicate: whether another finished run has the same result, and nothing more is sent.
        has_placeholder: whether a placeholder was given in the place of an id.
    """

    run_id: str = ""
    operations: int = 0
    models: dict[str, str] = field(default_factory=dict)
    tries: int = 0
    model_tries: int = 0
    duplicate: bool = False
    has_placeholder: bool = False


class Entry:
    """A run's folder; one process at a time holds it.

    Args:
        folder: of the entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = RunHeader(**json.loads((folder / HEADER).read_text(encoding="utf-8")))
        sent = folder / SENT
        known = json.loads(sent.read_text(encoding="utf-8")) if sent.is_file() else {}
        known = {_EARLIER_KEYS.get(key, key): value for key, value in known.items()}
        self.sent = Sent(**known) if known else Sent(run_id=self.header.adopted)
        self._log = AppendLog(
            folder / OPERATIONS,
            kind="an operation of a run",
            remedy="delete the line to send the rest of the run, or the folder to give the run up",
            plain="do",
        )
        self.operations = self._log.read(_parse_operation)
        self.send_lock = threading.RLock()
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, outbox: Path, header: RunHeader) -> Entry:
        """Make an entry, whole or not at all, and lock it."""
        folder = outbox / f"{time.time_ns():020d}-{header.id}"
        with atomic_directory(folder) as temporary:
            (temporary / HEADER).write_text(json.dumps(asdict(header)), encoding="utf-8")
            # Held before it has its name: no other process may take it for a dead one's.
            lock = (temporary / LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
        entry = cls(folder)
        entry._lock = lock
        return entry

    def lock(self) -> bool:
        """Lock the entry; False if another process has, or it is no longer there."""
        try:
            lock = (self.folder / LOCK).open("r+")
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        if not (self.folder / HEADER).is_file():  # its holder sent and removed it meanwhile
            lock.close()
            return False
        self.__dict__.update(Entry(self.folder).__dict__ | {"_lock": lock})
        return True

    def unlock(self) -> None:
        """Let others lock the entry."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def run_id(self) -> str:
        """The run's id, or what stands for it."""
        return self.sent.run_id or run_placeholder(self.header.id)

    @property
    def ended(self) -> str:
        """The status that the run ended with; empty: it has not."""
        last = self.operations[-1] if self.operations else {}
        return str(last["status"]) if last.get("do") == "end" else ""

    @property
    def is_sent(self) -> bool:
        """Whether the store has all of an ended run."""
        whole = self.sent.operations == len(self.operations)
        return bool(self.ended) and (self.sent.duplicate or (bool(self.sent.run_id) and whole))

    def append(self, operation: Mapping[str, Any]) -> None:
        """Add an operation; it is on the disk when this returns."""
        with self.send_lock:
            try:
                self._log.append([operation])
                self.operations.append(json.loads(json.dumps(operation)))
            except BaseException:  # a signal, or a full disk: what is in the file is what counts
                self.operations = self._log.read(_parse_operation)
                raise

    def record_sent(self) -> None:
        """Keep how much was sent, whole or as it was."""
        with atomic_write(self.folder / SENT) as temporary:
            temporary.write_text(json.dumps(asdict(self.sent)), encoding="utf-8")

    def keep(self, path: Path) -> str:
        """Keep a file or folder as it is now.

        Returns:
            Its place in the entry's folder.
        """
        place = self.folder / FILES / uuid.uuid4().hex
        if path.is_dir():
            with atomic_directory(place) as temporary:
                shutil.copytree(path, temporary, copy_function=_copy, dirs_exist_ok=True)
            return str(place.relative_to(self.folder))
        place.mkdir(parents=True)
        with atomic_write(place / path.name) as target:
            _copy(str(path), str(target))
        return str((place / path.name).relative_to(self.folder))

    def keep_text(self, text: str, name: str) -> str:
        """Keep a text under a name; return its place in the entry's folder."""
        place = self.folder / FILES / uuid.uuid4().hex / name
        with atomic_write(place) as target:
            target.write_text(text, encoding="utf-8")
        return str(place.relative_to(self.folder))

    @property
    def adapter(self) -> Path:
        """Where the run's adapter lies as an MLflow model; need not exist."""
        return self.folder / MODELS / ADAPTER

    def bytes(self) -> int:
        """Return the size of what the entry holds."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def remove(self) -> None:
        """Remove the entry; one that is half removed does not count."""
        (self.folder / HEADER).unlink(missing_ok=True)
        self.unlock()
        shutil.rmtree(self.folder, ignore_errors=True)


def entries(outbox: Path) -> list[Entry]:
    """Return an outbox's entries, oldest first; clear what a kill left half made or removed."""
    for left in outbox.glob(".[0-9]*"):
        with suppress(FileNotFoundError):  # another process clears, or finishes, it
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
    found = []
    for folder in sorted(outbox.glob("[0-9]*-*")):
        try:
            found.append(Entry(folder))
        except FileNotFoundError:
            if not (folder / HEADER).exists():
                shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s is damaged and stays where it is: %s", folder, error)
    return found


@contextmanager
def locked(entry: Entry) -> Iterator[bool]:
    """Lock an entry for a block; the value says whether that was possible."""
    if not entry.lock():
        yield False
        return
    try:
        yield True
    finally:
        entry.unlock()


def _parse_operation(operation: Operation) -> Operation:
    if not isinstance(operation.get("do"), str):
        raise ValueError("it does not say what to do")
    return operation


def _copy(source: str, target: str) -> str:
    """Copy a file; give a large one of this package, which never changes, a second name."""
    own = Path(source).resolve().is_relative_to(state_folder().resolve())
    if own and Path(source).stat().st_size > LARGE:
        try:
            os.link(source, target)
            return target
        except OSError:  # another disk, or one without links
            Path(target).unlink(missing_ok=True)
    shutil.copyfile(source, target)
    return target
