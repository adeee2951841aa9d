"""What a training does with the memory that there is."""

from __future__ import annotations

import json
import re

import pytest

from xling.models.loading import compute_dtype
from xling.planning.memory import MEASURED_ERROR, Setting, dequantised_bytes, training_memory
from xling.planning.memory_limits import (
    HEADROOM,
    HeldModel,
    TrainingLoad,
    check_training_peak,
    memory_use,
    pass_plans,
)
from xling.planning.sizes import model_sizes
from xling.study.settings import LoraSettings
from xling.training.batching import PASS_TOKENS, MemoryUse, pass_tokens, rows_at_once

LENGTH = 400
MOST = PASS_TOKENS["cpu"] // LENGTH  # rows of a pass


@pytest.fixture
def held(tiny_model, monkeypatch):
    """The tiny model's folder, its sizes and how a CPU holds it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = tiny_model("llama")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return folder, model_sizes(config), Setting(value_bytes=compute_dtype().itemsize, mask_bytes=4)


def needed(held, rows: int, checkpointing: bool) -> int:
    """Bytes that a pass needs, with the estimate's error, rounded up."""
    _, sizes, setting = held
    estimate = training_memory(
        sizes, setting, rows=rows, length=LENGTH, gradient_checkpointing=checkpointing
    ).total
    return int(estimate * (1 + MEASURED_ERROR)) + 1


def used(
    held, available: int, *, asked="auto", fixed_rows=False, quantise="nf4", **load
) -> MemoryUse:
    model = HeldModel(held[0], quantise, LoraSettings(r=16, dropout=0.0))
    return memory_use(
        model,
        TrainingLoad(**({"length": LENGTH, "rows": 16} | load)),
        asked=asked,
        fixed_rows=fixed_rows,
        available=available,
    )


def test_passes_get_smaller_before_layers_are_computed_twice(held) -> None:
    ample = used(held, needed(held, MOST, False))
    assert (ample.gradient_checkpointing, ample.rows_of(LENGTH)) == (False, MOST)
    assert (ample.pass_rows, ample.pass_tokens) == (16, PASS_TOKENS["cpu"])
    fewer = used(held, needed(held, MOST, False) - 2)
    assert (fewer.gradient_checkpointing, fewer.rows_of(LENGTH)) == (False, MOST // 2)
    assert (fewer.pass_rows, fewer.pass_tokens) == (MOST // 2, MOST // 2 * LENGTH)
    one = used(held, needed(held, 1, False))
    assert (one.gradient_checkpointing, one.rows_of(LENGTH)) == (False, 1)
    twice = used(held, needed(held, 1, False) - 2)
    assert twice.gradient_checkpointing
    assert needed(held, twice.rows_of(LENGTH), True) < needed(held, 1, False)


def test_what_is_asked_for_stays(held) -> None:
    little = needed(held, 1, False) - 2
    fixed = used(held, little, fixed_rows=True, rows=4)
    assert (fixed.gradient_checkpointing, fixed.pass_rows, fixed.pass_tokens) == (True, 4, 0)
    never = used(held, little, asked=False)
    assert (never.gradient_checkpointing, never.rows_of(LENGTH)) == (False, 1)
    always = used(held, 2**40, asked=True)
    assert (always.gradient_checkpointing, always.rows_of(LENGTH)) == (True, MOST)


def test_weights_are_copied_where_there_is_room_for_much_more(held) -> None:
    _, sizes, setting = held
    copies = dequantised_bytes(sizes, setting)
    assert copies > 0
    enough = int((needed(held, MOST, False) + copies) / HEADROOM["cpu"]) + 1
    assert used(held, enough).plain_copy
    assert not used(held, enough - 10).plain_copy
    assert not used(held, 2**40, quantise="none").plain_copy
    assert not used(held, 2**40, processes=2).plain_copy
    assert used(held, 2**40, processes=2, parallel="ddp").plain_copy


def test_passes_get_smaller_to_make_room_for_copies_but_not_small(held, monkeypatch) -> None:
    monkeypatch.setitem(HEADROOM, "cpu", 1.0)
    _, sizes, setting = held
    copies = dequantised_bytes(sizes, setting)
    half = MOST // 2 + 1  # at least LEAST_TOKENS
    monkeypatch.setattr("xling.planning.memory_limits.LEAST_TOKENS", half * LENGTH)
    whole = needed(held, MOST, False)
    assert used(held, whole + copies).rows_of(LENGTH) == MOST
    tight = used(held, whole + copies - 10)
    assert not tight.plain_copy and tight.rows_of(LENGTH) == MOST
    monkeypatch.setattr("xling.planning.memory_limits.LEAST_TOKENS", LENGTH)
    smaller = used(held, whole + copies - 10)
    assert smaller.plain_copy and smaller.rows_of(LENGTH) == MOST // 2
    assert not smaller.gradient_checkpointing


def test_layers_are_not_computed_twice_to_make_room_for_copies(held, monkeypatch) -> None:
    monkeypatch.setitem(HEADROOM, "cpu", 1.0)
    monkeypatch.setattr("xling.planning.memory_limits.LEAST_TOKENS", LENGTH)
    one = used(held, needed(held, 1, False))
    assert not one.gradient_checkpointing and not one.plain_copy


@pytest.mark.parametrize("share", range(1, 12))
def test_no_refusal_asks_for_passes_that_would_be_taken_anyway(held, share: int) -> None:
    free = needed(held, MOST, False) * share // 12
    use = used(held, free)
    try:
        check_training_peak(
            HeldModel(held[0]),
            TrainingLoad(LENGTH, use.rows_of(LENGTH)),
            name="tiny",
            batch_size=16,
            gradient_checkpointing=use.gradient_checkpointing,
            available=free,
        )
    except ValueError as refused:
        assert use.gradient_checkpointing and use.rows_of(LENGTH) == 1
        assert "micro_batch_size" not in str(refused)


def test_a_refusal_names_passes_that_share_a_step_equally(held) -> None:
    model, load = HeldModel(held[0]), TrainingLoad(LENGTH, 8)
    # Room for seven rows, of which 24 is no multiple.
    free = round(needed(held, 7, False) / (1 + MEASURED_ERROR)) + 1
    eight = needed(held, 8, False) * (1 - MEASURED_ERROR) / (1 + MEASURED_ERROR)
    with pytest.raises(ValueError, match="micro_batch_size") as refused:
        check_training_peak(
            model, load, name="tiny", batch_size=24, available=min(free, int(eight) - 1)
        )
    (found,) = re.findall(r"micro_batch_size (\d+)", str(refused.value))
    assert 24 % int(found) == 0
    assert needed(held, int(found), False) / (1 + MEASURED_ERROR) <= free


def test_ways_take_less_and_less() -> None:
    assert list(pass_plans(5, "auto", fixed=False)) == [
        *[(rows, False) for rows in (5, 2, 1)],
        *[(rows, True) for rows in (5, 2, 1)],
    ]
    assert list(pass_plans(8, "auto", fixed=True)) == [(8, False), (8, True)]
    assert list(pass_plans(2, False, fixed=False)) == [(2, False), (1, False)]


def test_every_device_has_tokens_of_a_pass() -> None:
    assert pass_tokens("cpu") == PASS_TOKENS["cpu"]
    assert pass_tokens("mps") == pass_tokens("xpu") == PASS_TOKENS["cuda"]


def test_examples_of_a_pass_follow_its_tokens() -> None:
    assert rows_at_once(16, 100, 2048) == 16
    assert rows_at_once(16, 512, 2048) == 4
    assert rows_at_once(16, 5000, 2048) == 1
    assert rows_at_once(16, 5000, 0) == 16
