"""Reads what lm-evaluation-harness wrote with ``--log_samples``: one run for each model's folder.

The harness (https://github.com/EleutherAI/lm-evaluation-harness; read as 0.4.13 writes it) puts
``results_<time>.json`` and one ``samples_<task>_<time>.jsonl`` a task into a folder a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from xling.data import Item, check_parallel
from xling.files.strict_json import parse_json
from xling.importing.harness_samples import SCORING, Sample, read_samples, sample_records
from xling.importing.imported import MAX_NAME, ImportedResults, ImportedRun, files_sha256
from xling.languages import belebele_codes
from xling.messages.values import format_name, format_value, join_names
from xling.records import RUN_COLUMNS, check_records

SAMPLES = "samples_*.jsonl"
RESULTS = "results_*.json"
_TIME = re.compile(r"_(\d{4}-\d{2}-\d{2}T[\d.:-]+)$")
# The harness's metric is a mean of zeros and ones in double precision.
_SLACK = 1e-9


@dataclass(frozen=True)
class _Results:
    """What the results files of one folder say; empty where there are none.

    `models` are the model's names, `adapters` what was loaded on top, `versions` the harness's;
    `accuracy` has the tasks' own accuracies by task and time.
    """

    models: frozenset[str]
    adapters: frozenset[str]
    versions: frozenset[str]
    accuracy: Mapping[tuple[str, str], float]


def read_lm_eval(
    path: Path,
    *,
    model: str = "",
    names: Mapping[str, str] | None = None,
    arm: str = "base",
    seed: int = 0,
    reasoning: str = "direct",
) -> ImportedResults:
    """Read one samples file, one model's folder, or a folder of such folders.

    Args:
        path: A ``samples_<task>_<time>.jsonl``, or a folder that holds some at any depth. The
            task's name ends with a Belebele code.
        model: The model's name in runs; empty: from the results file's ``model_name``.
        names: Name in runs by ``model_name``, for models that a study calls otherwise; any other
            one is called by the last part of its ``model_name``, in small letters.
        arm: One of xling.records.ARMS.
        seed: Of the training.
        reasoning: One of xling.records.REASONINGS.

    Returns:
        One run for each folder with samples, with item records of part ``heldout``.

    Raises:
        ValueError: If a file is not a samples file, is cut off, does not score answer labels,
            contradicts itself or the results file, or if the model's name is not known; the
            message names file, line and remedy.
        OSError: If a file cannot be read.
    """
    files = _samples_files(path)
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    if model and len(folders) > 1:
        raise ValueError(
            f"{path} holds samples in {len(folders)} folders, so one model name does not do: leave "
            f"`model` empty, or give one of {join_names(folders)}"
        )
    results_files = {folder: _results_files(folder, members) for folder, members in folders.items()}
    asked = ImportedRun(model, arm, seed, reasoning, SCORING, accuracy={})
    runs = [
        _read_folder(folder, members, _read_results(results_files[folder]), asked, names or {})
        for folder, members in folders.items()
    ]
    _refuse_one_name_twice(path, runs)
    used = [*files, *(file for members in results_files.values() for file in members)]
    digest = files_sha256(used, path if path.is_dir() else path.parent)
    return ImportedResults(path, "lm-eval", digest, tuple(runs))


def _read_folder(
    folder: Path,
    samples: Sequence[Path],
    results: _Results,
    asked: ImportedRun,
    names: Mapping[str, str],
) -> ImportedRun:
    """Read the samples of one model.

    Args:
        folder: Holds the model's files.
        samples: Its samples files.
        results: What its results files say.
        asked: The run as the caller describes it; its model's name may be empty.
        names: As in `read_lm_eval`.
    """
    source, name = _model_name(folder, results, asked.model, names)
    if asked.arm == "base" and results.adapters:
        raise ValueError(
            f"{folder}: the results say that an adapter was loaded "
            f"({join_names(sorted(results.adapters))}), so the arm is not base; say which it is"
        )
    accuracy, records = _read_languages(samples, results)
    params = {"base_model": source, "engine": _engine(results)}
    run = replace(asked, model=name, accuracy=accuracy, params=params)
    columns = {column: getattr(run, column) for column in RUN_COLUMNS}
    return replace(run, records=check_records(records.assign(**columns)))


def _engine(results: _Results) -> str:
    versions = ", ".join(sorted(results.versions))
    return f"lm-evaluation-harness {versions}".rstrip()


def _samples_files(path: Path) -> list[Path]:
    """Return the samples files at or below a path, sorted."""
    files = sorted(path.rglob(SAMPLES)) if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"{path} holds no {SAMPLES}; run lm_eval with --log_samples --output_path, and give "
            "the folder that it names"
        )
    return files


def _results_files(folder: Path, samples: Sequence[Path]) -> list[Path]:
    """Return the results files of some samples' time; all of the folder if none is of it."""
    files = sorted(folder.glob(RESULTS))
    times = {_task_of(path)[1] for path in samples}
    return [file for file in files if _results_time(file) in times] or files


def _results_time(path: Path) -> str:
    return path.name.removeprefix("results_").removesuffix(".json")


def _read_languages(
    files: Sequence[Path], results: _Results
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return accuracy by language, and the record columns that do not name the run."""
    items: dict[str, Sequence[Item]] = {}
    accuracies, frames, seen = {}, [], dict[str, Path]()
    for file in files:
        task, time, language = _task_of(file)
        if language in seen:
            raise ValueError(
                f"{file}: samples of {language} are in {seen[language].name} too; keep the file of "
                "one run, move the other to another folder"
            )
        seen[language] = file
        samples = read_samples(file, language)
        items[language] = [sample.item for sample in samples]
        accuracies[language] = _accuracy(file, samples, results.accuracy.get((task, time)))
        frames.append(sample_records(samples, language))
    check_parallel(items, source=str(files[0].parent))
    return accuracies, pd.concat(frames, ignore_index=True)


def _task_of(path: Path) -> tuple[str, str, str]:
    """Return task, time (empty if the name has none) and language of a samples file."""
    stem = path.name.removesuffix(".jsonl").removeprefix("samples_")
    time = _TIME.search(stem)
    task = stem[: time.start()] if time else stem
    code = "_".join(task.rsplit("_", 2)[-2:])
    if not (path.name.startswith("samples_") and path.name.endswith(".jsonl")) or (
        code not in belebele_codes()
    ):
        raise ValueError(
            f"{path}: the name is not samples_<task>_<time>.jsonl with a task that ends with a "
            "Belebele code, such as belebele_heb_Hebr; rename it so, or move it away"
        )
    return task, time.group(1) if time else "", code


def _accuracy(file: Path, samples: Sequence[Sample], reported: float | None) -> float:
    """Return the share of correct answers, checked against the harness's number if it has one."""
    found = math.fsum(sample.correct for sample in samples) / len(samples)
    if reported is not None and abs(found - reported) > _SLACK:
        raise ValueError(
            f"{file}: accuracy is {found:.6f} over its {len(samples)} lines, but {reported:.6f} in "
            "the results file of the same run; lines are missing or were changed: copy it again"
        )
    return found


def _read_results(files: Sequence[Path]) -> _Results:
    """Read model, adapter, version and accuracies from results files."""
    models, adapters, versions = set(), set(), set()
    accuracy: dict[tuple[str, str], float] = {}
    for file in files:
        content = _read_json(file)
        if isinstance(name := content.get("model_name"), str) and name:
            models.add(name)
        if adapter := _adapter(content):
            adapters.add(adapter)
        if isinstance(version := content.get("lm_eval_version"), str):
            versions.add(version)
        for task, values in _mapping(content.get("results")).items():
            value = _mapping(values).get("acc,none")
            if isinstance(value, (int, float)):
                if not 0 <= value <= 1:  # NaN fails this too
                    raise ValueError(
                        f"{file}: acc,none of {format_name(task)} is {format_value(value)}, but "
                        "must lie in 0 to 1; copy it again"
                    )
                accuracy[task, _results_time(file)] = float(value)
    return _Results(frozenset(models), frozenset(adapters), frozenset(versions), accuracy)


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON, or cut off ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a results file of lm_eval; move it away")
    return content


def _adapter(content: Mapping[str, Any]) -> str:
    """Return the adapter that the harness's model arguments name; empty if none."""
    arguments = _mapping(content.get("config")).get("model_args")
    if isinstance(arguments, str):  # as older versions of the harness write them
        pairs = (argument.partition("=") for argument in arguments.split(","))
        arguments = {key.strip(): value for key, _, value in pairs}
    return str(_mapping(arguments).get("peft") or "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _model_name(
    folder: Path, results: _Results, model: str, names: Mapping[str, str]
) -> tuple[str, str]:
    """Return the harness's name of the model (empty: it does not say), and its name in runs."""
    found = sorted(results.models)
    if len(found) > 1 and not model:
        raise ValueError(
            f"{folder}: the results files are of {len(found)} models ({join_names(found)}); put "
            "each model's files into its own folder, or give `model`"
        )
    source = found[0] if len(found) == 1 else ""
    name = model or names.get(source) or source.rstrip("/").rsplit("/", 1)[-1].lower()
    if not name:
        raise ValueError(
            f"{folder}: no {RESULTS} says which model this is; add it, or give `model`"
        )
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(
            f"{folder}: the model's name is {format_value(name)}; a name is one line of "
            f"{MAX_NAME} characters at most: give `model`"
        )
    return source, name


def _refuse_one_name_twice(path: Path, runs: Sequence[ImportedRun]) -> None:
    names = [run.model for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{path}: two folders hold samples of {name}; give the one that is meant"
            )
