"""What is known on this machine of runs that the store has not got, or has but does not say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xling.files.append_log import AppendLog
from xling.files.atomic import atomic_write
from xling.tracking.logged_run import LoggedRun
from xling.tracking.outbox.entry import (
    ADAPTER,
    PLACEHOLDER,
    Entry,
    entries,
    model_placeholder,
    run_placeholder,
)

IDS, FINISHED = "ids.jsonl", "finished"
FINGERPRINT = "xling.fingerprint"


def logged(entry: Entry) -> LoggedRun:
    """Return a run as the store will have it."""
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags = {**entry.header.tags}
    data: dict[str, str] = {}
    for operation in entry.operations:
        params |= operation.get("params", {}) if operation["do"] == "batch" else {}
        tags |= operation.get("tags", {}) if operation["do"] in ("batch", "begin") else {}
        metrics |= {key: value for key, value, _, _ in operation.get("metrics", ())}
        if operation["do"] == "input":
            data[operation["dataset"]["name"]] = operation["dataset"]["digest"]
    return LoggedRun(
        run_id=entry.run_id,
        name=entry.header.name,
        params=params,
        metrics=metrics,
        tags=tags,
        start_time=entry.header.started,
        status=entry.ended or "RUNNING",
        data=data,
    )


def find_entry(outbox: Path, run_id: str) -> Entry | None:
    """Find the entry of a run, by its id or what stands for it."""
    match = PLACEHOLDER.fullmatch(run_id)
    for entry in entries(outbox):
        if entry.header.id == (match and match[1]) or (run_id and entry.sent.run_id == run_id):
            return entry
    return None


def finished_here(outbox: Path, fingerprint: str, *, kind: str, study: str) -> LoggedRun | None:
    """Find the newest finished run of a fingerprint that waits in the outbox."""
    found = [
        entry
        for entry in entries(outbox)
        if entry.ended == "FINISHED"
        and (entry.header.kind, entry.header.study) == (kind, study)
        and entry.header.tags.get(FINGERPRINT) == fingerprint
    ]
    return logged(found[-1]) if found else None


def adapter_id(entry: Entry) -> str:
    """Return the id of an entry's logged model, or what stands for it."""
    return entry.sent.models.get(ADAPTER) or model_placeholder(entry.header.id)


def find_waiting_adapter(outbox: Path, name: str) -> Entry | None:
    """Find the entry whose adapter the store does not have, by the id of its run or adapter."""
    for entry in entries(outbox):
        names = {entry.run_id, run_placeholder(entry.header.id), model_placeholder(entry.header.id)}
        if name in names and ADAPTER not in entry.sent.models and entry.adapter.is_dir():
            return entry
    return None


def latest_id(outbox: Path, name: str) -> str:
    """Return the id that the store gave for a placeholder; else the name itself."""
    return known_ids(outbox).get(name, name) if PLACEHOLDER.fullmatch(name) else name


def note_finished(outbox: Path, entry: Entry) -> None:
    """Note what became of an entry before it is removed."""
    if entry.sent.has_placeholder:
        line = {"id": entry.header.id, "run_id": entry.sent.run_id, "models": entry.sent.models}
        _ids_log(outbox).append([line])
    fingerprint = entry.header.tags.get(FINGERPRINT, "")
    if fingerprint and entry.ended == "FINISHED":
        text = json.dumps({**asdict(logged(entry)), "kind": entry.header.kind})
        with atomic_write(outbox / FINISHED / f"{fingerprint}.json") as temporary:
            temporary.write_text(text, encoding="utf-8")


def finished_before(outbox: Path, fingerprint: str, *, kind: str, study: str) -> LoggedRun | None:
    """Find a finished run that this machine has sent; the store may have lost it since."""
    path = outbox / FINISHED / f"{fingerprint}.json"
    if not path.is_file():
        return None
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if known.pop("kind") != kind or known["tags"].get("xling.study") != study:
        return None
    return LoggedRun(**known)


def known_ids(outbox: Path) -> dict[str, str]:
    """Return ids that the store has given, by what stood for them."""
    found: dict[str, str] = {}
    rows = _ids_log(outbox).read(_parse_ids)
    rows += [
        {"id": each.header.id, "run_id": each.sent.run_id, "models": each.sent.models}
        for each in entries(outbox)
    ]
    for row in rows:
        if row["run_id"]:
            found[f"waiting-{row['id']}"] = row["run_id"]
        if ADAPTER in row["models"]:
            found[model_placeholder(row["id"])] = row["models"][ADAPTER]
    return found


def _ids_log(outbox: Path) -> AppendLog:
    return AppendLog(
        outbox / IDS,
        kind="the ids of a run",
        remedy=(
            "restore the file from a copy, or delete the line: runs that name the run whose ids it "
            "held then stay in the outbox"
        ),
        plain="id",
    )


def _parse_ids(row: dict[str, Any]) -> dict[str, Any]:
    if not (
        isinstance(row.get("id"), str)
        and isinstance(row.get("run_id"), str)
        and isinstance(row.get("models"), dict)
    ):
        raise ValueError("it has other fields than id, run_id and models")
    return row


def resolved(value: Any, ids: dict[str, str]) -> Any:
    """Replace placeholders in a value by ids.

    Raises:
        LookupError: the store has not given one of them yet.
    """
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: ids[match[0]], value) if "waiting-" in value else value
    if isinstance(value, dict):
        return {key: resolved(each, ids) for key, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, ids) for each in value]
    return value
