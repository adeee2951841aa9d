"""Use of processor, memory, disk and GPUs while a run trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def system_metrics(log: Log) -> Iterator[None]:
    """Log the machine's use during a block, as MLflow's own monitor measures it.

    Args:
        log: takes metrics by name, and their step; is called from another thread.
    """
    monitor = _Monitor(log)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


class _Monitor(SystemMetricsMonitor):  # type: ignore[misc]
    """A monitor that gives what it measures to a function, and asks the store for nothing."""

    def __init__(self, log: Log) -> None:
        super().__init__(run_id="")
        self._log = log

    def monitor(self) -> None:
        """Measure until the block ends."""
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics under ``system/``."""
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._log({f"{prefix}{key}": value for key, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
