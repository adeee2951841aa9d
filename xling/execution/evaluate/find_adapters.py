"""Finds and fetches the adapters that an evaluate cell needs."""

from __future__ import annotations

from pathlib import Path

from xling import tracking
from xling.execution.cell_run import cell_command, trained_adapter_folder
from xling.execution.finetune.run_finetune import adapter_name, finetune_fingerprint, fold_parameter
from xling.execution.study_data import StudyData
from xling.models import ModelFiles
from xling.study import Cell


def find_adapters(
    prepared: StudyData, cell: Cell, located: ModelFiles, adapter: str, downloads: Path
) -> list[tracking.FetchedAdapter]:
    """Fetches the adapter of each fold, checked against the base.

    Args:
        prepared: study and data.
        cell: whose adapter it is.
        located: the base.
        adapter: run id or ``models:/name@alias``; empty: the arm's own finetune runs.
        downloads: folder to put them in.

    Returns:
        One, or with cross-fitting one of each fold; none for the base arm.

    Raises:
        ValueError: there is no such adapter, it is of another base, arm, seed or splitting, or
            one adapter is named for a cross-fitted study.
    """
    if cell.arm == "base":
        if adapter:
            raise ValueError("the base arm takes no adapter; use arm=finetuned")
        return []
    if adapter and prepared.cross_fitted:
        raise ValueError(
            f"study {prepared.study.name!r} is cross-fitted: each fold has an adapter of its own, "
            "and one adapter would answer questions that it was trained on; leave `adapter` empty"
        )
    if adapter:
        return [_fetch_adapter(prepared, cell, located, adapter, downloads)]
    return [
        _fetch_adapter(prepared, cell, located, run_id, downloads / str(fold), at_hand=at_hand)
        for fold, (run_id, at_hand) in enumerate(_trained(prepared, cell, located))
    ]


def _trained(prepared: StudyData, cell: Cell, located: ModelFiles) -> list[tuple[str, Path]]:
    """The arm's own finetune runs by fold: ids, and where they leave adapters on this machine."""
    runs = []
    for fold in range(len(prepared.splits)):
        digest = finetune_fingerprint(prepared, cell, located, fold)
        trained = tracking.find_finished(digest, kind="finetune", study=prepared.study.name)
        if trained is None:
            command = cell_command("finetune", prepared, cell, **fold_parameter(prepared, fold))
            raise ValueError(
                f"no finished finetune run for {adapter_name(prepared, cell, fold)}; make one "
                f"with: {command}"
            )
        runs.append((trained.run_id, trained_adapter_folder(digest)))
    return runs


def _fetch_adapter(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    uri: str,
    folder: Path,
    *,
    at_hand: Path | None = None,
) -> tracking.FetchedAdapter:
    fetched = tracking.fetch_adapter(uri, folder, at_hand=at_hand)
    if fetched.settings["weights"] != located.weights.identity:
        raise ValueError(
            f"adapter {uri!r} was trained on {fetched.settings.get('model', 'another model')} "
            f"({fetched.settings['weights']}), not on {cell.model.id} "
            f"({located.weights.identity})"
        )
    quantise = fetched.settings.get("quantise", "unknown")
    if quantise != located.quantise:
        raise ValueError(
            f"adapter {uri!r} was trained on a base quantised as {quantise}, not {located.quantise}"
        )
    _check_origin(prepared, cell, fetched)
    return fetched


def _check_origin(prepared: StudyData, cell: Cell, fetched: tracking.FetchedAdapter) -> None:
    """Refuses an adapter of another arm, seed or splitting: its answers would be another cell's."""
    settings = fetched.settings
    arm, seed = settings.get("arm", "finetuned"), settings.get("seed", 0)
    if (arm, seed) != (cell.arm, cell.seed):
        raise ValueError(
            f"adapter {fetched.uri!r} is of arm {arm} and seed {seed}, not of {cell.arm} and "
            f"{cell.seed}; use arm={arm} and seed={seed}"
        )
    if settings.get("folds", 1) != len(prepared.splits):
        raise ValueError(
            f"adapter {fetched.uri!r} was trained in a study of {settings.get('folds', 1)} folds, "
            f"not {len(prepared.splits)}: it may have seen the questions that are held out here"
        )
