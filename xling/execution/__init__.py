"""Runs a study's cells in this process, or on a Ray cluster."""

from __future__ import annotations

from xling.execution.evaluate.run_evaluate import accuracy_lines, run_evaluate
from xling.execution.finetune.run_finetune import run_finetune
from xling.execution.prepare import run_prepare
from xling.execution.register import register_best, register_study
from xling.execution.run_study import StudyOutcome, run_cells
from xling.execution.study_data import StudyData, prepare_study, resolve_study

__all__ = [
    "StudyData",
    "StudyOutcome",
    "accuracy_lines",
    "prepare_study",
    "register_best",
    "register_study",
    "resolve_study",
    "run_cells",
    "run_evaluate",
    "run_finetune",
    "run_prepare",
]
