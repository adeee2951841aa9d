"""A study: its settings as a whole, and the cells that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import yaml
from pydantic import Field, model_validator

from xling.settings import (
    ARMS,
    REASONING,
    SCORING,
    Arm,
    DataSettings,
    LanguageSettings,
    LoraSettings,
    ModelSettings,
    PromptSettings,
    Reasoning,
    Scoring,
    ScoringSettings,
    Seed,
    Strict,
    TrainingSettings,
)


@dataclass(frozen=True)
class Cell:
    """One unit of work: a model in an arm with a seed."""

    model: ModelSettings
    arm: Arm
    seed: int
    reasoning: Reasoning = "direct"
    scoring: Scoring = "answer-token"

    @property
    def name(self) -> str:
        """Short name for runs and messages, such as ``gemma3-270m/finetuned/seed-0``."""
        return f"{self.model.label}/{self.arm}/seed-{self.seed}"


class Study(Strict):
    """A whole study file.

    Attributes:
        name: what runs are tagged with.
        origin: the name or path that the study was read from; not part of the file.
        description: for readers.
        models: to fine-tune and score.
        data: the questions and their split.
        languages: source and target.
        arms: ``base`` and what it is compared with.
        reasoning: ``direct``.
        scoring_modes: ``answer-token``.
        seeds: of training; each makes a cell.
        lora: the adapter.
        training: the optimiser.
        prompt: the text.
        scoring: how prompts are batched.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    origin: str = Field(default="", exclude=True)
    description: str = ""
    models: tuple[ModelSettings, ...] = Field(min_length=1)
    data: DataSettings
    languages: LanguageSettings
    arms: tuple[Arm, ...] = Field(default=ARMS, min_length=1)
    reasoning: tuple[Reasoning, ...] = Field(default=REASONING, min_length=1)
    scoring_modes: tuple[Scoring, ...] = Field(default=SCORING, min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    prompt: PromptSettings = PromptSettings()
    scoring: ScoringSettings = ScoringSettings()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        labels = [model.label for model in self.models]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(f"models share the name {', '.join(repeated)}; give each a `name`")
        for key in ("arms", "reasoning", "scoring_modes", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} repeats a value: {', '.join(map(str, values))}")
        if "base" not in self.arms:
            raise ValueError("arms must hold 'base': every gain is measured from it")
        return self

    def find_model(self, name: str) -> ModelSettings:
        """The model of that name or id; the first one if the name is empty.

        Raises:
            ValueError: lists the study's models.
        """
        if not name:
            return self.models[0]
        for model in self.models:
            if name in (model.label, model.id):
                return model
        raise ValueError(
            f"study {self.name!r} has no model {name!r}; "
            f"valid: {', '.join(model.label for model in self.models)}"
        )

    def only_models(self, names: Sequence[str]) -> "Study":
        """The same study with some of its models, in the study's order.

        Raises:
            ValueError: a name is not in the study.
        """
        chosen = {self.find_model(name).label for name in names}
        kept = tuple(model for model in self.models if model.label in chosen)
        return self.model_copy(update={"models": kept})

    def with_folder(self, path: str) -> "Study":
        """The same study on the questions of a folder; an empty path changes nothing."""
        if not path:
            return self
        data = self.data.model_copy(update={"source": "folder", "path": path, "revision": ""})
        return self.model_copy(update={"data": data})

    def cells(self) -> tuple[Cell, ...]:
        """All cells: by model, the base arm first; the base arm once, as it has no seed."""
        return tuple(
            Cell(model, arm, seed, reasoning, scoring)
            for model in self.models
            for reasoning in self.reasoning
            for scoring in self.scoring_modes
            for arm in sorted(self.arms, key=ARMS.index)
            for seed in (self.seeds if arm != "base" else self.seeds[:1])
        )

    def to_yaml(self) -> str:
        """The resolved study, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
