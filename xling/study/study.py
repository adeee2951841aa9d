"""A study: its settings as a whole, and the cells that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import yaml
from pydantic import Field, model_validator

from xling.languages import family_of
from xling.messages.values import format_value
from xling.models.catalog import catalog
from xling.study.analysis_settings import AnalysisSettings
from xling.study.data_settings import DataSettings
from xling.study.settings import (
    ARMS,
    PRIMER,
    REASONING,
    SCORING,
    Arm,
    LanguageSettings,
    LoraSettings,
    ModelSettings,
    Primer,
    PrimerSettings,
    PromptSettings,
    Reasoning,
    ReasoningSettings,
    Scoring,
    ScoringSettings,
    Seed,
    Strict,
    TrainingSettings,
    per_process,
)

NEXT_LINE = "\x85"

# It comes before a model's name in the registry, which takes 256 characters.
LONGEST_STUDY_NAME = 150


@dataclass(frozen=True)
class Cell:
    """One unit of work: a model in an arm with a seed."""

    model: ModelSettings
    arm: Arm | Primer
    seed: int
    reasoning: Reasoning = "direct"
    scoring: Scoring = "answer-token"

    @property
    def adapter_name(self) -> str:
        """Name of what is trained, such as ``gemma3-270m/finetuned/seed-0``."""
        return f"{self.model.label}/{self.arm}/seed-{self.seed}"

    @property
    def name(self) -> str:
        """Short name for runs and messages, such as ``gemma3-270m/base/seed-0/cot``."""
        usual = ("direct", "answer-token")
        unusual = [word for word in (self.reasoning, self.scoring) if word not in usual]
        return "/".join([self.adapter_name, *unusual])


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
        reasoning: ``direct``, ``cot`` (chain-of-thought).
        scoring_modes: ``answer-token``, ``permuted`` (averaged over option orders), ``cloze``.
        seeds: of training; each makes a cell.
        chain_of_thought: how ``cot`` is done, and by which arms.
        lora: the adapter.
        training: the optimiser.
        prompt: the text.
        scoring: how prompts are batched.
        analysis: what is settled of the analysis before there are results; None: nothing.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=LONGEST_STUDY_NAME)
    origin: str = Field(default="", exclude=True)
    description: str = ""
    models: tuple[ModelSettings, ...] = Field(min_length=1)
    data: DataSettings
    languages: LanguageSettings
    arms: tuple[Arm, ...] = Field(default=("base", "finetuned"), min_length=1)
    reasoning: tuple[Reasoning, ...] = Field(default=("direct",), min_length=1)
    scoring_modes: tuple[Scoring, ...] = Field(default=("answer-token",), min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    prompt: PromptSettings = PromptSettings()
    chain_of_thought: ReasoningSettings = ReasoningSettings()
    scoring: ScoringSettings = ScoringSettings()
    analysis: AnalysisSettings | None = None

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

    @model_validator(mode="after")
    def _arms_have_what_they_need(self) -> Self:
        if "control-source" in self.arms and not self.languages.control_source:
            raise ValueError(
                "arm control-source needs languages.control_source: languages outside the branch "
                f"{self.languages.branch} to train on"
            )
        if self.languages.control_source and "control-source" not in self.arms:
            raise ValueError(
                "languages.control_source is set, but arms lacks 'control-source'; add the arm, "
                "or leave the languages out"
            )
        if "cot" in self.reasoning:
            absent = [arm for arm in self.chain_of_thought.arms if arm not in self.arms]
            if absent:
                raise ValueError(
                    f"chain_of_thought.arms names {', '.join(absent)}, which arms lacks; "
                    f"valid: {', '.join(self.arms)}"
                )
            if "answer-token" not in self.scoring_modes:
                raise ValueError(
                    "reasoning cot needs scoring mode 'answer-token': a reasoning is followed by "
                    "the answer's label"
                )
        return self

    @model_validator(mode="after")
    def _processes_share_each_step(self) -> Self:
        sizes = self.training.batch_size, self.training.micro_batch_size
        for model in self.models:
            if model.processes > 1 and self.arms != ("base",):
                try:
                    per_process(*sizes, model.processes)
                except ValueError as error:
                    raise ValueError(f"model {model.label}: {error}") from error
        return self

    @model_validator(mode="after")
    def _primed_models(self) -> Self:
        """Check that what primes a model can be told apart from what is studied."""
        for model in self.models:
            if model.primed is None:
                continue
            key = f"model {model.label}: primed"
            self.languages.check_outside(model.primed.languages, f"{key}.languages")
            if self.data.split == "cross-fit":
                raise ValueError(
                    f"{key} does not go with split cross-fit: every question is held out in some "
                    "fold, so that the primer would have seen it; use split question or passage"
                )
            if model.primed.steps <= self.training.warmup_steps:
                raise ValueError(
                    f"{key}.steps {model.primed.steps} end within the warm-up of "
                    f"{self.training.warmup_steps} (training.warmup_steps): take more steps"
                )
            if self.unprimed(model) is None:
                raise ValueError(
                    f"{key}, but the study lacks the same model without it, from which its rise is "
                    f"measured: {self._how_to_pair(model)}"
                )
        return self

    @model_validator(mode="after")
    def _every_arm_and_scoring_has_cells(self) -> Self:
        cells = self.cells()
        run = {cell.arm for cell in cells} | {cell.scoring for cell in cells}
        idle = [name for name in (*self.arms, *self.scoring_modes) if name not in run]
        if idle:
            raise ValueError(
                f"nothing would be run for {', '.join(idle)}: chain-of-thought is for the arms of "
                "chain_of_thought.arms, with scoring answer-token; add 'direct' to reasoning"
            )
        return self

    @model_validator(mode="after")
    def _analysis_fits(self) -> Self:
        """Check that the registered arm is there, and that its branch parts the languages."""
        if self.analysis is None:
            return self
        if self.analysis.arm not in self.arms:
            raise ValueError(
                f"analysis.arm is {self.analysis.arm}, which arms lacks; add it to arms, or leave "
                "the section analysis out"
            )
        branch, source = self.analysis.branch, self.languages.source
        if branch:
            try:
                families = {
                    code: family_of(code, source_languages=source, branch=branch)
                    for code in (*source, *self.languages.control_source)
                }
            except ValueError as error:
                raise ValueError(f"analysis.branch: {error}") from error
            inside = [code for code, family in families.items() if family == "related"]
            if inside:
                raise ValueError(
                    f"analysis.branch {branch} holds {', '.join(inside)} of "
                    "languages.control_source; name a branch without them, or other languages "
                    "there"
                )
        return self

    @property
    def planned_analysis(self) -> AnalysisSettings:
        """The section `analysis`, or its defaults, with the branch spelled out."""
        planned = self.analysis or AnalysisSettings()
        return planned.model_copy(update={"branch": planned.branch or self.languages.branch})

    @property
    def analysis_sha256(self) -> str:
        """Hash of what the section `analysis` settles; empty where there is none."""
        return self.planned_analysis.sha256 if self.analysis else ""

    @property
    def analysis_tags(self) -> dict[str, str]:
        """The tag of a study's run that registers the section `analysis`; none without one."""
        return {"analysis_hash": self.analysis_sha256} if self.analysis else {}

    @property
    def bases(self) -> dict[str, str]:
        """The base checkpoint of each model, by label: what the file says, else the model's id.

        A base that is named as the study names one of its models is that model's id.
        """
        ids = {model.label: model.id for model in self.models}
        return {model.label: ids.get(model.base, model.base) or model.id for model in self.models}

    def find_model(self, name: str) -> ModelSettings:
        """Find the model of that name or id; the first one if the name is empty.

        Raises:
            ValueError: lists the study's models.
        """
        if not name:
            return self.models[0]
        for model in self.models:
            if name in (model.label, model.id):
                return model
        raise ValueError(
            f"study {self.name!r} has no model {format_value(name)}; "
            f"valid: {', '.join(model.label for model in self.models)}"
        )

    def only_models(self, names: Sequence[str]) -> Study:
        """Return the same study with some of its models, in the study's order.

        Raises:
            ValueError: a name is not in the study.
        """
        chosen = {self.find_model(name).label for name in names}
        kept = tuple(model for model in self.models if model.label in chosen)
        return self.model_copy(update={"models": kept})

    def with_folder(self, path: str) -> Study:
        """Return the same study on the questions of a folder; an empty path changes nothing."""
        if not path:
            return self
        data = self.data.model_copy(update={"source": "folder", "path": path, "revision": ""})
        return self.model_copy(update={"data": data})

    def unprimed(self, model: ModelSettings) -> ModelSettings | None:
        """Find the model that a primed one was before; None: the study lacks it."""
        named = {"primed", "name"}
        before = model.model_dump(exclude=named)
        return next(
            (m for m in self.models if not m.primed and m.model_dump(exclude=named) == before),
            None,
        )

    def _how_to_pair(self, primed: ModelSettings) -> str:
        """Say what a primed model's pair lacks, which the study has or has not."""
        settings = primed.model_dump(exclude={"primed", "name"})
        for model in self.models:
            if model.id == primed.id and not model.primed:
                other = model.model_dump(include=set(settings))
                keys = [key for key, value in settings.items() if other[key] != value]
                return f"model {model.label} has another {', '.join(keys)}; give both the same"
        return f"add {primed.id} to models, with the same settings but `primed`"

    def find_primer(self, model: ModelSettings) -> PrimerSettings:
        """Return what primes a model.

        Raises:
            ValueError: it is not primed; lists those that are.
        """
        if model.primed is None:
            primed = [each.label for each in self.models if each.primed]
            raise ValueError(
                f"model {model.label} of study {self.name!r} is not primed, so it has no primer; "
                f"primed: {', '.join(primed) or 'none'}"
            )
        return model.primed

    def primer_cell(self, model: ModelSettings) -> Cell:
        """Return what is trained to prime a model, once for all of its cells.

        Raises:
            ValueError: the model is not primed.
        """
        self.find_primer(model)
        return Cell(model, PRIMER, self.seeds[0])

    @property
    def loaded_languages(self) -> tuple[str, ...]:
        """The evaluated languages, then the others that anything is trained on."""
        primed = [code for model in self.models if model.primed for code in model.primed.languages]
        return tuple(dict.fromkeys([*self.languages.loaded, *primed]))

    def trained_languages(self, cell: Cell) -> tuple[str, ...]:
        """Return what a cell is trained on; the base arm goes with the source languages.

        What primed its model is not part of it.
        """
        if cell.arm == PRIMER:
            return self.find_primer(cell.model).languages
        languages = self.languages
        return languages.control_source if cell.arm == "control-source" else languages.source

    def cells(self) -> tuple[Cell, ...]:
        """List all cells by model and arm: the base arm first, and once, as it has no seed.

        Chain-of-thought is for the arms that `chain_of_thought` names, and is followed by the
        answer's label only.
        """
        return tuple(
            Cell(model, arm, seed, reasoning, scoring)
            for model in self.models
            for arm in sorted(self.arms, key=ARMS.index)
            for seed in (self.seeds if arm != "base" else self.seeds[:1])
            for reasoning in sorted(self.reasoning, key=REASONING.index)
            for scoring in sorted(self.scoring_modes, key=SCORING.index)
            if reasoning == "direct"
            or (arm in self.chain_of_thought.arms and scoring == "answer-token")
        )

    def to_yaml(self) -> str:
        """Write the resolved study, with every default."""
        content = self.model_dump(mode="json")
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if NEXT_LINE not in text:
            return text
        # PyYAML writes this character so that it is read as a space; escaped, it stays what it is.
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=False)


def developer_of(base: str) -> str:
    """Return who made a base checkpoint, by its name or id in the catalog; empty: not known."""
    recipes = catalog()
    by_id = {recipe.repository: recipe for recipe in recipes.values() if recipe.repository}
    recipe = recipes.get(base) or by_id.get(base)
    return recipe.developer if recipe else ""
