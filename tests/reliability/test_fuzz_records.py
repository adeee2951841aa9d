"""Item records, routing and format tables, damaged: read as what they hold, or refused."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.measures.routing import read_routing_file
from analysis.runs.run_files import read_format_file
from tests.reliability.fuzzing import BLANKS, TEXTS, any_value, damaged, refused, sweep, write
from xling.records import (
    LOGPROB_COLUMNS,
    RECORD_SCHEMA,
    check_records,
    describe_format,
    read_records,
    records_sha256,
    summarize_records,
    write_records,
)
from xling.routing.table import read_routing, routing_frame, write_routing

ROWS = 6


def good_frame(rng: random.Random) -> pd.DataFrame:
    """Records of one run in two languages, with names of all kinds."""
    gold = [rng.randint(1, 4) for _ in range(ROWS)]
    prediction = [rng.randint(1, 4) for _ in range(ROWS)]
    scoring = rng.choice(("answer-token", "cloze"))
    logprobs = np.log(np.array([[rng.uniform(0, 0.25) for _ in range(4)] for _ in range(ROWS)]))
    if rng.random() < 0.3:
        logprobs[0, :] = -np.inf
    return pd.DataFrame(
        {
            "model": rng.choice(("tiny", *TEXTS[:6])),
            "arm": "base",
            "reasoning": "direct",
            "scoring": scoring,
            "language": ["heb_Hebr", "fra_Latn"] * (ROWS // 2),
            "seed": rng.choice((0, 3, 2**53 + 1)),
            "item_id": [f"{rng.choice(TEXTS[:9])}#{row // 2}" for row in range(ROWS)],
            "passage_id": [f"p{row // 4}" for row in range(ROWS)],
            "part": "heldout",
            "gold": gold,
            "prediction": prediction,
            "correct": [a == b for a, b in zip(gold, prediction, strict=True)],
            **{name: logprobs[:, k] for k, name in enumerate(LOGPROB_COLUMNS)},
            "answer_mass": np.exp(logprobs).sum(axis=1) if scoring != "cloze" else np.nan,
            "n_tokens": 12,
            "prompt_sha256": "ab" * 32,
            "fold": 0,
        }
    )


def check_frame(frame: pd.DataFrame) -> None:
    """Accepted records keep the contract, and can be hashed, summed up and written."""
    assert list(frame.columns) == RECORD_SCHEMA.names
    assert frame["gold"].between(1, 4).all() and frame["prediction"].between(1, 4).all()
    assert ((frame["gold"] == frame["prediction"]) == frame["correct"]).all()
    logprobs = frame[list(LOGPROB_COLUMNS)].to_numpy()
    assert not np.isnan(logprobs).any() and (logprobs <= 1e-6).all()
    mass = frame["answer_mass"].to_numpy()
    known = ~np.isnan(mass)
    assert ((mass[known] >= 0) & (mass[known] <= 1.001)).all()
    assert known[(frame["scoring"] != "cloze").to_numpy()].all()
    assert (frame["n_tokens"] >= 0).all() and (frame["fold"] >= 0).all()
    for field in RECORD_SCHEMA:
        if pa.types.is_string(field.type):
            assert all(isinstance(value, str) and value.encode() for value in frame[field.name])
    records_sha256(frame)
    if len(frame) and len(frame[["model", "arm", "seed", "scoring"]].drop_duplicates()) == 1:
        try:
            metrics = summarize_records(frame, {"heb_Hebr": "related", "fra_Latn": "control"})
        except ValueError as error:
            refused(error)
        else:
            assert np.isfinite(list(metrics.values())).all()
            describe_format(frame)


def as_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def changed(rng: random.Random, frame: pd.DataFrame) -> pd.DataFrame:
    """Records with one to two changes of values, types, columns or rows."""
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(frame.columns))
        match rng.randrange(10):
            case 0:
                frame = frame.drop(columns=name)
            case 1:
                frame = frame.rename(columns={name: rng.choice((f"{name}x", "", *TEXTS[:3]))})
            case 2:
                frame = pd.concat([frame, frame.iloc[[rng.randrange(len(frame))]]])
            case 3:
                kind = rng.choice(("object", "str", "float64", "category", "datetime64[ns]"))
                try:
                    frame = frame.assign(**{name: frame[name].astype(kind)})
                except (TypeError, ValueError):
                    continue
            case 4:
                frame = frame.assign(**{name: 10.0 ** rng.randint(-2, 30)})
            case 5:
                frame = pd.concat([frame, frame[[name]]], axis=1)
            case _:
                values = list(frame[name]) if isinstance(frame[name], pd.Series) else [0] * ROWS
                values += [None] * (len(frame) - len(values))
                values[rng.randrange(len(values))] = rng.choice(
                    (any_value(rng), 0, 5, 2.5, -1, np.nan, np.inf, -np.inf, 1e-3, 2**63, 2**53 + 1)
                )
                frame = frame.drop(columns=name).assign(
                    **{name: pd.Series(values[: len(frame)], index=frame.index, dtype=object)}
                )
    return frame


def test_changed_records_are_kept_exactly_or_refused() -> None:
    def check(rng: random.Random) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the changes
            frame = changed(rng, good_frame(rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                checked = check_records(frame)
            except Exception as error:
                return refused(error, told=["records: column"])
        check_frame(checked)
        for name in ("seed", "gold", "prediction", "n_tokens"):
            assert list(map(int, frame[name])) == list(checked[name])
            assert not any(isinstance(value, str | bool) for value in frame[name])
        for name in ("model", "item_id", "language"):
            assert list(map(str, frame[name])) == list(checked[name])
        return "accepted"

    found = sweep("records-values", 700, check)
    assert found["accepted"] and found["refused"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    def check(rng: random.Random) -> str:
        frame = good_frame(rng)
        write_records(frame, tmp_path / "records.parquet")
        again = read_records(tmp_path / "records.parquet")
        pd.testing.assert_frame_equal(again, check_records(frame))
        assert records_sha256(again) == records_sha256(frame.sample(frac=1, random_state=1))
        check_frame(again)
        return "accepted"

    sweep("records-good", 60, check)


def test_damaged_records_files_are_read_as_written_or_refused(tmp_path: Path) -> None:
    """Pages have checksums; what lies outside them is checked by its shape."""
    wholes = []
    for seed in range(6):
        frame = good_frame(random.Random(f"records-{seed}"))
        path = tmp_path / f"{seed}.parquet"
        write_records(frame, path)
        wholes.append((path.read_bytes(), records_sha256(frame)))

    def check(rng: random.Random) -> str:
        raw, digest = rng.choice(wholes)
        path = write(tmp_path / "damaged.parquet", damaged(rng, raw))
        try:
            frame = read_records(path)
        except Exception as error:
            return refused(error, told=[str(path)])
        check_frame(frame)
        return "accepted" if records_sha256(frame) == digest else "accepted, other values"

    found = sweep("records-bytes", 900, check)
    assert found["refused"]
    # Statistics, names and padding lie outside of the pages; values do not.
    assert not found["accepted, other values"]


def test_foreign_parquet_files_are_read_as_what_they_hold(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {
        "dictionary": lambda a: a.dictionary_encode(),
        "large": lambda a: a.cast(pa.large_string()),
        "float": lambda a: a.cast(pa.float64()),
        "int64": lambda a: a.cast(pa.int64()),
        "uint64": lambda a: a.cast(pa.uint64()),
        "decimal": lambda a: a.cast(pa.int64()).cast(pa.decimal128(22, 2)),
        "text": lambda a: a.cast(pa.string()),
        "time": lambda a: a.cast(pa.int64()).cast(pa.timestamp("ns")),
        "list": lambda a: pa.array([[value] for value in a.to_pylist()]),
        "nulls": lambda a: pa.nulls(len(a), a.type),
        "not UTF-8": lambda a: pa.Array.from_buffers(
            pa.string(),
            len(a),
            [None, pa.py_buffer(np.arange(len(a) + 1, dtype=np.int32)), pa.py_buffer(b"\xff" * 6)],
        ),
    }

    def check(rng: random.Random) -> str:
        frame = good_frame(rng)
        table = pa.Table.from_pandas(check_records(frame), preserve_index=rng.random() < 0.3)
        position = rng.randrange(table.num_columns)
        kind = rng.choice(sorted(kinds))
        try:
            column = kinds[kind](table.column(position).combine_chunks())
        except (pa.ArrowException, ValueError, TypeError):
            return "no such change"
        table = table.set_column(position, table.column_names[position], column)
        match rng.randrange(4):
            case 0:
                metadata = {b"pandas": damaged(rng, b'{"index_columns": [], "columns": []}')}
                table = table.replace_schema_metadata(metadata)
            case 1:
                table = table.replace_schema_metadata({b"ARROW:schema": b"\0\1"})
        path = write(tmp_path / "foreign.parquet", as_parquet(table))
        try:
            found = read_records(path)
        except Exception as error:
            return refused(error, told=[str(path)])
        check_frame(found)
        assert records_sha256(found) == records_sha256(frame), (kind, position)
        return "accepted"

    counts = sweep("records-foreign", 400, check)
    assert counts["accepted"] and counts["refused"]


def good_routing(seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return routing_frame({code: draw.integers(1, 9, (2, 3)) for code in ("heb_Hebr", "fra_Latn")})


def test_damaged_routing_tables_are_read_as_written_or_refused(tmp_path: Path) -> None:
    write_routing(good_routing(1), tmp_path / "routing.parquet")
    raw = (tmp_path / "routing.parquet").read_bytes()
    readers = (read_routing, read_routing_file)

    def check(rng: random.Random) -> str:
        if rng.random() < 0.6:
            content = damaged(rng, raw)
        else:
            frame = good_routing(1)
            name = rng.choice(list(frame.columns))
            values = list(frame[name].astype(object))
            values[rng.randrange(len(values))] = any_value(rng)
            try:
                table = pa.Table.from_pandas(frame.assign(**{name: pd.Series(values)}))
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                return "no such change"
            content = as_parquet(table)
        path = write(tmp_path / "damaged.parquet", content)
        try:
            frame = rng.choice(readers)(path)
        except Exception as error:
            return refused(error, told=[str(path)])
        sums = frame.groupby(["language", "layer"])["share"].sum()
        assert len(frame) == 12 and np.allclose(sums, 1) and (frame["share"] >= 0).all()
        return "accepted"

    found = sweep("routing", 600, check)
    assert found["accepted"] and found["refused"]


def test_damaged_format_tables_are_read_as_they_stand_or_refused(tmp_path: Path) -> None:
    raw = describe_format(good_frame(random.Random(7))).to_csv(index=False).encode()

    def check(rng: random.Random) -> str:
        path = write(tmp_path / "format.csv", damaged(rng, raw))
        try:
            frame = read_format_file(path)
        except Exception as error:
            return refused(error)
        assert frame["language"].is_unique and len(frame) and frame["language"].notna().all()
        numbers = frame.drop(columns="language").to_numpy(np.float64)
        assert (np.isnan(numbers) | (numbers >= 0)).all() and not np.isinf(numbers).any()
        return "accepted"

    found = sweep("format", 700, check)
    assert found["accepted"] and found["refused"]


@pytest.mark.parametrize("text", [*BLANKS[:4], "a" * 100_000])
def test_names_without_a_sign_or_without_an_end_are_shown_short(text: str) -> None:
    frame = good_frame(random.Random(3)).assign(arm=text)
    with pytest.raises(ValueError) as caught:
        check_records(frame)
    refused(caught.value, told=["column 'arm', row 0"])
