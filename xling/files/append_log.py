"""A log of JSON objects, one line each with a checksum, to which processes only append.

What was appended is on the disk, and stays readable whatever cuts off a later line: a process that
is killed, a full disk or a power failure. A line counts when its newline is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from xling.files.atomic import naming_full_disk
from xling.files.strict_json import parse_json

Value = TypeVar("Value")
_BLOCK = 65536


class AppendLog:
    """A file of JSON objects; several processes may append to it at once.

    Args:
        path: need not exist; its folder must when something is appended.
        kind: what a line is, in messages.
        remedy: what to do about a damaged line, in messages.
        plain: a key that all objects have; lines without checksum, as earlier versions wrote
            them, are read if they have it. Empty: a line without checksum is damaged.
    """

    def __init__(self, path: Path, *, kind: str, remedy: str, plain: str = "") -> None:
        self.path = path
        self._kind = kind
        self._remedy = remedy
        self._plain = plain

    def read(self, parse: Callable[[dict[str, Any]], Value]) -> list[Value]:
        """Read all objects; a last line without newline is left out.

        Args:
            parse: makes a value of an object; raises ValueError if it cannot.

        Raises:
            ValueError: a line is damaged; the message names file, line and remedy.
        """
        values: list[Value] = []
        if not self.path.is_file():
            return values
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    values.append(parse(self._content(line)))
                except ValueError as error:
                    raise ValueError(
                        f"{self.path}, line {number}, is not {self._kind} ({error}); {self._remedy}"
                    ) from error
        return values

    def append(self, values: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
        """Append objects, all or none; the cost does not depend on what is there.

        Args:
            values: what JSON can hold.
            sync: wait until they are on the disk; else they may be lost if the machine fails,
                but not if the process does.

        Raises:
            OSError: the disk is full or read-only; the message names the folder.
        """
        lines = b"".join(map(_to_line, values))
        with (
            naming_full_disk(self.path.parent),
            self.path.open("a+b", buffering=0) as file,  # a buffer would be written again at close
        ):
            fcntl.flock(file, fcntl.LOCK_EX)  # ends when the file is closed
            end = _end_of_lines(file)
            try:
                file.truncate(end)
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                if sync:
                    os.fsync(file)
            except BaseException:  # a full disk, or a signal
                file.truncate(end)
                raise
            if sync and end == 0:
                _sync_folder(self.path.parent)

    def _content(self, line: bytes) -> dict[str, Any]:
        """Return the object of a line; ValueError if it is damaged."""
        kept = parse_json(line)
        if not isinstance(kept, dict):
            raise ValueError("it is not an object")
        if self._plain and self._plain in kept:
            return kept
        content = kept.get("content")
        if not isinstance(content, str):
            raise ValueError("it is not an object with a content")
        if _checksum(content) != kept.get("sha256"):
            raise ValueError("its checksum is another one")
        value = parse_json(content.encode())
        if not isinstance(value, dict):
            raise ValueError("its content is not an object")
        return value


def _to_line(value: Mapping[str, Any]) -> bytes:
    content = json.dumps(value, ensure_ascii=False)
    try:
        checksum = _checksum(content)
    except UnicodeEncodeError:  # UTF-8 has no half of a surrogate pair
        content = json.dumps(value)
        checksum = _checksum(content)
    line = {"sha256": checksum, "content": content}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _end_of_lines(file: FileIO) -> int:
    """Return where the last finished line ends; reads from the end of the file."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Wait until a new file's name is on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
