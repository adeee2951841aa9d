"""Opens the tracking store and says clearly when it cannot be used."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException

from xling.files.paths import state_folder
from xling.messages.secrets import without_secrets

DEFAULT_EXPERIMENT = "xling"
# MLflow's own seven tries of a call take four minutes; what fails here is tried again later.
DEFAULT_TRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
# What MLflow makes of the HTTP codes 401 and 403.
UNAUTHENTICATED, PERMISSION_DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"


@dataclass(frozen=True)
class Experiment:
    """An experiment of the selected store."""

    id: str
    name: str


class StoreUnavailable(RuntimeError):
    """The tracking store failed amid work that needs it."""


class StoreSilent(StoreUnavailable, ValueError):
    """The tracking store does not answer, before a command's work or between its runs."""


def select_experiment() -> Experiment:
    """Select the experiment: the project run's under ``mlflow run``.

    Else it is ``MLFLOW_EXPERIMENT_NAME`` or `DEFAULT_EXPERIMENT`, which is made if need be.

    Returns:
        The experiment's id and name.

    Raises:
        StoreSilent: the store does not answer, or not as it should.
    """
    experiment_id, name = _asked_for()
    try:
        with _opened_by_one():
            if experiment_id:
                found = mlflow.set_experiment(experiment_id=experiment_id)
            else:
                found = mlflow.set_experiment(name)
        return Experiment(str(found.experiment_id), str(found.name))
    except store_errors() as error:
        raise _unusable(error) from error


def check_account() -> None:
    """Check that a server lets this account see the experiment; leave no trace.

    Does nothing for a local store. Whether the account may write there shows in the first run.

    Raises:
        StoreSilent: it knows no such account, or does not let it; the message says what to do.
    """
    if not _is_server():
        return
    experiment_id, name = _asked_for()
    try:
        if experiment_id:
            mlflow.get_experiment(experiment_id)
        else:
            mlflow.get_experiment_by_name(name)
    except store_errors() as error:
        raise _unusable(error) from error


def _asked_for() -> tuple[str, str]:
    """Return id and name of the selected experiment; the id may be empty, and comes first."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
    return os.environ.get("MLFLOW_EXPERIMENT_ID", ""), name


def _unusable(error: Exception) -> StoreSilent:
    """Describe an error of the store, with what is to be done about it."""
    experiment_id, name = _asked_for()
    code = getattr(error, "error_code", "")
    if code == UNAUTHENTICATED:
        return StoreSilent(
            f"tracking server {tracking_uri()} does not know this account (401, not "
            "authenticated); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if code == PERMISSION_DENIED:
        wanted = f"with id {experiment_id}" if experiment_id else repr(name)
        return StoreSilent(
            f"tracking server {tracking_uri()} does not let this account use experiment {wanted} "
            "(403, permission denied); ask who keeps the server for the permission EDIT on it, or "
            "name another: MLFLOW_EXPERIMENT_NAME, or mlflow run's --experiment-name"
        )
    return StoreSilent(
        f"tracking store {tracking_uri()} cannot be used: {without_secrets(str(error))}; set "
        "MLFLOW_TRACKING_URI to a store that can"
    )


def _is_server() -> bool:
    return str(mlflow.get_tracking_uri()).startswith(("http://", "https://"))


@contextmanager
def asking_store() -> Iterator[None]:
    """Raise StoreSilent where calls to the store, outside any run, fail.

    Raises:
        StoreSilent: it failed; what was computed is on disk.
    """
    try:
        yield
    except store_errors() as error:
        raise StoreSilent(
            f"the tracking store {tracking_uri()} does not answer: "
            f"{without_secrets(str(error))}\n"
            f"What was computed is kept in {state_folder()}; the same command goes on from there"
        ) from error


@contextmanager
def _opened_by_one() -> Iterator[None]:
    """Let one process at a time open a SQLite file: two that make its tables at once both fail."""
    path = _sqlite_path()
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # ends with the process, and leaves no file behind
        yield
    finally:
        os.close(folder)


def _sqlite_path() -> Path | None:
    uri = str(mlflow.get_tracking_uri())
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def store_errors() -> tuple[type[Exception], ...]:
    """Return what MLflow raises where a store fails, also one of the databases under it."""
    from sqlalchemy.exc import SQLAlchemyError

    # ImportError: the driver of a database is not installed.
    return (MlflowException, OSError, requests.RequestException, SQLAlchemyError, ImportError)


def check_server(*, timeout: float = 10.0) -> None:
    """Check that a tracking server answers; leave no trace, and do nothing for a local store.

    From then on MLflow tries its calls a few times only, unless the user says how often.

    Args:
        timeout: seconds to wait.

    Raises:
        StoreSilent: it does not answer.
    """
    for name, value in DEFAULT_TRIES.items():
        os.environ.setdefault(name, value)
    if _is_server():
        _check_server(str(mlflow.get_tracking_uri()), timeout)


def store_exists() -> bool:
    """Return False if the store is a SQLite file that nothing has written yet."""
    path = _sqlite_path()
    return path is None or path.exists()


def _check_server(uri: str, timeout: float) -> None:
    try:
        # Any answer will do: a proxy may not pass /health on.
        requests.get(f"{uri.rstrip('/')}/health", timeout=timeout, verify=_verify())
    except (requests.ConnectionError, requests.Timeout) as error:
        raise StoreSilent(
            f"tracking server {without_secrets(uri)} does not answer "
            f"({type(error).__name__}); start it, or set MLFLOW_TRACKING_URI to another store "
            "(unset it for a local one)"
        ) from None


def _verify() -> bool | str:
    """Return what MLflow's own settings say of the server's certificate."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "") or True


def tracking_uri() -> str:
    """Return the store's address, without user name and password."""
    return without_secrets(mlflow.get_tracking_uri())


def store_key() -> str:
    """Return the store's address as the name of a folder, whatever account it is used with."""
    path = _sqlite_path()
    address = (
        f"sqlite:///{path.resolve()}"
        if path
        else re.sub(r"//[^/@\s]*@", "//", str(mlflow.get_tracking_uri()).rstrip("/"))
    )
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", address)[-40:].strip("-.")
    return f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
