"""The plan: what each model of a study needs on given GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from xling.data import DataSet
from xling.planning.compute import UTILISATION, Utilisation
from xling.planning.configurations import Configuration, find_configuration
from xling.planning.gpus import Gpu
from xling.planning.memory import MEASURED_ERROR
from xling.planning.model_plan import ModelPlan
from xling.planning.planner import Planner
from xling.planning.sizes import model_sizes
from xling.planning.workload import (
    Counts,
    Workload,
    count_questions,
    load_questions,
    prompt_lengths,
    workload,
)
from xling.prompts import PromptFormat
from xling.study import Study
from xling.study.settings import ModelSettings


@dataclass(frozen=True)
class Plan:
    """A study's plan.

    Attributes:
        study: name.
        gpu: that all is planned on.
        gpus: of a node.
        utilisation: stated shares of the GPU's peak.
        memory_error: of the memory estimates where they were measured, as a share.
        lengths: languages by how their prompts' lengths are known.
        models: one row a model.
    """

    study: str
    gpu: Gpu
    gpus: int
    utilisation: Utilisation
    memory_error: float
    lengths: Mapping[str, tuple[str, ...]]
    models: tuple[ModelPlan, ...]


def plan_study(
    study: Study, gpu: Gpu, gpus: int, *, utilisation: Utilisation = UTILISATION
) -> Plan:
    """Plan a study without fetching weights or questions.

    Args:
        study: to be planned.
        gpu: kind of GPU.
        gpus: of a node.
        utilisation: share of the GPU's peak that each kind of work reaches.

    Raises:
        ValueError: the study's own folder of questions is missing or malformed.
    """
    data = load_questions(study)
    counts = count_questions(study, data)
    rows: list[ModelPlan] = []
    lengths: dict[str, tuple[str, ...]] = {}
    for model in study.models:
        try:
            found = find_configuration(model)
            sizes = model_sizes(found.config)
        except ValueError as error:
            rows.append(_unknown(model, str(error)))
            continue
        work = _work(study, model, found, counts, data)
        lengths |= work.estimated
        planner = Planner(
            study, model, found, sizes, work, replace(gpu, per_node=gpus), utilisation
        )
        rows.append(planner.row())
    return Plan(study.name, gpu, gpus, utilisation, MEASURED_ERROR, lengths, tuple(rows))


def _unknown(model: ModelSettings, reason: str) -> ModelPlan:
    return ModelPlan(
        model.label,
        model.id,
        problem=f"configuration unknown: {reason}. Give the folder of the model or of its "
        "config.json as its `id`, or plan where the hub can be reached",
    )


def _work(
    study: Study,
    model: ModelSettings,
    found: Configuration,
    counts: Counts,
    data: DataSet | None,
) -> Workload:
    chat = found.recipe.chat if model.chat is None else model.chat
    prompt = study.prompt
    layout = PromptFormat(
        prompt.template, prompt.answer_prefix, chat, prompt.cloze_template, prompt.cloze_prefix
    )
    tokenizer: Any = None
    if data is not None and found.tokenizer is not None:
        from xling.models.loading import load_tokenizer

        tokenizer = load_tokenizer(found.tokenizer)
    return workload(study, model, counts, prompt_lengths(study, data, layout, tokenizer))
