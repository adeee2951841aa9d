"""Runs that other processes, or other machines, make under a run of this one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

import mlflow
from mlflow import MlflowClient

from xling.tracking.process_identity import HOST, PROCESS, process_tags
from xling.tracking.runs import MAX_REASON_LENGTH, PARENT_VARIABLE, TAGS_VARIABLE, active_run_id
from xling.tracking.store import asking_store

# What MLflow finds out from the code that runs, which another machine has no repository of.
SOURCE_TAGS = ("mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")


@dataclass(frozen=True)
class ParentRun:
    """A run that other processes work for.

    Attributes:
        run_id: 32 hexadecimal digits.
        experiment_id: of the runs under it too.
        source: tags that say which code it runs.
        uri: of the tracking store, with its password if it has one.
    """

    run_id: str
    experiment_id: str
    source: dict[str, str]
    uri: str = field(repr=False)


def active_parent() -> ParentRun:
    """Return the active run, for processes that work for it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with asking_store():
        run = mlflow.get_run(active_run_id())
    source = {key: run.data.tags[key] for key in SOURCE_TAGS if key in run.data.tags}
    return ParentRun(
        run.info.run_id, run.info.experiment_id, source, uri=str(mlflow.get_tracking_uri())
    )


def work_under(parent: ParentRun, *, unit: str) -> None:
    """Make all further runs of this process, and of those that it starts, children of a run.

    Their tags say where they are made, so that `end_lost_runs` finds them.

    Args:
        parent: whose children they are.
        unit: tag ``xling.unit``.
    """
    tags = {"unit": unit} | {key: process_tags()[key] for key in (HOST, PROCESS)}
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(variable, None)
    os.environ |= {
        "MLFLOW_TRACKING_URI": parent.uri,
        "MLFLOW_EXPERIMENT_ID": parent.experiment_id,
        PARENT_VARIABLE: parent.run_id,
        TAGS_VARIABLE: json.dumps(
            parent.source | {f"xling.{key}": value for key, value in tags.items()}
        ),
    }
    mlflow.set_tracking_uri(parent.uri)


def end_lost_runs(parent: ParentRun, *, unit: str, reason: str) -> int:
    """End as KILLED the runs of a unit whose process is no more, and say why in them.

    Args:
        parent: the run that the process worked for.
        unit: tag ``xling.unit`` of the runs.
        reason: tag ``xling.error``.

    Returns:
        How many there were.
    """
    client = MlflowClient()
    left = client.search_runs(
        [parent.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.run_id}' and tags.`xling.unit` = '{unit}' "
        "and attributes.status = 'RUNNING'",
    )
    for run in left:
        client.set_tag(run.info.run_id, "xling.error", reason[:MAX_REASON_LENGTH])
        client.set_terminated(run.info.run_id, "KILLED")
    return len(left)
