"""Sharded training of what is not a plain dense model, and going on from its last checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.training_jobs import EXAMPLES, LORA, SHORT, TrainingJobs, read
from xling.models import locate_model
from xling.training.launch import launch
from xling.training.process_group import ProcessGroup
from xling.training.train import train_and_save

# Two processes sum in another order than one; a router can then send a token elsewhere.
TOLERANCE = 1e-3


def adapter(job):
    return load_file(Path(job.target) / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_sharded_training_is_that_of_one_process_and_is_not_repeated(
    tiny_model, tmp_path, architecture
):
    jobs = TrainingJobs(tiny_model(architecture), tmp_path)
    located = locate_model(str(jobs.model))
    assert located.needs_gradient_checkpointing == (architecture == "gpt_oss")
    checkpointed = located.needs_gradient_checkpointing
    training = SHORT.model_copy(update={"gradient_checkpointing": checkpointed})
    one = jobs.make("one", processes=1, lora=LORA, training=training)
    train_and_save(one, EXAMPLES, located.open(), ProcessGroup())
    two = jobs.make("two", processes=2, lora=LORA, training=training)
    launch(two, EXAMPLES, tmp_path / "logs")
    alone, together = (read(Path(job.target), "report") for job in (one, two))
    assert together["steps"] == alone["steps"] == 4
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in together["curve"]] == pytest.approx(
            [row[key] for row in alone["curve"]], abs=TOLERANCE, rel=TOLERANCE
        )
    assert max(together["processes"]["base_bytes"]) < 0.6 * sum(alone["processes"]["base_bytes"])
    if architecture != "qwen3_moe":  # one does for the rest: its experts may have no gradient
        return
    again = replace(two, target=str(tmp_path / "again"))
    launch(again, EXAMPLES, tmp_path / "logs")
    repeated = read(Path(again.target), "report")
    assert (repeated["curve"], repeated["tokens_per_second"]) == (together["curve"], 0)
    first, second = adapter(two), adapter(again)
    assert all((first[name] == second[name]).all() for name in first)
