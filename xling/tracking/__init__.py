"""Tracking: runs, what they log, adapters and searches in MLflow, and the outbox before it.

Only this wing and the served model talk to MLflow; what a run computes is never decided here.
"""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from xling.messages.errors import Terminated
from xling.messages.secrets import without_secrets
from xling.tracking.adapters import (
    FetchedAdapter,
    RegisteredAdapter,
    fetch_adapter,
    log_adapter,
    register_adapter,
    score_logged_adapter,
)
from xling.tracking.evaluations import log_evaluation, log_records_file
from xling.tracking.logged_run import LoggedRun
from xling.tracking.logs import (
    log_curve,
    log_data_set,
    log_file,
    log_json,
    log_metrics,
    log_text,
    set_tags,
)
from xling.tracking.opening import check_store, open_store, sync_store
from xling.tracking.outbox.delivery import account, delivered
from xling.tracking.runs import note_reuse, tracked_run
from xling.tracking.search import (
    artifact_address,
    download_artifact,
    find_finished,
    find_runs,
    find_study_file,
    get_run,
    records_cache,
    run_command,
    run_once,
)
from xling.tracking.store import (
    StoreUnavailable,
    tracking_uri,
)

__all__ = [
    "FetchedAdapter",
    "LoggedRun",
    "MlflowException",
    "RegisteredAdapter",
    "StoreUnavailable",
    "Terminated",
    "account",
    "artifact_address",
    "check_store",
    "delivered",
    "download_artifact",
    "fetch_adapter",
    "find_finished",
    "find_runs",
    "find_study_file",
    "get_run",
    "log_adapter",
    "log_curve",
    "log_data_set",
    "log_evaluation",
    "log_file",
    "log_json",
    "log_metrics",
    "log_records_file",
    "log_text",
    "note_reuse",
    "open_store",
    "records_cache",
    "register_adapter",
    "run_command",
    "run_once",
    "score_logged_adapter",
    "set_tags",
    "sync_store",
    "tracked_run",
    "tracking_uri",
    "without_secrets",
]
