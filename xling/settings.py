"""The sections of a study file, each checked on its own."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from xling.data import BELEBELE
from xling.languages import belebele_codes, family_of, get_language
from xling.prompts import DEFAULT_ANSWER_PREFIX, DEFAULT_TEMPLATE, check_template

Arm = Literal["base", "finetuned"]
Reasoning = Literal["direct"]
Scoring = Literal["answer-token"]
ARMS: tuple[Arm, ...] = ("base", "finetuned")
REASONING: tuple[Reasoning, ...] = ("direct",)
SCORING: tuple[Scoring, ...] = ("answer-token",)

NAME = r"^[A-Za-z0-9._-]*$"

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Strict(BaseModel):
    """A section of a study file: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSettings(Strict):
    """One model of the study.

    Attributes:
        id: catalog name, Hugging Face id, or folder.
        name: what runs and tables call it; empty: from the id.
        revision: commit of a Hugging Face id.
        chat: whether prompts go through the chat template; None: as the catalog says.
        lora_modules: regular expression over module names; empty: by architecture.
        quantise: ``nf4``, or ``none`` for a model that is too small or too odd for it.
        engine: what scores it.
        training_items: training questions of this model at most; 0: all. For quick studies
            in which one model's tokens cost far more than another's.
    """

    id: str = Field(min_length=1)
    name: str = Field(default="", pattern=NAME)
    revision: str = ""
    chat: bool | None = None
    lora_modules: str = ""
    quantise: Literal["nf4", "none"] = "nf4"
    engine: Literal["in-process"] = "in-process"
    training_items: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"id": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _label_is_a_name(self) -> Self:
        if not re.fullmatch(NAME, self.label):
            raise ValueError(
                f"id {self.id!r} makes the name {self.label!r}, which runs and the registry do not "
                "take; give the model a `name` of letters, digits, '.', '_' and '-'"
            )
        return self

    @property
    def label(self) -> str:
        """The name in runs, tables and the registry."""
        return self.name or self.id.rstrip("/").rsplit("/", 1)[-1].lower()


class DataSettings(Strict):
    """The questions, and how they are split.

    Attributes:
        source: ``hub`` (a Hugging Face data set), ``folder`` (of ``<code>.jsonl``) or ``mini``.
        path: the folder.
        repository: the hub's data set.
        revision: commit of the repository; empty: the pinned one of Belebele.
        difficulties: of the mini set.
        split: by ``question`` (as published), by ``passage``, or as ``given`` in the rows.
        held_out: questions held out in each language.
        seed: of the split, and of the mini set.
        baseline_items: training-split questions that the base model also answers in each
            language, for a baseline that shares no item with the gains.
    """

    source: Literal["hub", "folder", "mini"]
    path: str = ""
    repository: str = BELEBELE
    revision: str = ""
    difficulties: tuple[Annotated[int, Field(ge=1, le=3)], ...] = Field(
        default=(1, 2, 3), min_length=1
    )
    split: Literal["question", "passage", "given"] = "question"
    held_out: Count = 100
    seed: Seed = 0
    baseline_items: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == "folder" and not self.path:
            raise ValueError("data.path is needed when data.source is 'folder'")
        return self


class LanguageSettings(Strict):
    """Source and target languages, as Belebele codes.

    Attributes:
        source: trained on; their own held-out items are reported apart.
        target: tested on, or ``all`` for every Belebele language.
        branch: branch of the family tree (name or glottocode) that makes a target
            ``related``; each source language must belong to it.
    """

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] | Literal["all"]
    branch: str = Field(min_length=1)

    @field_validator("target", mode="before")
    @classmethod
    def _all_or_codes(cls, value: object) -> object:
        # Else pydantic reports one problem once for each type that the value could have had.
        if value == "all" or (
            isinstance(value, tuple) and all(isinstance(code, str) for code in value)
        ):
            return value
        raise ValueError(f"must be 'all' or a list of language codes (got {value!r:.80})")

    @field_validator("source", "target")
    @classmethod
    def _known(cls, codes: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if isinstance(codes, str):
            return codes
        if not codes:
            raise ValueError("must not be empty; name Belebele codes, or 'all'")
        for code in codes:
            get_language(code)
        repeated = sorted({code for code in codes if codes.count(code) > 1})
        if repeated:
            raise ValueError(f"repeated: {', '.join(repeated)}")
        return codes

    @model_validator(mode="after")
    def _branch_holds_sources(self) -> Self:
        family_of(self.source[0], source_languages=self.source, branch=self.branch)
        return self

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Source languages, then the target languages that are not among them."""
        targets = belebele_codes() if self.target == "all" else self.target
        return self.source + tuple(code for code in targets if code not in self.source)

    def family(self, code: str) -> str:
        """``source``, ``related`` or ``control``, for any Belebele language."""
        return family_of(code, source_languages=self.source, branch=self.branch)

    @property
    def families(self) -> dict[str, str]:
        """``source``, ``related`` or ``control`` for each evaluated language."""
        return {code: self.family(code) for code in self.evaluated}


class LoraSettings(Strict):
    """The adapter: rank, scale (alpha / r) and dropout."""

    r: Count = 16
    alpha: Count = 32
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainingSettings(Strict):
    """The optimiser, one recipe for all models.

    Attributes:
        epochs: passes over the training items.
        batch_size: items of one optimiser step.
        micro_batch_size: items of one forward pass; 0: as `batch_size`.
        learning_rate: its peak.
        warmup_steps: from zero to the peak; then linearly down to zero.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to it.
        gradient_checkpointing: less memory for more time.
        checkpoints: how many times a checkpoint is written in a training.
    """

    epochs: Count = 1
    batch_size: Count = 16
    micro_batch_size: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool = False
    checkpoints: Count = 4

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide "
                f"batch_size {self.batch_size}"
            )
        return self


class PromptSettings(Strict):
    """The prompt's text; `xling.prompts` says what the placeholders are."""

    template: str = DEFAULT_TEMPLATE
    answer_prefix: str = DEFAULT_ANSWER_PREFIX

    @field_validator("template")
    @classmethod
    def _placeholders(cls, template: str) -> str:
        return check_template(template)


class ScoringSettings(Strict):
    """How prompts are batched; it decides the last digits of log-probabilities."""

    batch_tokens: Count = 4096
