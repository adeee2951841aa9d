"""How many processes train a model, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xling.training.job import TrainingJob
from xling.training.launch import launch
from xling.training.loop import Example
from xling.training.process_group import environment_size
from xling.training.torchrun import current_lead


def processes_for(asked: int, *, usual: int) -> int:
    """Decide how many processes train a model.

    Args:
        asked: by the study; 0: as the catalog says.
        usual: that the catalog names for the model, each with a GPU.

    Returns:
        As many as torchrun started; else as asked; else as the catalog names, if this machine has
        so many GPUs; else 1.

    Raises:
        ValueError: the study asks for another number than torchrun started.
    """
    started = environment_size()
    if started > 1:
        if asked not in (0, started):
            raise ValueError(
                f"the study trains this model in {asked} processes, but torchrun started "
                f"{started}; start as many, or set `processes: 0`"
            )
        return started
    return asked or (usual if 1 < usual <= _gpus_here() else 1)


def train_together(job: TrainingJob, examples: Sequence[Example], folder: Path) -> None:
    """Train over several processes: those that torchrun started, or new ones.

    Args:
        job: what they do.
        examples: what they train on.
        folder: gets the job and the processes' logs; every process must see it.

    Raises:
        RuntimeError: a process failed; names it, its reason and where the logs are.
    """
    lead = current_lead()
    if lead is not None:
        lead.train(job, examples, folder)
        return
    if environment_size() > 1:
        raise ValueError(
            "this command was started by torchrun, but does not share its processes; start it "
            "alone and set `processes` on the model, or use `-m entrypoints.finetune`"
        )
    launch(job, examples, folder)


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
