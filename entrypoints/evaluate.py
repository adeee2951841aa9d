"""Scores one model or adapter in every language of a study."""

from __future__ import annotations

import click

from entrypoints.common import (
    OneMessage,
    arm_option,
    data_option,
    entry_point,
    force_option,
    limit_option,
    model_option,
    reasoning_option,
    scoring_option,
    seed_option,
    study_option,
)
from xling.study import Cell, Study
from xling.study.settings import Arm, Reasoning, Scoring


@click.command(cls=OneMessage)
@study_option()
@data_option
@model_option
@arm_option("base")
@seed_option
@reasoning_option
@scoring_option
@click.option(
    "--adapter", default="", help="Run id or models:/name@alias; empty: the arm's own adapter."
)
@limit_option
@force_option
@entry_point
def main(
    study: Study,
    data: str,
    model: str,
    arm: Arm,
    seed: int,
    reasoning: Reasoning,
    scoring: Scoring,
    adapter: str,
    limit: int,
    force: bool,
) -> None:
    """Score a base model or an adapter in every language of a study."""
    from xling import tracking
    from xling.execution import accuracy_lines, prepare_study, run_evaluate
    from xling.models import BaseModelCache

    cell = Cell(study.find_model(model), arm, seed, reasoning, scoring)
    tracking.check_store()
    study_data = prepare_study(study, data=data, limit=limit)
    tracking.open_store()
    run_id = run_evaluate(study_data, cell, BaseModelCache(), adapter=adapter, force=force)
    for line in accuracy_lines(study_data.study, run_id):
        click.echo(line)


if __name__ == "__main__":
    main()
