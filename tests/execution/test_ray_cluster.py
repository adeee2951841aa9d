"""Which cluster a study gets, and what its units ask of it."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace

import pytest

from tests.place import Place
from xling.execution.ray.cluster import Cluster, Node, check_address, copy_code, worker_uri
from xling.execution.ray.resources import check_needs
from xling.execution.units import study_units
from xling.study import Cell
from xling.study.load import load_study
from xling.study.settings import ModelSettings, ServerSettings

MEBIBYTE = 2**20


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "no Ray cluster at RAY_ADDRESS '127.0.0.1:9' (.*refused.*ray start"),
        ("auto-matic", "no Ray cluster at RAY_ADDRESS 'auto-matic'"),
        ("ray://head:10001", "is not a cluster's own address"),
    ],
)
def test_an_address_without_a_cluster_is_named(address, said):
    with pytest.raises(ValueError, match=re.escape(said).replace(r"\.\*", ".*")):
        check_address(address)


def test_an_address_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ValueError, match=f"'{address}' .no answer in"):
            check_address(address, seconds=6)
        assert time.monotonic() - start < 120


def node(address: str = "10.0.0.1", *, cpus: int = 16, gpus: int = 0, memory: int = 10**12) -> Node:
    return Node(address=address, cpus=cpus, gpus=gpus, memory=memory)


def test_a_store_on_this_disk_is_refused_where_there_are_other_machines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = Cluster((node(), node()), here="10.0.0.1")
    several = Cluster((node(), node("10.0.0.2")), here="10.0.0.1")
    for uri in ("sqlite:///mlflow.db", "mlruns", f"file://{tmp_path}/mlruns"):
        with pytest.raises(ValueError, match=r"10\.0\.0\.2.*needs a tracking server"):
            worker_uri(uri, several)
    assert worker_uri("http://tracking:5000", several) == "http://tracking:5000"
    assert worker_uri("sqlite:///mlflow.db", alone) == f"sqlite:///{tmp_path}/mlflow.db"
    assert worker_uri(f"sqlite:///{tmp_path}/a.db", alone) == f"sqlite:///{tmp_path}/a.db"
    assert worker_uri("mlruns", alone) == str(tmp_path / "mlruns")


def test_what_a_unit_asks_for(tiny_model):
    folder = tiny_model("llama")
    weights = (folder / "model.safetensors").stat().st_size
    cell = Cell(ModelSettings(id=str(folder)), "finetuned", 0)
    cores = check_needs(cell, Cluster((node(cpus=0), node(cpus=4)), here=""))
    assert (cores.gpus, cores.cpus) == (0, 4)
    assert cores.memory == weights + 2**30
    mixed = Cluster((node(gpus=2), node(gpus=8, memory=1000)), here="")
    assert check_needs(cell, mixed).gpus == 1
    many = check_needs(with_settings(cell, processes=8), mixed)
    assert (many.gpus, many.cpus) == (8, 8)
    assert many.memory == 1000  # all that the only fitting machine has
    with pytest.raises(ValueError, match="asks for 9 GPUs .* Set `processes` .* to 8 or fewer"):
        check_needs(with_settings(cell, processes=9), mixed)
    with pytest.raises(ValueError, match="has a core"):
        check_needs(cell, Cluster((node(cpus=0),), here=""))


@pytest.mark.parametrize(
    ("name", "processes", "gpus"),
    [
        ("DeepSeek-V3.1", 0, 8),
        ("DeepSeek-V3.1", 1, 8),  # one process spreads the layers
        ("gpt-oss-120b", 0, 2),
        ("gpt-oss-120b", 1, 2),
        ("gpt-oss-120b", 4, 4),
        ("gemma3-270m", 0, 0),
        ("gemma3-270m", 1, 1),
    ],
)
def test_a_lone_process_gets_the_gpus_that_its_model_takes(name, processes, gpus):
    repository = {"DeepSeek-V3.1": "deepseek-ai/", "gpt-oss-120b": "openai/"}.get(name, "")
    model = ModelSettings(id=repository + name, processes=processes)
    machine = Cluster((node(gpus=8),), here="")
    assert check_needs(Cell(model, "finetuned", 0), machine).gpus == gpus
    small = Cluster((node(gpus=1),), here="")
    if gpus > 1:
        with pytest.raises(ValueError, match=f"asks for {gpus} GPUs") as refused:
            check_needs(Cell(model, "finetuned", 0), small)
        assert "`processes`" not in str(refused.value)  # fewer would not do
        assert "Leave it out" in str(refused.value)


def test_a_unit_that_only_asks_a_server_takes_no_gpu(tiny_model):
    server = ServerSettings(url="http://localhost:8000/v1")
    model = ModelSettings(id=str(tiny_model("llama")), engine="server", server=server, processes=9)
    gpus = Cluster((node(gpus=8),), here="")
    base = check_needs(Cell(model, "base", 0), gpus)
    assert (base.gpus, base.cpus, base.memory) == (0, 1, 0)
    with pytest.raises(ValueError, match="9 GPUs"):  # its training is not the server's
        check_needs(Cell(model, "finetuned", 0), gpus)


def with_settings(cell: Cell, **changes: object) -> Cell:
    return replace(cell, model=cell.model.model_copy(update=changes))


def test_units_hold_the_cells_of_one_adapter_in_order(tmp_path, tiny_model):
    folder = tiny_model("llama")
    place = Place(tmp_path, {"one": folder, "two": folder})
    place.settings |= {"seeds": [0, 1], "scoring_modes": ["answer-token", "cloze"]}
    place.write()
    study = load_study(str(place.study))
    units = study_units(study)
    assert [cell for unit in units for cell in unit.cells] == list(study.cells())
    assert [unit.name for unit in units][:3] == [
        "one/base/seed-0", "one/finetuned/seed-0", "one/finetuned/seed-1",
    ]  # fmt: skip
    assert [unit.first for unit in units] == [1, 3, 5, 7, 9, 11]
    assert {unit.total for unit in units} == {12}


def test_workers_get_the_code_and_nothing_else(tmp_path):
    copy_code(tmp_path)
    assert (tmp_path / "xling" / "execution" / "ray" / "worker.py").is_file()
    assert (tmp_path / "conda.yaml").is_file()  # where the pins are read from
    assert not list(tmp_path.rglob("*.pyc"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 5 * MEBIBYTE
