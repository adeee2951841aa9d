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
    prepared = prepare_study(study, data=data, limit=limit)
    tracking.open_store()
    run_id = run_prepare(prepared, force=force)
    click.echo(
        f"{prepared.study.name}: {len(prepared.data.languages)} languages, "
        f"{len(prepared.splits[0].training_ids)} training and "
        f"{len(prepared.fold_of)} held-out questions in each; run {run_id}"
    )


if __name__ == "__main__":
    main()
