"""Files and folders that are there whole or not at all, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xling.files.paths import state_folder
from xling.messages.errors import DISK_ERRORS


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `target` only if the block ends without an error.

    Two processes may make the same folder at once: the first to finish wins, and the other's
    copy is thrown away.

    Raises:
        OSError: the disk is full or read-only; the message names the folder.
    """
    with naming_full_disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield temporary
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def build_lock(target: Path) -> Iterator[None]:
    """Let one process at a time make a folder, and clear what one that was killed left.

    Others wait, and have to check whether the folder is there.
    """
    with naming_full_disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / f".{target.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        for left in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left)
        yield


@contextmanager
def work_lock(name: str, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process of this machine at a time do the work of that name.

    Args:
        name: of the work; part of a file's name in `state_folder`.
        waiting: called before it waits for another process.
    """
    folder = state_folder() / "locks"
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Give a path that becomes the file `target` only if the block ends without an error.

    The file lies on the disk, not only in a buffer, before it gets its name; an older file is
    replaced, or stays as it was.

    Raises:
        OSError: the disk is full or read-only; the message names the folder.
    """
    with naming_full_disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside its target: a rename is atomic within one file system only.
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn whatever a library raises on a full or read-only disk into one OSError.

    safetensors and torch write in native code: their errors have no errno, only its text.
    """
    try:
        yield
    except Exception as error:
        for code in DISK_ERRORS:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                raise OSError(code, f"cannot write to {folder} ({os.strerror(code)})") from error
        raise


def remember_int(path: Path, find: Callable[[], int]) -> int:
    """Return a number that was found once, so that work that was cut off goes on with it.

    Args:
        path: file that keeps it.
        find: finds it.
    """
    if path.is_file():
        return int(path.read_text(encoding="utf-8"))
    number = find()
    with atomic_write(path) as temporary:
        temporary.write_text(str(number), encoding="utf-8")
    return number
