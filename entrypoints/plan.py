"""Says what each model of a study needs, before anything is downloaded."""

from __future__ import annotations

import click

from entrypoints.common import OneMessage, Whole, entry_point, study_option
from xling.planning.gpus import gpus as known_gpus
from xling.study import Study


@click.command(cls=OneMessage)
@study_option("paper")
@click.option(
    "--gpu",
    type=click.Choice(list(known_gpus())),
    default="H100-80GB",
    show_default=True,
    help="Kind of GPU.",
)
@click.option("--gpus", type=Whole(min=1), default=8, show_default=True, help="GPUs of a node.")
@entry_point
def main(study: Study, gpu: str, gpus: int) -> None:
    """Parameters, memory, hours and commands of each model of a study."""
    from xling.execution.plan import run_plan

    run_id, lines = run_plan(study, gpu=gpu, gpus=gpus)
    for line in lines:
        click.echo(line)
    click.echo(f"\nrun {run_id}")


if __name__ == "__main__":
    main()
