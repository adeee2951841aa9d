"""The finetune cell: one adapter, trained, logged and loaded back."""

import importlib.metadata
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xling import tracking
from xling.execution.cells import (
    cell_command,
    cell_identity,
    cell_params,
    locate,
    log_items,
    prompt_format,
    reuse,
    work_folder,
)
from xling.execution.prepared import Prepared, items_sha256
from xling.fingerprint import fingerprint
from xling.folders import written_whole
from xling.models import BaseShelf, LocatedModel, OpenedModel
from xling.models.loading import four_bit_share
from xling.prompts import label_token_ids, render_prompts
from xling.scoring import InProcessEngine
from xling.study import Cell
from xling.training import Example, train_adapter

# How far a reloaded adapter's log-probabilities may be from the live model's.
RELOAD_TOLERANCE = 1e-4
RELOAD_PROMPTS = 8
# Steps whose mean loss stands for the end of the training.
LAST_STEPS = 8


@dataclass(frozen=True)
class TrainedAdapter:
    """A finished training on this machine's disk.

    Attributes:
        folder: PEFT's adapter files.
        report: curve, speed, memory, module list, four-bit share; JSON types.
        check_prompts: prompts for comparing the reloaded adapter.
        check_logprobs: shape (len(check_prompts), 4); the live model's answers to them.
    """

    folder: Path
    report: dict[str, Any]
    check_prompts: list[str]
    check_logprobs: npt.NDArray[np.float64]


def finetune_fingerprint(prepared: Prepared, cell: Cell, located: LocatedModel) -> str:
    """Hash of all that decides an adapter."""
    study = prepared.study
    return fingerprint(
        {
            "kind": "finetune",
            **cell_identity(prepared, cell, located),
            "items": items_sha256(prepared.training_items(cell.model.training_items)),
            "lora_modules": located.recipe.lora_modules,
            "lora": study.lora.model_dump(),
            "training": study.training.model_dump(),
        }
    )


def run_finetune(prepared: Prepared, cell: Cell, shelf: BaseShelf, *, force: bool) -> str:
    """Trains one adapter, or finds the finished run that did.

    Args:
        prepared: study and data.
        cell: model, arm and seed.
        shelf: opens the base.
        force: train again even if a finished run has the same fingerprint.

    Returns:
        Id of the finetune run.

    Raises:
        ValueError: the model, its labels or its modules do not fit; raised before training.
        RuntimeError: the logged adapter does not score as the live one.
    """
    if cell.arm == "base":
        raise ValueError("the base arm has no adapter; valid arms for finetune: finetuned")
    located = locate(cell.model)
    digest = finetune_fingerprint(prepared, cell, located)
    reused = reuse(digest, kind="finetune", prepared=prepared, name=cell.name, force=force)
    if reused is not None:
        return reused
    study = prepared.study
    with tracking.tracked_run(
        "finetune",
        name=f"finetune {cell.name}",
        study=study.name,
        params={
            **cell_params(prepared, cell, located),
            "lora": {**study.lora.model_dump(), "modules": located.recipe.lora_modules},
            "training": {**study.training.model_dump(), "items": cell.model.training_items},
        },
        tags={"fingerprint": digest, "command": cell_command("finetune", prepared, cell)},
    ) as run_id:
        log_items(prepared, {"training": prepared.training_items(cell.model.training_items)})
        folder = work_folder(digest, fresh=force)
        trained = _train_once(prepared, cell, shelf.open(located), folder)
        _log(trained, _adapter_settings(prepared, cell, located), folder / "trained")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return run_id


def _train_once(
    prepared: Prepared, cell: Cell, opened: OpenedModel, folder: Path
) -> TrainedAdapter:
    """Trains, unless an earlier try got as far as saving the adapter and could not log it."""
    done = folder / "trained"
    if not done.is_dir():
        with written_whole(done) as temporary:
            _train(prepared, cell, opened, checkpoints=folder / "checkpoints", target=temporary)
    report = json.loads((done / "report.json").read_text(encoding="utf-8"))
    check = json.loads((done / "check.json").read_text(encoding="utf-8"))
    return TrainedAdapter(
        folder=done / "adapter",
        report=report,
        check_prompts=check["prompts"],
        check_logprobs=np.array(check["logprobs"]),
    )


def _train(
    prepared: Prepared, cell: Cell, opened: OpenedModel, *, checkpoints: Path, target: Path
) -> None:
    study, tokenizer = prepared.study, opened.tokenizer
    layout = prompt_format(prepared, opened.recipe)
    by_language = prepared.training_items(cell.model.training_items)
    items = [item for rows in by_language.values() for item in rows]
    prompts = render_prompts(items, layout, tokenizer)
    special = not layout.chat
    labels = label_token_ids(tokenizer, prompts[0], add_special_tokens=special)
    examples = [
        Example(prompt, item.correct_answer_num)
        for prompt, item in zip(prompts, items, strict=True)
    ]
    share = four_bit_share(opened.model)
    lora = study.lora
    with opened.trainable(r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=cell.seed) as (
        model,
        modules,
    ):
        result = train_adapter(
            model,
            tokenizer,
            examples,
            label_ids=labels,
            add_special_tokens=special,
            folder=checkpoints,
            seed=cell.seed,
            **study.training.model_dump(),
        )
        model.save_pretrained(target / "adapter")
        check_prompts = prompts[:RELOAD_PROMPTS]
        engine = InProcessEngine(model, tokenizer, add_special_tokens=special)
        live = engine.score(check_prompts, description="check")
        trainable = model.num_parameters(only_trainable=True)
    report = {
        **asdict(result),
        "examples": len(examples),
        "lora_modules": list(modules),
        "trainable_parameters": trainable,
        "four_bit": {**asdict(share), "of_blocks": share.of_blocks},
    }
    check = {"prompts": check_prompts, "logprobs": live.logprobs.tolist()}
    (target / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (target / "check.json").write_text(json.dumps(check), encoding="utf-8")


def _adapter_settings(prepared: Prepared, cell: Cell, located: LocatedModel) -> dict[str, Any]:
    return {
        # An absolute path, since the adapter is loaded from elsewhere.
        "model": str(Path(cell.model.id).resolve())
        if Path(cell.model.id).is_dir()
        else cell.model.id,
        "revision": located.weights.revision,
        "weights": located.weights.identity,
        "quantise": located.quantise,
        "prompt": asdict(prompt_format(prepared, located.recipe)),
        "study": prepared.study.name,
        "name": cell.model.label,
        "seed": cell.seed,
        "arm": cell.arm,
    }


def _log(trained: TrainedAdapter, settings: dict[str, Any], kept: Path) -> None:
    report = trained.report
    tracking.log_curve(report["curve"])
    last = [row["loss"] for row in report["curve"][-LAST_STEPS:]]
    tracking.log_metrics(
        {
            "train_loss_final": float(np.mean(last)),
            "tokens_per_second": report["tokens_per_second"],
            "train_seconds": report["seconds"],
            "train_steps": report["steps"],
            "peak_memory_bytes": report["peak_memory_bytes"],
            "trainable_parameters": report["trainable_parameters"],
            "four_bit_share": report["four_bit"]["of_blocks"],
        }
    )
    tracking.log_json(
        {key: report[key] for key in ("four_bit", "lora_modules", "trainable_parameters")},
        "modules.json",
    )
    tracking.log_text(_installed_packages(), "pip-freeze.txt")
    model_id = tracking.log_adapter(trained.folder, settings=settings)
    _check_reloaded(model_id, trained, kept)
    tracking.set_tags({"logged_model": model_id})


def _check_reloaded(model_id: str, trained: TrainedAdapter, kept: Path) -> None:
    """Loads the logged adapter on a fresh base and compares it with the live model."""
    reloaded = tracking.score_logged_adapter(model_id, trained.check_prompts)
    difference = float(np.abs(reloaded - trained.check_logprobs).max())
    tracking.log_metrics({"reload_difference": difference})
    if not difference <= RELOAD_TOLERANCE:
        shutil.rmtree(kept)  # or the next try would log the same adapter again
        raise RuntimeError(
            f"the logged adapter {model_id} scores differently from the live model: largest "
            f"difference {difference:.3g} in log-probability (allowed {RELOAD_TOLERANCE}); "
            "it is not registered; the same command trains it anew"
        )


def _installed_packages() -> str:
    installed = {
        f"{each.metadata['Name']}=={each.version}" for each in importlib.metadata.distributions()
    }
    return "\n".join(sorted(installed, key=str.lower)) + "\n"
