"""A local store with a study's evaluate runs among thousands of others, made in seconds.

One run is logged as any is; the others are copies of its rows, under ids, models and studies of
their own, written in one transaction. Those of the study have records in the artifact store.
"""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from xling.records import check_records, write_records
from xling.tracking import log_evaluation

STUDY = "mine"
OTHER = "another"
LANGUAGES = tuple(f"{first}{second}z_Latn" for first in "abcdef" for second in "gh")
ITEMS = 20
PARAMS = 60
TABLES = ("runs", "tags", "params", "latest_metrics", "metrics")
DIGEST = "xling.records_sha256"


def make_store(path: Path, artifacts: Path, *, runs: int, others: int) -> list[str]:
    """Fills the store that is selected, a SQLite file.

    Args:
        path: the file.
        artifacts: folder of the study's artifacts.
        runs: evaluate runs of the study `STUDY`, each of a model, arm and seed of its own.
        others: runs of the same kind of another study.

    Returns:
        The ids of the study's runs.
    """
    frame = records_of("model-000")
    first = log_evaluation(
        study="template",
        name="evaluate",
        params=cell_params("model-000", "base", 0),
        tags={"fingerprint": "0" * 64},
        families={code: "related" if k % 2 else "control" for k, code in enumerate(LANGUAGES)},
        records=frame,
    )
    cells = [(f"model-{k // 4:03d}", ("base", "finetuned")[k % 2], k // 2 % 2) for k in range(runs)]
    ids = [uuid.uuid4().hex for _ in cells]
    digests = {}
    for run_id, (model, arm, seed) in zip(ids, cells, strict=True):
        target = artifacts / run_id / "records.parquet"
        target.parent.mkdir(parents=True)
        write_records(check_records(frame.assign(model=model, arm=arm, seed=seed)), target)
        digests[run_id] = hashlib.sha256(target.read_bytes()).hexdigest()
    with sqlite3.connect(path) as store:
        copy_rows(store, first, ids)
        copy_rows(store, first, strangers := [uuid.uuid4().hex for _ in range(others)])
        change(store, "tags", "xling.study", dict.fromkeys(strangers, OTHER))
        change(store, "tags", "xling.study", dict.fromkeys(ids, STUDY))
        change(store, "tags", DIGEST, digests)
        for place, name in enumerate(("model", "arm", "seed")):
            values = {key: str(cell[place]) for key, cell in zip(ids, cells, strict=True)}
            change(store, "params", f"cfg.{name}", values)
        store.executemany(
            "update runs set artifact_uri = ? where run_uuid = ?",
            [(str(artifacts / run_id), run_id) for run_id in ids],
        )
        stagger(store, [*ids, *strangers])
    return ids


def records_of(model: str) -> pd.DataFrame:
    """Records of one run, in all languages."""
    n = ITEMS * len(LANGUAGES)
    item = np.tile(np.arange(ITEMS), len(LANGUAGES))
    gold = (item % 4 + 1).astype("int8")
    correct = np.random.default_rng(0).random(n) < 0.5
    prediction = np.where(correct, gold, gold % 4 + 1).astype("int8")
    logprob = np.full((n, 4), np.log(0.1))
    logprob[np.arange(n), prediction - 1] = np.log(0.6)
    frame = pd.DataFrame(
        {
            "model": model, "arm": "base", "reasoning": "direct", "scoring": "answer-token",
            "language": np.repeat(LANGUAGES, ITEMS), "seed": 0,
            "item_id": [f"item-{k:04d}" for k in item],
            "passage_id": [f"passage-{k // 2:04d}" for k in item],
            "part": "heldout", "gold": gold, "prediction": prediction, "correct": correct,
            **{f"logprob_{k + 1}": logprob[:, k] for k in range(4)},
            "answer_mass": 0.9, "n_tokens": np.full(n, 200, "int32"),
            "prompt_sha256": "0" * 64, "fold": np.int16(0),
        }
    )  # fmt: skip
    return check_records(frame)


def cell_params(model: str, arm: str, seed: int) -> dict[str, str | int]:
    """Parameters of a run, as many as a real one has at most."""
    cell: dict[str, str | int] = {"model": model, "arm": arm, "seed": seed}
    cell |= {"reasoning": "direct", "scoring": "answer-token"}
    return {**cell, **{f"setting.{k:02d}": f"value {k}" for k in range(PARAMS - len(cell))}}


def copy_rows(store: sqlite3.Connection, run_id: str, ids: Iterable[str]) -> None:
    """Copies of a finished run's rows under other ids."""
    store.execute("create temp table if not exists copies (id text primary key)")
    store.execute("delete from copies")
    store.executemany("insert into copies values (?)", [(each,) for each in ids])
    for table in TABLES:
        names = [row[1] for row in store.execute(f"pragma table_info({table})")]
        chosen = ", ".join("copies.id" if name == "run_uuid" else f"t.{name}" for name in names)
        store.execute(
            f"insert into {table} ({', '.join(names)}) "
            f"select {chosen} from {table} t, copies where t.run_uuid = ?",
            (run_id,),
        )
    names = [row[1] for row in store.execute("pragma table_info(inputs)")]
    made = {"destination_id": "copies.id", "input_uuid": "lower(hex(randomblob(16)))"}
    chosen = ", ".join(made.get(name, f"t.{name}") for name in names)
    store.execute(
        f"insert into inputs ({', '.join(names)}) "
        f"select {chosen} from inputs t, copies where t.destination_id = ?",
        (run_id,),
    )


def change(store: sqlite3.Connection, table: str, key: str, values: Mapping[str, str]) -> None:
    """Other values of a tag or parameter, by run id."""
    store.executemany(
        f"update {table} set value = ? where key = ? and run_uuid = ?",
        [(value, key, run_id) for run_id, value in values.items()],
    )


def stagger(store: sqlite3.Connection, ids: list[str]) -> None:
    """Lets the runs start one after the other, in an order that mixes the studies."""
    order = np.random.default_rng(1).permutation(len(ids))
    store.executemany(
        "update runs set start_time = start_time + ? where run_uuid = ?",
        [(int(place) * 1000, run_id) for place, run_id in zip(order, ids, strict=True)],
    )
