"""Imported results: what any reader of foreign results returns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from xling.files.checksums import hash_file

# Characters of a model's name.
MAX_NAME = 500


@dataclass(frozen=True)
class ImportedRun:
    """The results of one model, arm, seed, reasoning and scoring.

    Attributes:
        model: what the study calls the model.
        arm: one of xling.records.ARMS.
        seed: of the training; 0 where there is none.
        reasoning: one of xling.records.REASONINGS.
        scoring: one of xling.records.SCORINGS.
        accuracy: proportion of correct answers by language code.
        n_items: questions behind each accuracy, for the languages of which it is known.
        stderr: standard error of each accuracy, likewise.
        n_options: answer options of each question, likewise.
        records: item records of the run, or None if only accuracies are known.
        params: what else is known of the run, logged under ``cfg.``.
    """

    model: str
    arm: str
    seed: int
    reasoning: str
    scoring: str
    accuracy: Mapping[str, float]
    n_items: Mapping[str, int] = field(default_factory=dict)
    stderr: Mapping[str, float] = field(default_factory=dict)
    n_options: Mapping[str, int] = field(default_factory=dict)
    records: pd.DataFrame | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, Mapping[str, float]]:
        """What is known of the accuracies, by name of its metric and language code."""
        return {"n_items": self.n_items, "stderr": self.stderr, "n_options": self.n_options}

    @property
    def name(self) -> str:
        """Short name, such as ``qwen3-4b/base/seed-0``; the usual reasoning and scoring unsaid."""
        usual = ("direct", "answer-token")
        extra = [
            f"/{value}"
            for value, default in zip((self.reasoning, self.scoring), usual, strict=True)
            if value != default
        ]
        return f"{self.model}/{self.arm}/seed-{self.seed}{''.join(extra)}"


@dataclass(frozen=True)
class ImportedResults:
    """What a file or folder holds.

    Attributes:
        path: of the file or folder.
        form: ``csv`` or ``lm-eval``.
        sha256: of its content, hexadecimal.
        runs: at least one.
        notes: what a reader should know of them.
    """

    path: Path
    form: str
    sha256: str
    runs: tuple[ImportedRun, ...]
    notes: tuple[str, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of all runs together, in the order of the file."""
        return tuple(dict.fromkeys(code for run in self.runs for code in run.accuracy))


def files_sha256(paths: Sequence[Path], root: Path) -> str:
    """Return the sha256 of files: of a single one's bytes, else of their names and hashes.

    Args:
        paths: the files.
        root: folder that names are relative to.
    """
    if len(paths) == 1:
        return hash_file(paths[0])
    lines = sorted(f"{path.relative_to(root).as_posix()} {hash_file(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
