"""The Ray cluster that a study runs on: found or started, and what it has."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import xling

ADDRESS = "RAY_ADDRESS"
CONNECT_SECONDS = 5
ANSWER_SECONDS = 25
OBJECT_STORE_BYTES = 256 * 2**20
# The code that workers need; all else beside it, such as runs and environments, stays here.
SHIPPED = ("xling", "analysis", "entrypoints", "conda.yaml", "MLproject")
# Settings that a worker elsewhere needs as well. No keys or tokens: Ray's dashboard shows them.
FORWARDED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "OMP_NUM_THREADS",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XLING_DEBUG",
)
# Bars of several workers at once cannot be read.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TQDM_DELAY": "1e9",  # seconds before a bar is first shown
}
# Ray's own settings: read in this process when it is imported, and by the processes of a cluster
# that is started here. A cluster at RAY_ADDRESS keeps those that `ray start` ran with.
RAY_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Node:
    """One machine of a cluster.

    Attributes:
        address: IP address.
        cpus: number of cores.
        gpus: number of GPUs.
        memory: bytes that tasks may ask for.
    """

    address: str
    cpus: int
    gpus: int
    memory: int


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers.

    Attributes:
        nodes: those that are alive.
        here: address of the node that this process is on.
    """

    nodes: tuple[Node, ...]
    here: str

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Addresses of the nodes that are not on this machine."""
        return tuple(sorted({node.address for node in self.nodes} - {self.here}))

    def __str__(self) -> str:
        return ", ".join(f"{node.address} ({node.gpus} GPUs)" for node in self.nodes)


@contextmanager
def connected() -> Iterator[Cluster]:
    """Connect to the cluster at ``RAY_ADDRESS``, or start a local one; leave it at the end.

    Raises:
        ValueError: no cluster answers at the address.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    address = os.environ.get(ADDRESS, "") or "local"
    if address != "local":
        check_address(address)
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": "ERROR"}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with TemporaryDirectory(prefix="xling-") as code:
            copy_code(Path(code))
            ray.init(address=address, runtime_env=_worker_environment(code), **options)
        signal.signal(signal.SIGTERM, at_sigterm)  # Ray puts its own, which ends no run
        yield _describe()
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, at_sigterm)


def check_address(address: str, *, seconds: float = ANSWER_SECONDS) -> None:
    """Check within half a minute that a cluster of this version of Ray answers.

    Ray itself would wait for minutes, and then end the process.

    Args:
        address: host:port, or ``auto`` for the cluster that was started on this machine.
        seconds: that it may take to answer.

    Raises:
        ValueError: names the address and the remedy.
    """
    remedy = (
        f"start one there (`ray start --head --port 6379`) and set {ADDRESS} to its host:port, "
        f"or unset {ADDRESS} for a cluster on this machine"
    )
    if "://" in address:
        raise ValueError(
            f"{ADDRESS} {address!r} is not a cluster's own address (host:port, or 'auto'): run the "
            f"study on a machine of the cluster, or by `ray job submit`; {remedy}"
        )
    reason = _why_unreachable(address) or _why_no_cluster(address, seconds)
    if reason:
        raise ValueError(f"no Ray cluster at {ADDRESS} {address!r} ({reason}); {remedy}")


def _why_unreachable(address: str) -> str:
    """Return why nothing listens at host:port; empty if something does, and for 'auto'."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return ""
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""


def _why_no_cluster(address: str, seconds: float) -> str:
    """Return why a cluster of this version of Ray does not answer; empty if it does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {seconds:g} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip() or done.stdout.strip() or "no answer").splitlines()[-1]


def worker_uri(uri: str, cluster: Cluster) -> str:
    """Return the tracking store's address as workers can use it: local paths made absolute.

    Raises:
        ValueError: the store is a file of this machine, and the cluster has other machines.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in ("", "file") and not scheme.startswith("sqlite"):
        return uri
    if cluster.elsewhere:
        raise ValueError(
            f"the tracking store {uri} is on this machine's disk, and the Ray cluster has others "
            f"({', '.join(cluster.elsewhere)}): it needs a tracking server. Start `mlflow server` "
            "where all of them reach it, and set MLFLOW_TRACKING_URI to its address"
        )
    if scheme.startswith("sqlite"):
        head, _, path = uri.partition(":///")
        return f"{head}:///{Path(path).resolve()}"
    return uri if scheme else str(Path(uri).resolve())


def _describe() -> Cluster:
    import ray

    here = ray.get_runtime_context().get_node_id()
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes  # has no types
    alive = [node for node in list_nodes() if node["Alive"]]
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
    nodes = tuple(
        Node(
            address=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
            memory=int(node["Resources"].get("memory", 0)),
        )
        for node in alive
    )
    return Cluster(nodes, here=addresses[here])


def copy_code(target: Path) -> None:
    """Copy the project's code, without runs, environments and whatever else is beside it."""
    root = Path(xling.__file__).resolve().parents[1]
    for name in SHIPPED:
        path = root / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, target / name)


def _worker_environment(code: str) -> dict[str, Any]:
    """Return Ray's ``runtime_env``: this checkout's code and settings, so that all run the same."""
    forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    return {"working_dir": code, "env_vars": QUIET | forwarded}
