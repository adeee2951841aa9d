"""Opens the tracking store: sends what waits, and ends runs whose process is no more."""

from __future__ import annotations

import logging
import socket

from mlflow import MlflowClient

from xling.tracking.outbox.delivery import deliver_waiting, retry_now
from xling.tracking.process_identity import HOST, PROCESS, STARTED, is_gone
from xling.tracking.runs import note_project_run
from xling.tracking.store import (
    Experiment,
    asking_store,
    check_account,
    check_server,
    select_experiment,
)

logger = logging.getLogger(__name__)


def check_store(*, timeout: float = 10.0) -> None:
    """Check that a tracking server answers, and that this account may see the experiment.

    It leaves no trace, and does nothing for a local store.

    Args:
        timeout: seconds to wait for a tracking server.

    Raises:
        StoreSilent: it does not answer, or does not know this account; the message says what to
            do.
    """
    check_server(timeout=timeout)
    check_account()


def open_store(*, timeout: float = 10.0) -> str:
    """Check that the tracking store answers, select the experiment, and tidy up.

    What an outage held back is sent, and runs that a killed process of this host left RUNNING end
    as KILLED.

    Args:
        timeout: seconds to wait for a tracking server.

    Returns:
        The experiment's name.

    Raises:
        StoreSilent: the store does not answer; the message says which and what to do.
    """
    check_store(timeout=timeout)
    experiment = select_experiment()
    sent = send_all()
    if sent:
        logger.info("%s that waited for the store: sent", "1 run" if sent == 1 else f"{sent} runs")
    return end_dead_runs(experiment).name


def sync_store(*, timeout: float = 10.0) -> int:
    """Send all that waits for the store, and nothing else.

    Args:
        timeout: seconds to wait for a tracking server.

    Returns:
        How many runs the store has now that it had not, or not all of.

    Raises:
        StoreSilent: the store does not answer.
    """
    check_server(timeout=timeout)
    sent = send_all()
    note_project_run("sync", {"sent": str(sent)})
    return sent


def send_all() -> int:
    """Send all that waits for the store, also what it refused; return how many runs."""
    retry_now()
    return deliver_waiting()


def end_dead_runs(experiment: Experiment) -> Experiment:
    """End as KILLED the runs of this host whose process is no more.

    Raises:
        StoreSilent: the store does not answer.
    """
    client = MlflowClient()
    with asking_store():
        left = client.search_runs(
            [experiment.id],
            f"tags.`xling.{HOST}` = '{socket.gethostname()}' and attributes.status = 'RUNNING'",
        )
        for run in left:
            tags = run.data.tags
            process, started = tags.get(f"xling.{PROCESS}", ""), tags.get(f"xling.{STARTED}", "")
            if is_gone(process, started):
                logger.info("run %s ends as KILLED: its process is no more", run.info.run_id)
                client.set_tag(run.info.run_id, "xling.error", f"process {process} was killed")
                client.set_terminated(run.info.run_id, "KILLED")
    return experiment
