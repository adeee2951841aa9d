"""Answers that are kept as they come, so that work that was cut off asks only for the rest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xling.files.strict_json import parse_json
from xling.messages.values import format_value
from xling.scoring.generation import Generation


def answer_key(mode: str, tokens: Sequence[int]) -> str:
    """Name of an answer: hexadecimal sha256 of what is asked and of the prompt's tokens.

    Args:
        mode: what is asked, with all that decides the answer beside prompt and server.
        tokens: of the prompt, special ones included.
    """
    return hashlib.sha256(json.dumps([mode, *map(int, tokens)]).encode()).hexdigest()


class AnswerCache:
    """Finished answers by key, one JSON line each; for one process and one thread.

    A last line that was not finished is left out and overwritten.

    Args:
        path: need not exist; None: answers are kept in memory alone.

    Raises:
        ValueError: another line is not an answer, or was changed; names file and line.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._answers: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._answers[key]

    def __contains__(self, key: object) -> bool:
        return key in self._answers

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keeps an answer; it is in the file when this returns."""
        self._answers[key] = answer
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(_to_line(key, answer))

    def _read(self, path: Path) -> None:
        whole = path.read_bytes()
        finished = whole.rfind(b"\n") + 1
        for number, line in enumerate(whole[:finished].splitlines(), start=1):
            try:
                key, answer = _from_line(line)
                self._answers[key] = answer
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}, is not a kept answer ({error}); delete the line, and "
                    "its item is asked again"
                ) from error
            self._answers[key] = answer
        if finished < len(whole):
            with path.open("r+b") as file:
                file.truncate(finished)


def _to_line(key: str, answer: dict[str, Any]) -> bytes:
    content = json.dumps({"key": key, **answer})
    # Numbers that a disk changed would be read as any others.
    return json.dumps({"sha256": _sha256(content), "content": content}).encode() + b"\n"


def _from_line(line: bytes) -> tuple[str, dict[str, Any]]:
    """Key and answer of a line; ValueError if it is not one."""
    kept = parse_json(line)
    if not isinstance(kept, dict) or not isinstance(kept.get("content"), str):
        raise ValueError("it is no object with a content")
    if _sha256(kept["content"]) != kept.get("sha256"):
        raise ValueError("its checksum is another one")
    answer = parse_json(kept["content"].encode())
    if not isinstance(answer, dict) or not isinstance(answer.get("key"), str):
        raise ValueError("it is no object with a key")
    return answer.pop("key"), answer


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class ReasoningFile:
    """Finished reasonings, one JSON line each, so that long work resumes by item.

    Args:
        path: need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def done(self) -> dict[str, Generation]:
        """Finished reasonings by key; a last line that was not finished is left out.

        Raises:
            ValueError: another line is not a reasoning; names file and line.
        """
        if not self._path.is_file():
            return {}
        *lines, _ = self._path.read_bytes().split(b"\n")
        found = {}
        for number, line in enumerate(lines, start=1):
            try:
                key, generation = _line_to_generation(line)
            except ValueError as error:
                raise ValueError(
                    f"{self._path}, line {number}, is not a finished reasoning ({error}); delete "
                    "the line, and its item is reasoned about again"
                ) from error
            found[key] = generation
        return found

    def append(self, batch: Mapping[str, Generation]) -> None:
        """Adds reasonings by key; they are on the disk when this returns."""
        lines = b"".join(_generation_to_line(key, generation) for key, generation in batch.items())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.truncate(_finished_bytes(self._path))
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def _finished_bytes(path: Path) -> int:
    """Size of a file's finished lines."""
    return path.read_bytes().rfind(b"\n") + 1


def _generation_to_line(key: str, generation: Generation) -> bytes:
    return json.dumps({"key": key, **asdict(generation)}, ensure_ascii=False).encode() + b"\n"


_KINDS = {"key": str, "text": str, "n_tokens": int, "truncated": bool}


def _line_to_generation(line: bytes) -> tuple[str, Generation]:
    content = parse_json(line)
    if not isinstance(content, dict) or set(content) != set(_KINDS):
        raise ValueError(f"it has other fields than {', '.join(_KINDS)}")
    for name, kind in _KINDS.items():
        if type(content[name]) is not kind:
            raise ValueError(f"{name} is {format_value(content[name])}")
    if content["n_tokens"] < 0:
        raise ValueError(f"n_tokens is {format_value(content['n_tokens'])}")
    if any("\ud800" <= sign <= "\udfff" for sign in content["text"]):
        raise ValueError("text holds half a surrogate pair")
    return content["key"], Generation(content["text"], content["n_tokens"], content["truncated"])
