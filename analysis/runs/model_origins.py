"""Which base checkpoint a study's models were made from, and who developed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.runs.run_files import run_words
from xling.messages.values import format_name, format_value
from xling.study import Study, developer_of

if TYPE_CHECKING:
    from xling.tracking import LoggedRun


def model_origins(study: Study, runs: Sequence[LoggedRun]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the base checkpoint and the developer of each model that has runs.

    The study file's own words come first, then those of the runs (parameters `cfg.base` and
    `cfg.developer`, as imported tables have them), then the catalog's. `cfg.base_model` is not
    asked: it says which weights were loaded, also where these are a tuned model's own.

    Args:
        study: Its models may say `base` and `developer`.
        runs: Evaluate runs that are analysed together.

    Returns:
        Two mappings of model label to name. A model of which nothing is known is its own base, and
        a base whose developer is not known is its own developer. A base that is named by a model's
        label is the base of that model.

    Raises:
        ValueError: If two runs of a model, or two models of one base, say different names.
    """
    in_file = {model.label: model for model in study.models}
    said_bases = _said(runs, "base", {k: model.base for k, model in in_file.items()})
    said_developers = _said(runs, "developer", {k: model.developer for k, model in in_file.items()})
    labels = sorted({run.params["cfg.model"] for run in runs})
    bases = study.bases | {
        label: said_bases.get(label) or study.bases.get(label, label) for label in labels
    }
    bases = {label: bases.get(bases[label], bases[label]) for label in labels}
    developers = _by_base(bases, said_developers)
    for base in bases.values():
        developers.setdefault(base, developer_of(base) or base)
    return bases, {label: developers[base] for label, base in bases.items()}


def _said(runs: Sequence[LoggedRun], key: str, in_file: Mapping[str, str]) -> dict[str, str]:
    """Return what the file, else the runs, say of each model; without those of which none does."""
    found = {label: name for label, name in in_file.items() if name}
    first: dict[str, LoggedRun] = {}
    for run in runs:
        label, name = run.params["cfg.model"], run.params.get(f"cfg.{key}", "")
        if not name or in_file.get(label):
            continue
        before = first.setdefault(label, run)
        if found.setdefault(label, name) != name:
            raise ValueError(
                f"{run_words(before)}, says {key} {format_value(found[label])}, and "
                f"{run_words(run)}, says {format_value(name)}; import one of them again with the "
                f"other's {key}, or say `{key}` of the model in the study file"
            )
    return found


def _by_base(bases: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """Return the developer of each base of which a model says it."""
    first: dict[str, str] = {}
    for label, base in bases.items():
        if label not in said:
            continue
        before = first.setdefault(base, label)
        if said[before] != said[label]:
            raise ValueError(
                f"models {format_name(before)} and {format_name(label)} have the base "
                f"{format_name(base)}, but the developers {format_value(said[before])} and "
                f"{format_value(said[label])}; a developer is who made the base: name one, in the "
                "imported tables or as `developer` in the study file"
            )
    return {base: said[label] for base, label in first.items()}
