"""Measures whether what primes a model raised it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xling import tracking
from xling.data import Item
from xling.execution.cell_run import CellJob
from xling.models import LoadedModel
from xling.prompts import render_prompts
from xling.records.metrics import clustered_stderr
from xling.scoring import InProcessEngine

logger = logging.getLogger(__name__)


def log_rise(job: CellJob, adapter: Path) -> None:
    """Log how much better a primed model answers, in the languages that it was primed in.

    Metrics ``accuracy_before``, ``accuracy_after``, ``rise`` and ``rise_stderr``, in proportion:
    over the held-out questions, each the mean of its languages, errors clustered by passage. A
    rise below two standard errors gets the tag ``xling.warning``: what follows would say nothing
    of a raised baseline.

    Args:
        job: the training of the primer.
        adapter: folder of what it trained.
    """
    study = job.data.study
    items = [job.data.items(code, "heldout") for code in study.trained_languages(job.cell)]
    base = job.bases.open(job.model)
    before = np.mean([_correct(job, base, each) for each in items], axis=0)
    with base.adapted(adapter) as primed:
        after = np.mean([_correct(job, primed, each) for each in items], axis=0)
    passages = np.array([item.passage_id for item in items[0]])
    rise, error = float((after - before).mean()), clustered_stderr(after - before, passages)
    tracking.log_metrics(
        {
            "accuracy_before": float(before.mean()),
            "accuracy_after": float(after.mean()),
            "rise": rise,
            **({"rise_stderr": error} if np.isfinite(error) else {}),
        }
    )
    if not rise > 2 * error:
        text = (
            f"priming did not raise {job.cell.model.label}: {before.mean():.3f} before, "
            f"{after.mean():.3f} after, on {len(passages)} held-out questions (standard error of "
            f"the rise {error:.3f}); give it more steps"
        )
        logger.warning("finetune %s: %s", job.adapter_name, text)
        tracking.set_tags({"warning": text})


def _correct(job: CellJob, loaded: LoadedModel, items: Sequence[Item]) -> npt.NDArray[np.float64]:
    """Answer items; shape (items,), 1 where the answer is right, else 0."""
    layout = job.prompt_format
    engine = InProcessEngine(loaded.model, loaded.tokenizer, add_special_tokens=not layout.chat)
    scores = engine.score(render_prompts(items, layout, loaded.tokenizer))
    gold = np.array([item.correct_answer_num for item in items])
    return np.asarray(scores.predictions == gold, np.float64)
