"""Finds out what form foreign results have, and logs them as evaluate runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from xling import tracking
from xling.importing.imported import ImportedResults
from xling.importing.lm_eval import read_lm_eval
from xling.importing.tables import read_table
from xling.tracking.evaluations import log_evaluation


def read_results(
    path: Path,
    *,
    form: str = "auto",
    model: str = "",
    names: Mapping[str, str] | None = None,
    arm: str = "base",
    seed: int = 0,
    reasoning: str = "direct",
) -> ImportedResults:
    """Read results in any known form.

    Args:
        path: CSV file, samples file of lm-evaluation-harness, or folder of those.
        form: One of IMPORT_FORMATS (xling.study.settings); `auto`: a folder or a .jsonl file is the
            harness's.
        model: For the harness's samples: see read_lm_eval.
        names: For the harness's samples: see read_lm_eval.
        arm: For the harness's samples: their arm.
        seed: Seed of what does not say.
        reasoning: Reasoning of what does not say.

    Raises:
        ValueError: If there is no such path, the form is not its form, or as read_table and
            read_lm_eval.
        OSError: If a file cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; paths are looked up from {Path.cwd()}")
    if form == "auto":
        form = "lm-eval" if path.is_dir() or path.suffix == ".jsonl" else "csv"
    if form == "lm-eval":
        return read_lm_eval(path, model=model, names=names, arm=arm, seed=seed, reasoning=reasoning)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the CSV file, or format lm-eval")
    if path.suffix == ".json":
        raise ValueError(
            f"{path} is not a table; of lm-evaluation-harness give the folder, with samples"
        )
    if model or arm != "base":
        raise ValueError(
            f"{path}: a table names model and arm in its columns; leave the options model and arm"
        )
    return read_table(path, seed=seed, reasoning=reasoning)


def log_imported(
    results: ImportedResults,
    *,
    study: str,
    families: Mapping[str, str],
    parameters: Mapping[str, object],
    progress: bool = True,
) -> tuple[str, ...]:
    """Log results as evaluate runs under one run of kind `import`.

    Args:
        results: What was read.
        study: Its name; an analysis of that study takes the runs in.
        families: Language code to `related`, `control` or `source`, for every language.
        parameters: As the entry point got them, for `xling.command`.
        progress: Whether to show a progress bar.

    Returns:
        Ids of the evaluate runs, in the order of `results.runs`.
    """
    command = tracking.run_command("import", parameters)
    imported = {"imported": f"{results.path.name} sha256:{results.sha256}", "command": command}
    with tracking.tracked_run(
        "import",
        name=f"import {results.path.name}",
        study=study,
        params={
            "file": results.path.name,
            "format": results.form,
            "sha256": results.sha256,
            "runs": len(results.runs),
        },
        tags=imported,
    ):
        if results.form == "csv":
            tracking.log_file(results.path)
        if results.notes:
            tracking.log_text("\n".join(results.notes) + "\n", "notes.txt")
        return tuple(
            log_evaluation(
                study=study,
                name=f"evaluate {run.name}",
                params={
                    "model": run.model,
                    "arm": run.arm,
                    "seed": run.seed,
                    "reasoning": run.reasoning,
                    "scoring": run.scoring,
                    **run.params,
                },
                tags=imported,
                families={code: families[code] for code in run.accuracy},
                records=run.records,
                accuracy=None if run.records is not None else run.accuracy,
                known=run.known,
            )
            for run in tqdm(
                results.runs, desc="import", unit="run", disable=not progress, leave=False
            )
        )
