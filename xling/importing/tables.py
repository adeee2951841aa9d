"""Reads a table of published accuracies: one line a model, arm and language."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xling.importing.imported import MAX_NAME, ImportedResults, ImportedRun, files_sha256
from xling.languages import get_language
from xling.messages.values import format_name, format_value
from xling.records import ARMS, REASONINGS, SCORINGS
from xling.study.settings import ACCURACY_LIMITS

REQUIRED = ("model", "arm", "language", "accuracy")
OF_A_MODEL = ("base", "developer")  # each has one value in all lines of a model
OPTIONAL = ("n_items", "stderr", "n_options", "seed", "reasoning", "scoring", *OF_A_MODEL)
COLUMNS = REQUIRED + OPTIONAL

MAX_SEED = 2**63 - 1
# Six decimals of an accuracy over a thousand questions leave less than this.
_NEAR_WHOLE = 1e-3

Cell = tuple[str, str, int, str, str]


@dataclass(frozen=True)
class _Line:
    """A checked line; `number` is where it ends in the file, counted from 1.

    `origin` has what it says of OF_A_MODEL.
    """

    number: int
    cell: Cell
    language: str
    accuracy: float
    n_items: int | None
    stderr: float | None
    n_options: int | None
    origin: Mapping[str, str]


def read_table(path: Path, *, seed: int = 0, reasoning: str = "direct") -> ImportedResults:
    """Read a CSV file of accuracies.

    Args:
        path: Comma separated, UTF-8, with a header; columns in any order: model, arm, language and
            accuracy (a proportion), and if known n_items, stderr (of the accuracy, a proportion),
            n_options (of each question), seed, reasoning and scoring, and of the model base (its
            base checkpoint) and developer (who made that).
        seed: Of the lines that do not say.
        reasoning: Of the lines that do not say.

    Returns:
        One run for each model, arm, seed, reasoning and scoring, in the table's order. Scoring is
        `answer-token` where a line does not say.

    Raises:
        ValueError: If the table is wrong; the message names file, line, column and remedy.
        OSError: If the file cannot be read.
    """
    header, rows = _read_rows(path)
    _refuse_per_cent(path, rows)
    fallback = dict.fromkeys(OPTIONAL, "")
    fallback |= {"seed": str(seed), "reasoning": reasoning, "scoring": "answer-token"}
    lines = [
        _check_line(
            f"{path}, line {number}",
            number,
            fallback | {key: text for key, text in row.items() if text or key in REQUIRED},
        )
        for number, row in rows
    ]
    _refuse_repeated(path, lines)
    origins = _origins(path, lines)
    groups: dict[Cell, list[_Line]] = defaultdict(list)
    for line in lines:
        groups[line.cell].append(line)
    notes = () if "n_items" not in header else _rounding_note(path, lines)
    return ImportedResults(
        path,
        "csv",
        files_sha256([path], path.parent),
        tuple(_make_run(cell, group, origins[cell[0]]) for cell, group in groups.items()),
        notes,
    )


def _make_run(cell: Cell, lines: Sequence[_Line], origin: Mapping[str, str]) -> ImportedRun:
    return ImportedRun(
        *cell,
        accuracy={line.language: line.accuracy for line in lines},
        n_items={line.language: line.n_items for line in lines if line.n_items is not None},
        stderr={line.language: line.stderr for line in lines if line.stderr is not None},
        n_options={line.language: line.n_options for line in lines if line.n_options is not None},
        params=origin,
    )


def _origins(path: Path, lines: Sequence[_Line]) -> dict[str, dict[str, str]]:
    """Return what the lines of each model say of OF_A_MODEL; ValueError where they differ."""
    first: dict[tuple[str, str], tuple[str, int]] = {}
    found: dict[str, dict[str, str]] = {line.cell[0]: {} for line in lines}
    for line in lines:
        model = line.cell[0]
        for column, name in line.origin.items():
            before, number = first.setdefault((model, column), (name, line.number))
            if before != name:
                raise ValueError(
                    f"{path}, line {line.number}, column {column}: {format_value(name)}, but line "
                    f"{number} says {format_value(before)} of the same model "
                    f"{format_value(model)}; write one name in all of its lines"
                )
            found[model][column] = name
    return found


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header, and each line's number and its values by column, stripped."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    header: list[str] = []
    rows = []
    try:
        for values in reader:
            cells = [value.strip() for value in values]
            if not any(cells):
                continue
            if not header:
                header = _check_header(f"{path}, line {reader.line_num}", cells)
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} values for {len(header)} "
                    "columns; write decimals with a point, and put a value that holds a comma in "
                    "double quotes"
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: not CSV ({error}); look for an open double quote"
        ) from error
    if not rows:
        what = "has a header only" if header else "is empty"
        raise ValueError(
            f"{path} {what}; write a header ({', '.join(REQUIRED)}) and a line for each model, "
            "arm and language"
        )
    return header, rows


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text; save it as CSV in UTF-8 (a spreadsheet file or "
            "another encoding is not read)"
        ) from error


def _check_header(where: str, names: list[str]) -> list[str]:
    """Return the names, if they are known, distinct, and include the required ones."""
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise ValueError(f"{where}: the columns are separated by {called}; save with commas")
    for name in names:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{where}: unknown column {format_value(name)}.{hint} Rename or drop it; the "
                f"columns are {', '.join(REQUIRED)} and, if known, {', '.join(OPTIONAL)}"
            )
        if names.count(name) > 1:
            raise ValueError(f"{where}: column {name!r} appears twice; keep one")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ValueError(
            f"{where}: column {missing[0]!r} is missing; add it (needed are {', '.join(REQUIRED)})"
        )
    return names


def _refuse_per_cent(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]]) -> None:
    """Raise ValueError if every accuracy but zero reads as per cent."""
    values = [_number(row["accuracy"].removesuffix("%")) for _, row in rows]
    per_cent = any(row["accuracy"].endswith("%") for _, row in rows)
    above = [value for value in values if value != 0]
    if per_cent or (above and all(1 < value <= 100 for value in above)):
        raise ValueError(
            f"{path}, line {rows[0][0]}, column accuracy: the accuracies look like per cent; "
            "write proportions: 0.53, not 53"
        )


def _check_line(where: str, number: int, row: Mapping[str, str]) -> _Line:
    for column in REQUIRED:
        if not row[column]:
            raise ValueError(f"{where}, column {column}: empty; fill it in, or drop the line")
    for column in ("model", *OF_A_MODEL):
        if len(row[column]) > MAX_NAME or not row[column].isprintable():
            raise ValueError(
                f"{where}, column {column}: {format_value(row[column])}; a name is one line of "
                f"{MAX_NAME} characters at most"
            )
    try:
        get_language(row["language"])
    except ValueError as error:
        raise ValueError(f"{where}, column language: {error}") from error
    cell = (
        row["model"],
        _one_of(ARMS, row["arm"], f"{where}, column arm"),
        _whole(row["seed"], f"{where}, column seed", least=0),
        _one_of(REASONINGS, row["reasoning"], f"{where}, column reasoning"),
        _one_of(SCORINGS, row["scoring"], f"{where}, column scoring"),
    )
    return _Line(
        number,
        cell,
        row["language"],
        _proportion(row["accuracy"], f"{where}, column accuracy"),
        _whole(row["n_items"], f"{where}, column n_items", least=1) if row["n_items"] else None,
        _error(row["stderr"], f"{where}, column stderr") if row["stderr"] else None,
        _options(row["n_options"], f"{where}, column n_options") if row["n_options"] else None,
        {column: row[column] for column in OF_A_MODEL if row[column]},
    )


def _one_of(allowed: Sequence[str], value: str, where: str) -> str:
    if value not in allowed:
        raise ValueError(f"{where}: {format_value(value)}; it must be one of {', '.join(allowed)}")
    return value


def _whole(value: str, where: str, *, least: int, most: int = MAX_SEED) -> int:
    # Python reads no more than some thousand digits of a number.
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 40 else -1
    if not least <= number <= most:
        end = "up" if most == MAX_SEED else f"to {most}"
        raise ValueError(
            f"{where}: {format_value(value)}; it must be a whole number from {least} {end}"
        )
    return number


def _number(value: str) -> float:
    """Return the number; NaN if it is not one. Python would also accept `_` between digits."""
    try:
        return float(value) if "_" not in value else math.nan
    except ValueError:
        return math.nan


def _proportion(value: str, where: str) -> float:
    number = _number(value)
    if math.isnan(number):
        remedy = (
            "write a decimal point, not a comma" if "," in value else "drop the line if unknown"
        )
        raise ValueError(f"{where}: {format_value(value)} is not a number; {remedy}")
    if not 0 <= number <= 1:
        raise ValueError(
            f"{where}: {format_value(value)[1:-1]} must lie in 0 to 1; write proportions: 0.53, "
            "not 53"
        )
    return number


def _error(value: str, where: str) -> float:
    number = _number(value)
    least, most = ACCURACY_LIMITS["stderr"]
    if not least <= number <= most:  # NaN fails this too
        raise ValueError(
            f"{where}: {format_value(value)}; it must be a number from {least} to {most}: the "
            "standard error of a proportion, not of per cent"
        )
    return number


def _options(value: str, where: str) -> int:
    least, most = map(int, ACCURACY_LIMITS["n_options"])
    return _whole(value, where, least=least, most=most)


def _refuse_repeated(path: Path, lines: Sequence[_Line]) -> None:
    first: dict[tuple[Cell, str], int] = {}
    for line in lines:
        before = first.setdefault((line.cell, line.language), line.number)
        if before != line.number:
            what = format_name("/".join(map(str, (*line.cell, line.language))), 200)
            raise ValueError(
                f"{path}, line {line.number}: {what} is in line {before} already; keep one, or "
                "distinguish them by the columns seed, reasoning or scoring"
            )


def _rounding_note(path: Path, lines: Sequence[_Line]) -> tuple[str, ...]:
    """Say which accuracies are not a whole number of correct answers; empty if all are."""
    rounded = [
        line
        for line in lines
        if line.n_items is not None
        and abs(line.accuracy * line.n_items - round(line.accuracy * line.n_items)) > _NEAR_WHOLE
    ]
    if not rounded:
        return ()
    line = rounded[0]
    return (
        f"{path}: {len(rounded)} of {len(lines)} accuracies are rounded, as accuracy × n_items is "
        f"not a whole number (line {line.number}: {line.accuracy} × {line.n_items}); they are used "
        "as they stand",
    )
