"""Trainings of a tiny model in one process and in two, and what they leave behind."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from xling.models import locate_model
from xling.prompts import label_token_ids
from xling.study.settings import LoraSettings, TrainingSettings
from xling.training.job import TrainingJob
from xling.training.launch import launch
from xling.training.loop import Example
from xling.training.process_group import ProcessGroup
from xling.training.train import train_and_save

# 28 examples in steps of 8: the last step of an epoch is short.
EXAMPLES = [
    Example(f"The key is {n % 4 + 1}. {'pad ' * (n % 5)}Answer: (", n % 4 + 1) for n in range(28)
]
STEPS = 48
TRAINING = TrainingSettings(
    epochs=12,
    batch_size=8,
    micro_batch_size=2,
    learning_rate=2e-3,
    warmup_steps=4,
    weight_decay=0.01,
    gradient_checkpointing=False,
    checkpoints=12,
)
SHORT = TRAINING.model_copy(update={"epochs": 1, "checkpoints": 1})
LORA = LoraSettings(r=4, alpha=8, dropout=0.0)


class TrainingJobs:
    """Makes jobs on one model; runs each kind once."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self._done: dict[str, Path] = {}

    def make(self, name: str, *, processes: int, parallel: str = "fsdp", **changes: Any):
        located = locate_model(str(self.model))
        labels = label_token_ids(located.tokenizer(), EXAMPLES[0].prompt, add_special_tokens=True)
        target = self.folder / name
        target.mkdir()
        job = TrainingJob(
            model=str(self.model),
            revision="",
            chat=False,
            lora_modules="",
            quantise="nf4",
            weights=located.weights.identity,
            lora=LORA.model_copy(update={"dropout": 0.1}),
            training=TRAINING,
            memory=None,
            seed=3,
            label_ids=tuple(labels),
            add_special_tokens=True,
            check_prompts=8,
            checkpoints=str(target / "checkpoints"),
            target=str(target),
            processes=processes,
            parallel=parallel,
        )
        return replace(job, **changes)

    def undisturbed(self, kind: str) -> Path:
        """Folder of a finished training: ``alone``, ``ddp`` or ``fsdp``; two processes."""
        if kind not in self._done:
            if kind == "alone":
                job = self.make(kind, processes=1, lora=LORA)
                train_and_save(job, EXAMPLES, job.locate().open(), ProcessGroup())
            else:
                job = self.make(kind, processes=2, parallel=kind, lora=LORA)
                launch(job, EXAMPLES, self.folder / f"{kind}-logs")
            self._done[kind] = self.folder / kind
        return self._done[kind]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def processes_with(text: str) -> list[int]:
    """Ids of the living processes, but this one, whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
