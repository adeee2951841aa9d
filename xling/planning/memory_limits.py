"""What the memory of this machine allows, found before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from xling.models.loading import compute_dtype, device_name
from xling.planning.memory import (
    MEASURED_ERROR,
    Setting,
    dequantised_bytes,
    scoring_memory,
    training_memory,
    weight_bytes,
)
from xling.planning.sizes import Sizes, model_sizes
from xling.study.settings import LoraSettings
from xling.training.batching import MemoryUse, pass_tokens, rows_at_once

_STEPS = (2, 4, 8, 16, 32, 64)
# Share of the free memory that work with copies of its weights may take: of a machine's, other jobs
# and what the system keeps of files need the rest; of a GPU's, what its allocator cannot use.
HEADROOM = {"cpu": 0.5, "cuda": 0.9}
# Smaller passes than that are not worth their copies.
LEAST_TOKENS = 1024


@dataclass(frozen=True)
class HeldModel:
    """A model as a run holds it in this machine's memory.

    Attributes:
        folder: of the model; its config.json decides.
        quantise: ``nf4`` or ``none``.
        lora: rank and dropout of the adapter.
        lora_modules: the study's pattern; empty: by architecture.
        loaded: whether the model's weights are in memory already, and so in what is not free.
    """

    folder: Path
    quantise: str = "nf4"
    lora: LoraSettings = field(default_factory=LoraSettings)
    lora_modules: str = ""
    loaded: bool = False


@dataclass(frozen=True)
class TrainingLoad:
    """What a training asks of the memory of each of its processes.

    Attributes:
        length: tokens of the longest prompt.
        rows: prompts of a forward pass; at most so many where memory decides.
        processes: that train together.
        parallel: ``fsdp`` or ``ddp``.
    """

    length: int
    rows: int = 1
    processes: int = 1
    parallel: str = "fsdp"


def check_scoring_peak(
    model: HeldModel,
    *,
    name: str,
    length: int,
    batch_tokens: int = 4096,
    available: int | None = None,
) -> None:
    """Refuse a scoring whose peak is sure to exceed the memory that is free.

    Only an estimate that is too large by more than its own error is refused.

    Args:
        model: as it is held.
        name: of the model, for the message.
        length: tokens of the longest prompt.
        batch_tokens: padded tokens of a batch.
        available: bytes that are free; None: of this machine, now.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    sizes, setting = model_on_device(model)
    there = available_bytes() if available is None else available
    there += weight_bytes(sizes, setting) if model.loaded else 0
    need = scoring_memory(sizes, setting, batch_tokens=batch_tokens, length=length).total
    if need * (1 - MEASURED_ERROR) > there:
        remedies = ["`engine: server`, which may run on another machine"]
        raise _refusal(f"scoring {name}", "", need, there, length, remedies)


def check_training_peak(
    model: HeldModel,
    load: TrainingLoad,
    *,
    name: str,
    batch_size: int = 0,
    gradient_checkpointing: bool = False,
    available: int | None = None,
) -> None:
    """Refuse a training whose peak is sure to exceed the memory that is free.

    Only an estimate that is too large by more than its own error is refused.

    Args:
        model: as it is held.
        load: what the training asks of each process.
        name: of the model, for the message.
        batch_size: prompts of a step; 0: one forward pass of each process.
        gradient_checkpointing: as it will be done.
        available: bytes that are free for one process; None: of this machine, now.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    sizes, setting = model_on_device(model)
    whole = weight_bytes(sizes, setting)
    there = available_bytes(load.processes) if available is None else available
    there += whole if model.loaded else 0

    def needed(rows: int, processes: int, checkpointing: bool) -> int:
        asked = replace(load, rows=rows, processes=processes)
        return _training_peak(sizes, setting, asked, checkpointing)

    rows, processes = load.rows, load.processes
    need = needed(rows, processes, gradient_checkpointing)
    if processes > 1:
        need = max(need, whole)  # each process holds the whole base before they share it
    if need * (1 - MEASURED_ERROR) <= there:
        return
    remedies = []
    for count in range(rows - 1, 0, -1):
        divides = (batch_size or rows * processes) % (count * processes) == 0
        if divides and needed(count, processes, gradient_checkpointing) <= there:
            remedies.append(f"micro_batch_size {count}")
            break
    if not gradient_checkpointing and needed(rows, processes, True) <= there:
        remedies.append("gradient_checkpointing: true")
    more = next((n for n in _STEPS if n > processes and needed(1, n, True) <= there), 0)
    if device_name() == "cuda" and more and whole <= there:
        remedies.append(f"{more} GPUs (`processes: {more}`, parallel fsdp, micro_batch_size 1)")
    where = " in each process" if processes > 1 else ""
    raise _refusal(f"training {name}", where, need, there, load.length, remedies)


def _refusal(
    work: str, where: str, need: int, there: int, length: int, remedies: Sequence[str]
) -> ValueError:
    smaller = "a smaller model of the study (`plan` shows what each needs)"
    return ValueError(
        f"{work} takes about {gigabytes(need)} at its peak{where} (prompts of up to {length} "
        f"tokens), and {gigabytes(there)} of {'GPU ' if device_name() == 'cuda' else ''}memory "
        f"are free. What would fit: {'; '.join([*remedies, smaller])}"
    )


def memory_use(
    model: HeldModel,
    load: TrainingLoad,
    *,
    asked: bool | Literal["auto"],
    fixed_rows: bool,
    available: int | None = None,
) -> MemoryUse:
    """Decide what a training does with the memory that is free now.

    Passes get smaller until the estimate and its error fit; only where not even one prompt fits
    are gradients checkpointed. Where passes of `LEAST_TOKENS` fit beside dequantised copies of
    four-bit weights, they do not get larger than that allows.

    Args:
        model: as it is held.
        load: what the training asks of each process.
        asked: for gradient checkpointing; ``auto``: as said above.
        fixed_rows: whether so many rows were asked for: passes are then as they are, and ``auto``
            checkpoints where they do not fit.
        available: bytes that are free for one process; None: of this machine, now.
    """
    sizes, setting = model_on_device(model)
    there = available_bytes(load.processes) if available is None else available
    beside = on_one_device(there) if available is None else available
    in_memory = weight_bytes(sizes, setting) if model.loaded else 0
    there, beside = there + in_memory, beside + in_memory

    def needed(rows: int, checkpointing: bool) -> float:
        peak = _training_peak(sizes, setting, replace(load, rows=rows), checkpointing)
        return peak * (1 + MEASURED_ERROR)

    tokens = 0 if fixed_rows else pass_tokens(device_name())
    most = rows_at_once(load.rows, load.length, tokens)
    plans = list(pass_plans(most, asked, fixed=fixed_rows))
    copies = dequantised_bytes(sizes, setting)
    can_copy = copies > 0 and not (load.processes > 1 and load.parallel == "fsdp")
    free = headroom() * beside - copies
    worth = min(LEAST_TOKENS, most * load.length)
    copying = [
        plan
        for plan in plans
        if can_copy and needed(*plan) <= free and plan[0] * load.length >= worth
    ]
    fitting = [plan for plan in plans if needed(*plan) <= there]
    # Layers are not computed twice to make room for copies.
    copy = bool(copying) and copying[0][1] == fitting[0][1]
    rows, checkpointing = (copying if copy else fitting or plans[-1:])[0]
    if rows < most:
        return MemoryUse(checkpointing, copy, pass_rows=rows, pass_tokens=rows * load.length)
    return MemoryUse(checkpointing, copy, pass_rows=load.rows, pass_tokens=tokens)


def pass_plans(
    rows: int, asked: bool | Literal["auto"], *, fixed: bool
) -> Iterator[tuple[int, bool]]:
    """Give ways to train that take less and less memory, the fastest first.

    Args:
        rows: prompts of a forward pass at most.
        asked: for gradient checkpointing; ``auto``: where one row does not fit without.
        fixed: whether `rows` was asked for; else it is halved before layers are computed twice.

    Yields:
        Prompts of a forward pass, and whether gradients are checkpointed.
    """
    for checkpointing in (False, True) if asked == "auto" else (asked,):
        yield rows, checkpointing
        count = rows
        while count > 1 and not fixed:
            count //= 2
            yield count, checkpointing


def _training_peak(sizes: Sizes, setting: Setting, load: TrainingLoad, checkpointing: bool) -> int:
    return training_memory(
        sizes,
        setting,
        rows=load.rows,
        length=load.length,
        gradient_checkpointing=checkpointing,
        processes=load.processes,
        parallel=load.parallel,
    ).total


def model_on_device(model: HeldModel) -> tuple[Sizes, Setting]:
    """Return a model's sizes, and how this machine holds it."""
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    setting = Setting(
        quantise=model.quantise,
        value_bytes=compute_dtype().itemsize,
        r=model.lora.r,
        dropout=model.lora.dropout,
        lora_modules=model.lora_modules,
        mask_bytes=1 if device_name() == "cuda" else 4,
    )
    return model_sizes(config), setting


def available_bytes(processes: int = 1) -> int:
    """Return the memory that is free for one process.

    Of a process alone that of all visible GPUs, over which its layers are spread if need be; of
    one of several that of the fullest GPU, or its share of the machine's memory.
    """
    import psutil  # type: ignore[import-untyped]
    import torch

    if torch.cuda.is_available():
        # What torch holds for later tensors is not taken by anything.
        free = [
            torch.cuda.mem_get_info(index)[0]
            + torch.cuda.memory_reserved(index)
            - torch.cuda.memory_allocated(index)
            for index in range(torch.cuda.device_count())
        ]
        return int(min(free) if processes > 1 else sum(free))
    return int(psutil.virtual_memory().available) // max(1, processes)


def on_one_device(there: int) -> int:
    """Return how many of a process's free bytes are on the device that it computes on.

    Copies of weights lie there: of a model that is spread over GPUs, none are made.
    """
    import torch

    if not torch.cuda.is_available():
        return there
    device = torch.cuda.current_device()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(there, torch.cuda.mem_get_info(device)[0] + unused)


def headroom() -> float:
    """Return the `HEADROOM` of this machine's device."""
    return HEADROOM[device_name()]


def gigabytes(count: int) -> str:
    """Write bytes in words."""
    return f"{count / 1e9:.1f} GB"
