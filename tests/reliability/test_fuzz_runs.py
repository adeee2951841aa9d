"""Runs that anyone logged: taken into the analysis as they stand, or refused by name."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pandas as pd

from analysis.runs.pull import ACCURACY_COLUMNS, pull_records
from analysis.runs.run_files import FORMAT_FILE, RECORDS_FILE
from tests.reliability.fuzzing import TEXTS, damaged, refused, sweep, write
from tests.reliability.test_fuzz_records import good_frame
from xling.records import ARMS, describe_format, write_records
from xling.tracking import LoggedRun

VALUES = ("", "base", "tuned", "0", "-1", "٣", "²", "1.0", "9" * 30, "9" * 5000, "nan", *TEXTS)
NUMBERS = (0.0, 1.0, 0.5, -0.1, 1.0001, 53.0, float("nan"), float("inf"), 1e308)


class Folder:
    """A store of runs that lie in a folder, as an artifact store has them."""

    def __init__(self, place: Path, runs: list[LoggedRun]) -> None:
        self.place, self.runs = place, runs

    def find_runs(self, *, kind: str, study: str, experiment: str) -> list[LoggedRun]:
        return self.runs

    def download_artifact(
        self, run_id: str, path: str, folder: Path, *, artifact_uri: str = ""
    ) -> Path:
        source = self.place / f"{run_id}.{path}"
        if not source.exists():
            raise FileNotFoundError(path)
        return Path(shutil.copy(source, folder / path))


def make_run(number: int) -> LoggedRun:
    values = {"model": "m", "arm": ARMS[number], "seed": "0"}
    values |= {"reasoning": "direct", "scoring": "answer-token"}
    return LoggedRun(
        run_id=f"{number:032x}",
        name=f"evaluate-{number}",
        params={f"cfg.{key}": value for key, value in values.items()},
        metrics={"accuracy/heb_Hebr": 0.5, "accuracy/fra_Latn": 0.25},
        tags={},
        start_time=number,
        status="FINISHED",
    )


def test_runs_are_pulled_as_they_stand_or_refused(tmp_path: Path) -> None:
    frame = good_frame(random.Random(2)).assign(
        model="m", arm=ARMS[0], seed=0, scoring="answer-token", answer_mass=0.5
    )
    write_records(frame, tmp_path / "records")
    files = {
        RECORDS_FILE: (tmp_path / "records").read_bytes(),
        FORMAT_FILE: describe_format(frame).to_csv(index=False).encode(),
    }

    def check(rng: random.Random) -> str:
        place = tmp_path / "store"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        runs = [make_run(0), make_run(1)]
        run = rng.choice(runs)
        match rng.randrange(4):
            case 0:
                run.params[rng.choice(sorted(run.params))] = rng.choice(VALUES)
            case 1:
                key = rng.choice(("accuracy/heb_Hebr", f"accuracy/{rng.choice(TEXTS)}"))
                run.metrics[key] = rng.choice(NUMBERS)
            case 2:
                del run.params[rng.choice(sorted(run.params))]
            case _:
                name = rng.choice(sorted(files))
                write(place / f"{runs[0].run_id}.{name}", damaged(rng, files[name]))
        try:
            pulled = pull_records(
                Folder(place, runs),
                study="s",
                experiment="",
                folder=tmp_path / "got",
                workers=1,
                progress=False,
            )
        except Exception as error:
            return refused(error, told=["run "])
        assert tuple(pulled.accuracies.columns) == ACCURACY_COLUMNS
        assert pulled.accuracies["accuracy"].between(0, 1).all()
        assert pulled.accuracies["arm"].isin(ARMS).all()
        assert pd.api.types.is_integer_dtype(pulled.accuracies["seed"])
        assert len(pulled.run_ids) in (1, 2)
        return "accepted"

    found = sweep("runs", 600, check)
    assert found["accepted"] and found["refused"]
