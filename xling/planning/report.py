"""A plan as a table of plain text, as CSV rows, as JSON and as metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from xling.planning.gpus import RUNTIME_BYTES
from xling.planning.memory import SHARED_ERROR
from xling.planning.model_plan import Job, ModelPlan
from xling.planning.plan import Plan

WIDTH = 100
_HEAD = (
    f"{'model':<24}{'params':>8}{'active':>8}{'4-bit':>8}{'LoRA':>8}"
    f"{'train':>9}{'':>5}{'':>8}{'score':>9}{'':>5}{'':>8}"
)
_UNITS = (
    f"{'':<24}{'10⁹':>8}{'10⁹':>8}{'GB':>8}{'10⁶':>8}"
    f"{'GB/GPU':>9}{'GPUs':>5}{'hours':>8}{'GB/GPU':>9}{'GPUs':>5}{'hours':>8}"
)


def plan_lines(plan: Plan) -> list[str]:
    """Write the table, then what each model takes to run, then what the numbers rest on."""
    lines = [
        f"study {plan.study} on {plan.gpu.name}, {plan.gpus} a node",
        "",
        _HEAD.rstrip(),
        _UNITS,
    ]
    lines += [_row(model) for model in plan.models]
    for model in plan.models:
        lines += ["", *_wrapped(f"{model.model}: {_sentence(model)}")]
        for note in model.notes:
            lines += _wrapped(f"  note: {note}")
        lines += [f"  {command}" for command in model.commands]
    return [*lines, "", *_basis(plan)]


def _wrapped(text: str) -> list[str]:
    """Wrap lines to at most `WIDTH`; commands are left whole."""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _row(model: ModelPlan) -> str:
    name = model.model if len(model.model) <= 23 else model.model[:22] + "…"
    if model.problem:
        return f"{name:<24}configuration unknown (see below)"
    return (
        f"{name:<24}{model.parameters / 1e9:>8.3f}{model.active / 1e9:>8.3f}"
        f"{model.four_bit_bytes / 1e9:>8.2f}{model.lora_parameters / 1e6:>8.1f}"
        f"{_job(model.training)}{_job(model.scoring)}"
    )


def _job(job: Job | None) -> str:
    if job is None:
        return f"{'–':>9}{'–':>5}{'–':>8}"
    gpus = str(job.gpus) if job.gpus else "no"
    return f"{job.memory.total / 1e9:>9.1f}{gpus:>5}{_hours(job.hours):>8}"


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 100 else f"{hours:.0f}"


def _sentence(model: ModelPlan) -> str:
    if model.problem:
        return model.problem
    parts = [f"sizes {model.configuration}"]
    if model.training is not None:
        parts.append(
            f"{_count(model.adapters, 'adapter')} on {model.training.tokens:.2e} tokens "
            f"({model.training.flops:.1e} FLOP), {_fits(model.training)}"
        )
    if model.scoring is not None:
        written = f", {model.written_tokens:.1e} of them written" if model.written_tokens else ""
        parts.append(
            f"scoring {model.scoring.tokens:.2e} tokens{written} ({model.scoring.flops:.1e} FLOP), "
            f"{_fits(model.scoring)}"
        )
    return "; ".join(parts)


def _fits(job: Job) -> str:
    return "fits nowhere" if job.fits == "no" else f"fits {job.fits}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _basis(plan: Plan) -> Iterable[str]:
    used = plan.utilisation
    yield from _wrapped(
        f"hours: at {used.training:.0%} (training) and {used.scoring:.0%} (scoring) of "
        f"{plan.gpu.tflops:.0f} dense bfloat16 TFLOP/s, as a 4B model on an H200; mixtures at a "
        f"stated {used.mixture_training:.0%} and {used.mixture_scoring:.0%}. Padding included; "
        "more where starting kernels or gathering shards takes longer."
    )
    yield from _wrapped(
        f"memory: of the longest prompt, in bfloat16; measured on CPU and an H200: within "
        f"{plan.memory_error:.0%} (option orders and cloze: up to {SHARED_ERROR:.0%} too high); "
        f"{plan.memory_error:.0%} are kept free on a GPU, besides "
        f"{RUNTIME_BYTES / 1e9:.0f} GB for its libraries. 1 GB = 10⁹ bytes."
    )
    words = {
        "counted": "counted with the models' own tokenizers",
        "measured": "estimated from Belebele's and FLORES texts under Gemma 3's tokenizer",
        "script": "estimated as other languages of their script",
        "overall": "estimated as the mean of all measured languages",
    }
    for basis, text in words.items():
        codes = plan.lengths.get(basis, ())
        if codes:
            shown = ", ".join(codes) if len(codes) <= 4 else f"{len(codes)} languages"
            yield from _wrapped(f"lengths of {shown}: {text}")


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return one flat row a model."""
    return [_flat(asdict(model)) for model in plan.models]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}_")
        else:
            flat[f"{prefix}{key}"] = "\n".join(value) if isinstance(value, tuple) else value
    return flat


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return the whole plan."""
    return asdict(plan)


def plan_metrics(plan: Plan) -> dict[str, float]:
    """Return numbers by model: ``train_hours/<model>``, ``train_gb/<model>`` and so on."""
    found: dict[str, float] = {}
    for model in plan.models:
        if model.problem:
            continue
        found[f"parameters/{model.model}"] = model.parameters
        found[f"four_bit_gb/{model.model}"] = model.four_bit_bytes / 1e9
        found[f"lora_parameters/{model.model}"] = model.lora_parameters
        for name, job in (("train", model.training), ("score", model.scoring)):
            if job is not None:
                found[f"{name}_gb/{model.model}"] = job.memory.total / 1e9
                found[f"{name}_gpus/{model.model}"] = job.gpus
                found[f"{name}_hours/{model.model}"] = job.hours
                found[f"{name}_tokens/{model.model}"] = job.tokens
    return found
