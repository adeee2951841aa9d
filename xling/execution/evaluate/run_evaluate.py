"""The evaluate cell: one model or adapter over every evaluated language."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xling import tracking
from xling.data.training_rows import label_shares
from xling.execution.cell_run import (
    cell_command,
    cell_identity,
    cell_params,
    log_items,
    one_at_a_time,
    reuse,
    scoring_params,
    work_folder,
)
from xling.execution.evaluate.by_language import answer_stage
from xling.execution.evaluate.engines import engine_source, reach_server, source_identity
from xling.execution.evaluate.examiner import ItemScorer
from xling.execution.evaluate.find_adapters import find_adapters
from xling.execution.evaluate.log_results import log_evaluated
from xling.execution.leakage_checks import check_no_evaluation_leakage
from xling.execution.models import locate, locate_served
from xling.execution.study_data import ItemsByPart, StudyData, items_sha256, prompt_format
from xling.files.fingerprint import fingerprint
from xling.models import BaseModelCache, ModelFiles
from xling.models.loaded import text_config
from xling.routing import describes_mixture
from xling.study import Cell, Study


@dataclass(frozen=True)
class Stage:
    """Items that one adapter, or the base, answers.

    Attributes:
        name: of its folder.
        adapter: folder of PEFT's files; None: the base.
        items: by part and language.
    """

    name: str
    adapter: Path | None
    items: ItemsByPart


def evaluate_fingerprint(
    prepared: StudyData,
    cell: Cell,
    located: ModelFiles,
    parts: ItemsByPart,
    fetched: list[tracking.FetchedAdapter],
) -> str:
    """Hash all that decides a cell's answers."""
    return fingerprint(
        {
            "kind": "evaluate",
            **cell_identity(prepared, cell, located),
            "items": {part: items_sha256(items) for part, items in parts.items()},
            "families": list(prepared.study.languages.families.items()),
            "folds": list(prepared.fold_of.items()) if prepared.cross_fitted else [],
            "adapters": [each.files_sha256 for each in fetched],
            **source_identity(prepared, cell),
            **_settings(prepared, cell),
            **scoring_params(cell),
        },
        stages=_result_stages(cell, located),
    )


def run_evaluate(
    prepared: StudyData, cell: Cell, shelf: BaseModelCache, *, adapter: str = "", force: bool
) -> str:
    """Scores one model in every evaluated language, or finds the finished run that did.

    With cross-fitting each fold's items are answered by the fold's own adapter, and one run holds
    them all.

    Args:
        prepared: study and data.
        cell: model, arm, seed, reasoning and scoring.
        shelf: opens the base.
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
    prepared.check_arm(cell.arm)
    located = locate(cell.model) if cell.model.server is None else locate_served(cell.model)
    parts = prepared.evaluated_items(cell)
    with TemporaryDirectory(prefix="xling-") as downloads:
        fetched = find_adapters(prepared, cell, located, adapter, Path(downloads))
        disjoint = check_no_evaluation_leakage(prepared, cell, parts, fetched)
        digest = evaluate_fingerprint(prepared, cell, located, parts, fetched)
        with one_at_a_time(digest, kind="evaluate", name=cell.name):
            reused = reuse(digest, kind="evaluate", prepared=prepared, name=cell.name, force=force)
            if reused is not None:
                return reused
            return _evaluate_run(
                prepared, cell, shelf, located, parts, fetched,
                digest=digest, disjoint=disjoint, adapter=adapter, force=force,
            )  # fmt: skip


def _evaluate_run(
    prepared: StudyData,
    cell: Cell,
    shelf: BaseModelCache,
    located: ModelFiles,
    parts: ItemsByPart,
    fetched: list[tracking.FetchedAdapter],
    *,
    digest: str,
    disjoint: str,
    adapter: str,
    force: bool,
) -> str:
    """Scores one model in a run of its own; returns the run's id."""
    reached = reach_server(cell.model)
    folder = work_folder(reached.work_key(digest) if reached else digest, fresh=force)
    stages = _stages(prepared, parts, fetched)
    with (
        engine_source(
            prepared,
            cell,
            located,
            shelf,
            [stage.adapter for stage in stages],
            [folder / stage.name for stage in stages],
            reached=reached,
            asked_for=adapter,
        ) as source,
        tracking.tracked_run(
            "evaluate",
            name=f"evaluate {cell.name}",
            study=prepared.study.name,
            params={
                **cell_params(prepared, cell, located),
                **scoring_params(cell),
                **_settings(prepared, cell),
                "adapter": " ".join(each.uri for each in fetched),
                **source.params,
            },
            tags={
                "fingerprint": digest,
                "command": cell_command(
                    "evaluate", prepared, cell, **scoring_params(cell), adapter=adapter
                ),
                "disjoint": disjoint,
            },
            again=force,
        ) as run_id,
    ):
        log_items(prepared, parts)
        for stage, block in zip(stages, source.seats, strict=True):
            with block as seat:
                examiner = ItemScorer(
                    seat.engine,
                    seat.tokenizer,
                    prompt_format(prepared, located.recipe),
                    cell=cell,
                    study=prepared.study,
                    model=seat.model,
                )
                answer_stage(prepared, cell, examiner, stage.items, folder / stage.name)
        # Of a cross-fitted cell the first fold's adapter stands for all.
        model_id = fetched[0].model_id if fetched else ""
        log_evaluated(prepared, cell, folder, [stage.name for stage in stages], model_id=model_id)
        if fetched and not adapter:
            tracking.log_metrics(label_shares(prepared.all_training_rows(cell)))
        if fetched:
            tracking.set_tags({"logged_model": model_id})
        return run_id


def check_cell(cell: Cell) -> None:
    """Refuses a reasoning whose answer is not a label.

    Raises:
        ValueError: chain-of-thought with a scoring other than ``answer-token``.
    """
    if cell.reasoning == "cot" and cell.scoring != "answer-token":
        raise ValueError(
            f"reasoning cot is followed by the answer's label: use scoring answer-token with it, "
            f"not {cell.scoring}"
        )


def _result_stages(cell: Cell, located: ModelFiles) -> list[str]:
    """List the stages whose code decides a cell's answers; see `xling.files.result_versions`.

    Training is none of them: which adapter answers is said by the sha256 of its files.
    """
    stages = ["prepare", "score"]
    if cell.reasoning == "cot":
        stages.append("chain-of-thought")
    if cell.scoring in ("permuted", "cloze"):
        stages.append(cell.scoring)
    if cell.model.server is not None:
        stages.append("server")
    elif (cell.reasoning, cell.scoring) == ("direct", "answer-token") and describes_mixture(
        text_config(located)
    ):
        stages.append("routing")
    return stages


def _settings(prepared: StudyData, cell: Cell) -> dict[str, Any]:
    """Settings of this cell's reasoning and scoring, where they have any."""
    study = prepared.study
    settings: dict[str, Any] = {}
    if cell.reasoning == "cot":
        settings["chain_of_thought"] = study.chain_of_thought.model_dump(exclude={"arms"})
    if cell.scoring == "permuted":
        settings["orders"] = study.scoring.orders
    return settings


def _stages(
    prepared: StudyData, parts: ItemsByPart, fetched: list[tracking.FetchedAdapter]
) -> list[Stage]:
    """One stage, or one of each fold where each fold has an adapter."""
    if len(fetched) <= 1:
        return [Stage("all", fetched[0].folder if fetched else None, parts)]
    codes = prepared.study.languages.evaluated
    return [
        Stage(
            f"fold-{fold}",
            adapter.folder,
            {"heldout": {code: prepared.items(code, "heldout", fold) for code in codes}},
        )
        for fold, adapter in enumerate(fetched)
    ]


def accuracy_lines(study: Study, run_id: str) -> list[str]:
    """An evaluate run's accuracies as lines of text, one a language, with standard errors."""
    run = tracking.get_run(run_id)
    lines = [f"{run.name} (run {run_id})"]
    for code, family in study.languages.families.items():
        accuracy = run.metrics[f"accuracy/{code}"]
        error = run.metrics.get(f"stderr/{code}")
        spread = f" ± {error:.3f}" if error is not None else ""
        lines.append(f"  {code}  {family:<8} {accuracy:.3f}{spread}")
    warning = run.tags.get("xling.warning")
    return [*lines, f"  look at these before you use them: {warning}"] if warning else lines
