"""Trains one adapter and saves it, in one process or as one of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from xling.models import LoadedModel
from xling.models.loading import four_bit_share
from xling.scoring import InProcessEngine
from xling.training.fsdp import local_bytes, shard, whole
from xling.training.job import TrainingJob, read_job
from xling.training.loop import Example, train_adapter
from xling.training.team import ProcessGroup, environment_rank, environment_size

if TYPE_CHECKING:
    from peft import PeftModel

Result = TypeVar("Result")


class OtherProcessFailed(RuntimeError):
    """Another process of this training failed, and this one stopped for it."""


def run_job(path: Path) -> None:
    """Does this process's part of a job; the processes are connected.

    Raises:
        ValueError: there are more or fewer processes than the job asks for, or as
            `train_and_save`.
        OtherProcessFailed: another process could not open the base.
    """
    job, examples = read_job(path)
    team = ProcessGroup(environment_rank(), environment_size(), job.parallel)
    if team.size != job.processes:
        raise ValueError(f"the training needs {job.processes} processes, but {team.size} run")
    opened = _together(team, lambda: job.locate().open())
    train_and_save(job, examples, opened, team)


def train_and_save(
    job: TrainingJob, examples: Sequence[Example], opened: LoadedModel, team: ProcessGroup
) -> None:
    """Trains an adapter, saves it once, and scores the check prompts with it.

    Args:
        job: the settings; ``target`` gets ``adapter``, ``report.json`` and ``check.json``.
        examples: what is trained on.
        opened: the base, on this process's device; sharded in place where the team shards.
        team: all of its processes must call.
    """
    import torch

    share = four_bit_share(opened.model)
    target = Path(job.target)
    with opened.trainable(**job.lora, seed=job.seed) as (model, modules):
        trainable = model.num_parameters(only_trainable=True)
        if team.sharded:
            shard(model)
        result = train_adapter(
            model,
            opened.tokenizer,
            examples,
            label_ids=job.label_ids,
            add_special_tokens=job.add_special_tokens,
            folder=Path(job.checkpoints),
            seed=job.seed,
            team=team,
            **job.training,
        )
        base_bytes = team.gather(local_bytes(model))
        _save_adapter(model, target / "adapter", team, base=job.model)
        check_prompts = [example.prompt for example in examples[: job.check_prompts]]
        engine = InProcessEngine(model, opened.tokenizer, add_special_tokens=job.add_special_tokens)
        live = engine.score(check_prompts, description="check" if team.leads else "")
    if not team.leads:
        return
    report = {
        **asdict(result),
        "examples": len(examples),
        "lora_modules": list(modules),
        "trainable_parameters": trainable,
        "four_bit": {**asdict(share), "of_blocks": share.of_blocks},
        "processes": {
            "count": team.size,
            "parallel": team.parallel if team.size > 1 else "none",
            "threads": torch.get_num_threads(),
            "base_bytes": base_bytes,
        },
    }
    check = {"prompts": check_prompts, "logprobs": live.logprobs.tolist()}
    (target / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (target / "check.json").write_text(json.dumps(check), encoding="utf-8")


def _save_adapter(model: PeftModel, folder: Path, team: ProcessGroup, *, base: str) -> None:
    """Writes PEFT's files, with whole tensors, from one process.

    They name the base by its id, not by where this machine keeps its weights.
    """
    state = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = whole(parameter.detach())
            if team.leads:
                state[name] = value.cpu()
    if team.leads:
        loaded = model.get_base_model()
        places = loaded.config._name_or_path, loaded.name_or_path
        loaded.config._name_or_path = loaded.name_or_path = base  # the model card names both
        model.active_peft_config.base_model_name_or_path = base
        model.save_pretrained(folder, state_dict=state)
        loaded.config._name_or_path, loaded.name_or_path = places


def _together(team: ProcessGroup, action: Callable[[], Result]) -> Result:
    """Does something that can fail on one process alone; then the others stop too.

    Raises:
        OtherProcessFailed: names the first process that failed, and why.
    """
    failure: Exception | None = None
    result = None
    try:
        result = action()
    except Exception as error:
        failure = error
    reasons = team.gather(f"{type(failure).__name__}: {failure}" if failure else "")
    if failure is not None:
        raise failure
    for rank, reason in enumerate(reasons):
        if reason:
            raise OtherProcessFailed(f"process {rank} of {team.size}: {reason}")
    return cast(Result, result)
