"""Refuses a model that does not fit this machine, before it is loaded."""

import json
from pathlib import Path

from xling.planning.memory import (
    MEASURED_ERROR,
    Setting,
    scoring_memory,
    training_memory,
    weight_bytes,
)
from xling.planning.sizes import Sizes, model_sizes

_STEPS = (2, 4, 8, 16, 32, 64)


def check_memory(
    folder: Path,
    *,
    name: str,
    training: bool,
    length: int,
    rows: int = 1,
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

    from xling.models.loading import compute_dtype

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = model_sizes(config)
    on_gpu = torch.cuda.is_available()
    setting = Setting(
        quantise=quantise,
        value_bytes=compute_dtype().itemsize,
        r=r,
        dropout=dropout,
        lora_modules=lora_modules,
        mask_bytes=1 if on_gpu else 4,
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
                if needed(count, processes, gradient_checkpointing) <= there
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
        if _smaller_batch(sizes, setting, length, there):
            remedies.append(f"scoring.batch_tokens {length}")
    remedies.append("a smaller model of the study (`plan` shows what each needs)")
    raise ValueError(
        f"{'training' if training else 'scoring'} {name} takes about {_gb(need)} at its peak"
        f"{' in each process' if processes > 1 else ''} (prompts of up to {length} tokens), and "
        f"{_gb(there)} of {'GPU ' if on_gpu else ''}memory are free. What would fit: "
        f"{'; '.join(remedies)}"
    )


def _smaller_batch(sizes: Sizes, setting: Setting, length: int, there: int) -> bool:
    """Whether one prompt at a time would fit."""
    return scoring_memory(sizes, setting, batch_tokens=length, length=length).total <= there


def available_bytes(processes: int = 1) -> int:
    """Memory that is free for one process.

    Of a process alone that of all visible GPUs, over which its layers are spread if need be; of
    one of several that of the fullest GPU, or its share of the machine's memory.
    """
    import psutil  # type: ignore[import-untyped]
    import torch

    if torch.cuda.is_available():
        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
        return int(min(free) if processes > 1 else sum(free))
    return int(psutil.virtual_memory().available) // max(1, processes)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
