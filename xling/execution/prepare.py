"""The prepare run: the study's data, checked, counted and logged."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from xling import tracking
from xling.execution.cell_run import locate_served
from xling.execution.study_data import StudyData
from xling.files.fingerprint import fingerprint
from xling.prompts import label_token_ids, render_prompts
from xling.scoring.context import check_context
from xling.scoring.reasoning import reasoning_prompts
from xling.study.settings import ModelSettings

logger = logging.getLogger(__name__)


def run_prepare(data: StudyData, *, force: bool = False) -> str:
    """Log a study's data: digests, manifest, items and tokens by language.

    Tokens are those of the exact prompts of all items, with each model's own tokenizer.

    Returns:
        Id of the prepare run.

    Raises:
        ValueError: a model's tokenizer cannot be found, its labels cannot be scored, or a prompt
            (with room for a reasoning, where the study has any) is longer than its context.
    """
    study = data.study
    # Without what only the analysis reads: no cell's result depends on it.
    settings = study.model_dump(
        mode="json",
        exclude={
            "analysis": True,
            "data": {"n_options"},
            "models": {"__all__": {"base", "developer"}},
        },
    )
    for model in settings["models"]:
        if model["primed"] is None:
            del model["primed"]
    digest = fingerprint(
        {
            "kind": "prepare",
            "data": data.data_identity,
            "study": settings,
        },
        stages=("prepare",),
    )
    return tracking.run_once(
        lambda: _prepare_run(data, digest, force=force),
        digest,
        kind="prepare",
        study=study.name,
        name=study.name,
        force=force,
    )


def _prepare_run(data: StudyData, digest: str, *, force: bool) -> str:
    study = data.study
    command = tracking.run_command("prepare", data.parameters)
    with tracking.tracked_run(
        "prepare",
        name=f"prepare {study.name}",
        study=study.name,
        params={
            "data.source": study.data.source,
            "data.revision": data.questions.revision,
            "data.split": study.data.split,
            "data.seed": study.data.seed,
            "data.held_out": len(data.fold_of),
            "data.training": len(data.splits[0].training_ids),
            "data.folds": len(data.splits),
        },
        tags={"fingerprint": digest, "command": command},
        again=force,
    ) as run_id:
        counts = {model.label: _token_counts(data, model) for model in study.models}
        _log(data, counts)
        return run_id


def _token_counts(data: StudyData, model: ModelSettings) -> dict[str, int]:
    """Count the prompt tokens of all items by language, with one model's tokenizer.

    The labels and lengths are checked here as well, before any weights are fetched for it.
    """
    study = data.study
    files = locate_served(model)
    tokenizer, context = files.tokenizer(), files.context
    layout = data.prompt_format(files.recipe)
    if tokenizer.chat_template and not layout.chat and model.chat is None:
        logger.warning(
            "%s has a chat template that is not used; if it is an instruct model, set "
            "`chat: true` on it in the study file (`chat: false` ends this warning)",
            model.label,
        )
    first = render_prompts(next(iter(data.questions.items.values()))[:1], layout, tokenizer)[0]
    label_token_ids(tokenizer, first, add_special_tokens=not layout.chat)
    used = {item_id for split in data.splits for item_id in split.item_ids}
    counts = {}
    for code, items in data.questions.items.items():
        prompts = render_prompts(items, layout, tokenizer)
        rows = tokenizer(prompts, add_special_tokens=not layout.chat)["input_ids"]
        lengths = {item.item_id: len(row) for item, row in zip(items, rows, strict=True)}
        counts[code] = sum(lengths.values())
        asked = {key: length for key, length in lengths.items() if key in used}
        _check_context(model, code, asked, context)
    if "cot" in study.reasoning:
        thought = study.chain_of_thought
        for code in study.languages.evaluated:
            items = data.all_heldout(code)
            prompts = reasoning_prompts(items, layout, tokenizer, instruction=thought.instruction)
            rows = tokenizer(prompts, add_special_tokens=not layout.chat)["input_ids"]
            lengths = {item.item_id: len(row) for item, row in zip(items, rows, strict=True)}
            _check_context(model, code, lengths, context, thought.max_tokens)
    return counts


def _check_context(
    model: ModelSettings,
    code: str,
    lengths: Mapping[str, int],
    context: int | None,
    max_tokens: int = 0,
) -> None:
    """Refuse prompts of one language, by tokens of each item, that a model has no room for."""
    keys = [f"{code}/{item_id}" for item_id in lengths]
    try:
        check_context(list(lengths.values()), keys, context=context, max_tokens=max_tokens)
    except ValueError as error:
        raise ValueError(f"{model.label}: {error}") from error


def _log(data: StudyData, counts: Mapping[str, Mapping[str, int]]) -> None:
    hashes = data.questions.sha256_by_language()
    for code in data.questions.languages:
        tracking.log_data_set(
            name=f"{data.questions.name}-{code}",
            sha256=hashes[code],
            source={"source": data.questions.source, "revision": data.questions.revision},
            context="all",
            languages=code,
        )
    tracking.log_metrics(
        {f"items/{code}": len(items) for code, items in data.questions.items.items()}
        | {
            f"tokens/{model}/{code}": count
            for model, by_language in counts.items()
            for code, count in by_language.items()
        }
    )
    manifest = data.manifest() | {"tokens_by_model": counts}
    tracking.log_json(manifest, "data/manifest.json")
    tracking.log_text(data.study.to_yaml(), "study.yaml")
