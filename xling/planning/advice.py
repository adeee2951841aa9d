"""Commands and remarks of a plan."""

from __future__ import annotations

import shlex

from xling.models.catalog import Recipe
from xling.planning.model_plan import Job
from xling.study import Study
from xling.study.settings import PRIMER, ModelSettings


def commands(
    study: Study, model: ModelSettings, recipe: Recipe, training: Job | None, *, per_node: int
) -> tuple[str, ...]:
    """Write the commands that train a model on more processes than usual, and run the rest.

    Args:
        study: the study.
        model: one of its models.
        recipe: the model's.
        training: None where the study trains nothing.
        per_node: GPUs of a node.
    """
    name = study.origin or study.name
    lines = []
    usual = model.processes or recipe.processes
    if training is not None and training.gpus and 1 < training.processes != usual:
        on_each = min(training.processes, per_node)
        nodes = -(-training.processes // per_node)
        start = ["torchrun"]
        if nodes > 1:
            start += ["--nnodes", str(nodes), "--rdzv-backend", "c10d"]
            start += ["--rdzv-endpoint", "HOST:29500"]
        start += ["--nproc_per_node", str(on_each), "-m", "entrypoints.finetune"]
        start += ["--study", name, "--model", model.label]
        for arm in (*([PRIMER] if model.primed else []), *study.arms):
            if arm != "base":
                more = [] if arm == "finetuned" else ["--arm", arm]
                lines.append(shlex.join([*start, *more]))
    run = ["mlflow", "run", ".", "-e", "main", "-P", f"study={name}"]
    lines.append(shlex.join([*run, "-P", f"models={model.label}"]))
    return tuple(lines)


def notes(
    study: Study, model: ModelSettings, recipe: Recipe, training: Job | None, scoring: Job
) -> tuple[str, ...]:
    """Say what a model's numbers leave unsaid; arguments as in `commands`."""
    found = []
    settings = study.training
    if training is not None and not training.gpus:
        found.append(
            "training does not fit: lower micro_batch_size or lora.r, set "
            "gradient_checkpointing, raise batch_size so that more processes can share it, "
            "or take GPUs with more memory"
        )
    elif training is not None and training.micro_batch_size < (
        settings.micro_batch_size or settings.batch_size // training.processes
    ):
        found.append(
            f"needs training.micro_batch_size {training.micro_batch_size}: "
            f"{training.processes} processes share batch_size {settings.batch_size}"
        )
    if training is not None and training.gpus > training.processes:
        found.append(
            f"no GPU holds the base alone: one process spreads its layers over {training.gpus} "
            "GPUs, one at work at a time"
        )
    if training is not None and training.processes == 1 < (model.processes or recipe.processes):
        found.append("set `processes: 1` on the model: by itself the study would start more")
    more = len(study.seeds) > 1 or study.data.split == "cross-fit"
    if training is not None and training.processes > 1 and more:
        found.append("torchrun trains one adapter: repeat it with --seed and --fold")
    if model.engine == "server":
        found.append(
            "scored by a server, such as vllm serve "
            f"{recipe.repository or model.id} --enable-lora "
            f"--tensor-parallel-size {scoring.gpus}"
        )
    elif scoring.gpus > 1:
        found.append(
            f"scoring spreads the layers over {scoring.gpus} GPUs, one at work at a time; "
            "`engine: server` (vLLM) uses all of them"
        )
    return tuple(found)
