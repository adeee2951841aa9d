"""What a report and its figures are made from: what was found, and how a study is to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from analysis.estimates import Estimate
from analysis.exhibits.exhibit import Exhibit
from analysis.gains.comparisons import Comparisons, StudyDesign
from analysis.gains.primed import PrimedModel
from analysis.measures.formats import responses_summary
from analysis.runs.registration import Registration


@dataclass(frozen=True)
class RunSource:
    """One evaluate run behind a report: what it is, the digest of its data, how to repeat it."""

    run_id: str
    name: str
    model: str
    arm: str
    seed: int
    reasoning: str
    scoring: str
    data_digest: str
    command: str
    url: str = ""


@dataclass(frozen=True)
class StudyContext:
    """How a study is to be read: what its file says, and what stands beside the numbers.

    `family` maps every language of the runs to `related`, `control` or `source`; `names` to its
    English name; `distance` to the branches that it does not share with the source. `bound` is
    the equivalence bound of D in proportion, above 0; `seed` is that of every draw. `note` is small
    print such as that of the mini set. `command` repeats the analysis; `sources` are the runs
    behind it; `trained_on` are the source languages; `left_out` are those that the control-source
    arm was tuned on, `kin` those that share a branch with one of them. `bases` and `developers`
    are each model's base checkpoint and who made it, `primed` how models were primed;
    `registration` says what of the analysis was
    settled before the results, its bound among it.

    Raises:
        ValueError: If `bound` is not that of `registration`.
    """

    family: Mapping[str, str]
    bound: float
    names: Mapping[str, str]
    distance: Mapping[str, int] | None = None
    seed: int = 0
    description: str = ""
    note: str = ""
    command: str = ""
    sources: Sequence[RunSource] = ()
    left_out: Sequence[str] = ()
    kin: Sequence[str] = ()
    trained_on: Sequence[str] = ()
    bases: Mapping[str, str] = field(default_factory=dict)
    developers: Mapping[str, str] = field(default_factory=dict)
    primed: Mapping[str, PrimedModel] = field(default_factory=dict)
    registration: Registration = field(default_factory=Registration)

    def __post_init__(self) -> None:
        """Check that there is one bound."""
        if self.bound != self.registration.bound:
            raise ValueError(
                f"the bound is {self.bound}, but {self.registration.bound} in the registration; "
                "give the same"
            )

    @property
    def design(self) -> StudyDesign:
        """How the runs are to be compared."""
        return StudyDesign(
            self.family,
            self.left_out,
            self.kin,
            self.bases,
            self.developers,
            split=self.registration.settings.split,
            sources=self.trained_on,
            primed=self.primed,
        )


@dataclass(frozen=True)
class Findings:
    """What an analysis found.

    `study` is its name, `exhibits` are the sections of the arms and instruments that there are,
    `notes` what a reader should know of the runs.
    """

    study: str
    compared: Comparisons
    estimates: Sequence[Estimate]
    exhibits: Sequence[Exhibit] = ()
    notes: Sequence[str] = ()

    @cached_property
    def answered(self) -> pd.DataFrame:
        """Accuracy, answer mass and position entropy by run and language; may be empty."""
        return responses_summary(self.compared.responses)
