"""Refuses a model that does not fit this machine, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from xling.planning.memory import (
    MEASURED_ERROR,
    Setting,
    plain_bytes,
    scoring_memory,
    training_memory,
    weight_bytes,
)
from xling.planning.passes import MemoryUse, pass_plans
from xling.planning.sizes import Sizes, model_sizes
from xling.training.batching import pass_tokens, rows_at_once

_STEPS = (2, 4, 8, 16, 32, 64)
# Of the free memory, that work with copies of its weights may take: of a machine's, other jobs and
# what the system keeps of files need the rest; of a GPU's, what its allocator cannot use.
AMPLE = {"cpu": 0.5, "cuda": 0.9}
# Smaller passes than that are not worth their copies.
LEAST_TOKENS = 1024


def check_memory(
    folder: Path,
    *,
    name: str,
    training: bool,
    length: int,
    rows: int = 1,
    batch_size: int = 0,
    batch_tokens: int = 4096,
    quantise: str = "nf4",
    r: int = 16,
    dropout: float = 0.0,
    lora_modules: str = "",
    gradient_checkpointing: bool = False,
    processes: int = 1,
    parallel: str = "fsdp",
    loaded: bool = False,
    available: int | None = None,
) -> None:
    """Refuses a training or scoring whose peak is sure to exceed the memory that is free.

    Only an estimate that is too large by more than its own error is refused.

    Args:
        folder: of the model; its config.json decides.
        name: of the model, for the message.
        training: train an adapter; else score.
        length: tokens of the longest prompt.
        rows: of training: prompts of a forward pass.
        batch_size: of training: prompts of a step; 0: one such pass of each process.
        batch_tokens: of scoring: padded tokens of a batch.
        quantise: ``nf4`` or ``none``.
        r: rank of the adapter.
        dropout: of the adapter.
        lora_modules: the study's pattern; empty: by architecture.
        gradient_checkpointing: of training.
        processes: that train together.
        parallel: ``fsdp`` or ``ddp``.
        loaded: whether the model's weights are in memory already, and so in what is not free.
        available: bytes that are free for one process; None: of this machine, now.

    Raises:
        ValueError: names the model, what it needs, what there is and what would fit.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    sizes, setting = model_on_device(
        folder, quantise=quantise, r=r, dropout=dropout, lora_modules=lora_modules
    )
    there = available_bytes(processes) if available is None else available

    def needed(rows: int, processes: int, checkpointing: bool) -> int:
        if not training:
            return scoring_memory(sizes, setting, batch_tokens=batch_tokens, length=length).total
        return training_memory(
            sizes,
            setting,
            rows=rows,
            length=length,
            gradient_checkpointing=checkpointing,
            processes=processes,
            parallel=parallel,
        ).total

    need = needed(rows, processes, gradient_checkpointing)
    whole = weight_bytes(sizes, setting)
    there += whole if loaded else 0
    if processes > 1:
        need = max(need, whole)  # each process holds the whole base before they share it
    if need * (1 - MEASURED_ERROR) <= there:
        return
    remedies = []
    if training:
        smaller = next(
            (
                count
                for count in range(rows - 1, 0, -1)
                if (batch_size or rows * processes) % (count * processes) == 0
                and needed(count, processes, gradient_checkpointing) <= there
            ),
            0,
        )
        if smaller:
            remedies.append(f"micro_batch_size {smaller}")
        if not gradient_checkpointing and needed(rows, processes, True) <= there:
            remedies.append("gradient_checkpointing: true")
        more = next((n for n in _STEPS if n > processes and needed(1, n, True) <= there), 0)
        if on_gpu and more and whole <= there:
            remedies.append(f"{more} GPUs (`processes: {more}`, parallel fsdp, micro_batch_size 1)")
    else:
        remedies.append("`engine: server`, which may run on another machine")
    remedies.append("a smaller model of the study (`plan` shows what each needs)")
    raise ValueError(
        f"{'training' if training else 'scoring'} {name} takes about {gigabytes(need)} at its peak"
        f"{' in each process' if processes > 1 else ''} (prompts of up to {length} tokens), and "
        f"{gigabytes(there)} of {'GPU ' if on_gpu else ''}memory are free. What would fit: "
        f"{'; '.join(remedies)}"
    )


def memory_use(
    folder: Path,
    *,
    asked: bool | Literal["auto"],
    length: int,
    rows: int,
    fixed_rows: bool,
    quantise: str,
    r: int,
    dropout: float,
    lora_modules: str,
    processes: int,
    parallel: str,
    loaded: bool,
    available: int | None = None,
) -> MemoryUse:
    """Decides what a training does with the memory that is free now.

    Passes get smaller until the estimate and its error fit; only where one prompt does not fit so
    are gradients checkpointed. Where passes of `LEAST_TOKENS` fit beside plain copies of four-bit
    weights, they do not get larger than that allows.

    Args:
        folder: of the model; its config.json decides.
        asked: for gradient checkpointing; ``auto``: as said above.
        length: tokens of the longest prompt.
        rows: prompts of a forward pass at most.
        fixed_rows: whether so many were asked for: passes are then as they are, and ``auto``
            checkpoints where they do not fit.
        quantise: ``nf4`` or ``none``.
        r: rank of the adapter.
        dropout: of the adapter.
        lora_modules: the study's pattern; empty: by architecture.
        processes: that train together.
        parallel: ``fsdp`` or ``ddp``.
        loaded: whether the model's weights are in memory already, and so in what is not free.
        available: bytes that are free for one process; None: of this machine, now.
    """
    from xling.models.loading import device_name

    sizes, setting = model_on_device(
        folder, quantise=quantise, r=r, dropout=dropout, lora_modules=lora_modules
    )
    there = available_bytes(processes) if available is None else available
    beside = on_one_device(there) if available is None else available
    in_memory = weight_bytes(sizes, setting) if loaded else 0
    there, beside = there + in_memory, beside + in_memory

    def needed(rows: int, checkpointing: bool) -> float:
        estimate = training_memory(
            sizes,
            setting,
            rows=rows,
            length=length,
            gradient_checkpointing=checkpointing,
            processes=processes,
            parallel=parallel,
        ).total
        return estimate * (1 + MEASURED_ERROR)

    tokens = 0 if fixed_rows else pass_tokens(device_name())
    most = rows_at_once(rows, length, tokens)
    ways = list(pass_plans(most, asked, fixed=fixed_rows))
    copies = plain_bytes(sizes, setting)
    can_copy = copies > 0 and not (processes > 1 and parallel == "fsdp")
    room = headroom() * beside - copies
    copying = [
        way
        for way in ways
        if can_copy and needed(*way) <= room and way[0] * length >= min(LEAST_TOKENS, most * length)
    ]
    fitting = [way for way in ways if needed(*way) <= there]
    # Layers are not computed twice to make room for copies.
    plain = bool(copying) and copying[0][1] == fitting[0][1]
    chosen, checkpointing = (copying if plain else fitting or ways[-1:])[0]
    if chosen < most:
        rows, tokens = chosen, chosen * length
    return MemoryUse(checkpointing, plain_copy=plain, pass_rows=rows, pass_tokens=tokens)


def model_on_device(
    folder: Path, *, quantise: str, r: int, dropout: float, lora_modules: str
) -> tuple[Sizes, Setting]:
    """A model's sizes, and how this machine holds it."""
    import torch

    from xling.models.loading import compute_dtype

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    setting = Setting(
        quantise=quantise,
        value_bytes=compute_dtype().itemsize,
        r=r,
        dropout=dropout,
        lora_modules=lora_modules,
        mask_bytes=1 if torch.cuda.is_available() else 4,
    )
    return model_sizes(config), setting


def available_bytes(processes: int = 1) -> int:
    """Memory that is free for one process.

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
    """Of the bytes that are free for one process, those on the device that it computes on.

    Copies of weights lie there: of a model that is spread over GPUs, none are made.
    """
    import torch

    if not torch.cuda.is_available():
        return there
    device = torch.cuda.current_device()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(there, torch.cuda.mem_get_info(device)[0] + unused)


def headroom() -> float:
    """`AMPLE` of this machine's device."""
    from xling.models.loading import device_name

    return AMPLE[device_name()]


def gigabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB"
