"""The prepare run: the study's data, checked, counted and logged."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from xling import tracking
from xling.execution.cell_run import one_at_a_time, reuse
from xling.execution.models import locate_tokenizer
from xling.execution.study_data import StudyData, prompt_format
from xling.files.fingerprint import fingerprint
from xling.prompts import label_token_ids, render_prompts
from xling.scoring.context import check_context
from xling.scoring.reasoning import reasoning_prompts
from xling.study.settings import ModelSettings

logger = logging.getLogger(__name__)


def run_prepare(prepared: StudyData, *, force: bool = False) -> str:
    """Logs a study's data: digests, manifest, items and tokens by language.

    Tokens are those of the exact prompts of all items, with each model's own tokenizer.

    Returns:
        Id of the prepare run.

    Raises:
        ValueError: a model's tokenizer cannot be found, its labels cannot be scored, or a prompt
            (with room for a reasoning, where the study has any) is longer than its context.
    """
    study = prepared.study
    digest = fingerprint(
        {
            "kind": "prepare",
            "data": prepared.data_identity,
            "study": study.model_dump(mode="json"),
        },
        stages=("prepare",),
    )
    with one_at_a_time(digest, kind="prepare", name=study.name):
        reused = reuse(digest, kind="prepare", prepared=prepared, name=study.name, force=force)
        return reused or _prepare_run(prepared, digest, force=force)


def _prepare_run(prepared: StudyData, digest: str, *, force: bool) -> str:
    study = prepared.study
    command = tracking.run_command("prepare", prepared.parameters)
    with tracking.tracked_run(
        "prepare",
        name=f"prepare {study.name}",
        study=study.name,
        params={
            "data.source": study.data.source,
            "data.revision": prepared.data.revision,
            "data.split": study.data.split,
            "data.seed": study.data.seed,
            "data.held_out": len(prepared.fold_of),
            "data.training": len(prepared.splits[0].training_ids),
            "data.folds": len(prepared.splits),
        },
        tags={"fingerprint": digest, "command": command},
        again=force,
    ) as run_id:
        counts = {model.label: _token_counts(prepared, model) for model in study.models}
        _log(prepared, counts)
        return run_id


def _token_counts(prepared: StudyData, model: ModelSettings) -> dict[str, int]:
    """Prompt tokens of all items by language, with one model's tokenizer.

    The labels and lengths are checked here as well, before any weights are fetched for it.
    """
    study = prepared.study
    recipe, tokenizer, context = locate_tokenizer(model)
    layout = prompt_format(prepared, recipe)
    if tokenizer.chat_template and not layout.chat and model.chat is None:
        logger.warning(
            "%s has a chat template that is not used; if it is an instruct model, set "
            "`chat: true` on it in the study file (`chat: false` ends this warning)",
            model.label,
        )
    first = render_prompts(next(iter(prepared.data.items.values()))[:1], layout, tokenizer)[0]
    label_token_ids(tokenizer, first, add_special_tokens=not layout.chat)
    used = {item_id for split in prepared.splits for item_id in split.item_ids}
    counts = {}
    for code, items in prepared.data.items.items():
        prompts = render_prompts(items, layout, tokenizer)
        rows = tokenizer(prompts, add_special_tokens=not layout.chat)["input_ids"]
        lengths = {item.item_id: len(row) for item, row in zip(items, rows, strict=True)}
        counts[code] = sum(lengths.values())
        asked = {key: length for key, length in lengths.items() if key in used}
        _check_context(model, code, asked, context)
    if "cot" in study.reasoning:
        thought = study.chain_of_thought
        for code in study.languages.evaluated:
            items = prepared.all_heldout(code)
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
    """Refuses prompts of one language, by tokens of each item, that a model has no room for."""
    keys = [f"{code}/{item_id}" for item_id in lengths]
    try:
        check_context(list(lengths.values()), keys, context=context, max_tokens=max_tokens)
    except ValueError as error:
        raise ValueError(f"{model.label}: {error}") from error


def _log(prepared: StudyData, counts: Mapping[str, Mapping[str, int]]) -> None:
    hashes = prepared.data.sha256_by_language()
    for code in prepared.data.languages:
        tracking.log_data_set(
            name=f"{prepared.data.name}-{code}",
            sha256=hashes[code],
            source={"source": prepared.data.source, "revision": prepared.data.revision},
            context="all",
            languages=code,
        )
    tracking.log_metrics(
        {f"items/{code}": len(items) for code, items in prepared.data.items.items()}
        | {
            f"tokens/{model}/{code}": count
            for model, by_language in counts.items()
            for code, count in by_language.items()
        }
    )
    manifest = prepared.manifest() | {"tokens_by_model": counts}
    tracking.log_json(manifest, "data/manifest.json")
    tracking.log_text(prepared.study.to_yaml(), "study.yaml")
