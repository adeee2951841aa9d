"""Runs a whole study: data, every cell, analysis, registration."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from entrypoints.common import (
    OneMessage,
    data_option,
    entry_point,
    force_option,
    limit_option,
    split_names,
    study_option,
)
from xling.study import Study
from xling.study.settings import EXECUTIONS, Execution

if TYPE_CHECKING:
    from xling.execution import StudyData


@click.command(cls=OneMessage)
@study_option()
@data_option
@click.option(
    "--models",
    default="",
    callback=split_names,
    help="Models of the study, separated by commas; empty: all.",
)
@limit_option
@click.option(
    "--execution",
    type=click.Choice(EXECUTIONS),
    default="local",
    show_default=True,
    help="Where cells run: in this process, or on the Ray cluster at RAY_ADDRESS (unset: a local "
    "one).",
)
@force_option
@entry_point
def main(
    study: Study,
    data: str,
    models: tuple[str, ...],
    limit: int,
    execution: Execution,
    force: bool,
) -> None:
    """Run a whole study and say where to look."""
    from xling import tracking
    from xling.execution import prepare_study

    chosen = study.only_models(models) if models else study
    tracking.check_store()
    study_data = prepare_study(chosen, data=data, limit=limit)
    experiment = tracking.open_store()
    parameters = {
        **study_data.parameters,
        "models": ",".join(models),
        "execution": execution,
    }
    _run(study_data, parameters, execution, force)
    store = tracking.tracking_uri()
    click.echo(f"Runs      in experiment {experiment!r} at {store}")
    look = "" if store.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(store)}"
    click.echo(f"Next      {look or 'look at them there'}; then a study of your own (README.md)")


def _run(
    study_data: StudyData, parameters: dict[str, str], execution: Execution, force: bool
) -> None:
    from xling import tracking
    from xling.execution import register_study, run_cells

    study = study_data.study
    with tracking.tracked_run(
        "study",
        name=f"study {study.name}",
        study=study.name,
        params=study.model_dump(mode="json", exclude={"models", "prompt"}),
        tags={"command": tracking.run_command("main", parameters), **study.analysis_tags},
    ):
        tracking.log_text(study.to_yaml(), "study.yaml")
        outcome = run_cells(study_data, force=force, execution=execution).in_store()
        if outcome.evaluated:
            # Its libraries take seconds to load, and memory that the cells may need.
            from analysis.analyze_run import run_analysis

            analysis = run_analysis(
                study,
                bound=None,
                parameters=study_data.parameters,
                run_ids=set(outcome.evaluated.values()),
            )
            tracking.log_metrics(analysis.headline)
            for line in analysis.screen:
                click.echo(line)
        for adapter in register_study(outcome, study.name):
            click.echo(f"Adapter   {adapter.uri} is version {adapter.version}")
        outcome.check()


if __name__ == "__main__":
    main()
