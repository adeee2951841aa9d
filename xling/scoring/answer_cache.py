"""Answers that are kept as they come, so that work that was cut off asks only for the rest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xling.files.append_log import AppendLog
from xling.messages.values import format_value
from xling.scoring.protocol import Generation

# To wait for the disk takes milliseconds, and a server may give hundreds of answers a second.
SYNC_SECONDS = 1.0


def answer_key(mode: str, tokens: Sequence[int]) -> str:
    """Return the name of an answer: hexadecimal sha256 of what is asked and the prompt's tokens.

    Args:
        mode: what is asked, with all that decides the answer beside prompt and server.
        tokens: of the prompt, special ones included.
    """
    return hashlib.sha256(json.dumps([mode, *map(int, tokens)]).encode()).hexdigest()


class AnswerCache:
    """Finished answers by key, also in an append log; for one process and one thread.

    Args:
        path: need not exist; None: answers are kept in memory alone.

    Raises:
        ValueError: a line is not an answer, or was changed; names file and line.
    """

    def __init__(self, path: Path | None) -> None:
        self._log: AppendLog | None = None
        self._answers: dict[str, dict[str, Any]] = {}
        self._synced = 0.0
        if path is not None:
            self._log = AppendLog(
                path, kind="a kept answer", remedy="delete the line, and its item is asked again"
            )
            self._answers = dict(self._log.read(_parse_answer))

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._answers[key]

    def __contains__(self, key: object) -> bool:
        return key in self._answers

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer; it is in the file when this returns, and soon after on the disk."""
        self._answers[key] = answer
        if self._log is None:
            return
        self._log.path.parent.mkdir(parents=True, exist_ok=True)
        sync = time.monotonic() - self._synced >= SYNC_SECONDS
        self._log.append([{"key": key, **answer}], sync=sync)
        if sync:
            self._synced = time.monotonic()


def _parse_answer(answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    key = answer.pop("key", None)
    if not isinstance(key, str):
        raise ValueError("it is not an object with a key")
    return key, answer


class ReasoningFile:
    """Finished reasonings in an append log, so that long work resumes by item.

    Args:
        path: need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(
            path,
            kind="a finished reasoning",
            remedy="delete the line, and its item is reasoned about again",
            plain="key",
        )

    def done(self) -> dict[str, Generation]:
        """Return finished reasonings by key; a last line that was not finished is left out.

        Raises:
            ValueError: another line is not a reasoning; names file and line.
        """
        return dict(self._log.read(_parse_generation))

    def append(self, batch: Mapping[str, Generation]) -> None:
        """Add reasonings by key; they are on the disk when this returns."""
        self._log.path.parent.mkdir(parents=True, exist_ok=True)
        self._log.append({"key": key, **asdict(written)} for key, written in batch.items())


_KINDS = {"key": str, "text": str, "n_tokens": int, "truncated": bool}


def _parse_generation(content: dict[str, Any]) -> tuple[str, Generation]:
    if set(content) != set(_KINDS):
        raise ValueError(f"it has other fields than {', '.join(_KINDS)}")
    for name, kind in _KINDS.items():
        if type(content[name]) is not kind:
            raise ValueError(f"{name} is {format_value(content[name])}")
    if content["n_tokens"] < 0:
        raise ValueError(f"n_tokens is {format_value(content['n_tokens'])}")
    try:
        content["text"].encode()
    except UnicodeEncodeError as error:
        raise ValueError("text holds half a surrogate pair") from error
    return content["key"], Generation(content["text"], content["n_tokens"], content["truncated"])
