"""Studies at once: on one store, one fresh SQLite file, one cache folder, under one name."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.native_checkpoints import save_mxfp4_model
from tests.place import Place
from tests.reliability.outcomes import outcome_of, statuses, versions
from tests.reliability.study_processes import Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native") / "model"
    save_mxfp4_model(folder, dtype=torch.bfloat16)
    return folder


def new_place(folder: Path, native: Path) -> Place:
    folder.mkdir()
    place = Place(folder, {"tiny": native})
    place.write(epochs=2, checkpoints=2)
    return place


def environment(place: Place) -> dict[str, str]:
    cache = str(place.folder / "cache")
    return {**place.environment, "MLFLOW_EXPERIMENT_NAME": "tiny", "XDG_CACHE_HOME": cache}


def at_once(zygote: Zygote, place: Place, commands: list[list[str]]) -> list[tuple[int, str]]:
    logs = [
        zygote.start(
            command,
            environment(place),
            folder=place.folder,
            drawn=False,
            together=command is not commands[-1],
        )
        for command in commands
    ]
    codes = [zygote.wait() for _ in commands]
    return [(code, log.read_text()) for code, log in zip(codes, logs, strict=True)]


def test_the_same_study_twice_at_once_computes_every_cell_once(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    main = ["main", "--study", str(place.study)]
    ends = at_once(zygote, place, [main, list(main)])
    assert [code for code, _ in ends] == [0, 0], [output[-2000:] for _, output in ends]
    assert "another process is already running it" in ends[0][1] + ends[1][1]
    alone = new_place(tmp_path / "alone", native)
    code, output = zygote.run(
        ["main", "--study", str(alone.study)], environment(alone), folder=alone.folder
    )
    assert code == 0, output[-2000:]
    outcome = outcome_of(place, tmp_path / "downloads")
    assert max(Counter(outcome["cells"]).values()) == 1
    assert outcome == outcome_of(alone, tmp_path / "downloads-alone")
    assert set(statuses(place)) == {"FINISHED"}
    assert [number for number, _ in versions(place, "tiny-tiny")] == [1]
    assert len(list((place.folder / "cache" / "xling" / "dequantised").glob("[0-9a-f]*"))) == 1


def test_two_studies_of_one_name_get_versions_in_order(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    other = place.folder / "other.yaml"
    other.write_text(place.study.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    assert other.read_text() != place.study.read_text()
    commands = [["main", "--study", str(path)] for path in (place.study, other)]
    ends = at_once(zygote, place, commands)
    assert [code for code, _ in ends] == [0, 0], [output[-2000:] for _, output in ends]
    found = versions(place, "tiny-tiny")
    assert [number for number, _ in found] == [1, 2]
    assert len({source for _, source in found}) == 2
    assert len(place.runs("finetune")) == 2
    champion = place.client().get_model_version_by_alias("tiny-tiny", "champion")
    assert int(champion.version) in (1, 2)


LOG_MODEL = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input
mlflow.set_experiment("tiny")
print("logged", mlflow.pyfunc.log_model(name="adapter", python_model=Model()).model_id)
"""
REGISTER = """
import sys, time
from xling import tracking
model_id, moment = sys.argv[1], float(sys.argv[2])
tracking.open_store()
time.sleep(max(0, moment - time.time()))
made = tracking.register_adapter(model_id, name="tiny", alias="champion", tags={})
print("version", made.version)
"""


def test_an_adapter_registered_by_many_at_once_is_one_version(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    _, output = zygote.run(["-c", LOG_MODEL], environment(place), folder=place.folder)
    model_id = re.search(r"logged (m-\w+)", output).group(1)
    moment = str(time.time() + 2)  # all have opened the store by then
    commands = [["-c", REGISTER, model_id, moment] for _ in range(4)]
    ends = at_once(zygote, place, commands)
    assert [code for code, _ in ends] == [0] * 4, [output[-1500:] for _, output in ends]
    assert all("version 1" in output for _, output in ends)
    assert versions(place, "tiny") == [(1, f"models:/{model_id}")]


def test_the_same_simulation_twice_at_once_is_logged_once(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    ends = at_once(zygote, place, [["simulate", "--items", "8"] for _ in range(3)])
    assert [code for code, _ in ends] == [0] * 3, [output[-1500:] for _, output in ends]
    assert len(place.runs("study")) == 1


def test_many_processes_open_a_fresh_store_together(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    (place.folder / "mlflow.db").unlink()  # the first of them makes the tables
    commands = [["simulate", "--seed", str(seed), "--items", "8"] for seed in range(5)]
    ends = at_once(zygote, place, commands)
    assert [code for code, _ in ends] == [0] * 5, [output[-1500:] for _, output in ends]
    assert set(statuses(place)) == {"FINISHED"}
    assert len(place.runs("study")) == 5
