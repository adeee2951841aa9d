"""Data from a folder of ``<code>.jsonl`` files, one row a line in Belebele's fields."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from xling.data.parallel import make_data_set
from xling.data.schema import DataSet, Item, parse_row
from xling.files.strict_json import parse_json
from xling.messages.values import join_names


def load_folder(path: str | Path, *, languages: Sequence[str]) -> DataSet:
    """Load parallel items from a folder.

    Args:
        path: Folder that holds ``<code>.jsonl`` (UTF-8) for each language.
        languages: Codes to load; the first one's file sets the order of items.

    Returns:
        The data set; its revision is the SHA-256 (hex) over the files' content.

    Raises:
        ValueError: The folder or a file is missing, unreadable, empty or malformed, or the
            languages are not parallel. Messages name file, line, field and remedy.
    """
    folder = Path(path)
    _check_files(folder, languages)
    content = {code: _read(folder / f"{code}.jsonl") for code in dict.fromkeys(languages)}
    items = {
        code: tuple(_items(raw, folder / f"{code}.jsonl", code)) for code, raw in content.items()
    }
    return make_data_set(
        items, name=folder.name, source=f"folder:{folder}", revision=_digest(content)
    )


def _check_files(folder: Path, languages: Sequence[str]) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"data folder {folder} {what}. Give a folder of <code>.jsonl files.")
    missing = [code for code in languages if not (folder / f"{code}.jsonl").is_file()]
    if missing:
        there = sorted(file.name for file in folder.glob("*.jsonl"))
        raise ValueError(
            f"data folder {folder} lacks {join_names(f'{code}.jsonl' for code in missing)}. It has "
            f"{join_names(there) or 'no .jsonl file'}. Add the files, or leave these languages out."
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}).") from error


def _items(raw: bytes, file: Path, code: str) -> Iterator[Item]:
    """Yield the items of one file; only a line feed ends a row."""
    _refuse_cut_off(raw, file)
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not any(line.strip() for line in lines):
        raise ValueError(f"{file}: the file is empty; it needs one JSON object a line.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{file}:{number}"
            yield parse_row(_row(line, where), where=where, language=code)


def _refuse_cut_off(raw: bytes, file: Path) -> None:
    """Refuse a file that ends within a row: the row lacks its line feed and its last brace."""
    start, number = raw.rfind(b"\n") + 1, raw.count(b"\n") + 1
    last = raw[start:].rstrip()
    if not last.startswith(b"{") or last.endswith(b"}"):
        return
    raise ValueError(
        f"{file}:{number}: the file is cut off: it ends after {len(raw)} bytes, "
        f"within a row that begins at byte {start + 1}. Fetch or copy the file again."
    )


def _row(line: bytes, where: str) -> dict[str, object]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}. Each line must be one whole JSON object in UTF-8."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}; each line must be a JSON object.")
    return row


def _digest(content: dict[str, bytes]) -> str:
    """Return a hash that does not depend on the order in which languages were asked for."""
    digest = hashlib.sha256()
    for code in sorted(content):
        digest.update(f"{code} {hashlib.sha256(content[code]).hexdigest()}\n".encode())
    return digest.hexdigest()
