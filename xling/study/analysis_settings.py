"""The section `analysis` of a study file: what is settled before there are results."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field, field_validator

from xling.messages.values import format_value
from xling.study.settings import Strict

DEFAULT_BOUND = 0.05


class AnalysisSettings(Strict):
    """How the study is to be analysed, said beforehand.

    A study's run logs a hash of the section. It is called registered where a study's run logged
    it before the first training.

    Attributes:
        bound: equivalence bound of D and I, as a proportion: differences below it count as none.
        arm: the primary arm, which D, B and I are about.
        scale: the primary scale: ``points`` or ``logit``.
        branch: branch of the family tree (name or glottocode) that makes a target ``related`` in
            the analysis; empty: that of `languages`.
        split: where strong models begin: the ``median`` of the baselines, or an accuracy.
    """

    bound: float = Field(default=DEFAULT_BOUND, gt=0, lt=1)
    arm: Literal["finetuned"] = "finetuned"
    scale: Literal["points", "logit"] = "points"
    branch: str = ""
    split: float | Literal["median"] = "median"

    @field_validator("split", mode="before")
    @classmethod
    def _median_or_accuracy(cls, value: object) -> object:
        # Else pydantic reports one problem for each type that the value could have had.
        if value == "median" or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(
            f"must be 'median' or an accuracy between 0 and 1 (got {format_value(value)})"
        )

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of every value, defaults included, as JSON with sorted keys."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
