"""Checkpoints of a training: whole tensors, whichever process held which part of them.

A checkpoint is a folder ``checkpoint-<step>`` with ``state.safetensors`` (the adapter and the two
moments of AdamW), ``trainer_state.json`` (step and learning curve), and the checksums of both. It
does not depend on how many processes wrote it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xling.files.checksums import checksummed_directory, find_damage
from xling.training.fsdp import fill, whole
from xling.training.process_group import ProcessGroup

if TYPE_CHECKING:
    import torch

Curve = list[dict[str, float]]
STATE = "state.safetensors"
PROGRESS = "trainer_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2

logger = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    curve: Curve,
    group: ProcessGroup,
) -> None:
    """Write a checkpoint, once for all processes, and drop all but it and the one before it.

    Args:
        folder: of the training's checkpoints.
        parameters: what is trained, by name.
        optimiser: AdamW after at least one step.
        curve: one row for each step that was done.
        group: all of its processes must call.
    """
    from safetensors.torch import save_file

    state = {}
    for name, parameter in parameters.items():
        tensors = {"weight": parameter.detach()} | {
            key: optimiser.state[parameter][key] for key in MOMENTS
        }
        for key, tensor in tensors.items():
            value = whole(tensor)
            if group.is_main:
                state[f"{key}/{name}"] = value.cpu().contiguous()
    if not group.is_main:
        return
    target = folder / f"checkpoint-{len(curve)}"
    shutil.rmtree(target, ignore_errors=True)  # half a checkpoint would be in the way
    with checksummed_directory(target) as temporary:
        save_file(state, temporary / STATE)
        progress = {"global_step": len(curve), "curve": curve}
        (temporary / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    found = sorted(folder.glob("checkpoint-*"), key=step_of)
    # Later ones were left by a training that could not go on from them.
    kept = [path for path in found if step_of(path) <= len(curve)][-KEPT:]
    for other in set(found) - set(kept):
        shutil.rmtree(other)


def load_checkpoint(
    checkpoint: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> Curve:
    """Put weights and optimiser where a checkpoint left them.

    Args:
        checkpoint: its folder, which every process can read.
        parameters: what is trained, by name; changed in place.
        optimiser: AdamW before its first step; changed in place.

    Returns:
        The learning curve so far.
    """
    import torch
    from safetensors import safe_open

    curve: Curve = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))["curve"]
    with safe_open(checkpoint / STATE, framework="pt") as stored, torch.no_grad():
        for name, parameter in parameters.items():
            fill(parameter, stored.get_tensor(f"weight/{name}"))
            moments = {key: torch.zeros_like(parameter) for key in MOMENTS}
            for key, tensor in moments.items():
                fill(tensor, stored.get_tensor(f"{key}/{name}"))
            steps = torch.tensor(float(len(curve)), device=parameter.device)
            optimiser.state[parameter] = {"step": steps, **moments}
    return curve


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint whose files are what was written; None: there is none.

    Those after it are removed, and the log says what was wrong with them: a failing disk, or
    somebody, may have changed or cut off a file.
    """
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    for number, path in enumerate(found, start=1):
        wrong = _damage(path)
        if not wrong:
            return path
        logger.warning(
            "checkpoint %s cannot be used (%s): %s",
            path,
            wrong,
            "an older one is looked for" if number < len(found) else "the training starts afresh",
        )
        shutil.rmtree(path)
    return None


def step_of(checkpoint: Path) -> int:
    """Read off a folder's name after which optimiser step it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _damage(checkpoint: Path) -> str:
    """Say what is wrong with a checkpoint; empty: nothing is."""
    wrong = find_damage(checkpoint, thorough=True)
    if wrong:
        return wrong
    step = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))["global_step"]
    return "" if step == step_of(checkpoint) else f"it is of step {step}"
