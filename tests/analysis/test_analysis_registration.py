"""When a bound is called registered: by what the store logged before the first training."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.report.findings import StudyContext
from analysis.runs.registration import HASH_TAG, Registration, find_registration
from xling.study import Study
from xling.tracking import LoggedRun

DAY = 86_400_000
DATE = 20_788 * DAY  # 2026-12-01
REGISTERED = "registered on 2026-12-01, before the first training"
LATER = "given after the results"


class Store:
    """Runs by kind; times are in days after DATE."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, LoggedRun]] = []

    def add(self, kind: str, day: float, status: str = "FINISHED", **values: Any) -> Store:
        run = LoggedRun(
            run_id=f"{len(self.runs)}",
            name=kind,
            params={f"cfg.{key}": value for key, value in values.items() if key == "arm"},
            metrics={},
            tags={HASH_TAG: values["hashed"]} if "hashed" in values else {},
            start_time=DATE + int(day * DAY),
            status=status,
        )
        self.runs.append((kind, run))
        return self

    def find_runs(
        self, *, kind: str, study: str, experiment: str, finished: bool
    ) -> list[LoggedRun]:
        assert (study, experiment) == ("s", "e")
        found = [run for its, run in self.runs if its == kind]
        found = [run for run in found if run.status == "FINISHED" or not finished]
        return sorted(found, key=lambda run: -run.start_time)


def study(**section: Any) -> Study:
    languages = {"source": ("arb_Arab",), "target": ("heb_Hebr", "fra_Latn"), "branch": "Semitic"}
    content: dict[str, Any] = {"name": "s", "data": {"source": "hub"}, "languages": languages}
    content["models"] = ({"id": "m"},)
    return Study.model_validate(content | ({"analysis": section} if section else {}))


PLAN = study(bound=0.03)
HASH = PLAN.analysis_sha256


def said(store: Store, of: Study = PLAN, bound: float | None = None) -> Registration:
    return find_registration(store, of, experiment="e", bound=bound)


def test_a_section_that_was_logged_before_the_first_training_is_registered() -> None:
    # The run that trains and analyses still goes on.
    store = Store().add("study", 0.2, "RUNNING", hashed=HASH).add("finetune", 0.3)
    found = said(store)
    assert (found.bound, found.sentence) == (0.03, REGISTERED)
    assert found.settings.branch == "Semitic"
    assert said(store, bound=0.03).sentence == REGISTERED


def test_another_bound_is_given_after_the_results() -> None:
    store = Store().add("study", 0.2, hashed=HASH).add("finetune", 0.3)
    found = said(store, bound=0.1)
    assert (found.bound, found.settings.bound, found.sentence) == (0.1, 0.03, LATER)


def test_a_section_that_was_logged_later_or_never_is_not_registered() -> None:
    later = Store().add("study", 0).add("finetune", 0.1).add("study", 0.2, hashed=HASH)
    never = Store().add("finetune", 0.1)
    for store in (later, never):
        assert (said(store).bound, said(store).sentence) == (0.03, LATER)


def test_a_section_that_was_changed_since_is_not_registered() -> None:
    store = Store().add("study", 0.2, hashed=HASH).add("finetune", 0.3)
    for changed in (study(bound=0.04), study(bound=0.03, scale="logit")):
        assert said(store, changed).sentence == LATER


def test_of_several_sections_before_the_training_the_last_one_counts() -> None:
    store = Store().add("study", 0.1, hashed=HASH).add("study", 0.2, hashed="another")
    assert said(store.add("finetune", 0.3)).sentence == LATER


def test_without_training_the_first_tuned_answers_count() -> None:
    store = Store().add("evaluate", 0, arm="base").add("study", 0.1, hashed=HASH)
    assert said(store).sentence == REGISTERED
    assert said(store.add("evaluate", 0.2, arm="finetuned")).sentence == REGISTERED
    assert said(store.add("evaluate", 0.05, arm="finetuned")).sentence == LATER


def test_a_training_that_failed_has_no_results() -> None:
    store = Store().add("finetune", 0, "FAILED").add("study", 0.1, hashed=HASH)
    assert said(store.add("finetune", 0.2)).sentence == REGISTERED


def test_without_a_section_there_is_the_default_or_a_bound_that_was_given() -> None:
    store = Store().add("study", 0).add("finetune", 0.1)
    assert said(store, study()) == Registration(
        0.05, study().planned_analysis, "the default, not registered"
    )
    assert said(store, study(), 0.05).sentence == said(store, study(), 0.1).sentence == LATER


def test_a_context_has_one_bound() -> None:
    with pytest.raises(ValueError, match="the bound is 0.1, but 0.05 in the registration"):
        StudyContext({}, 0.1, names={})
    context = StudyContext(
        {}, 0.1, names={}, registration=Registration(0.1, study(split=0.4).planned_analysis, LATER)
    )
    assert context.design.split == 0.4
