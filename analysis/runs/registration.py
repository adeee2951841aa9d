"""Whether a study's analysis was settled before its results: by the store, not by its word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from xling.study import Study
from xling.study.analysis_settings import DEFAULT_BOUND, AnalysisSettings

if TYPE_CHECKING:
    from xling.tracking import LoggedRun

HASH_TAG = "xling.analysis_hash"
GIVEN_LATER = "given after the results"
NOT_REGISTERED = "the default, not registered"


class StudyRuns(Protocol):
    """Where runs are found; the module xling.tracking is one."""

    def find_runs(
        self, *, kind: str, study: str, experiment: str, finished: bool
    ) -> list[LoggedRun]:
        """Find the runs of one kind and study, newest first; `finished`: only those that ended."""


@dataclass(frozen=True)
class Registration:
    """The equivalence bound of an analysis, and when it was settled.

    `bound` is in proportion, above 0. `settings` are those of the study's section `analysis`, or
    the defaults, with the branch spelled out; their own bound may be another one. `sentence` says
    of the bound `registered on …, before the first training`, `given after the results`, or
    `the default, not registered`.
    """

    bound: float = DEFAULT_BOUND
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    sentence: str = NOT_REGISTERED


def find_registration(
    store: StudyRuns, study: Study, *, experiment: str = "", bound: float | None = None
) -> Registration:
    """Find out whether a study's section `analysis` was logged before the first training.

    It was if the last run of kind `study` that started before the first finished finetune run
    logged the hash that the section has now. Of several sections that were logged before, only the
    last one counts: else one could be picked afterwards. A study whose answers come from elsewhere
    has no finetune run; then the first evaluate run of a tuned arm counts.

    Args:
        store: The tracking store, `xling.tracking` itself.
        study: Its name says which runs.
        experiment: The experiment's name; empty for the one selected.
        bound: Equivalence bound in proportion that was asked for; None: the study's.

    Returns:
        The bound to use, and what is to be said of it.

    Raises:
        ValueError: If there is no such experiment.
    """
    planned = study.planned_analysis
    if bound is not None and (study.analysis is None or bound != planned.bound):
        return Registration(bound, planned, GIVEN_LATER)
    if study.analysis is None:
        return Registration(planned.bound, planned, NOT_REGISTERED)
    logged = store.find_runs(kind="study", study=study.name, experiment=experiment, finished=False)
    before = _last_before(logged, _first_training(store, study.name, experiment))
    if before is None or before.tags.get(HASH_TAG) != study.analysis_sha256:
        return Registration(planned.bound, planned, GIVEN_LATER)
    day = datetime.fromtimestamp(before.start_time / 1000, UTC).date().isoformat()
    sentence = f"registered on {day}, before the first training"
    return Registration(planned.bound, planned, sentence)


def _first_training(store: StudyRuns, study: str, experiment: str) -> int | None:
    """Return when the first tuned model was trained, or else answered; None: not yet."""
    trained = store.find_runs(kind="finetune", study=study, experiment=experiment, finished=True)
    if not trained:
        answered = store.find_runs(
            kind="evaluate", study=study, experiment=experiment, finished=True
        )
        trained = [run for run in answered if run.params.get("cfg.arm") != "base"]
    return min((run.start_time for run in trained), default=None)


def _last_before(runs: Sequence[LoggedRun], time: int | None) -> LoggedRun | None:
    """Return the newest run that started before a time; None where there is none."""
    earlier = [run for run in runs if time is None or run.start_time < time]
    return max(earlier, key=lambda run: run.start_time, default=None)
