"""The evaluate cell: one model or adapter over every evaluated language."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from xling import tracking
from xling.data import Item
from xling.execution.cells import (
    cell_command,
    cell_identity,
    cell_params,
    locate,
    log_items,
    prompt_format,
    reuse,
    scoring_params,
    work_folder,
)
from xling.execution.finetune import finetune_fingerprint
from xling.execution.prepared import ItemsByPart, Prepared, items_sha256
from xling.fingerprint import fingerprint
from xling.models import BaseShelf, LocatedModel, OpenedModel
from xling.prompts import PromptFormat, prompt_sha256, render_prompts
from xling.records import LOGPROB_COLUMNS, read_records, summarize_records, write_records
from xling.scoring import Engine, InProcessEngine, Scores
from xling.study import Cell, Study

RECORDS = "records.parquet"
SAMPLE_PROMPTS = 2


def run_evaluate(
    prepared: Prepared, cell: Cell, shelf: BaseShelf, *, adapter: str = "", force: bool
) -> str:
    """Scores one model in every evaluated language, or finds the finished run that did.

    Args:
        prepared: study and data.
        cell: model, arm, seed, reasoning and scoring.
        shelf: opens the base.
        adapter: run id or ``models:/name@alias``; empty: the arm's own finetune run.
        force: score again even if a finished run has the same fingerprint.

    Returns:
        Id of the evaluate run.

    Raises:
        ValueError: there is no adapter for the arm, or it is of another base.
    """
    located = locate(cell.model)
    parts = prepared.evaluated_items(cell.arm)
    with TemporaryDirectory(prefix="xling-") as downloads:
        fetched = _find_adapter(prepared, cell, located, adapter, Path(downloads))
        digest = fingerprint(
            {
                "kind": "evaluate",
                **cell_identity(prepared, cell, located),
                "items": {part: items_sha256(items) for part, items in parts.items()},
                "families": list(prepared.study.languages.families.items()),
                "adapter": fetched.model_id if fetched else "",
                "batch_tokens": prepared.study.scoring.batch_tokens,
                **scoring_params(cell),
            }
        )
        reused = reuse(digest, kind="evaluate", prepared=prepared, name=cell.name, force=force)
        if reused is not None:
            return reused
        with tracking.tracked_run(
            "evaluate",
            name=f"evaluate {cell.name}",
            study=prepared.study.name,
            params={
                **cell_params(prepared, cell, located),
                **scoring_params(cell),
                "engine": cell.model.engine,
                "adapter": fetched.uri if fetched else "",
                "batch_tokens": prepared.study.scoring.batch_tokens,
            },
            tags={
                "fingerprint": digest,
                "command": cell_command(
                    "evaluate", prepared, cell, **scoring_params(cell), adapter=adapter
                ),
            },
        ) as run_id:
            log_items(prepared, parts)
            folder = work_folder(digest, fresh=force)
            opened = shelf.open(located)
            with opened.adapted(fetched.folder) if fetched else nullcontext(opened) as ready:
                _score_languages(prepared, cell, ready, folder, parts)
            _log(prepared, folder, model_id=fetched.model_id if fetched else "")
            if fetched:
                tracking.set_tags({"logged_model": fetched.model_id})
            return run_id


def _find_adapter(
    prepared: Prepared, cell: Cell, located: LocatedModel, adapter: str, downloads: Path
) -> tracking.FetchedAdapter | None:
    """The adapter that a cell needs, checked against the base; None for the base arm."""
    if cell.arm == "base":
        if adapter:
            raise ValueError("the base arm takes no adapter; use arm=finetuned")
        return None
    if not adapter:
        digest = finetune_fingerprint(prepared, cell, located)
        trained = tracking.find_finished(digest, kind="finetune", study=prepared.study.name)
        if trained is None:
            raise ValueError(
                f"no finished finetune run for {cell.name}; make one with: "
                f"{cell_command('finetune', prepared, cell)}"
            )
        adapter = trained.run_id
    fetched = tracking.fetch_adapter(adapter, downloads)
    if fetched.settings["weights"] != located.weights.identity:
        raise ValueError(
            f"adapter {adapter!r} was trained on {fetched.settings['model']} "
            f"({fetched.settings['weights']}), not on {cell.model.id} "
            f"({located.weights.identity})"
        )
    if fetched.settings["quantise"] != located.quantise:
        raise ValueError(
            f"adapter {adapter!r} was trained on a base quantised as "
            f"{fetched.settings['quantise']}, not {located.quantise}"
        )
    return fetched


def _score_languages(
    prepared: Prepared, cell: Cell, opened: OpenedModel, folder: Path, parts: ItemsByPart
) -> None:
    """Scores language by language; each is on disk before the next begins."""
    layout = prompt_format(prepared, opened.recipe)
    engine = InProcessEngine(
        opened.model,
        opened.tokenizer,
        add_special_tokens=not layout.chat,
        batch_tokens=prepared.study.scoring.batch_tokens,
    )
    for code in prepared.study.languages.evaluated:
        path = folder / f"{code}.parquet"
        if path.is_file():
            continue
        _write_samples(parts["heldout"][code], layout, opened, folder / "prompts" / f"{code}.txt")
        frame = pd.concat(
            _score_part(engine, items[code], layout, opened, cell, code, part)
            for part, items in parts.items()
            if items[code]
        )
        write_records(frame, path)


def _write_samples(
    items: Sequence[Item], layout: PromptFormat, opened: OpenedModel, path: Path
) -> None:
    """The exact text of the first prompts, for readers of the run."""
    path.parent.mkdir(exist_ok=True)
    prompts = render_prompts(items[:SAMPLE_PROMPTS], layout, opened.tokenizer)
    path.write_text("\n\n=====\n\n".join(prompts) + "\n", encoding="utf-8")


def _score_part(
    engine: Engine,
    items: Sequence[Item],
    layout: PromptFormat,
    opened: OpenedModel,
    cell: Cell,
    language: str,
    part: str,
) -> pd.DataFrame:
    prompts = render_prompts(items, layout, opened.tokenizer)
    scores = engine.score(prompts, description=f"{cell.name} {language} {part}")
    return record_frame(items, prompts, scores, cell=cell, language=language, part=part)


def record_frame(
    items: Sequence[Item],
    prompts: Sequence[str],
    scores: Scores,
    *,
    cell: Cell,
    language: str,
    part: str,
) -> pd.DataFrame:
    """Item records of one language and part, in the contract's columns.

    Args:
        items: n items.
        prompts: their exact prompts.
        scores: of the prompts.
        cell: what was scored.
        language: Belebele code.
        part: ``heldout`` or ``training``.
    """
    gold = np.array([item.correct_answer_num for item in items], dtype=np.int8)
    columns: dict[str, Any] = {
        "model": cell.model.label,
        "arm": cell.arm,
        "reasoning": cell.reasoning,
        "scoring": cell.scoring,
        "language": language,
        "seed": cell.seed,
        "item_id": [item.item_id for item in items],
        "passage_id": [item.passage_id for item in items],
        "part": part,
        "gold": gold,
        "prediction": scores.predictions,
        "correct": scores.predictions == gold,
        **dict(zip(LOGPROB_COLUMNS, scores.logprobs.T, strict=True)),
        "answer_mass": scores.answer_mass,
        "n_tokens": scores.n_tokens,
        "prompt_sha256": [prompt_sha256(prompt) for prompt in prompts],
    }
    return pd.DataFrame(columns)


def _log(prepared: Prepared, folder: Path, *, model_id: str) -> None:
    codes = prepared.study.languages.evaluated
    frame = pd.concat([read_records(folder / f"{code}.parquet") for code in codes])
    write_records(frame, folder / RECORDS)
    tracking.log_records_file(folder / RECORDS)
    tracking.log_file(folder / "prompts", "prompts")
    tracking.log_metrics(
        summarize_records(frame, prepared.study.languages.families), model_id=model_id
    )


def accuracy_lines(study: Study, run_id: str) -> list[str]:
    """An evaluate run's accuracies as lines of text, one a language, with standard errors."""
    run = tracking.get_run(run_id)
    lines = [f"{run.name} (run {run_id})"]
    for code, family in study.languages.families.items():
        accuracy = run.metrics[f"accuracy/{code}"]
        error = run.metrics.get(f"stderr/{code}")
        spread = f" ± {error:.3f}" if error is not None else ""
        lines.append(f"  {code}  {family:<8} {accuracy:.3f}{spread}")
    return lines
