"""Puts what an entry holds into the store, one operation after another.

Every operation may be sent twice without harm, since an answer can be lost on its way: parameters,
tags, metrics (with their times) and files are the same again; a run and a logged model carry the
entry's id in a tag, and are looked for before they are asked for again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from xling.files.atomic import atomic_write
from xling.tracking.outbox.entry import ADAPTER, MODELS, Entry, Operation

ENTRY_TAG = "xling.entry"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# The store's answers that waiting does not change.
FINAL_CODES = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
Resolve = Callable[[Any], Any]
Made = TypeVar("Made")


def is_final(error: Exception) -> bool:
    """Return whether a store refuses for good: sending the same again would end the same."""
    return isinstance(error, MlflowException) and error.error_code in FINAL_CODES


def send(entry: Entry, client: MlflowClient, resolve: Resolve, *, at_once: bool = False) -> None:
    """Send what the store does not have yet.

    Args:
        entry: held by this process.
        client: of the store.
        resolve: puts ids in the place of placeholders; raises LookupError if one is not known yet.
        at_once: the run has just begun, and was looked for and not found; else one that
            another machine finished meanwhile with the same fingerprint takes its place.

    Raises:
        Exception: whatever MLflow raises where a store fails; what was sent until then counts.
    """
    with entry.send_lock:
        if not entry.sent.run_id:
            _send_run(entry, client, resolve, at_once=at_once)
        while not entry.sent.duplicate and entry.sent.operations < len(entry.operations):
            operation = entry.operations[entry.sent.operations]
            _SENDERS[operation["do"]](entry, client, resolve(operation))
            entry.sent.operations += 1
            entry.record_sent()


def _send_run(entry: Entry, client: MlflowClient, resolve: Resolve, *, at_once: bool) -> None:
    header, sent = entry.header, entry.sent
    duplicate = None if header.again or at_once else _finished_duplicate(entry, client)
    if duplicate is not None:
        sent.run_id, sent.duplicate = duplicate.info.run_id, True
        model_id = duplicate.data.tags.get("xling.logged_model", "")
        sent.models = {ADAPTER: model_id} if model_id else {}
    else:
        sent.run_id = _again_once(lambda: _find_or_create_run(entry, client, resolve))
    entry.record_sent()


def _find_or_create_run(entry: Entry, client: MlflowClient, resolve: Resolve) -> str:
    made = _runs_of(entry, client) if entry.sent.tries else []
    entry.sent.tries += 1
    entry.record_sent()
    return made[0] if made else _create_run(entry, client, resolve)


def _again_once(attempt: Callable[[], Made]) -> Made:
    """Make a second attempt, which looks first: a server may just have closed an idle connection.

    MLflow's own second try, which `one_try` forbids, would do without looking.
    """
    try:
        return attempt()
    except MlflowException as error:
        if is_final(error):
            raise
    return attempt()


def _create_run(entry: Entry, client: MlflowClient, resolve: Resolve) -> str:
    header = entry.header
    tags = {**header.tags, ENTRY_TAG: header.id}
    if header.parent:
        tags["mlflow.parentRunId"] = header.parent
    with one_try():
        run = client.create_run(
            header.experiment_id,
            start_time=header.started,
            tags=resolve(tags),
            run_name=header.name,
        )
    return str(run.info.run_id)


def _runs_of(entry: Entry, client: MlflowClient) -> list[str]:
    """Find runs that earlier tries made, the oldest first."""
    runs = client.search_runs(
        [entry.header.experiment_id],
        f"tags.`{ENTRY_TAG}` = '{entry.header.id}'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
    )
    return [str(run.info.run_id) for run in runs]


def _finished_duplicate(entry: Entry, client: MlflowClient) -> Any:
    """Find a finished run of the same fingerprint that another machine made meanwhile."""
    digest = entry.header.tags.get("xling.fingerprint", "")
    if not digest:
        return None
    runs = client.search_runs(
        [entry.header.experiment_id],
        f"tags.`xling.fingerprint` = '{digest}' and tags.`xling.kind` = '{entry.header.kind}' "
        f"and tags.`xling.study` = '{entry.header.study}' and attributes.status = 'FINISHED'",
        max_results=1,
    )
    return runs[0] if runs else None


@contextmanager
def one_try() -> Iterator[None]:
    """Allow one request for what must not be made twice: MLflow's own tries cannot look first."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before


def _send_begin(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    """Take over a run that the store had before."""
    run_id = entry.sent.run_id
    client.update_run(run_id, status="RUNNING", name=entry.header.name)
    tags = {**operation["tags"], ENTRY_TAG: entry.header.id}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _send_batch(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    client.log_batch(
        entry.sent.run_id,
        metrics=[
            Metric(key, value, time, step, model_id=operation.get("model") or None)
            for key, value, time, step in operation.get("metrics", ())
        ],
        params=[Param(key, value) for key, value in operation.get("params", {}).items()],
        tags=[RunTag(key, value) for key, value in operation.get("tags", {}).items()],
    )


def _send_input(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    tags = [InputTag(key, value) for key, value in operation["tags"].items()]
    data_set = DatasetInput(Dataset(**operation["dataset"]), tags)
    client.log_inputs(entry.sent.run_id, [data_set])


def _send_file(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    path, target = entry.folder / operation["path"], operation["target"] or None
    if path.is_dir():
        client.log_artifacts(entry.sent.run_id, str(path), target)
    else:
        client.log_artifact(entry.sent.run_id, str(path), target)


def _send_adapter(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    """Make the adapter's MLflow model a logged model of the run.

    As `mlflow.pyfunc.log_model` does it, but from files that are there already.
    """
    run_id, sent = entry.sent.run_id, entry.sent
    model = _again_once(lambda: _find_or_create_model(entry, client, operation))
    folder = entry.folder / MODELS / ADAPTER
    described = Model.load(str(folder / "MLmodel"))
    described.model_id = described.model_uuid = model.model_id
    described.run_id, described.artifact_path = run_id, model.artifact_location
    with atomic_write(folder / "MLmodel") as temporary:
        described.save(str(temporary))
    _again_once(lambda: _name_as_output(client, run_id, str(model.model_id)))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    sent.models[ADAPTER] = str(model.model_id)


def _find_or_create_model(entry: Entry, client: MlflowClient, operation: Operation) -> Any:
    made = _models_of(entry, client) if entry.sent.model_tries else []
    entry.sent.model_tries += 1
    entry.record_sent()
    if made:
        return made[0]
    with one_try():
        return client.create_logged_model(
            entry.header.experiment_id,
            name=ADAPTER,
            source_run_id=entry.sent.run_id,
            tags={ENTRY_TAG: entry.header.id},
            params=operation["params"],
        )


def _name_as_output(client: MlflowClient, run_id: str, model_id: str) -> None:
    if model_id not in _outputs(client, run_id):
        with one_try():
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _outputs(client: MlflowClient, run_id: str) -> set[str]:
    """Return logged models that a run has as its outputs; to name one twice is an error."""
    outputs = client.get_run(run_id).outputs
    return {str(each.model_id) for each in outputs.model_outputs} if outputs else set()


def _models_of(entry: Entry, client: MlflowClient) -> list[Any]:
    """Find logged models that earlier tries made, the oldest first."""
    models = client.search_logged_models(
        [entry.header.experiment_id], f"source_run_id = '{entry.sent.run_id}'"
    )
    return sorted(models, key=lambda model: (model.creation_timestamp, model.model_id))


def _send_end(entry: Entry, client: MlflowClient, operation: Operation) -> None:
    run_id, sent = entry.sent.run_id, entry.sent
    client.set_terminated(run_id, operation["status"], operation["time"])
    # A request that seemed lost may have been carried out after the next one.
    if sent.tries > 1:
        for other in _runs_of(entry, client):
            if other != run_id:
                client.delete_run(other)
    if sent.model_tries > 1:
        for model in _models_of(entry, client):
            if model.model_id != sent.models[ADAPTER]:
                client.delete_logged_model(model.model_id)


_SENDERS: dict[str, Callable[[Entry, MlflowClient, Operation], None]] = {
    "begin": _send_begin,
    "batch": _send_batch,
    "input": _send_input,
    "file": _send_file,
    "adapter": _send_adapter,
    "end": _send_end,
}
