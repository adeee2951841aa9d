"""Puts finished adapters into the model registry."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from xling import tracking
from xling.execution.run_study import StudyOutcome

GAIN_FAMILIES = ("related", "control")
CHAMPION = "champion"
DECIDING_METRICS = ("accuracy_family/related", "accuracy_family/control")
# The other arms are controls, and other reasonings and scorings measure something else.
DECIDING_RUNS = {"cfg.reasoning": "direct", "cfg.scoring": "answer-token"}
REGISTERED_ARM = "finetuned"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An adapter that could be registered.

    Attributes:
        run: the evaluate run of the adapter.
        base: the base model's evaluate run; None if there is none.
        model_id: the adapter's logged model.
        value: of the metric that decides.
    """

    run: tracking.LoggedRun
    base: tracking.LoggedRun | None
    model_id: str
    value: float


def register_best(
    study: str, *, alias: str, metric: str, model: str = "", run_ids: Collection[str] = ()
) -> list[tracking.RegisteredAdapter]:
    """Register, for each model of a study, its best finished adapter.

    Adapters of the arm ``finetuned`` are candidates, by their direct answers' metrics; of a
    cross-fitted cell the first fold's adapter stands for all. They have been loaded back and
    compared with the live model when they were logged; a run whose comparison failed is not
    finished, and so is no candidate.

    Args:
        study: name in the runs' tags.
        alias: that the chosen version gets.
        metric: of the evaluate runs, the higher the better.
        model: name of the only model to register; empty: all.
        run_ids: the only evaluate runs to choose from; empty: all of the study.

    Raises:
        ValueError: no evaluated adapter, or no run has the metric; lists the metrics there are.
    """
    candidates = _candidates(study, metric, run_ids)
    models = sorted({candidate.run.params["cfg.model"] for candidate in candidates})
    if model and model not in models:
        raise ValueError(f"no adapter of model {model!r} in {study!r}; valid: {', '.join(models)}")
    registered = []
    for name in [model] if model else models:
        best = max(
            (each for each in candidates if each.run.params["cfg.model"] == name),
            key=lambda candidate: candidate.value,
        )
        registered.append(
            tracking.register_adapter(
                best.model_id, name=f"{study}-{name}", alias=alias, tags=_version_tags(best)
            )
        )
    return registered


def register_study(outcome: StudyOutcome, study: str) -> list[tracking.RegisteredAdapter]:
    """Register the best adapter of each model that a study evaluated, as ``champion``.

    The mean accuracy in related languages decides, or in control languages where a study has no
    related ones. A study without such adapters (no arm ``finetuned``, or every training failed)
    registers nothing.
    """
    tuned = [
        run_id
        for cell, run_id in outcome.evaluated.items()
        if cell.arm == REGISTERED_ARM
        and (cell.reasoning, cell.scoring) == tuple(DECIDING_RUNS.values())
    ]
    if not tuned:
        return []
    metrics = tracking.get_run(tuned[0]).metrics
    metric = next((name for name in DECIDING_METRICS if name in metrics), None)
    if metric is None:
        logger.warning("no adapter is registered: the study has no target languages")
        return []
    run_ids = set(outcome.evaluated.values())
    return register_best(study, alias=CHAMPION, metric=metric, run_ids=run_ids)


def _candidates(study: str, metric: str, run_ids: Collection[str]) -> list[Candidate]:
    runs = [
        run
        for run in tracking.find_runs(kind="evaluate", study=study)
        if all(run.params.get(key) == value for key, value in DECIDING_RUNS.items())
        and (not run_ids or run.run_id in run_ids)
    ]
    tuned = [run for run in runs if run.params.get("cfg.arm") == REGISTERED_ARM]
    if not tuned:
        raise ValueError(
            f"no finished evaluate run of arm {REGISTERED_ARM} in study {study!r} at "
            f"{tracking.tracking_uri()}; run the study first: "
            + tracking.run_command("main", {"study": study})
        )
    with_metric = [run for run in tuned if metric in run.metrics]
    if not with_metric:
        there = ", ".join(sorted({name for run in tuned for name in run.metrics}))
        raise ValueError(f"no run of study {study!r} has metric {metric!r}; there are: {there}")
    bases = {
        run.params["cfg.model"]: run
        for run in reversed(runs)
        if run.params.get("cfg.arm") == "base"
    }
    return [
        Candidate(
            run=run,
            base=bases.get(run.params["cfg.model"]),
            model_id=run.tags["xling.logged_model"],
            value=run.metrics[metric],
        )
        for run in with_metric
        if "xling.logged_model" in run.tags
    ]


def _version_tags(candidate: Candidate) -> dict[str, str]:
    run = candidate.run
    tags = {
        "source_languages": run.params.get("cfg.source_languages", ""),
        "data": run.params.get("cfg.data.revision", ""),
        "base_model": run.params.get("cfg.base_model", ""),
        "arm": run.params.get("cfg.arm", ""),
        "folds": run.params.get("cfg.data.folds", "1"),
        "evaluate_run": run.run_id,
    }
    for family in GAIN_FAMILIES:
        name = f"accuracy_family/{family}"
        if candidate.base is not None and name in run.metrics and name in candidate.base.metrics:
            gain = run.metrics[name] - candidate.base.metrics[name]
            tags[f"mean_gain_{family}"] = f"{gain:+.4f}"
    return tags
