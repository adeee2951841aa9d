"""The plan run: what each model of a study needs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from xling import tracking
from xling.planning.gpus import gpus as known_gpus
from xling.planning.plan import plan_study
from xling.planning.report import plan_json, plan_lines, plan_metrics, plan_rows
from xling.study import Study


def run_plan(study: Study, *, gpu: str, gpus: int) -> tuple[str, list[str]]:
    """Plans a study, and logs the plan as text, CSV and JSON.

    Args:
        study: the study.
        gpu: name of a kind of GPU.
        gpus: of a node.

    Returns:
        The run's id, and the plan as lines of text.
    """
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
    return run_id, lines
