"""Starts runs and logs what they did."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from xling.ending import Terminated, without_password
from xling.folders import state_folder
from xling.tracking.store import StoreUnavailable, tracking_uri

logger = logging.getLogger(__name__)

BATCH = 1000
MAX_PARAM_LENGTH = 500
MAX_REASON_LENGTH = 5000
# How a process that works for another one's run knows of it.
PARENT_VARIABLE = "XLING_PARENT_RUN"
TAGS_VARIABLE = "XLING_RUN_TAGS"
# What MLflow finds out from the code that runs, which another machine has no repository of.
SOURCE_TAGS = ("mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")


@contextmanager
def tracked_run(
    kind: str, *, name: str, study: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[str]:
    """Runs the block inside an MLflow run, nested if one is active or `work_under` names one.

    The run ends FINISHED; FAILED with the tag ``xling.error`` if the block raises; KILLED if it
    is interrupted. The first run in a process that ``mlflow run`` started is the project's own.

    Args:
        kind: tag ``xling.kind``.
        name: run name.
        study: tag ``xling.study``.
        params: logged under ``cfg.``.
        tags: logged under ``xling.``.

    Yields:
        The run's id.
    """
    nested = mlflow.active_run() is not None
    run = mlflow.start_run(
        run_name=name,
        nested=nested,
        parent_run_id=None if nested else os.environ.get(PARENT_VARIABLE) or None,
        tags=json.loads(os.environ.get(TAGS_VARIABLE, "{}")),
        log_system_metrics=kind == "finetune",
    )
    run_id = run.info.run_id
    try:
        mlflow.set_tags(
            {
                "mlflow.runName": name,
                "xling.kind": kind,
                "xling.study": study,
                **{f"xling.{key}": value for key, value in tags.items()},
            }
        )
        _log_params(params)
        yield run_id
        mlflow.end_run("FINISHED")
    except (KeyboardInterrupt, Terminated):
        _finish(run_id, "KILLED", "")
        raise
    except (MlflowException, requests.RequestException) as error:
        reason = without_password(str(error))
        _finish(run_id, "FAILED", f"{type(error).__name__}: {reason}")
        raise StoreUnavailable(
            f"the tracking store {tracking_uri()} failed in run {run_id} ({name}): {reason}\n"
            f"What was computed is kept in {state_folder()}; the same command sends it"
        ) from error
    except BaseException as error:
        _finish(run_id, "FAILED", without_password(f"{type(error).__name__}: {error}"))
        raise


def _finish(run_id: str, status: str, reason: str) -> None:
    """Ends a run that broke; a store that fails here too must not hide why it broke."""
    try:
        if reason:
            mlflow.set_tag("xling.error", reason[:MAX_REASON_LENGTH])
    except (MlflowException, requests.RequestException):
        logger.warning("the reason could not be logged to run %s: %s", run_id, reason)
    try:
        mlflow.end_run(status)
    except (MlflowException, requests.RequestException):
        logger.warning("run %s could not be ended and stays RUNNING in the store", run_id)


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
    """The active run, for processes that work for it."""
    run = mlflow.get_run(_active_id())
    source = {key: run.data.tags[key] for key in SOURCE_TAGS if key in run.data.tags}
    return ParentRun(
        run.info.run_id, run.info.experiment_id, source, uri=str(mlflow.get_tracking_uri())
    )


def work_under(parent: ParentRun, *, unit: str) -> None:
    """Makes all further runs of this process, and of those that it starts, children of a run.

    Their tags say where they are made, so that `end_lost_runs` finds them.

    Args:
        parent: whose children they are.
        unit: tag ``xling.unit``.
    """
    tags = {"unit": unit, "host": socket.gethostname(), "process": str(os.getpid())}
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
    """Ends as KILLED the runs of a unit whose process is no more, and says why in them.

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


def note_reuse(finished_run_id: str) -> None:
    """Says, in a run that a project launch opened for this work, which run it reuses.

    Inside a study's run there is nothing to say it in, and nothing is done.
    """
    if mlflow.active_run() is None and os.environ.get("MLFLOW_RUN_ID"):
        with mlflow.start_run():
            mlflow.set_tags({"xling.kind": "reused", "xling.reused": finished_run_id})


def _log_params(params: Mapping[str, Any]) -> None:
    """Logs settings of the active run under ``cfg.``; nested mappings get dotted keys."""
    flat = {f"cfg.{key}": str(value)[:MAX_PARAM_LENGTH] for key, value in _flat(params, "")}
    if flat:
        entries = [Param(key, value) for key, value in flat.items()]
        MlflowClient().log_batch(_active_id(), params=entries)


def _flat(params: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _active_id() -> str:
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError("no MLflow run is active")
    return str(run.info.run_id)


def set_tags(tags: Mapping[str, str]) -> None:
    """Sets tags of the active run under ``xling.``."""
    mlflow.set_tags({f"xling.{key}": value for key, value in tags.items()})


def log_metrics(metrics: Mapping[str, float], *, model_id: str = "") -> None:
    """Logs metrics of the active run in one call.

    Args:
        metrics: values by name.
        model_id: logged model that they belong to; empty: none.
    """
    if metrics:
        mlflow.log_metrics(dict(metrics), model_id=model_id or None)


def log_curve(rows: Sequence[Mapping[str, float]]) -> None:
    """Logs a learning curve of the active run: each row has ``step`` and metrics."""
    client, run_id = MlflowClient(), _active_id()
    now = time.time_ns() // 1_000_000
    entries = [
        Metric(f"train/{key}", float(value), now, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, metrics=entries[start : start + BATCH])


def log_file(path: Path, folder: str = "") -> None:
    """Logs a file or a folder's content as artifacts of the active run."""
    if path.is_dir():
        mlflow.log_artifacts(str(path), folder or None)
    else:
        mlflow.log_artifact(str(path), folder or None)


def log_text(text: str, name: str) -> None:
    """Logs text as an artifact of the active run."""
    mlflow.log_text(text, name)


def log_json(content: Any, name: str) -> None:
    """Logs a JSON document as an artifact of the active run."""
    mlflow.log_dict(content, name)


def log_data_set(
    *, name: str, sha256: str, source: Mapping[str, str], context: str, languages: str = ""
) -> None:
    """Logs what data the active run used, by digest; no rows are sent.

    Args:
        name: of the data set.
        sha256: of its content.
        source: where it came from.
        context: ``training``, ``heldout`` or ``all``.
        languages: codes, separated by spaces.
    """
    tags = {**source, "sha256": sha256}
    data_set = MetaDataset(CodeDatasetSource(tags), name=name, digest=sha256[:36])
    extra = {"sha256": sha256} | ({"languages": languages[:5000]} if languages else {})
    mlflow.log_input(data_set, context=context, tags=extra)
