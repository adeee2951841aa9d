"""Files that are still what was written: a folder's checksums beside its files.

The file of checksums holds sha256, size and the times of the last change of every file. Whether a
folder is still whole is decided as git does it: a file of the same size and times counts as
unchanged, any other is read and hashed. So weights of any size are checked at once before each use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from xling.files.atomic import atomic_directory, atomic_write, build_lock

CHECKSUMS = ".sealed.json"
# Nanoseconds. Two changes of a file within one tick of a clock have the same time, so times say
# nothing of a file that was changed just before its checksums were written.
TICK = 20_000_000


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was hashed.

    Attributes:
        sha256: hexadecimal.
        size: bytes.
        modified: nanoseconds; when the content was written.
        changed: nanoseconds; when content or attributes were, which no program can set back.
    """

    sha256: str
    size: int
    modified: int
    changed: int


def stamp_file(path: Path) -> FileStamp:
    """Hash a file, and note its size and times."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found = os.fstat(stream.fileno())
    return FileStamp(digest, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def hash_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    return stamp_file(path).sha256


def unchanged(path: Path, stamp: FileStamp) -> bool:
    """Return whether a file's size and times are those of its stamp."""
    found = path.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) == (
        stamp.size,
        stamp.modified,
        stamp.changed,
    )


def difference(folder: Path, name: str, stamp: FileStamp) -> str:
    """Say how a file's content differs from its stamp; empty if it does not."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != stamp.size:
        how = "cut off at" if size < stamp.size else "changed: it has"
        return f"{name} is {how} {size} bytes, not {stamp.size}"
    sha256 = hash_file(path)
    if sha256 != stamp.sha256:
        return f"{name} is changed: its sha256 is {sha256}, not {stamp.sha256}"
    return ""


def hash_folder(folder: Path) -> str:
    """Return a hash of the names and contents of a folder's files; of no folder that of none."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder, deep ones too, beside them."""
    _write_with_delay(folder, {name: stamp_file(folder / name) for name in _names(folder)})


def find_damage(folder: Path, *, thorough: bool = False, more: bool = False) -> str:
    """Say what is wrong with a folder that has checksums; empty if it is as it was.

    Args:
        folder: a folder; one without checksums counts as damaged.
        thorough: read every file again, whatever its size and times.
        more: other files may have been put beside those that have checksums.
    """
    try:
        stamps = read_stamps(folder / CHECKSUMS)
    except FileNotFoundError:
        return "it has no checksums"
    except ValueError as error:
        return str(error)
    written_at = (folder / CHECKSUMS).stat().st_mtime_ns
    renewed = dict(stamps)
    for name, stamp in stamps.items():
        path = folder / name
        settled = stamp.changed < written_at - TICK
        if not thorough and settled and path.is_file() and unchanged(path, stamp):
            continue
        found = difference(folder, name, stamp)
        if found:
            return found
        renewed[name] = stamp_file(path)
    added = sorted(set(_names(folder)) - set(stamps))
    if added and not more:
        return f"{added[0]} was added"
    if renewed != stamps and os.access(folder, os.W_OK):  # or a copy would be read every time
        _write_with_delay(folder, renewed)
    return ""


def _write_with_delay(folder: Path, files: Mapping[str, FileStamp]) -> None:
    """Write checksums so much later than the files changed that their times say something."""
    newest = max((stamp.changed for stamp in files.values()), default=0)
    wait = newest + 2 * TICK - time.time_ns()  # another machine's clock may be hours ahead
    time.sleep(min(max(0, wait), 2 * TICK) / 1e9)
    write_stamps(folder / CHECKSUMS, files)


@contextmanager
def checksummed_directory(target: Path) -> Iterator[Path]:
    """Give a folder as `atomic_directory` does, and write the checksums of what is in it."""
    with atomic_directory(target) as temporary:
        yield temporary
        write_checksums(temporary)


def make_once(target: Path, make: Callable[[Path], None], *, warn: Callable[[str], None]) -> None:
    """Make a folder unless it is there and whole; one that is damaged is made again.

    Processes that ask for it at once wait for the first.

    Args:
        target: the folder.
        make: writes its files into the folder that it is given.
        warn: called with what is wrong with a folder that is made again.
    """
    if target.is_dir() and not find_damage(target):
        return
    with build_lock(target):
        if target.is_dir():
            found = find_damage(target)
            if not found:  # made by another process in the meantime
                return
            warn(found)
            shutil.rmtree(target)
        with checksummed_directory(target) as temporary:
            make(temporary)


def write_stamps(path: Path, files: Mapping[str, FileStamp]) -> None:
    """Write the stamps of files, by name."""
    content = {name: asdict(stamp) for name, stamp in sorted(files.items())}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_stamps(path: Path) -> dict[str, FileStamp]:
    """Read what `write_stamps` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: FileStamp(**stamp) for name, stamp in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its checksums ({path.name}) are damaged") from error


def _names(folder: Path) -> list[str]:
    """Return the files of a folder, relative to it, but for checksums and files being written."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(CHECKSUMS)
        and not path.name.startswith(f".{CHECKSUMS}")
    )
