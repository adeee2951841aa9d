"""Finds and fetches the adapters that an evaluate cell needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xling import tracking
from xling.execution.cell_run import CellJob
from xling.execution.finetune.run_finetune import find_trained


def find_adapters(job: CellJob, adapter: str, downloads: Path) -> list[tracking.FetchedAdapter]:
    """Fetch the adapter of each fold, checked against the base.

    Args:
        job: whose adapters they are.
        adapter: run id or ``models:/name@alias``; empty: the arm's own finetune runs.
        downloads: folder to put them in.

    Returns:
        One, or with cross-fitting one of each fold; none for the base arm, but of a primed model
        what primed it.

    Raises:
        ValueError: there is no such adapter, it is of another base, arm, seed or splitting, or
            one adapter is named for a cross-fitted study.
    """
    if job.cell.arm == "base":
        if adapter:
            raise ValueError("the base arm takes no adapter; use arm=finetuned")
        if job.primer is None:
            return []
        run_id, at_hand = find_trained(job.primer)
        return [_fetch_adapter(job.primer, run_id, downloads, at_hand=at_hand)]
    if adapter and job.data.cross_fitted:
        raise ValueError(
            f"study {job.data.study.name!r} is cross-fitted: each fold has its own adapter, "
            "and one adapter would answer questions that it was trained on; leave `adapter` empty"
        )
    if adapter:
        return [_fetch_adapter(job, adapter, downloads)]
    # All are found before the first is fetched.
    found = [find_trained(replace(job, fold=fold)) for fold in range(len(job.data.splits))]
    return [
        _fetch_adapter(job, run_id, downloads / str(fold), at_hand=at_hand)
        for fold, (run_id, at_hand) in enumerate(found)
    ]


def _fetch_adapter(
    job: CellJob, uri: str, folder: Path, *, at_hand: Path | None = None
) -> tracking.FetchedAdapter:
    fetched = tracking.fetch_adapter(uri, folder, at_hand=at_hand)
    weights = job.model.weights.identity
    if fetched.settings["weights"] != weights:
        raise ValueError(
            f"adapter {uri!r} was trained on {fetched.settings.get('model', 'another model')} "
            f"({fetched.settings['weights']}), not on {job.cell.model.id} ({weights})"
        )
    quantise = fetched.settings.get("quantise", "unknown")
    if quantise != job.model.quantise:
        raise ValueError(
            f"adapter {uri!r} was trained on a base quantised as {quantise}, "
            f"not {job.model.quantise}"
        )
    _check_origin(job, fetched)
    return fetched


def _how_primed(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return "not primed"
    return "primed with " + ", ".join(f"{key} {value}" for key, value in settings.items())


def _check_origin(job: CellJob, fetched: tracking.FetchedAdapter) -> None:
    """Refuse an adapter of another arm, seed or splitting: its answers would be another cell's."""
    cell, settings = job.cell, fetched.settings
    arm, seed = settings.get("arm", "finetuned"), settings.get("seed", 0)
    if (arm, seed) != (cell.arm, cell.seed):
        raise ValueError(
            f"adapter {fetched.uri!r} is of arm {arm} and seed {seed}, not of {cell.arm} and "
            f"{cell.seed}; use arm={arm} and seed={seed}"
        )
    primed = None if cell.model.primed is None else cell.model.primed.as_params()
    if settings.get("primed") != primed:
        raise ValueError(
            f"adapter {fetched.uri!r} lies on a base {_how_primed(settings.get('primed'))}, but "
            f"model {cell.model.label} is {_how_primed(primed)}; name a model that is primed alike"
        )
    folds = len(job.data.splits)
    if settings.get("folds", 1) != folds:
        raise ValueError(
            f"adapter {fetched.uri!r} was trained in a study of {settings.get('folds', 1)} folds, "
            f"not {folds}: it may have seen the questions that are held out here"
        )
