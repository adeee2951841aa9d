"""Reads a study's finished runs and writes estimates, tables and figures."""

from __future__ import annotations

from typing import Any

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
from xling.study.analysis_settings import DEFAULT_BOUND

_PROPORTION = Finite(0, 1, min_open=True, max_open=True)


class _Bound(click.ParamType[float | None]):
    """A number between 0 and 1, or nothing: None."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Read the number; a wrong one is a usage error."""
        return None if value == "" else _PROPORTION.convert(value, param, ctx)


@click.command(cls=OneMessage)
@study_option(logged=True)
@data_option
@limit_option
@click.option("--experiment", default="", help="Experiment of the runs; empty: the run's own.")
@click.option(
    "--bound",
    type=_Bound(),
    default="",
    help="Equivalence bound of D and I, as a proportion; empty: the study file's (analysis.bound), "
    f"else {DEFAULT_BOUND}.",
)
@entry_point
def main(study: Study, data: str, limit: int, experiment: str, bound: float | None) -> None:
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
        "bound": "" if bound is None else bound,
    }
    analysis = run_analysis(resolved, experiment=experiment, bound=bound, parameters=parameters)
    for line in analysis.screen:
        click.echo(line)


if __name__ == "__main__":
    main()
