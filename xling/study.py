"""What a study file may say, and the cells that it makes."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xling.data import BELEBELE
from xling.languages import belebele_codes, family_of, get_language
from xling.prompts import DEFAULT_ANSWER_PREFIX, DEFAULT_TEMPLATE, check_template

Arm = Literal["base", "finetuned"]
Reasoning = Literal["direct"]
Scoring = Literal["answer-token"]
ARMS: tuple[Arm, ...] = ("base", "finetuned")
REASONING: tuple[Reasoning, ...] = ("direct",)
SCORING: tuple[Scoring, ...] = ("answer-token",)

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
    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
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
    difficulties: tuple[Annotated[int, Field(ge=1, le=3)], ...] = (1, 2, 3)
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


def study_names() -> tuple[str, ...]:
    """Names of the studies that come with the package."""
    folder = files("xling").joinpath("studies")
    return tuple(
        sorted(
            path.name.removesuffix(".yaml")
            for path in folder.iterdir()
            if path.name.endswith(".yaml")
        )
    )


def load_study(study: str) -> Study:
    """Reads a study by its name, or a study file by its path.

    Raises:
        ValueError: no such study, not YAML, or not valid; one line for each wrong key with its
            valid values.
    """
    path = Path(study)
    if study in study_names():
        text = files("xling").joinpath("studies", f"{study}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{study} is not UTF-8 text ({error}); save it as UTF-8") from error
    else:
        close = difflib.get_close_matches(study, study_names(), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown study {study!r}.{hint} Valid: {', '.join(study_names())}, "
            "or the path of a .yaml file"
        )
    return parse_study(text, where=study)


def parse_study(text: str, *, where: str) -> Study:
    """Reads the text of a study file.

    Args:
        text: YAML.
        where: the file's name, for messages.

    Raises:
        ValueError: as `load_study`.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no settings; see xling/studies/demo.yaml for the form")
    try:
        return Study.model_validate(_tuples(content)).model_copy(update={"origin": where})
    except ValidationError as error:
        raise ValueError(f"{where} is not a valid study:\n{_explain(error)}") from error


def _tuples(value: Any) -> Any:
    """YAML's lists as the tuples that strict validation asks for."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _explain(error: ValidationError) -> str:
    """One line for each problem: the key, what is wrong and what is valid."""
    lines = []
    for problem in error.errors(include_url=False):
        location, got = problem["loc"], f" (got {problem['input']!r:.80})"
        match problem["type"]:
            case "extra_forbidden":
                message = f"unknown key; valid: {', '.join(_keys(_section(location[:-1])))}"
            case "missing":
                field = _section(location[:-1]).model_fields[str(location[-1])]
                values = ", ".join(repr(value) for value in get_args(field.annotation))
                is_choice = get_origin(field.annotation) is Literal
                message = f"missing; valid: {values}" if is_choice else "missing"
            case "model_type":
                message = f"must hold keys of {', '.join(_keys(_section(location)))}{got}"
            case "too_short" if problem["input"]:
                continue  # only because a value in the list is wrong, which has its own line
            case "too_short":
                message = "must not be empty"
            case "tuple_type":
                message = f"must be a list, such as [a, b]{got}"
            case "float_type" if isinstance(problem["input"], str):
                message = f"must be a number; YAML takes 5.0e-4 for one, but not 5e-4{got}"
            case "value_error":
                message = problem["msg"].removeprefix("Value error, ")
            case _:
                message = problem["msg"] + got
        lines.append(f"  {'.'.join(map(str, location)) or 'study'}: {message}")
    return "\n".join(lines)


def _section(location: tuple[int | str, ...]) -> type[Strict]:
    sections: dict[str, type[Strict]] = {
        "models": ModelSettings,
        "data": DataSettings,
        "languages": LanguageSettings,
        "lora": LoraSettings,
        "training": TrainingSettings,
        "prompt": PromptSettings,
        "scoring": ScoringSettings,
    }
    return sections.get(str(location[0]), Study) if location else Study


def _keys(section: type[Strict]) -> list[str]:
    return [name for name, field in section.model_fields.items() if not field.exclude]
