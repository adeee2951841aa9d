"""Loads, checks, splits and logs a study's data."""

from __future__ import annotations

import click

from entrypoints.common import (
    OneMessage,
    data_option,
    entry_point,
    force_option,
    limit_option,
    study_option,
)
from xling.study import Study


@click.command(cls=OneMessage)
@study_option()
@data_option
@limit_option
@force_option
@entry_point
def main(study: Study, data: str, limit: int, force: bool) -> None:
    """Load, check, split and log the data of a study."""
    from xling import tracking
    from xling.execution import prepare_study, run_prepare

    tracking.check_store()
    study_data = prepare_study(study, data=data, limit=limit)
    tracking.open_store()
    run_id = run_prepare(study_data, force=force)
    click.echo(
        f"{study_data.study.name}: {len(study_data.questions.languages)} languages, "
        f"{len(study_data.splits[0].training_ids)} training and "
        f"{len(study_data.fold_of)} held-out questions in each; run {run_id}"
    )


if __name__ == "__main__":
    main()
