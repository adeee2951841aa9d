"""Checks the files of a hub model against the hashes that the hub names them by.

In the hub's cache a file is a link to a blob, whose name is the file's sha256, or for small files
git's sha1. Downloads are checked by size alone, and a disk can lose bits later.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from xling.files.checksums import FileStamp, read_stamps, stamp_file, unchanged, write_stamps
from xling.files.paths import cache_folder

SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


def check_hub_files(folder: Path, *, identity: str, remember: bool) -> None:
    """Check the files of a snapshot; one that was checked and has not changed is not read again.

    Args:
        folder: the snapshot; a file that is not a link to a named blob is not checked.
        identity: of the model, such as ``hub:owner/name@commit``.
        remember: keep in the cache what was checked, so that large files are read once.

    Raises:
        ValueError: a file is not the one that the hub has; names file and remedy.
    """
    short = hashlib.sha256(identity.encode()).hexdigest()[:16]
    ledger = cache_folder() / "checked" / f"{short}.json"
    known = _known(ledger)
    found = dict(known)
    for path in sorted(folder.iterdir()):
        name = path.readlink().name if path.is_symlink() else ""
        if not (SHA256.fullmatch(name) or GIT_SHA1.fullmatch(name)):
            continue
        seen = known.get(path.name)
        if seen is None or not unchanged(path, seen):
            seen = stamp_file(path)
            _check(path, name, seen)
            found[path.name] = seen
    if remember and found != known:
        write_stamps(ledger, found)


def _known(ledger: Path) -> dict[str, FileStamp]:
    """Read what was checked before; nothing where the list is missing or damaged."""
    try:
        return read_stamps(ledger)
    except (FileNotFoundError, ValueError):
        return {}


def _check(path: Path, name: str, seen: FileStamp) -> None:
    if SHA256.fullmatch(name):
        kind, digest = "sha256", seen.sha256
    else:
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        kind, digest = "git sha1", hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if digest != name:
        raise ValueError(
            f"{path} ({seen.size} bytes) is not the hub's file: its {kind} is {digest}, not "
            f"{name}. It is cut off, damaged or was changed: delete {path.resolve()}, and it is "
            "fetched again"
        )
