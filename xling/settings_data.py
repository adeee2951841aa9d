"""The sections of a study file that say which questions, in which languages."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from xling.data import BELEBELE
from xling.languages import belebele_codes, family_of, get_language
from xling.messages.values import shown
from xling.settings import LARGEST, Count, Seed, Strict, Whole


class DataSettings(Strict):
    """The questions, and how they are split.

    Attributes:
        source: ``hub`` (a Hugging Face data set), ``folder`` (of ``<code>.jsonl``) or ``mini``.
        path: the folder.
        repository: the hub's data set.
        revision: commit of the repository; empty: the pinned one of Belebele.
        difficulties: of the mini set.
        split: by ``question`` (as published), by ``passage``, as ``given`` in the rows, or
            ``cross-fit``: every question is held out once, by passage, with an adapter a fold.
        held_out: questions held out in each language; not used by ``cross-fit``.
        folds: of ``cross-fit``.
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
    split: Literal["question", "passage", "given", "cross-fit"] = "question"
    held_out: Count = 100
    folds: int = Field(default=5, ge=2, le=LARGEST)
    seed: Seed = 0
    baseline_items: Whole = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == "folder" and not self.path:
            raise ValueError("data.path is needed when data.source is 'folder'")
        if self.split == "cross-fit" and self.baseline_items:
            raise ValueError(
                "baseline_items must be 0 with split cross-fit: the base model's answers to the "
                "other folds are the baseline"
            )
        return self


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
        raise ValueError(f"must be 'all' or a list of language codes (got {shown(value)})")

    @field_validator("source", "target", "control_source")
    @classmethod
    def _known(cls, codes: tuple[str, ...] | str, info: ValidationInfo) -> tuple[str, ...] | str:
        if isinstance(codes, str):
            return codes
        if not codes and info.field_name != "control_source":
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
        for code in self.control_source:
            family = self.family(code)
            if family != "control":
                what = "a source language" if family == "source" else "related to the source"
                outside = [
                    other
                    for other in (*self.evaluated, *belebele_codes())
                    if self.family(other) == "control"
                ]
                raise ValueError(
                    f"control_source {code} is {what} (branch {self.branch}); name languages "
                    f"outside the branch, such as {', '.join(outside[:4])}"
                )
        return self

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
        """``source``, ``related`` or ``control``, for any Belebele language."""
        return family_of(code, source_languages=self.source, branch=self.branch)

    @property
    def families(self) -> dict[str, str]:
        """``source``, ``related`` or ``control`` for each evaluated language."""
        return {code: self.family(code) for code in self.evaluated}
