"""Logs published or foreign results as evaluate runs, so that they can be analysed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrypoints.common import OneMessage, arm_option, entry_point, seed_option, study_option
from xling.study import Study
from xling.study.settings import IMPORT_FORMATS, REASONING

if TYPE_CHECKING:
    from xling.importing import ImportedResults

WHAT_TO_GIVE = (
    "option file is empty: give a CSV table with the columns model, arm, language and accuracy, "
    "or the output folder of lm_eval --log_samples"
)


@click.command(cls=OneMessage)
@click.option(
    "--file",
    type=click.Path(),
    default="",
    help="CSV table of accuracies, or what lm_eval wrote with --log_samples: a folder or a file.",
)
@click.option(
    "--format",
    type=click.Choice(IMPORT_FORMATS),
    default="auto",
    show_default=True,
    help="Form of the file; auto: by its name.",
)
@study_option("paper")
@click.option(
    "--model", default="", help="Model of lm_eval samples; empty: as the results file says."
)
@arm_option("base")
@seed_option
@click.option("--reasoning", type=click.Choice(REASONING), default="direct", show_default=True)
@entry_point
def main(
    file: str, format: str, study: Study, model: str, arm: str, seed: int, reasoning: str
) -> None:
    """Log results that were made elsewhere as evaluate runs of a study."""
    from xling import tracking
    from xling.importing import log_imported, read_results

    if not file:
        raise ValueError(WHAT_TO_GIVE)
    results = read_results(
        Path(file),
        form=format,
        model=model,
        names={known.id: known.label for known in study.models},
        arm=arm,
        seed=seed,
        reasoning=reasoning,
    )
    tracking.open_store()
    run_ids = log_imported(
        results,
        study=study.name,
        families={code: study.languages.family(code) for code in results.languages},
        parameters={
            "file": file,
            "format": format,
            "study": study.origin,
            "model": model,
            "arm": arm,
            "seed": seed,
            "reasoning": reasoning,
        },
    )
    _say(results, run_ids, study)


def _say(results: ImportedResults, run_ids: tuple[str, ...], study: Study) -> None:
    from xling import tracking

    for note in results.notes:
        click.echo(f"Note: {note}")
    for run, run_id in zip(results.runs, run_ids, strict=True):
        mean = sum(run.accuracy.values()) / len(run.accuracy)
        what = "items" if run.records is not None else "accuracies only"
        click.echo(
            f"{run.name}: {_count(len(run.accuracy), 'language')}, mean accuracy {mean:.3f}, "
            f"{what} (run {run_id})"
        )
    command = tracking.run_command("analyze", {"study": study.origin})
    click.echo(
        f"{_count(len(run_ids), 'run')} logged to study {study.name}; analyse with\n  {command}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


if __name__ == "__main__":
    main()
