"""Search for runs, and downloads of what they logged."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from xling.files.atomic import work_lock
from xling.files.paths import cache_folder
from xling.messages.secrets import without_secrets
from xling.tracking.logged_run import LoggedRun
from xling.tracking.outbox.connection import outbox
from xling.tracking.outbox.delivery import delivered, is_silent
from xling.tracking.outbox.pending import find_entry, finished_before, finished_here, logged
from xling.tracking.runs import active_experiment, is_active, note_reuse
from xling.tracking.store import (
    StoreUnavailable,
    asking_store,
    check_account,
    check_server,
    store_exists,
    tracking_uri,
)

PAGE = 1000

logger = logging.getLogger(__name__)


def find_finished(fingerprint: str, *, kind: str, study: str) -> LoggedRun | None:
    """Find the newest finished run of that fingerprint in a study, or None.

    Another study's run is not reused: an analysis finds runs by their study. Its work is, where
    it still lies on this machine's disk. A run that waits in the outbox counts. Of a store that
    falls silent amid a run's work only what this machine sent to it is known.

    Raises:
        StoreUnavailable: the store does not answer, and no run is active.
    """
    here = finished_here(outbox(), fingerprint, kind=kind, study=study)
    if here is not None:
        return here
    query = (
        f"tags.`xling.fingerprint` = '{fingerprint}' and tags.`xling.kind` = '{kind}' "
        f"and tags.`xling.study` = '{_quotable(study)}' and attributes.status = 'FINISHED'"
    )
    if not (is_active() and is_silent()):
        try:
            with asking_store():
                runs = _search(query, [active_experiment().id], most=1)
            return runs[0] if runs else None
        except StoreUnavailable:
            if not is_active():
                raise
    logger.warning(
        "whether the tracking store has this %s already cannot be asked: what this machine knows "
        "decides",
        kind,
    )
    return finished_before(outbox(), fingerprint, kind=kind, study=study)


def run_once(
    compute: Callable[[], str], digest: str, *, kind: str, study: str, name: str, force: bool
) -> str:
    """Find the finished run that has a result already, or compute it.

    One process of this machine at a time computes a result; others wait, and reuse it.

    Args:
        compute: makes a run, and returns its id.
        digest: the result's fingerprint.
        kind: tag ``xling.kind``.
        study: name in the runs' tags.
        name: of the cell, for the log.
        force: compute it in any case.

    Returns:
        Id of the run.
    """

    def say() -> None:
        logger.info("%s %s: another process is already running it; waiting for it", kind, name)

    with work_lock(digest[:32], waiting=say):
        finished = None if force else find_finished(digest, kind=kind, study=study)
        if finished is None:
            return compute()
        logger.info("%s %s: run %s has it already", kind, name, finished.run_id)
        note_reuse(finished.run_id)
        return finished.run_id


def find_runs(
    *, kind: str, study: str, experiment: str = "", finished: bool = True
) -> list[LoggedRun]:
    """Find runs of a kind and study, newest first; filtered and paged by the server.

    Args:
        kind: tag ``xling.kind``.
        study: tag ``xling.study``.
        experiment: name; empty: the selected one.
        finished: whether to leave out runs that failed or still go on.

    Raises:
        ValueError: no such experiment; the message lists those there are.
    """
    return _search(
        f"tags.`xling.kind` = '{_quotable(kind)}' and tags.`xling.study` = '{_quotable(study)}'"
        + (" and attributes.status = 'FINISHED'" if finished else ""),
        [_experiment_id(experiment)],
    )


def find_study_file(study: str) -> str | None:
    """Return the newest ``study.yaml`` that a run of kind ``study`` logged, in any experiment.

    Returns:
        None if no run of that study logged one, or if the store is a file that does not exist.

    Raises:
        StoreSilent: the store does not answer, or does not let this account see the experiment.
    """
    if not store_exists() or "'" in study or "\\" in study:
        return None
    check_server()
    check_account()
    with asking_store():
        experiments = [str(each.experiment_id) for each in mlflow.search_experiments()]
        runs = _search(
            f"tags.`xling.kind` = 'study' and tags.`xling.study` = '{study}'", experiments, most=1
        )
    if not runs:
        return None
    with TemporaryDirectory(prefix="xling-") as folder:
        try:
            path = download_artifact(runs[0].run_id, "study.yaml", Path(folder))
        except FileNotFoundError:
            return None
        return path.read_text(encoding="utf-8")


def get_run(run_id: str) -> LoggedRun:
    """Return one run, also one that waits in the outbox.

    Raises:
        ValueError: no such run.
    """
    entry = find_entry(outbox(), run_id)
    if entry is not None and entry.ended:
        return logged(entry)
    try:
        return _logged(MlflowClient().get_run(run_id))
    except MlflowException as error:
        reason = without_secrets(error.message)
        raise ValueError(f"no run {run_id!r} in {tracking_uri()}: {reason}") from error


def artifact_address(run_id: str, path: str) -> str:
    """Return where a person finds a run's artifact: a file, a page of the UI, or its address.

    Args:
        run_id: of a run that has ended.
        path: the artifact, relative to the run's.
    """
    sent = delivered([run_id]).get(run_id)
    if sent is None:
        return f"{path}, in the outbox until the tracking store answers"
    info = MlflowClient().get_run(sent).info
    place = str(info.artifact_uri)
    if place.startswith(("file:", "/")):
        return str(Path(local_file_uri_to_path(place)) / path)
    if tracking_uri().startswith("http"):
        root = tracking_uri().rstrip("/")
        return f"{root}/#/experiments/{info.experiment_id}/runs/{sent}/artifacts/{path}"
    return f"{place.rstrip('/')}/{path}"


def download_artifact(run_id: str, path: str, folder: Path, *, artifact_uri: str = "") -> Path:
    """Download one artifact of a run into `folder`.

    Args:
        run_id: the run.
        path: the artifact, relative to the run's.
        folder: made if need be.
        artifact_uri: the run's, where it is known; else the store is asked for it, which reads
            all of the run.

    Raises:
        FileNotFoundError: the run has no such artifact.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    place = artifact_uri or MlflowClient().get_run(run_id).info.artifact_uri
    repository = get_artifact_repository(place)
    parent = path.rpartition("/")[0]
    if path not in {entry.path for entry in repository.list_artifacts(parent or None)}:
        raise FileNotFoundError(f"run {run_id} has no artifact {path}")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(repository, LocalArtifactRepository):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(repository.download_artifacts(path), target))
    return Path(repository.download_artifacts(path, str(folder)))


def records_cache() -> Path:
    """Folder that keeps the records of runs, by run id."""
    return cache_folder() / "runs"


def current_experiment() -> str:
    """Name of the active run's experiment, or of the one that is selected.

    Raises:
        StoreUnavailable: no run is active, and the store does not answer.
    """
    return active_experiment().name


def _experiment_id(name: str) -> str:
    if not name:
        return active_experiment().id
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        there = ", ".join(sorted(each.name for each in mlflow.search_experiments()))
        raise ValueError(f"no experiment {name!r} in {tracking_uri()}; there are: {there}")
    return str(experiment.experiment_id)


def _quotable(value: str) -> str:
    if "'" in value or "\\" in value:
        raise ValueError(f"{value!r} may not hold quotes or backslashes")
    return value


def _search(query: str, experiment_ids: list[str], *, most: int = 0) -> list[LoggedRun]:
    client = MlflowClient()
    found: list[LoggedRun] = []
    token = None
    while True:
        page = client.search_runs(
            experiment_ids,
            query,
            max_results=most or PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += [_logged(run) for run in page]
        token = page.token
        if not token or most:
            return found


def _logged(run: Run) -> LoggedRun:
    return LoggedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        start_time=run.info.start_time,
        status=run.info.status,
        data={
            each.dataset.name: str(each.dataset.digest)
            for each in (run.inputs.dataset_inputs if run.inputs else [])
        },
        artifact_uri=run.info.artifact_uri or "",
    )


def run_command(entry_point: str, parameters: Mapping[str, Any]) -> str:
    """Return the ``mlflow run`` line that repeats a run; empty parameters are left out.

    It names the experiment, since runs are found in one, and the active environment.
    """
    parts = ["mlflow", "run", ".", "-e", entry_point, "--env-manager", "local"]
    parts += ["--experiment-name", current_experiment()]
    for key, value in parameters.items():
        if str(value) != "":
            parts += ["-P", f"{key}={value}"]
    return shlex.join(parts)
