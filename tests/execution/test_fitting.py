"""Models that this machine cannot hold are refused before they are loaded."""

from __future__ import annotations

import pytest

from xling.execution import prepare_study
from xling.execution.memory_checks import (
    check_scoring_memory,
    check_training_memory,
    scoring_batch,
    scoring_copies,
    training_memory_use,
)
from xling.models import BaseModelCache, locate_model
from xling.planning import memory_limits
from xling.planning import scoring_batch as batches
from xling.study import Study

pytestmark = pytest.mark.slow

FEW = 100_000  # bytes


@pytest.fixture
def study(tiny_model) -> Study:
    settings = {
        "name": "fitting",
        "models": ({"id": str(tiny_model("llama")), "name": "tiny"},),
        "data": {"source": "mini", "difficulties": (1,), "split": "given", "held_out": 4},
        "languages": {"source": ("arb_Arab",), "target": ("heb_Hebr",), "branch": "Semitic"},
    }
    return Study.model_validate(settings)


def test_what_fits_goes_on_and_what_does_not_is_refused_with_numbers(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_study(study)
    base, tuned = study.cells()
    located, shelf = locate_model(study.models[0].id), BaseModelCache()
    training = {"length": 200, "rows": 4, "gradient_checkpointing": False, "processes": 1}
    check_scoring_memory(prepared, base, located, shelf, batch_tokens=512)
    check_training_memory(prepared, tuned, located, shelf, **training)
    monkeypatch.setattr(memory_limits, "available_bytes", lambda processes=1: FEW)
    with pytest.raises(ValueError, match=r"scoring tiny takes about .* GB at its peak .* 0\.0 GB"):
        check_scoring_memory(prepared, base, located, shelf, batch_tokens=512)
    with pytest.raises(ValueError, match=r"training tiny takes about .*What would fit: "):
        check_training_memory(prepared, tuned, located, shelf, **training)


def test_weights_that_are_loaded_already_are_not_counted_twice(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_study(study)
    base = study.cells()[0]
    located, shelf = locate_model(study.models[0].id), BaseModelCache()
    needed = peak_of_scoring(prepared, base, located, shelf, monkeypatch)
    shelf.open(located)
    assert shelf.holds(located)
    assert peak_of_scoring(prepared, base, located, shelf, monkeypatch) < needed - 10_000


def peak_of_scoring(prepared, cell, located, shelf, monkeypatch) -> int:
    """Fewest free bytes, to a kilobyte, with which scoring is not refused."""
    refused, enough = 0, 2**30
    while enough - refused > 1000:
        free = (refused + enough) // 2
        monkeypatch.setattr(memory_limits, "available_bytes", lambda processes=1, free=free: free)
        try:
            check_scoring_memory(prepared, cell, located, shelf, batch_tokens=512)
        except ValueError:
            refused = free
        else:
            enough = free
    return enough


def test_a_batch_is_as_large_as_memory_allows(study: Study, monkeypatch) -> None:
    prepared = prepare_study(study)
    located, shelf = locate_model(study.models[0].id), BaseModelCache()
    asked = prepared.study.scoring.batch_tokens
    whole = scoring_batch(prepared, located, shelf)
    assert whole == asked  # narrow layers: no tensor is large
    sizes = []
    for free in (2**32, 100_000_000, FEW):
        monkeypatch.setattr(memory_limits, "available_bytes", lambda free=free: free)
        sizes.append(scoring_batch(prepared, located, shelf))
    assert sizes[0] == asked > sizes[1] > sizes[2] == memory_limits.LEAST_TOKENS
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: 2**40)
    monkeypatch.setattr(batches, "CPU_TENSOR_BYTES", 4 * 128 * 1500)  # feed-forward width 128
    assert scoring_batch(prepared, located, shelf) == 1500
    monkeypatch.setattr(batches, "CPU_TENSOR_BYTES", 4 * 128 * 100)
    assert scoring_batch(prepared, located, shelf) == memory_limits.LEAST_TOKENS


def test_a_scoring_copies_weights_where_there_is_much_room(study: Study, monkeypatch) -> None:
    prepared = prepare_study(study)
    located, shelf = locate_model(study.models[0].id), BaseModelCache()
    for free, copied in ((2**40, True), (FEW, False)):
        monkeypatch.setattr(memory_limits, "available_bytes", lambda free=free: free)
        assert scoring_copies(prepared, located, shelf, batch_tokens=1024) is copied
    monkeypatch.setattr(memory_limits, "available_bytes", lambda: 2**40)
    whole = locate_model(study.models[0].id, quantise="none")
    assert not scoring_copies(prepared, whole, shelf, batch_tokens=1024)


def test_copies_count_on_the_memory_of_one_gpu(monkeypatch) -> None:
    """As on a node of eight, of which one holds the model: torch's counts stand in for the GPUs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert memory_limits.on_one_device(500) == 500
    counts = {
        "is_available": lambda: True,
        "current_device": lambda: 2,
        "memory_reserved": lambda device: 30,
        "memory_allocated": lambda device: 10,
        "mem_get_info": lambda device: (60 + device, 100),
    }
    for name, count in counts.items():
        monkeypatch.setattr(f"torch.cuda.{name}", count)
    assert memory_limits.on_one_device(500) == 62 + 20
    assert memory_limits.on_one_device(50) == 50


def test_a_base_that_is_freed_before_the_work_counts_as_free(
    study: Study, tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_study(study)
    base, tuned = study.cells()
    located, other = locate_model(study.models[0].id), locate_model(str(tiny_model("qwen3")))
    shelf = BaseModelCache()
    # Memory of a machine whose other model is in the way.
    monkeypatch.setattr(
        memory_limits, "available_bytes", lambda processes=1: FEW if shelf.holds(other) else 2**32
    )
    asked = {"length": 200, "rows": 4, "processes": 1, "gradient_checkpointing": False}
    steps = (
        lambda: check_scoring_memory(prepared, base, located, shelf, batch_tokens=512),
        lambda: check_training_memory(prepared, tuned, located, shelf, **asked),
    )
    for step in steps:
        shelf.open(other)
        step()
        assert not shelf.holds(other)
    shelf.open(other)
    assert scoring_batch(prepared, located, shelf) == study.scoring.batch_tokens
    shelf.open(other)
    use = training_memory_use(prepared, tuned, located, shelf, **asked)
    assert use.rows_of(200) == 4
    shelf.open(located)
    training_memory_use(prepared, tuned, located, shelf, **asked)
    assert shelf.holds(located)
    # Several processes load it anew.
    training_memory_use(prepared, tuned, located, shelf, **(asked | {"processes": 2}))
    assert not shelf.holds(located)
    shelf.release()  # nothing is there
