"""Says what each model of a study needs, before anything is downloaded."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pandas as pd

from entrypoints.common import entry_point, study_option
from xling import tracking
from xling.planning.gpus import gpus as known_gpus
from xling.planning.plan import plan_study
from xling.planning.report import plan_json, plan_lines, plan_metrics, plan_rows
from xling.study import Study


@click.command()
@study_option("paper")
@click.option(
    "--gpu",
    type=click.Choice(list(known_gpus())),
    default="H100-80GB",
    show_default=True,
    help="Kind of GPU.",
)
@click.option(
    "--gpus", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs of a node."
)
@entry_point
def main(study: Study, gpu: str, gpus: int) -> None:
    """Parameters, memory, hours and commands of each model of a study."""
    plan = plan_study(study, known_gpus()[gpu], gpus)
    lines = plan_lines(plan)
    tracking.open_store()
    parameters = {"study": study.origin, "gpu": gpu, "gpus": gpus}
    with (
        tracking.tracked_run(
            "plan",
            name=f"plan {study.name}",
            study=study.name,
            params={"gpu": gpu, "gpus": gpus},
            tags={"command": tracking.run_command("plan", parameters)},
        ) as run_id,
        TemporaryDirectory(prefix="xling-") as name,
    ):
        table = Path(name) / "plan.csv"
        pd.DataFrame(plan_rows(plan)).to_csv(table, index=False)
        tracking.log_file(table)
        tracking.log_json(plan_json(plan), "plan.json")
        tracking.log_text("\n".join(lines) + "\n", "plan.txt")
        tracking.log_metrics(plan_metrics(plan))
    for line in lines:
        click.echo(line)
    click.echo(f"\nrun {run_id}")


if __name__ == "__main__":
    main()
