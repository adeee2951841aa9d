"""Opens the tracking store and says clearly when it cannot be used."""

import os
import re
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

DEFAULT_EXPERIMENT = "xling"


def open_store(*, timeout: float = 10.0) -> str:
    """Checks that the tracking store answers, and selects the experiment.

    Under ``mlflow run`` that is the project run's experiment; else ``MLFLOW_EXPERIMENT_NAME``
    or `DEFAULT_EXPERIMENT`.

    Args:
        timeout: seconds to wait for a tracking server.

    Returns:
        The experiment's name.

    Raises:
        ValueError: the store does not answer; the message says which and what to do.
    """
    check_store(timeout=timeout)
    uri = mlflow.get_tracking_uri()
    try:
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if experiment_id:
            return str(mlflow.set_experiment(experiment_id=experiment_id).name)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
        return str(mlflow.set_experiment(name).name)
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"tracking store {without_password(uri)} cannot be used: "
            f"{without_password(str(error))}; set "
            "MLFLOW_TRACKING_URI to a store that can"
        ) from error


def check_store(*, timeout: float = 10.0) -> None:
    """Checks that a tracking server answers; leaves no trace, and does nothing for a local store.

    Args:
        timeout: seconds to wait.

    Raises:
        ValueError: it does not answer.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        _check_server(uri, timeout)


def store_exists() -> bool:
    """False if the store is a SQLite file that nothing has written yet."""
    uri = str(mlflow.get_tracking_uri())
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _check_server(uri: str, timeout: float) -> None:
    import requests

    try:
        # Any answer will do: a proxy may not pass /health on.
        requests.get(f"{uri.rstrip('/')}/health", timeout=timeout, verify=_verify())
    except (requests.ConnectionError, requests.Timeout) as error:
        raise ValueError(
            f"tracking server {without_password(uri)} does not answer "
            f"({type(error).__name__}); start it, or set MLFLOW_TRACKING_URI to another store "
            "(unset it for a local one)"
        ) from None


def _verify() -> bool | str:
    """What MLflow's own settings say of the server's certificate."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "") or True


def without_password(text: str) -> str:
    """Text with the user names and passwords of its addresses masked."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def tracking_uri() -> str:
    """The store's address, without user name and password."""
    return without_password(mlflow.get_tracking_uri())
