"""Pulling runs: newest per cell, accuracies without records, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_records import frame_of

from analysis.runs.pull import ACCURACY_COLUMNS, PulledRuns, pull_records
from analysis.runs.run_files import DIGEST_TAG, RECORDS_FILE
from xling.records import check_records, write_records


@dataclass(frozen=True)
class Run:
    run_id: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str] = field(default_factory=dict)
    start_time: int = 0
    status: str = "FINISHED"
    artifact_uri: str = ""


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.asked = folder, [], []

    def add(
        self,
        run_id: str,
        *,
        model: str = "m",
        arm: str = "base",
        records: bool = True,
        start_time: int = 0,
        right: int = 5,
        **metrics: float,
    ) -> Run:
        params = {
            "cfg.model": model,
            "cfg.arm": arm,
            "cfg.seed": "0",
            "cfg.reasoning": "direct",
            "cfg.scoring": "answer-token",
        }
        run = Run(
            run_id,
            f"evaluate-{model}-{arm}",
            params,
            {f"accuracy/{code}": value for code, value in metrics.items()},
            start_time=start_time,
        )
        if records:
            frame = frame_of(np.arange(10) < right, model=model, language="heb_Hebr", arm=arm)
            write_records(frame, self.folder / f"{run_id}.parquet")
        self.runs.append(run)
        return run

    def find_runs(self, *, kind: str, study: str, experiment: str) -> list[Run]:
        self.asked.append((kind, study, experiment))
        return self.runs

    def download_artifact(self, run_id: str, path: str, folder: Path) -> Path:
        time.sleep(0.02 if run_id < "c" else 0)
        named = {RECORDS_FILE: f"{run_id}.parquet"}
        source = self.folder / named.get(path, f"{run_id}.{path}")
        if not source.exists():
            raise FileNotFoundError(path)
        return Path(shutil.copy(source, folder / path))


def tagged(store: Store, run: Run) -> Run:
    """The same run with the digest of its records, as runs of this package have it."""
    digest = hashlib.sha256((store.folder / f"{run.run_id}.parquet").read_bytes()).hexdigest()
    store.runs[store.runs.index(run)] = found = replace(run, tags={DIGEST_TAG: digest})
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def pull(store: Store, tmp_path: Path):
    return pull_records(
        store, study="demo", experiment="e", folder=tmp_path / "got", progress=False
    )


def test_records_of_all_runs_in_the_order_of_cells(store: Store, tmp_path: Path) -> None:
    store.add("a", model="z", heb_Hebr=0.5)
    store.add("b", model="m", arm="finetuned", right=8, heb_Hebr=0.8)
    store.add("c", model="m")
    pulled = pull(store, tmp_path)
    assert store.asked == [("evaluate", "demo", "e")]
    assert pulled.run_ids == ("c", "b", "a")
    assert pulled.notes == ()
    assert tuple(pulled.accuracies.columns) == ACCURACY_COLUMNS
    assert pulled.accuracies["accuracy"].tolist() == [0.5, 0.8, 0.5]
    pd.testing.assert_frame_equal(check_records(pulled.records), pulled.records)


def test_the_newest_run_of_a_cell_is_used_and_it_is_said(store: Store, tmp_path: Path) -> None:
    store.add("a", right=2, start_time=10)
    store.add("b", right=9, start_time=30)
    store.add("c", right=4, start_time=20)
    pulled = pull(store, tmp_path)
    assert pulled.accuracies["accuracy"].tolist() == [0.9]
    assert len(pulled.records) == 10
    assert pulled.notes == (
        "3 finished runs for m/base/0/direct/answer-token: the newest is used "
        "(evaluate-m-base, b), not c, a",
    )


def test_a_run_without_records_gives_its_accuracies(store: Store, tmp_path: Path) -> None:
    store.add("a", records=False, heb_Hebr=0.25, fra_Latn=0.5)
    pulled = pull(store, tmp_path)
    assert pulled.records.empty
    assert pulled.accuracies.set_index("language")["accuracy"].to_dict() == {
        "heb_Hebr": 0.25,
        "fra_Latn": 0.5,
    }
    assert not pulled.accuracies["has_records"].any()
    assert "accuracies only" in pulled.notes[0] and "model m" in pulled.notes[0]


def test_a_metric_that_contradicts_the_records_is_noted(store: Store, tmp_path: Path) -> None:
    store.add("a", heb_Hebr=0.7)
    pulled = pull(store, tmp_path)
    assert pulled.accuracies["accuracy"].tolist() == [0.5]
    assert "language heb_Hebr: the metric says accuracy 0.700000" in pulled.notes[0]


@pytest.mark.parametrize("value", [1.2, -0.1, 55.0, float("nan")])
def test_an_accuracy_out_of_range_names_run_model_and_language(
    store: Store, tmp_path: Path, value: float
) -> None:
    store.add("a", records=False, heb_Hebr=value)
    with pytest.raises(ValueError, match=r"run evaluate-m-base \(a\), model m, language heb_Hebr"):
        pull(store, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cfg.arm", "tuned", "cfg.arm is 'tuned', but must be one of base"),
        ("cfg.seed", "x", "cfg.seed is 'x', but must be a whole number"),
        ("cfg.scoring", "", "cfg.scoring is missing"),
    ],
)
def test_a_bad_parameter_names_run_and_model(
    store: Store, tmp_path: Path, name: str, value: str, message: str
) -> None:
    run = store.add("a")
    store.runs = [replace(run, params=run.params | {name: value})]
    with pytest.raises(ValueError, match=rf"run evaluate-m-base \(a\), model m: .*{message}"):
        pull(store, tmp_path)


def known(pulled: PulledRuns) -> list[list[float | None]]:
    """`n_items`, `stderr` and `n_options` of each row; None where not known."""
    columns = pulled.accuracies[["n_items", "stderr", "n_options"]]
    return columns.astype(object).where(columns.notna(), None).to_numpy().tolist()


def test_what_is_known_of_an_accuracy_comes_from_its_run(store: Store, tmp_path: Path) -> None:
    store.add("a", model="a", records=False, heb_Hebr=0.25, fra_Latn=0.5).metrics.update(
        {"n_items/fra_Latn": 900.0, "stderr/fra_Latn": 0.02, "n_options/fra_Latn": 2.0}
    )
    store.add("b", model="b", heb_Hebr=0.5).metrics.update(
        {"n_items/heb_Hebr": 7.0, "stderr/heb_Hebr": 0.1, "n_options/heb_Hebr": 2.0}
    )
    pulled = pull(store, tmp_path)
    # Records are counted, and have four options, whatever else was logged.
    assert known(pulled) == [[900, 0.02, 2], [None] * 3, [10, None, 4]]
    # What the study says is for accuracies that do not say it themselves.
    assert [row[2] for row in known(pulled.with_options(3))] == [2, 3, 4]
    assert pulled.with_options(None) is pulled


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        ("n_items", 0.0, "is 0.0, but must be a whole number from 1 to"),
        ("n_items", 9.5, "is 9.5, but must be a whole number"),
        ("n_items", float("inf"), "is inf, but must be a whole number"),
        ("stderr", 0.51, "is 0.51, but must be a number from 0 to 0.5"),
        ("stderr", float("nan"), "is nan, but must be a number"),
        ("n_options", 1.0, "is 1.0, but must be a whole number from 2 to 26"),
    ],
)
def test_a_metric_that_cannot_be_names_run_and_language(
    store: Store, tmp_path: Path, metric: str, value: float, message: str
) -> None:
    store.add("a", records=False, heb_Hebr=0.25).metrics[f"{metric}/heb_Hebr"] = value
    with pytest.raises(ValueError, match=rf"\(a\), model m, language heb_Hebr: .*{message}"):
        pull(store, tmp_path)


def test_corrupt_records_and_records_of_another_run_are_refused(
    store: Store, tmp_path: Path
) -> None:
    run = store.add("a")
    store.runs = [replace(run, params=run.params | {"cfg.seed": "4"})]
    with pytest.raises(ValueError, match="are of m/base/0/.* parameters say m/base/4"):
        pull(store, tmp_path)
    store.runs = [run]
    (store.folder / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"run evaluate-m-base \(a\), model m: .*truncated"):
        pull(store, tmp_path)


def test_no_runs_and_an_empty_run_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study 'demo' has no finished evaluate run"):
        pull(store, tmp_path)
    store.add("a", records=False)
    with pytest.raises(ValueError, match="neither held-out records nor"):
        pull(store, tmp_path)


def test_a_fault_of_the_store_is_not_swallowed(store: Store, tmp_path: Path) -> None:
    store.add("a")

    def broken(*_: object) -> Path:
        raise ConnectionError("server gone")

    store.download_artifact = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="server gone"):
        pull(store, tmp_path)


def test_records_are_fetched_once_while_their_digest_is_the_runs(
    store: Store, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = tagged(store, store.add("a"))
    untagged = store.add("b", model="n")
    fetched: list[str] = []
    download = store.download_artifact

    def counting(run_id: str, path: str, folder: Path) -> Path:
        if path == RECORDS_FILE:
            fetched.append(run_id)
        return download(run_id, path, folder)

    store.download_artifact = counting  # type: ignore[method-assign]

    def pull(number: int) -> pd.DataFrame:
        return pull_records(
            store, study="demo", experiment="", folder=tmp_path / f"runs{number}", cache=cache,
            progress=False,
        ).records  # fmt: skip

    first, second = pull(1), pull(2)
    pd.testing.assert_frame_equal(first, second)
    assert sorted(fetched) == ["a", "b", "b"]
    kept = cache / run.run_id / RECORDS_FILE
    kept.write_bytes(kept.read_bytes()[:-1])  # a kept file that broke is fetched again
    pd.testing.assert_frame_equal(pull(3), first)
    assert fetched.count("a") == 2 and untagged.run_id in fetched


def test_a_file_that_is_not_the_logged_one_is_refused(store: Store, tmp_path: Path) -> None:
    tagged(store, store.add("a"))
    shutil.copy(store.folder / "a.parquet", store.folder / "kept.parquet")
    store_path = store.folder / "a.parquet"
    store_path.write_bytes(store_path.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"run evaluate-m-base \(a\), model m: .*not the file"):
        pull_records(
            store, study="demo", experiment="", folder=tmp_path / "runs", cache=tmp_path / "cache"
        )
    assert not (tmp_path / "cache").exists()


ROUTING = pd.DataFrame(
    {"language": "heb_Hebr", "layer": 0, "expert": [0, 1], "count": [3, 1], "share": [0.75, 0.25]}
)


def test_routing_is_fetched_where_there_is_any_and_kept(store: Store, tmp_path: Path) -> None:
    store.add("a")
    store.add("b", arm="finetuned")
    ROUTING.to_parquet(store.folder / "b.routing.parquet")
    cache = tmp_path / "cache"

    def pull() -> dict[str, pd.DataFrame]:
        return dict(
            pull_records(
                store, study="demo", experiment="", folder=tmp_path / "runs", cache=cache,
                progress=False,
            ).routing
        )  # fmt: skip

    first = pull()
    assert list(first) == ["b"] and first["b"]["share"].tolist() == [0.75, 0.25]
    (store.folder / "b.routing.parquet").unlink()  # kept by run id
    assert list(pull()) == ["b"]
    # A run that says another digest is fetched again, and refused if it is not that file.
    ROUTING.to_parquet(store.folder / "b.routing.parquet")
    tags = {"xling.routing_sha256": "0" * 64}
    store.runs = [replace(run, tags=tags) if run.run_id == "b" else run for run in store.runs]
    with pytest.raises(ValueError, match=r"run evaluate-m-finetuned \(b\).*not the file"):
        pull()


def test_broken_routing_names_its_run(store: Store, tmp_path: Path) -> None:
    store.add("a")
    ROUTING.assign(share=0.7).to_parquet(store.folder / "a.routing.parquet")
    with pytest.raises(ValueError, match=r"run evaluate-m-base \(a\), model m: .*do not sum to 1"):
        pull(store, tmp_path)


def test_the_format_table_is_for_runs_without_records(store: Store, tmp_path: Path) -> None:
    store.add("a")
    store.add("b", arm="finetuned", records=False, heb_Hebr=0.5)
    for run_id in "ab":
        table = pd.DataFrame({"language": ["heb_Hebr"], "ece": [0.1], "prior_1": [0.4]})
        table.to_csv(store.folder / f"{run_id}.format.csv", index=False)
    pulled = pull(store, tmp_path)
    assert list(pulled.formats) == ["b"] and not pulled.routing
    assert pulled.formats["b"]["prior_1"].tolist() == [0.4]
    (store.folder / "b.format.csv").write_text("ece,prior_1\n0.1,0.4\n")
    with pytest.raises(ValueError, match=r"run evaluate-m-finetuned \(b\).*format.csv: .*language"):
        pull(store, tmp_path)
