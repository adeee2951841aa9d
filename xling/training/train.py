"""Trains one adapter and saves it, in one process or as one of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from xling.models import LoadedModel
from xling.models.adapters import ADAPTER, stack_adapters
from xling.models.loading import four_bit_share
from xling.scoring import InProcessEngine
from xling.training.fsdp import local_bytes, shard, whole
from xling.training.job import TrainingJob, read_job
from xling.training.loop import Example, TrainingSet, train_adapter
from xling.training.process_group import ProcessGroup, environment_rank, environment_size

if TYPE_CHECKING:
    from peft import PeftModel

Result = TypeVar("Result")


class OtherProcessFailed(RuntimeError):
    """Another process of this training failed, and this one stopped for it."""


def run_job(path: Path) -> None:
    """Do this process's part of a job; the processes are connected.

    Raises:
        ValueError: there are more or fewer processes than the job asks for, or as
            `train_and_save`.
        OtherProcessFailed: another process could not open the base.
    """
    job, examples = read_job(path)
    group = ProcessGroup(environment_rank(), environment_size(), job.parallel)
    if group.size != job.processes:
        raise ValueError(f"the training needs {job.processes} processes, but {group.size} run")
    loaded = _together(group, lambda: job.locate().open())
    train_and_save(job, examples, loaded, group)


def train_and_save(
    job: TrainingJob, examples: Sequence[Example], loaded: LoadedModel, group: ProcessGroup
) -> None:
    """Train an adapter, save it once, and score the check prompts with it.

    Args:
        job: the settings; ``target`` gets ``adapter``, ``report.json`` and ``check.json``.
        examples: what is trained on.
        loaded: the base, on this process's device; sharded in place where the group shards.
        group: all of its processes must call.
    """
    import torch

    share = four_bit_share(loaded.model)
    target = Path(job.target)
    lora, primer = job.lora, Path(job.primer) if job.primer else None
    with loaded.trainable(
        r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=job.seed, primer=primer
    ) as (model, modules):
        trainable = model.num_parameters(only_trainable=True)
        if group.sharded:
            shard(model)
        result = train_adapter(
            model,
            loaded.tokenizer,
            TrainingSet(examples, job.label_ids, job.add_special_tokens),
            job.training,
            seed=job.seed,
            folder=Path(job.checkpoints),
            memory=job.memory,
            group=group,
        )
        base_bytes = group.gather(local_bytes(model))
        _save_adapter(model, target / "adapter", group, base=job.model)
        if primer is not None and group.is_main:
            stack_adapters(primer, target / "adapter")
        check_prompts = [example.prompt for example in examples[: job.check_prompts]]
        engine = InProcessEngine(model, loaded.tokenizer, add_special_tokens=job.add_special_tokens)
        live = engine.score(check_prompts, description="check" if group.is_main else "")
    if not group.is_main:
        return
    report = {
        **asdict(result),
        "examples": len(examples),
        "lora_modules": list(modules),
        "trainable_parameters": trainable,
        "four_bit": {**asdict(share), "of_blocks": share.of_blocks},
        "processes": {
            "count": group.size,
            "parallel": group.parallel if group.size > 1 else "none",
            "threads": torch.get_num_threads(),
            "base_bytes": base_bytes,
        },
    }
    check = {"prompts": check_prompts, "logprobs": live.logprobs.tolist()}
    (target / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (target / "check.json").write_text(json.dumps(check), encoding="utf-8")


def _save_adapter(model: PeftModel, folder: Path, group: ProcessGroup, *, base: str) -> None:
    """Write PEFT's files, with whole tensors, from one process.

    They name the base by its id, not by where this machine keeps its weights.
    """
    state = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = whole(parameter.detach())
            if group.is_main:
                state[name] = value.cpu()
    if group.is_main:
        loaded = model.get_base_model()
        places = loaded.config._name_or_path, loaded.name_or_path
        loaded.config._name_or_path = loaded.name_or_path = base  # the model card names both
        model.peft_config[ADAPTER].base_model_name_or_path = base
        model.save_pretrained(
            folder,
            state_dict=state,
            selected_adapters=[ADAPTER],
            save_embedding_layers=False,  # LoRA is on none; else peft looks for the base on the hub
        )
        loaded.config._name_or_path, loaded.name_or_path = places


def _together(group: ProcessGroup, action: Callable[[], Result]) -> Result:
    """Do something that can fail on one process alone; then the others stop too.

    Raises:
        OtherProcessFailed: names the first process that failed, and why.
    """
    failure: Exception | None = None
    result = None
    try:
        result = action()
    except Exception as error:
        failure = error
    reasons = group.gather(f"{type(failure).__name__}: {failure}" if failure else "")
    if failure is not None:
        raise failure
    for rank, reason in enumerate(reasons):
        if reason:
            raise OtherProcessFailed(f"process {rank} of {group.size}: {reason}")
    return cast(Result, result)
