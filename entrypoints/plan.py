"""Says what each model of a study needs, before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from entrypoints.common import OneMessage, Whole, entry_point, study_option
from xling.planning.gpus import gpus as known_gpus
from xling.study import Study

if TYPE_CHECKING:
    from xling.planning.plan import Plan


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
    """Plan parameters, memory, hours and commands of each model of a study."""
    from xling import tracking
    from xling.planning.plan import plan_study
    from xling.planning.report import plan_lines

    plan = plan_study(study, known_gpus()[gpu], gpus)
    tracking.open_store()
    run_id = _log(plan, study, {"gpu": gpu, "gpus": gpus})
    for line in plan_lines(plan):
        click.echo(line)
    click.echo(f"\nrun {run_id}")


def _log(plan: Plan, study: Study, parameters: dict[str, Any]) -> str:
    """Log a plan as text, CSV and JSON; return the run's id."""
    import pandas as pd

    from xling import tracking
    from xling.planning.report import plan_json, plan_lines, plan_metrics, plan_rows

    command = tracking.run_command("plan", {"study": study.origin, **parameters})
    with (
        tracking.tracked_run(
            "plan",
            name=f"plan {study.name}",
            study=study.name,
            params=parameters,
            tags={"command": command},
        ) as run_id,
        TemporaryDirectory(prefix="xling-") as folder,
    ):
        table = Path(folder) / "plan.csv"
        pd.DataFrame(plan_rows(plan)).to_csv(table, index=False)
        tracking.log_file(table)
        tracking.log_json(plan_json(plan), "plan.json")
        tracking.log_text("\n".join(plan_lines(plan)) + "\n", "plan.txt")
        tracking.log_metrics(plan_metrics(plan))
    return run_id


if __name__ == "__main__":
    main()
