"""Opens the tracking store and says clearly when it cannot be used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import requests
from mlflow.exceptions import MlflowException

from xling.ending import without_password
from xling.folders import state_folder

DEFAULT_EXPERIMENT = "xling"


class StoreUnavailable(RuntimeError):
    """The tracking store failed amid work that needs it."""


class StoreSilent(StoreUnavailable, ValueError):
    """The tracking store does not answer, before a command's work or between its runs."""


def open_store(*, timeout: float = 10.0) -> str:
    """Checks that the tracking store answers, and selects the experiment.

    Under ``mlflow run`` that is the project run's experiment; else ``MLFLOW_EXPERIMENT_NAME``
    or `DEFAULT_EXPERIMENT`.

    Args:
        timeout: seconds to wait for a tracking server.

    Returns:
        The experiment's name.

    Raises:
        StoreSilent: the store does not answer; the message says which and what to do.
    """
    check_store(timeout=timeout)
    return select_experiment()


def select_experiment() -> str:
    """Selects the experiment, with as many tries as MLflow makes for any of its calls.

    `open_store` asks once, which is right before any work. A study that is under way should not
    end because its server restarts.

    Returns:
        The experiment's name.

    Raises:
        StoreSilent: the store does not answer, or not as it should.
    """
    try:
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if experiment_id:
            return str(mlflow.set_experiment(experiment_id=experiment_id).name)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
        return str(mlflow.set_experiment(name).name)
    except _store_errors() as error:
        raise StoreSilent(
            f"tracking store {tracking_uri()} cannot be used: "
            f"{without_password(str(error))}; set "
            "MLFLOW_TRACKING_URI to a store that can"
        ) from error


@contextmanager
def asking_store() -> Iterator[None]:
    """Says of calls to the store, outside any run, that it is silent if they fail.

    Raises:
        StoreSilent: it failed; what was computed is on disk.
    """
    try:
        yield
    except _store_errors() as error:
        raise StoreSilent(
            f"the tracking store {tracking_uri()} does not answer: "
            f"{without_password(str(error))}\n"
            f"What was computed is kept in {state_folder()}; the same command goes on from there"
        ) from error


def _store_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises where a store fails; a database that it cannot open comes out as is."""
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, OSError, requests.RequestException, SQLAlchemyError)


def check_store(*, timeout: float = 10.0) -> None:
    """Checks that a tracking server answers; leaves no trace, and does nothing for a local store.

    Args:
        timeout: seconds to wait.

    Raises:
        StoreSilent: it does not answer.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        _check_server(uri, timeout)


def store_exists() -> bool:
    """False if the store is a SQLite file that nothing has written yet."""
    uri = str(mlflow.get_tracking_uri())
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _check_server(uri: str, timeout: float) -> None:
    try:
        # Any answer will do: a proxy may not pass /health on.
        requests.get(f"{uri.rstrip('/')}/health", timeout=timeout, verify=_verify())
    except (requests.ConnectionError, requests.Timeout) as error:
        raise StoreSilent(
            f"tracking server {without_password(uri)} does not answer "
            f"({type(error).__name__}); start it, or set MLFLOW_TRACKING_URI to another store "
            "(unset it for a local one)"
        ) from None


def _verify() -> bool | str:
    """What MLflow's own settings say of the server's certificate."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "") or True


def tracking_uri() -> str:
    """The store's address, without user name and password."""
    return without_password(mlflow.get_tracking_uri())
