"""Logs what a finetune cell made: labels, learning curve, and the adapter, which is loaded back."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xling import tracking
from xling.data.training_rows import TrainingRow, label_agreement, label_shares
from xling.study import Cell

# How far a reloaded adapter's log-probabilities may be from the live model's.
RELOAD_TOLERANCE = 1e-4
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


def log_labels(rows: Sequence[TrainingRow], cell: Cell, languages: Sequence[str]) -> None:
    """Log which labels are trained on, and how many of them are the right answers."""
    agreement = label_agreement(rows)
    tracking.log_metrics({"label_agreement": agreement, **label_shares(rows)})
    labels = {row.item.item_id: row.label for row in rows}
    tracking.log_json(
        {
            "arm": cell.arm,
            "seed": cell.seed,
            "languages": list(languages),
            "examples": len(rows),
            "questions": len(labels),
            "agreement_with_right_answers": agreement,
            "labels": labels,
        },
        "labels.json",
    )


def log_adapter(trained: TrainedAdapter, settings: dict[str, Any], work: Path) -> None:
    """Log curve, speed and adapter, and check that the logged adapter scores as the live one.

    Args:
        trained: on this machine's disk.
        settings: what the adapter needs to find its base.
        work: folder of the training, checkpoints and all; removed if the check fails.

    Raises:
        RuntimeError: the logged adapter does not score as the live one.
    """
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
        {
            key: report[key]
            for key in ("four_bit", "lora_modules", "trainable_parameters", "processes")
        },
        "modules.json",
    )
    tracking.log_text(_installed_packages(), "pip-freeze.txt")
    model_id = tracking.log_adapter(
        trained.folder, settings=settings, example=trained.check_prompts[0]
    )
    _check_reloaded(model_id, trained, work)
    tracking.set_tags({"logged_model": model_id})


def _check_reloaded(model_id: str, trained: TrainedAdapter, work: Path) -> None:
    """Load the logged adapter on a fresh base and compare it with the live model."""
    reloaded = tracking.score_logged_adapter(model_id, trained.check_prompts)
    difference = float(np.abs(reloaded - trained.check_logprobs).max())
    tracking.log_metrics({"reload_difference": difference})
    if not difference <= RELOAD_TOLERANCE:
        # Or the next try would log the same adapter again, or go on from its last checkpoint.
        shutil.rmtree(work)
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
