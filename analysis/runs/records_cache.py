"""Files of runs, fetched once: kept by run id, and by the digest that the run logged."""

from __future__ import annotations

import hashlib
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

RECORDS_FILE = "records.parquet"
FORMAT_FILE = "format.csv"
DIGEST_TAG = "xling.records_sha256"


class ArtifactStore(Protocol):
    """Where artifacts are found; the module xling.tracking is one."""

    def download_artifact(self, run_id: str, path: str, folder: Path) -> Path:
        """Fetch one artifact; FileNotFoundError if the run has none of that name."""


def records_file(
    store: ArtifactStore, run: LoggedRun, folder: Path, cache: Path | None = None
) -> Path:
    """A run's records file: the kept one if its digest is the run's, else a download.

    A run without the tag `xling.records_sha256` is fetched each time: nothing says whether what
    was kept is still what the store has.

    Args:
        store: The tracking store.
        run: An evaluate run.
        folder: Where downloads go that are not kept, one folder per run id.
        cache: Where files are kept, one folder per run id; None to keep nothing.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: If the run has no records.
        ValueError: If the file is not the one that the run logged; the message names the run.
        OSError: If a folder cannot be written.
    """
    digest = run.tags.get(DIGEST_TAG, "")
    name = _folder_name(run)
    kept = cache / name / RECORDS_FILE if cache and digest else None
    if kept and kept.is_file() and _sha256(kept) == digest:
        return kept
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    path = store.download_artifact(run.run_id, RECORDS_FILE, target)
    if digest and _sha256(path) != digest:
        raise ValueError(
            f"run {run.name} ({run.run_id}), model {run.params.get('cfg.model', 'unknown')}: its "
            f"{RECORDS_FILE} is not the file that it logged (the tag {DIGEST_TAG} says another "
            "sha256); repeat the run"
        )
    return _keep(path, kept) if kept else path


def optional_file(
    store: ArtifactStore, run: LoggedRun, name: str, folder: Path, cache: Path | None = None
) -> Path | None:
    """A file that a run may have beside its records.

    Kept by the digest in the tag `xling.<stem>_sha256` if the run has one, else by run id alone: a
    finished run's artifacts stay as they are.

    Args:
        store: The tracking store.
        run: An evaluate run.
        name: The artifact, such as FORMAT_FILE.
        folder: Where downloads go that are not kept, one folder per run id.
        cache: Where files are kept, one folder per run id; None to keep nothing.

    Returns:
        The file's path, None if the run has no such file.

    Raises:
        ValueError: If the file is not the one that the run logged; the message names the run.
        OSError: If a folder cannot be written.
    """
    tag = f"xling.{Path(name).stem}_sha256"
    digest = run.tags.get(tag, "")
    kept = cache / _folder_name(run) / name if cache else None
    if kept and kept.is_file() and digest in ("", _sha256(kept)):
        return kept
    target = folder / _folder_name(run)
    target.mkdir(parents=True, exist_ok=True)
    try:
        path = store.download_artifact(run.run_id, name, target)
    except FileNotFoundError:
        return None  # optional: the store says that the run has none
    if digest and _sha256(path) != digest:
        raise ValueError(
            f"run {run.name} ({run.run_id}), model {run.params.get('cfg.model', 'unknown')}: its "
            f"{name} is not the file that it logged (the tag {tag} says another sha256); repeat "
            "the run"
        )
    return _keep(path, kept) if kept else path


def _folder_name(run: LoggedRun) -> str:
    """A run's id, if it is one: a store could say anything."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run.run_id):
        raise ValueError(
            f"the store has a run of the id {run.run_id!r:.80}, which is none: an id has letters, "
            "digits, '_' and '-'; delete that run"
        )
    return run.run_id


def _keep(path: Path, kept: Path) -> Path:
    """Copy a file to its place, whole or not at all; two processes may do so at once."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(f".{kept.name}.{uuid.uuid4().hex}.tmp")
    try:
        shutil.copyfile(path, temporary)
        temporary.replace(kept)
    finally:
        temporary.unlink(missing_ok=True)
    return kept


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
