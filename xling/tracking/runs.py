"""Starts and ends runs: in the outbox, and from there in the store."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from xling.files.paths import state_folder
from xling.messages.errors import Terminated
from xling.messages.secrets import without_secrets
from xling.tracking.outbox.connection import connection_to, outbox
from xling.tracking.outbox.delivery import deliver, finish
from xling.tracking.outbox.entry import Entry, RunHeader
from xling.tracking.process_identity import process_tags
from xling.tracking.store import (
    Experiment,
    StoreSilent,
    StoreUnavailable,
    select_experiment,
    store_key,
    tracking_uri,
)
from xling.tracking.system_metrics import system_metrics

MAX_PARAM_LENGTH = 500
MAX_REASON_LENGTH = 5000
# How a process that works for another one's run knows of it.
PARENT_VARIABLE = "XLING_PARENT_RUN"
TAGS_VARIABLE = "XLING_RUN_TAGS"
RUN_VARIABLE = "MLFLOW_RUN_ID"

_active: ContextVar[tuple[Entry, ...]] = ContextVar("active runs, the outermost first", default=())


@contextmanager
def tracked_run(
    kind: str,
    *,
    name: str,
    study: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    again: bool = False,
) -> Iterator[str]:
    """Run the block inside an MLflow run, nested if one is active or `work_under` names one.

    All that it logs is on this machine's disk before it is sent; where the store is silent, work
    goes on and the run waits in the outbox. Only an outermost run must reach the store to begin.
    The run ends FINISHED; FAILED with the tag ``xling.error`` if the block raises; KILLED if it
    is interrupted. The first run in a process that ``mlflow run`` started is the project's own.

    Args:
        kind: tag ``xling.kind``.
        name: run name.
        study: tag ``xling.study``.
        params: logged under ``cfg.``.
        tags: logged under ``xling.``.
        again: whether it repeats what a finished run may have already.

    Yields:
        The run's id, or what stands for it until the store gives one.

    Raises:
        StoreSilent: the store does not answer, and nothing was computed yet.
    """
    above = _active.get()
    run = Entry.create(outbox(), _header(kind, name, study, tags, again))
    token = _active.set((*above, run))
    try:
        _begin(run, above)
        log_operation({"do": "batch", "params": _as_params(params)})
        with _watching(run, _active.get()[:-1]) if kind == "finetune" else nullcontext():
            yield run.run_id
        _end(run, "FINISHED")
    except (KeyboardInterrupt, Terminated):
        _end(run, "KILLED")
        raise
    except (MlflowException, requests.RequestException) as error:
        reason = without_secrets(str(error))
        _end(run, "FAILED", f"{type(error).__name__}: {reason}")
        raise StoreUnavailable(
            f"the tracking store {tracking_uri()} failed in run {run.run_id} ({name}): {reason}\n"
            f"What was computed is kept in {state_folder()}; the same command goes on from there"
        ) from error
    except BaseException as error:
        _end(run, "FAILED", without_secrets(f"{type(error).__name__}: {error}"))
        raise
    finally:
        _active.reset(token)
        _close(run)


def note_reuse(finished_run_id: str) -> None:
    """Says, in a run that a project launch opened for this work, which run it reuses.

    Inside a study's run there is nothing to say it in, and nothing is done.
    """
    note_project_run("reused", {"reused": finished_run_id})


def note_project_run(kind: str, tags: Mapping[str, str]) -> None:
    """Say what became of a run that a project launch opened for work that needs none."""
    if not _active.get() and os.environ.get(RUN_VARIABLE):
        with tracked_run(kind, name=kind, study="", params={}, tags=tags):
            pass


def active_experiment() -> Experiment:
    """Return the active run's experiment, or the one that is selected.

    Raises:
        StoreSilent: no run is active, and the store does not answer.
    """
    if _active.get():
        header = _active.get()[-1].header
        return Experiment(header.experiment_id, header.experiment)
    return select_experiment()


def is_active() -> bool:
    """Return whether a run is active: work is under way that an outage should not end."""
    return bool(_active.get()) or bool(os.environ.get(PARENT_VARIABLE))


def active_run_id() -> str:
    """Return the id of the active run, or what stands for it."""
    return active_entry().run_id


def active_entry() -> Entry:
    """Return the active run's entry in the outbox."""
    if not _active.get():
        raise RuntimeError("no run is active")
    return _active.get()[-1]


def log_operation(operation: Mapping[str, Any]) -> bool:
    """Keep an operation of the active run, and send it; return whether the store has it."""
    run = active_entry()
    run.append(operation)
    return deliver(run, _active.get()[:-1])


def _header(kind: str, name: str, study: str, tags: Mapping[str, str], again: bool) -> RunHeader:
    """Describe a run of this process."""
    above = _active.get()
    parent = above[-1].run_id if above else os.environ.get(PARENT_VARIABLE, "")
    experiment = active_experiment()
    adopted = "" if parent else os.environ.pop(RUN_VARIABLE, "")
    own = {
        "mlflow.runName": name,
        "xling.kind": kind,
        "xling.study": study,
        **{f"xling.{key}": value for key, value in {**process_tags(), **tags}.items()},
        **json.loads(os.environ.get(TAGS_VARIABLE, "{}")),
    }
    return RunHeader(
        id=uuid.uuid4().hex,
        store=tracking_uri(),
        experiment_id=experiment.id,
        experiment=experiment.name,
        kind=kind,
        name=name,
        study=study,
        started=now(),
        parent=parent,
        adopted=adopted,
        again=again,
        tags=own if adopted else resolve_tags(own),
    )


def _begin(run: Entry, above: tuple[Entry, ...]) -> None:
    """Make a run in the store, or take over the project's."""
    if run.header.adopted:
        run.append({"do": "begin", "tags": run.header.tags})
    if deliver(run, above, at_once=True):
        return
    if not run.header.parent:
        _refuse_to_begin(run)
    run.sent.has_placeholder = not run.sent.run_id
    run.record_sent()


def _refuse_to_begin(run: Entry) -> None:
    """Raise StoreSilent: nothing was computed yet, so the store has to be mended first."""
    known = connection_to(store_key())
    reason = known.refused.get(run.header.id) or known.silent
    raise StoreSilent(
        f"tracking store {tracking_uri()} takes no run in experiment {run.header.experiment!r}: "
        f"{reason}; start it, ask for the right to write there, or set MLFLOW_TRACKING_URI to "
        "another store"
    )


def _end(run: Entry, status: str, reason: str = "") -> None:
    if reason:
        tags = {"xling.error": reason[:MAX_REASON_LENGTH]}
        run.append({"do": "batch", "tags": tags})
    run.append({"do": "end", "status": status, "time": now()})
    deliver(run, _active.get()[:-1])


def _close(run: Entry) -> None:
    """Let go of a run; one that the store has all of leaves the outbox."""
    if run.is_sent:
        finish(run)
    elif not (run.sent.run_id or run.header.parent):
        run.remove()  # it never began
    else:
        run.unlock()


def _watching(run: Entry, above: tuple[Entry, ...]) -> AbstractContextManager[None]:
    """Log the machine's use; from a thread, which sees no active run."""

    def log(metrics: Mapping[str, float], step: int) -> None:
        rows = [[key, float(value), now(), step] for key, value in metrics.items()]
        run.append({"do": "batch", "metrics": rows})
        deliver(run, above)

    return system_metrics(log)


def _as_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Return settings under ``cfg.``; nested mappings get dotted keys."""
    return {f"cfg.{key}": str(value)[:MAX_PARAM_LENGTH] for key, value in _flat(params, "")}


def _flat(params: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def now() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000
