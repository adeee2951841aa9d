"""What a study file may say of its questions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xling.data import BELEBELE
from xling.study.settings import ACCURACY_LIMITS, LARGEST, Count, Seed, Strict, Whole

_OPTIONS = ACCURACY_LIMITS["n_options"]


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
        n_options: answer options of each question, where results have no item records and do not
            say, such as imported ones; chance is one of them. None: not known. Item records
            always have four.
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
    n_options: int | None = Field(default=None, ge=_OPTIONS[0], le=_OPTIONS[1])

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
