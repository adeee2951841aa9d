"""A training as a file tells other processes of it, with its prompts in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from xling.models import ModelFiles, locate_model
from xling.models.loaded import Quantise
from xling.study.settings import LoraSettings, TrainingSettings
from xling.training.batching import MemoryUse
from xling.training.loop import Example
from xling.training.process_group import Parallel

EXAMPLES = "examples.json"


@dataclass(frozen=True)
class TrainingJob:
    """All that decides a training.

    Attributes:
        model: catalog name, Hugging Face id or folder.
        revision: of a Hugging Face id.
        chat: whether prompts went through the chat template.
        lora_modules: pattern of the modules to adapt; empty: by architecture.
        quantise: ``nf4`` or ``none``.
        weights: identity that the weights must have.
        lora: of the study.
        training: of the study.
        memory: how it uses memory; None: as `xling.training.loop.train_adapter` decides.
        seed: of the adapter's first weights, of the order of examples and of dropout.
        label_ids: token id of each label.
        add_special_tokens: as in scoring.
        check_prompts: how many of the first prompts are scored after the training.
        checkpoints: folder; every process must see it.
        target: folder that gets the adapter and its reports; every process must see it.
        processes: how many train together.
        parallel: ``fsdp`` or ``ddp``.
        primer: folder of a saved adapter that stays frozen beneath the new one; empty: none.
    """

    model: str
    revision: str
    chat: bool
    lora_modules: str
    quantise: Quantise
    weights: str
    lora: LoraSettings
    training: TrainingSettings
    memory: MemoryUse | None
    seed: int
    label_ids: tuple[int, ...]
    add_special_tokens: bool
    check_prompts: int
    checkpoints: str
    target: str
    processes: int = 1
    parallel: Parallel = "fsdp"
    primer: str = ""

    def locate(self) -> ModelFiles:
        """Find the weights on this machine.

        Raises:
            ValueError: there are none, or others than expected.
        """
        return locate_model(
            self.model,
            revision=self.revision,
            chat=self.chat,
            lora_modules=self.lora_modules,
            quantise=self.quantise,
            expected_identity=self.weights,
        )


def write_job(job: TrainingJob, examples: Sequence[Example], path: Path) -> None:
    """Write a job to a file, and its examples beside it."""
    rows = [[example.prompt, example.gold] for example in examples]
    path.with_name(EXAMPLES).write_text(json.dumps(rows), encoding="utf-8")
    path.write_bytes(TypeAdapter(TrainingJob).dump_json(job, indent=1))


def read_job(path: Path) -> tuple[TrainingJob, list[Example]]:
    """Read what `write_job` wrote."""
    job = TypeAdapter(TrainingJob).validate_json(path.read_bytes())
    rows = json.loads(path.with_name(EXAMPLES).read_text(encoding="utf-8"))
    return job, [Example(prompt, gold) for prompt, gold in rows]
