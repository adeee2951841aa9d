from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training_jobs import EXAMPLES, STEPS, read
from xling.models import locate_model
from xling.scoring import InProcessEngine

# Two processes sum a step's losses and gradients in another order than one.
TOLERANCE = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(training_jobs, parallel):
    alone = read(training_jobs.undisturbed("alone"), "report")
    together = read(training_jobs.undisturbed(parallel), "report")
    assert together["steps"] == alone["steps"] == STEPS
    for key in ("step", "loss", "learning_rate", "grad_norm"):
        assert [row[key] for row in together["curve"]] == pytest.approx(
            [row[key] for row in alone["curve"]], abs=TOLERANCE, rel=TOLERANCE
        )
    assert alone["curve"][-1]["loss"] < alone["curve"][0]["loss"] - 1
    assert together["tokens"] == alone["tokens"]
    assert together["trainable_parameters"] == alone["trainable_parameters"]
    assert together["four_bit"] == alone["four_bit"]


@pytest.mark.slow
def test_fsdp_shards_the_base_and_ddp_repeats_it(training_jobs):
    (whole,) = read(training_jobs.undisturbed("alone"), "report")["processes"]["base_bytes"]
    repeated = read(training_jobs.undisturbed("ddp"), "report")["processes"]
    sharded = read(training_jobs.undisturbed("fsdp"), "report")["processes"]
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // 2))
    assert repeated == {
        "count": 2, "parallel": "ddp", "threads": threads, "base_bytes": [whole, whole],
    }  # fmt: skip
    assert sharded["parallel"] == "fsdp"
    assert sum(sharded["base_bytes"]) == whole
    assert max(sharded["base_bytes"]) < 0.51 * whole


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_whole_adapter_that_one_process_loads(training_jobs, parallel):
    folder = training_jobs.undisturbed(parallel)
    alone = load_file(training_jobs.undisturbed("alone") / "adapter" / "adapter_model.safetensors")
    together = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {name: value.shape for name, value in together.items()} == {
        name: value.shape for name, value in alone.items()
    }
    assert len(list(training_jobs.folder.glob(f"{parallel}*/**/adapter_model.safetensors"))) == 1
    check = read(folder, "check")
    with locate_model(str(training_jobs.model)).open().adapted(folder / "adapter") as opened:
        engine = InProcessEngine(opened.model, opened.tokenizer, add_special_tokens=True)
        scored = engine.score(check["prompts"]).logprobs
    assert check["prompts"] == [example.prompt for example in EXAMPLES[:8]]
    assert np.abs(scored - np.array(check["logprobs"])).max() < TOLERANCE
