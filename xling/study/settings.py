"""The sections of a study file, each checked on its own."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from xling.languages import belebele_codes, family_of, get_language
from xling.messages.values import format_name, format_value
from xling.prompts import (
    DEFAULT_ANSWER_PREFIX,
    DEFAULT_CLOZE_PREFIX,
    DEFAULT_CLOZE_TEMPLATE,
    DEFAULT_TEMPLATE,
    check_cloze_template,
    check_template,
)

Arm = Literal["base", "finetuned", "control-source", "shuffled-labels"]
Reasoning = Literal["direct", "cot"]
Scoring = Literal["answer-token", "permuted", "cloze"]
ARMS: tuple[Arm, ...] = get_args(Arm)
# What primes a model is trained as a cell of its own, and answers as the model's base.
Primer = Literal["primer"]
PRIMER: Primer = "primer"
REASONING: tuple[Reasoning, ...] = get_args(Reasoning)
SCORING: tuple[Scoring, ...] = get_args(Scoring)

NAME = r"^[A-Za-z0-9._-]*$"
# Names are parts of paths, runs and registered models, which take no more.
LONGEST_NAME = 100
# Of a base checkpoint or a developer; a store keeps no more of a parameter.
LONGEST_BASE = 500
DEFAULT_INSTRUCTION = (
    "Think step by step about the passage and the question in a few sentences, then answer."
)

# No setting is larger; what is, would fail where it is used.
LARGEST = 10**9
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# What may be known of an accuracy that has no item records: its least and most. Options are
# labelled by letters; a mean of zeros and ones has no larger error.
ACCURACY_LIMITS = {"n_items": (1, 2**63), "stderr": (0, 0.5), "n_options": (2, 26)}


class Strict(BaseModel):
    """A section of a study file: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def check_codes(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Check that codes are Belebele's, each once.

    Raises:
        ValueError: names what is not.
    """
    for code in codes:
        get_language(code)
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise ValueError(f"repeated: {', '.join(repeated)}")
    return codes


ADAPTER_FIELDS = ("study", "model", "arm", "seed", "fold")


class ServerSettings(Strict):
    """An OpenAI-compatible completions server that returns log-probabilities.

    Attributes:
        url: base address, up to and with ``/v1``; no user name, password or key in it.
        model: what the server calls the base model; empty: the only model that it serves, or the
            one named as the study's model.
        adapter: what the server calls a cell's adapter; may hold ``{study}``, ``{model}``,
            ``{arm}``, ``{seed}`` and, in a cross-fitted study, ``{fold}``. Arm, seed and fold are
            put at the end if the name does not hold them: no two cells may have the same.
        key_variable: environment variable that holds the key; it need not be set.
        concurrency: requests under way at once, at most.
        timeout: seconds that one request may take.
        retries: further tries of a request that failed for a passing reason.
        top_logprobs: likeliest tokens that are asked for at the answer.
    """

    url: str = Field(min_length=1)
    model: str = ""
    adapter: str = "{model}-{arm}-seed-{seed}"
    key_variable: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    concurrency: Count = 16
    timeout: float = Field(default=600.0, gt=0)
    retries: Whole = 6
    top_logprobs: Count = 20

    @field_validator("url")
    @classmethod
    def _address_without_a_key(cls, url: str) -> str:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            # The address is not repeated: it may hold a secret.
            raise ValueError(
                "must hold no user name, password, query or fragment: runs log the address; put "
                "the key into the environment variable that `key_variable` names"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"must begin with http:// or https:// and a host (got {format_value(url)})"
            )
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("must have a port from 0 to 65535, or none, after its host") from None
        if not parts.path.rstrip("/").endswith("/v1"):
            raise ValueError(
                f"must end in /v1, such as http://localhost:8000/v1 (got {format_value(url)})"
            )
        return url.rstrip("/")

    @field_validator("adapter")
    @classmethod
    def _adapter_placeholders(cls, adapter: str) -> str:
        valid = ", ".join(f"{{{name}}}" for name in ADAPTER_FIELDS)
        try:
            parts = list(string.Formatter().parse(adapter))
        except ValueError as error:
            raise ValueError(f"is not a format string: {error}; placeholders: {valid}") from error
        for _, name, form, how in parts:
            if name is not None and (name not in ADAPTER_FIELDS or form or how):
                raise ValueError(
                    f"{format_value(adapter)} has the placeholder {{{format_name(name)}}}; "
                    f"valid: {valid}"
                )
        if not adapter.strip():
            raise ValueError(f"must name the adapter on the server; placeholders: {valid}")
        return adapter


MOST_PRIMER_STEPS = 100_000
"""Their examples are listed before the first is trained on."""


class PrimerSettings(Strict):
    """What raises a model's baseline before anything else is done with it.

    Attributes:
        languages: that it is tuned on; outside the source's branch.
        steps: optimiser steps, of the study's batches; as many as the model needs to rise.
        items: training questions at most; 0: all that no baseline is asked.
        labels: ``true``: the right ones; ``shuffled``: the answer's form alone.
    """

    languages: tuple[str, ...] = Field(min_length=1)
    steps: int = Field(ge=1, le=MOST_PRIMER_STEPS)
    items: Whole = 0
    labels: Literal["true", "shuffled"] = "true"

    @field_validator("labels", mode="before")
    @classmethod
    def _not_a_boolean(cls, labels: object) -> object:
        return "true" if labels is True else labels  # YAML's true

    def as_params(self) -> dict[str, str | int]:
        """Return the settings as a run logs them."""
        return {**self.model_dump(), "languages": " ".join(self.languages)}

    @field_validator("languages")
    @classmethod
    def _known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        return check_codes(codes)


class ModelSettings(Strict):
    """One model of the study.

    Attributes:
        id: catalog name, Hugging Face id, or folder.
        name: what runs and tables call it; empty: from the id.
        revision: commit of a Hugging Face id.
        chat: whether prompts go through the chat template; None: as the catalog says.
        lora_modules: regular expression over module names; empty: by architecture.
        quantise: ``nf4``, or ``none`` for a model that is too small or too odd for it.
        engine: what scores it: this process, or a ``server``.
        server: which server; needed, and only allowed, with engine ``server``.
        processes: processes that train it, each with its own GPU where there are GPUs;
            0: as the catalog says.
        parallel: what they share: ``fsdp`` shards the model over them, ``ddp`` gives each all of
            it.
        training_items: training questions of this model at most; 0: all. For quick studies
            in which one model's tokens cost far more than another's.
        base: the base checkpoint that the model was made from, as the other models name it;
            empty: the model's own id. Models of one base are one unit of the analysis.
        developer: who made the base checkpoint; empty: as the catalog says.
        primed: tunes it on the task before everything else, in languages outside the source's
            branch; what that trains stays beneath every arm. None: it is taken as it is.
    """

    id: str = Field(min_length=1)
    name: str = Field(default="", pattern=NAME)
    revision: str = ""
    chat: bool | None = None
    lora_modules: str = ""
    quantise: Literal["nf4", "none"] = "nf4"
    engine: Literal["in-process", "server"] = "in-process"
    server: ServerSettings | None = None
    processes: Whole = 0
    parallel: Literal["fsdp", "ddp"] = "fsdp"
    training_items: Whole = 0
    base: str = Field(default="", max_length=LONGEST_BASE)
    developer: str = Field(default="", max_length=LONGEST_BASE)
    primed: PrimerSettings | None = None

    @field_validator("base", "developer")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if name != name.strip() or not name.isprintable():
            raise ValueError(
                f"must be a name on one line, without spaces around it (got {format_value(name)})"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"id": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _label_is_a_name(self) -> Self:
        label = self.label
        if not re.fullmatch(NAME, label) or not label.strip("._-") or len(label) > LONGEST_NAME:
            raise ValueError(
                f"id {format_value(self.id)} makes the name {format_value(label)}, which runs and "
                "the registry do not take; give the model a `name` of letters, digits, '.', '_' "
                f"and '-', at most {LONGEST_NAME} and not punctuation alone"
            )
        return self

    @field_validator("lora_modules")
    @classmethod
    def _is_a_regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"is not a regular expression ({error}): {format_value(pattern)}"
            ) from error
        return pattern

    @model_validator(mode="after")
    def _server_where_it_is_used(self) -> Self:
        if self.engine == "server" and self.server is None:
            raise ValueError("engine 'server' needs `server: {url: http://host:port/v1}`")
        if self.engine != "server" and self.server is not None:
            raise ValueError("`server` is set, but the engine is in-process; set `engine: server`")
        return self

    @property
    def label(self) -> str:
        """The name in runs, tables and the registry."""
        name = self.id.rstrip("/").rsplit("/", 1)[-1].lower()
        return self.name or (f"{name}-primed" if self.primed else name)


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
        micro_batch_size: items of one forward pass; 0: as many as some thousand tokens hold.
        learning_rate: its peak.
        warmup_steps: from zero to the peak; then linearly down to zero.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to it.
        gradient_checkpointing: less memory for more time; ``auto``: where the estimate says that
            the model does not fit otherwise.
        checkpoints: how many times a checkpoint is written in a training.
    """

    epochs: Count = 1
    batch_size: Count = 16
    micro_batch_size: Whole = 0
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: Whole = 0
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool | Literal["auto"] = "auto"
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
    cloze_template: str = DEFAULT_CLOZE_TEMPLATE
    cloze_prefix: str = DEFAULT_CLOZE_PREFIX

    @field_validator("template")
    @classmethod
    def _placeholders(cls, template: str) -> str:
        return check_template(template)

    @field_validator("cloze_prefix")
    @classmethod
    def _prefix_is_text(cls, prefix: str) -> str:
        if not prefix.strip() or prefix.endswith(" "):
            raise ValueError(
                f"must hold text, such as 'Answer:', and not end in a space, which is put before "
                f"each answer (got {format_value(prefix)})"
            )
        return prefix

    @field_validator("cloze_template")
    @classmethod
    def _cloze_placeholders(cls, template: str) -> str:
        return check_cloze_template(template)


class ReasoningSettings(Strict):
    """Chain-of-thought: what a model writes before it answers.

    Attributes:
        arms: which arms reason.
        instruction: asks for it, after the question.
        max_tokens: most tokens of a reasoning; one that fills them is cut, scored and flagged.
        temperature: 0: greedy.
        top_p: share of the probability that is sampled from.
        seed: of the sampling.
    """

    arms: tuple[Arm, ...] = Field(default=("base",), min_length=1)
    instruction: str = Field(default=DEFAULT_INSTRUCTION, min_length=1)
    max_tokens: Count = 256
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: Seed = 0

    @field_validator("instruction")
    @classmethod
    def _asks_something(cls, instruction: str) -> str:
        if not instruction.strip():
            raise ValueError("must not be blank: it asks the model to reason")
        return instruction


class ScoringSettings(Strict):
    """How prompts are batched, and which option orders are averaged over.

    Attributes:
        batch_tokens: padded tokens of one batch at most; fewer where memory is short, and on a
            CPU, where large tensors are slow. It decides the last digits of log-probabilities.
        orders: of scoring ``permuted``: the four ``cyclic`` ones, or ``all`` 24.
    """

    batch_tokens: Count = 16384
    orders: Literal["cyclic", "all"] = "cyclic"


def per_process(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Count the examples of one forward pass of one process.

    Args:
        batch_size: examples of one optimiser step, of all processes together.
        micro_batch_size: what was asked for; 0: as many as a process's share of the step.
        processes: how many share a step.

    Raises:
        ValueError: they cannot share a step equally; says what would fit.
    """
    whole, micro = batch_size, micro_batch_size
    share = micro or whole // processes
    if share and whole % (share * processes) == 0:
        return share
    fitting = [count for count in range(1, whole + 1) if whole % (count * (micro or 1)) == 0]
    each = f"micro_batch_size {micro} × " if micro else ""
    raise ValueError(
        f"batch_size {whole} cannot be shared equally: {each}{processes} processes do not divide "
        f"it; with these sizes {', '.join(map(str, fitting))} processes would, or take a "
        f"batch_size that is a multiple of {(micro or 1) * processes}"
    )


class LanguageSettings(Strict):
    """Source and target languages, as Belebele codes.

    Attributes:
        source: trained on; their own held-out items are reported apart.
        target: tested on, or ``all`` for every Belebele language.
        branch: branch of the family tree (name or glottocode) that makes a target
            ``related``; each source language must belong to it.
        control_source: what the arm ``control-source`` is trained on instead: languages outside
            the branch. Several take turns, so that each question is trained on as many times
            as in `source`.
    """

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] | Literal["all"]
    branch: str = Field(min_length=1)
    control_source: tuple[str, ...] = ()

    @field_validator("target", mode="before")
    @classmethod
    def _all_or_codes(cls, value: object) -> object:
        # Else pydantic reports one problem once for each type that the value could have had.
        if value == "all" or (
            isinstance(value, tuple) and all(isinstance(code, str) for code in value)
        ):
            return value
        raise ValueError(f"must be 'all' or a list of language codes (got {format_value(value)})")

    @field_validator("source", "target", "control_source")
    @classmethod
    def _known(cls, codes: tuple[str, ...] | str, info: ValidationInfo) -> tuple[str, ...] | str:
        if isinstance(codes, str):
            return codes
        if not codes and info.field_name != "control_source":
            raise ValueError("must not be empty; name Belebele codes, or 'all'")
        return check_codes(codes)

    @model_validator(mode="after")
    def _branch_holds_sources(self) -> Self:
        family_of(self.source[0], source_languages=self.source, branch=self.branch)
        self.check_outside(self.control_source, "control_source")
        return self

    def check_outside(self, codes: Sequence[str], key: str) -> None:
        """Check that languages are outside the source's branch.

        Args:
            codes: of Belebele languages.
            key: that names them, for the message.

        Raises:
            ValueError: names one that is not, and some that are.
        """
        for code in codes:
            family = self.family(code)
            if family != "control":
                what = "a source language" if family == "source" else "related to the source"
                outside = [
                    other
                    for other in (*self.evaluated, *belebele_codes())
                    if self.family(other) == "control"
                ]
                raise ValueError(
                    f"{key} {code} is {what} (branch {self.branch}); name languages "
                    f"outside the branch, such as {', '.join(outside[:4])}"
                )

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Source languages, then the target languages that are not among them."""
        targets = belebele_codes() if self.target == "all" else self.target
        return self.source + tuple(code for code in targets if code not in self.source)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The evaluated languages, then those of the control source that are not among them."""
        return self.evaluated + tuple(c for c in self.control_source if c not in self.evaluated)

    def family(self, code: str) -> str:
        """Return ``source``, ``related`` or ``control``, for any Belebele language."""
        return family_of(code, source_languages=self.source, branch=self.branch)

    @property
    def families(self) -> dict[str, str]:
        """``source``, ``related`` or ``control`` for each evaluated language."""
        return {code: self.family(code) for code in self.evaluated}


Execution = Literal["local", "ray"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)

# Forms of results that were made elsewhere.
IMPORT_FORMATS = ("auto", "csv", "lm-eval")
