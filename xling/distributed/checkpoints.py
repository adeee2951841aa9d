"""Checkpoints of a training: whole tensors, whichever process held which part of them.

A checkpoint is a folder ``checkpoint-<step>`` with ``state.safetensors`` (the adapter and the two
moments of AdamW) and ``trainer_state.json`` (step and learning curve). It does not depend on how
many processes wrote it.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xling.distributed.sharding import fill, whole
from xling.distributed.team import Team
from xling.folders import written_whole

if TYPE_CHECKING:
    import torch

Curve = list[dict[str, float]]
STATE = "state.safetensors"
PROGRESS = "trainer_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
KEPT = 2


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, "torch.nn.Parameter"],
    optimiser: "torch.optim.Optimizer",
    curve: Curve,
    team: Team,
) -> None:
    """Writes a checkpoint, once for all processes, and drops all but the last two.

    Args:
        folder: of the training's checkpoints.
        parameters: what is trained, by name.
        optimiser: AdamW after at least one step.
        curve: one row for each step that was done.
        team: all of its processes must call.
    """
    from safetensors.torch import save_file

    state = {}
    for name, parameter in parameters.items():
        tensors = {"weight": parameter.detach()} | {
            key: optimiser.state[parameter][key] for key in MOMENTS
        }
        for key, tensor in tensors.items():
            value = whole(tensor)
            if team.leads:
                state[f"{key}/{name}"] = value.cpu().contiguous()
    if not team.leads:
        return
    target = folder / f"checkpoint-{len(curve)}"
    shutil.rmtree(target, ignore_errors=True)  # half a checkpoint would be in the way
    with written_whole(target) as temporary:
        save_file(state, temporary / STATE)
        progress = {"global_step": len(curve), "curve": curve}
        (temporary / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    for old in sorted(folder.glob("checkpoint-*"), key=step_of)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(
    checkpoint: Path,
    parameters: Mapping[str, "torch.nn.Parameter"],
    optimiser: "torch.optim.Optimizer",
) -> Curve:
    """Puts weights and optimiser where a checkpoint left them.

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
    """The newest checkpoint that was written to its end, or None.

    Its progress is written last; a disk that failed may leave half of it.
    """
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(state["global_step"] == step_of(checkpoint)) and (checkpoint / STATE).is_file()
