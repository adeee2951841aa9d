"""The command that repeats a run."""

import shlex
from collections.abc import Mapping
from typing import Any

from xling.tracking.search import current_experiment


def run_command(entry_point: str, parameters: Mapping[str, Any]) -> str:
    """The ``mlflow run`` line that repeats a run; empty parameters are left out.

    It names the experiment, since runs are found in one, and the active environment.
    """
    parts = ["mlflow", "run", ".", "-e", entry_point, "--env-manager", "local"]
    parts += ["--experiment-name", current_experiment()]
    for key, value in parameters.items():
        if str(value) != "":
            parts += ["-P", f"{key}={value}"]
    return shlex.join(parts)
