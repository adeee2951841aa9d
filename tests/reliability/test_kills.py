"""A study that is killed at every stage ends as one that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.native_checkpoints import save_mxfp4_model
from tests.place import Place
from tests.reliability.outcomes import outcome_of, statuses, versions
from tests.reliability.study_processes import STAGES, Zygote
from xling.tracking.outbox.entry import HEADER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# A tenth of what `make soak` tries: two studies.
KILLS = 10 * int(os.environ.get("XLING_SOAK", "1"))
SIGNALS = {signal.SIGKILL: 0.6, signal.SIGTERM: 0.2, signal.SIGINT: 0.2}
# Of a process that a signal ends: by itself, after it has ended its run, or as click says it.
ENDS = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {128 + signal.SIGTERM},
    signal.SIGINT: {1, 130, -signal.SIGINT},
}
# Of the events of a stage, those that a kill is drawn from: later ones may lie in what an earlier
# kill of the same study left done.
EARLY = {"outbox": 200, "artifacts": 150, "store": 20}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights have to be converted first."""
    folder = tmp_path_factory.mktemp("native") / "model"
    save_mxfp4_model(folder, dtype=torch.bfloat16)
    return folder


def new_place(folder: Path, native: Path) -> Place:
    folder.mkdir()
    place = Place(folder, {"tiny": native})
    place.write(epochs=3, checkpoints=3)
    return place


def environment(place: Place) -> dict[str, str]:
    cache = str(place.folder / "cache")
    return {**place.environment, "MLFLOW_EXPERIMENT_NAME": "tiny", "XDG_CACHE_HOME": cache}


def run(zygote: Zygote, place: Place, **options: Any) -> tuple[int, str]:
    arguments = ["main", "--study", str(place.study)]
    return zygote.run(arguments, environment(place), folder=place.folder, drawn=False, **options)


def test_killed_at_seeded_points_a_study_ends_the_same(zygote, native, tmp_path):
    whole = new_place(tmp_path / "undisturbed", native)
    code, output = run(zygote, whole, events=tmp_path / "events")
    assert code == 0, output[-3000:]
    expected = outcome_of(whole, tmp_path / "downloads-undisturbed")
    assert len(expected["cells"]) == 4
    kills: Counter[tuple[str, str]] = Counter()
    chain = 0
    while kills.total() < KILLS:
        rng = np.random.default_rng(chain)
        place = new_place(tmp_path / f"chain-{chain}", native)
        for stage in STAGES:
            number = int(rng.choice(list(SIGNALS), p=list(SIGNALS.values())))
            count = int(rng.integers(EARLY.get(stage, 5)))
            kill = {"stage": stage, "count": count, "signal": number}
            code, output = run(zygote, place, kill=kill)
            if code == 0:
                continue  # the study was over before
            assert code in ENDS[signal.Signals(number)], (chain, kill, code, output[-3000:])
            if number != signal.SIGKILL:
                assert "Traceback" not in output, (chain, kill, output[-3000:])
            kills[stage, signal.Signals(number).name] += 1
        code, output = run(zygote, place)
        assert code == 0, (chain, output[-3000:])
        assert outcome_of(place, tmp_path / f"downloads-{chain}") == expected, chain
        left = statuses(place)
        assert left["RUNNING"] == 0, (chain, left)
        assert [number for number, _ in versions(place, "tiny-tiny")] == [1]
        assert not list((place.folder / "state").glob(f"xling/outbox/*/*/{HEADER}"))
        shutil.rmtree(place.folder)
        chain += 1
    stages = {stage for stage, _ in kills}
    assert stages >= set(STAGES) - {"registering"}, kills
    print(f"{kills.total()} kills in {chain} studies:", dict(kills))


def test_a_killed_run_is_ended_by_the_next_command_alone(zygote, native, tmp_path):
    place = new_place(tmp_path / "place", native)
    kill = {"stage": "checkpoints", "count": 4, "signal": int(signal.SIGKILL)}
    code, _ = run(zygote, place, kill=kill)
    assert code == -signal.SIGKILL
    assert statuses(place)["RUNNING"] == 2  # the study and the training
    shutil.rmtree(place.folder / "state" / "xling" / "outbox")  # what knows of them
    code, output = zygote.run(
        ["prepare", "--study", str(place.study)], environment(place), folder=place.folder
    )
    assert code == 0, output[-3000:]
    left = statuses(place)
    assert left["RUNNING"] == 0 and left["KILLED"] == 2, left
    (killed,) = place.runs("finetune")
    assert "was killed" in killed.data.tags["xling.error"]
