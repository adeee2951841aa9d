"""Reads a study's finished runs and writes estimates, tables and figures."""

from __future__ import annotations

import click

from entrypoints.common import (
    Finite,
    OneMessage,
    data_option,
    entry_point,
    limit_option,
    study_option,
)
from xling.study import Study


@click.command(cls=OneMessage)
@study_option(logged=True)
@data_option
@limit_option
@click.option("--experiment", default="", help="Experiment of the runs; empty: the run's own.")
@click.option(
    "--bound",
    type=Finite(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Equivalence bound of D, as a proportion.",
)
@entry_point
def main(study: Study, data: str, limit: int, experiment: str, bound: float) -> None:
    """Analyse a study's finished evaluate runs."""
    from xling import tracking
    from xling.execution.study_data import resolve_study

    resolved = resolve_study(study, data=data, limit=limit)
    tracking.open_store()
    from analysis.analyze_run import run_analysis  # takes longer than asking the store

    parameters = {
        "study": study.origin,
        "data": data,
        "limit": limit or "",
        "experiment": experiment,
        "bound": bound,
    }
    analysis = run_analysis(resolved, experiment=experiment, bound=bound, parameters=parameters)
    for line in analysis.summary:
        click.echo(line)


if __name__ == "__main__":
    main()
