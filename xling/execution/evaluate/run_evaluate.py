"""The evaluate cell: one model or adapter over every evaluated language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xling import tracking
from xling.data.training_rows import label_shares
from xling.execution.cell_run import (
    CellJob,
    locate,
    locate_served,
    log_items,
    scoring_params,
    work_folder,
)
from xling.execution.evaluate.by_language import answer_by_language
from xling.execution.evaluate.engines import Stage, connect_server, engine_identity, open_engines
from xling.execution.evaluate.find_adapters import find_adapters
from xling.execution.evaluate.item_scorer import ItemScorer
from xling.execution.evaluate.log_results import log_results
from xling.execution.leakage_checks import check_no_evaluation_leakage
from xling.execution.study_data import ItemsByPart, StudyData, items_sha256
from xling.files.fingerprint import fingerprint
from xling.models import BaseModelCache
from xling.routing import describes_mixture
from xling.study import Cell, Study


def evaluate_fingerprint(
    job: CellJob, parts: ItemsByPart, fetched: Sequence[tracking.FetchedAdapter]
) -> str:
    """Hash all that decides a cell's answers."""
    data, cell = job.data, job.cell
    return fingerprint(
        {
            "kind": "evaluate",
            **job.identity,
            "items": {part: items_sha256(items) for part, items in parts.items()},
            "families": list(data.study.languages.families.items()),
            "folds": list(data.fold_of.items()) if data.cross_fitted else [],
            "adapters": [each.files_sha256 for each in fetched],
            **engine_identity(data, cell),
            **_settings(data.study, cell),
            **scoring_params(cell),
        },
        stages=_result_stages(job),
    )


def run_evaluate(
    data: StudyData, cell: Cell, bases: BaseModelCache, *, adapter: str = "", force: bool
) -> str:
    """Score one model in every evaluated language, or find the finished run that did.

    With cross-fitting each fold's items are answered by the fold's own adapter, and one run holds
    them all.

    Args:
        data: study and data.
        cell: model, arm, seed, reasoning and scoring.
        bases: opens the base.
        adapter: run id or ``models:/name@alias``; empty: the arm's own finetune run.
        force: score again even if a finished run has the same fingerprint.

    Returns:
        Id of the evaluate run.

    Raises:
        ValueError: there is no adapter for the arm, it is of another base, or it was trained on a
            held-out question; the cell's reasoning and scoring do not go together; or its server
            cannot be used.
    """
    check_cell(cell)
    data.check_arm(cell.arm)
    files = locate(cell.model) if cell.model.server is None else locate_served(cell.model)
    job = CellJob(data, cell, files, bases)
    parts = data.evaluated_items(cell)
    with TemporaryDirectory(prefix="xling-") as downloads:
        fetched = find_adapters(job, adapter, Path(downloads))
        disjoint = check_no_evaluation_leakage(data, cell, parts, fetched)
        digest = evaluate_fingerprint(job, parts, fetched)
        command = job.command("evaluate", **scoring_params(cell), adapter=adapter)
        tags = {"fingerprint": digest, "command": command, "disjoint": disjoint}
        return tracking.run_once(
            lambda: _evaluate_run(job, parts, fetched, tags=tags, adapter=adapter, force=force),
            digest,
            kind="evaluate",
            study=data.study.name,
            name=cell.name,
            force=force,
        )


def _evaluate_run(
    job: CellJob,
    parts: ItemsByPart,
    fetched: Sequence[tracking.FetchedAdapter],
    *,
    tags: dict[str, str],
    adapter: str,
    force: bool,
) -> str:
    """Score one model in its own run; return the run's id."""
    data, cell = job.data, job.cell
    connection = connect_server(cell.model)
    digest = tags["fingerprint"]
    folder = work_folder(connection.work_key(digest) if connection else digest, fresh=force)
    stages = _stages(data, parts, fetched, folder)
    with (
        open_engines(job, stages, connection, adapter=adapter) as pool,
        tracking.tracked_run(
            "evaluate",
            name=f"evaluate {cell.name}",
            study=data.study.name,
            params={
                **job.params(),
                **scoring_params(cell),
                **_settings(data.study, cell),
                "adapter": " ".join(each.uri for each in fetched),
                **pool.params,
            },
            tags=tags,
            again=force,
        ) as run_id,
    ):
        log_items(data, parts)
        for stage, block in zip(stages, pool.handles, strict=True):
            with block as handle:
                scorer = ItemScorer(
                    handle.engine,
                    handle.tokenizer,
                    job.prompt_format,
                    cell=cell,
                    study=data.study,
                    model=handle.model,
                )
                answer_by_language(data, cell, scorer, stage.items, stage.folder)
        # Of a cross-fitted cell the first fold's adapter stands for all.
        model_id = fetched[0].model_id if fetched else ""
        log_results(data, cell, folder, [each.folder.name for each in stages], model_id=model_id)
        if fetched and not adapter and cell.arm != "base":
            tracking.log_metrics(label_shares(data.all_training_rows(cell)))
        if fetched:
            tracking.set_tags({"logged_model": model_id})
        return run_id


def check_cell(cell: Cell) -> None:
    """Refuse a reasoning whose answer is not a label.

    Raises:
        ValueError: chain-of-thought with a scoring other than ``answer-token``.
    """
    if cell.reasoning == "cot" and cell.scoring != "answer-token":
        raise ValueError(
            f"reasoning cot is followed by the answer's label: use scoring answer-token with it, "
            f"not {cell.scoring}"
        )


def _result_stages(job: CellJob) -> list[str]:
    """List the stages whose code decides a cell's answers; see `xling.files.result_versions`.

    Training is none of them: which adapter answers is said by the sha256 of its files.
    """
    cell, stages = job.cell, ["prepare", "score"]
    if cell.reasoning == "cot":
        stages.append("chain-of-thought")
    if cell.scoring in ("permuted", "cloze"):
        stages.append(cell.scoring)
    if cell.model.server is not None:
        stages.append("server")
    elif (cell.reasoning, cell.scoring) == ("direct", "answer-token") and describes_mixture(
        job.model.text_config
    ):
        stages.append("routing")
    return stages


def _settings(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the settings of this cell's reasoning and scoring, where they have any."""
    settings: dict[str, Any] = {}
    if cell.reasoning == "cot":
        settings["chain_of_thought"] = study.chain_of_thought.model_dump(exclude={"arms"})
    if cell.scoring == "permuted":
        settings["orders"] = study.scoring.orders
    return settings


def _stages(
    data: StudyData,
    parts: ItemsByPart,
    fetched: Sequence[tracking.FetchedAdapter],
    folder: Path,
) -> list[Stage]:
    """Make one stage, or one of each fold where each fold has an adapter."""
    if len(fetched) <= 1:
        return [Stage(fetched[0].folder if fetched else None, parts, folder / "all")]
    codes = data.study.languages.evaluated
    return [
        Stage(
            adapter.folder,
            {"heldout": {code: data.items(code, "heldout", fold) for code in codes}},
            folder / f"fold-{fold}",
        )
        for fold, adapter in enumerate(fetched)
    ]


def accuracy_lines(study: Study, run_id: str) -> list[str]:
    """Write an evaluate run's accuracies as lines of text, one a language, with errors."""
    run = tracking.get_run(run_id)
    lines = [f"{run.name} (run {run_id})"]
    for code, family in study.languages.families.items():
        accuracy = run.metrics[f"accuracy/{code}"]
        error = run.metrics.get(f"stderr/{code}")
        spread = f" ± {error:.3f}" if error is not None else ""
        lines.append(f"  {code}  {family:<8} {accuracy:.3f}{spread}")
    warning = run.tags.get("xling.warning")
    return [*lines, f"  look at these before you use them: {warning}"] if warning else lines
