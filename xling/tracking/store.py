"""Opens the tracking store and says clearly when it cannot be used."""

import os
import re

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
    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        _check_server(uri, timeout)
    try:
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if experiment_id:
            return str(mlflow.set_experiment(experiment_id=experiment_id).name)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT
        return str(mlflow.set_experiment(name).name)
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"tracking store {_without_password(uri)} cannot be used: {error}; set "
            "MLFLOW_TRACKING_URI to a store that can"
        ) from error


def _check_server(uri: str, timeout: float) -> None:
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=timeout)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise ValueError(
            f"tracking server {_without_password(uri)} does not answer "
            f"({type(error).__name__}); start it, or set MLFLOW_TRACKING_URI to another store "
            "(unset it for a local one)"
        ) from None


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", uri)


def tracking_uri() -> str:
    """The store's address, without user name and password."""
    return _without_password(mlflow.get_tracking_uri())
