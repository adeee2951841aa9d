"""Starts runs and logs what they did."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from xling.folders import state_folder
from xling.tracking.store import tracking_uri, without_password

logger = logging.getLogger(__name__)

BATCH = 1000
MAX_PARAM_LENGTH = 500
MAX_REASON_LENGTH = 5000


class StoreUnavailable(RuntimeError):
    """The tracking store failed while a run was active."""


class Terminated(SystemExit):
    """SIGTERM, raised in the main thread so that a run ends as KILLED with what it has."""


@contextmanager
def tracked_run(
    kind: str, *, name: str, study: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[str]:
    """Runs the block inside an MLflow run, nested if one is active.

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
    run = mlflow.start_run(run_name=name, nested=nested, log_system_metrics=kind == "finetune")
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
