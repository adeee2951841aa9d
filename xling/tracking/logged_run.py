"""A run, as the tracking store or the outbox has it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoggedRun:
    """A run as the tracking store has it, or will have it.

    Attributes:
        run_id: 32 hexadecimal digits; of a run that waits in the outbox what stands for them.
        name: run name.
        params: every parameter, ``cfg.`` prefix included.
        metrics: last value of every metric.
        tags: every tag.
        start_time: milliseconds since 1970.
        status: ``FINISHED``, ``FAILED``, ``KILLED`` or ``RUNNING``.
        data: digest of each data set that it logged, by name.
        artifact_uri: where its artifacts lie.
    """

    run_id: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    start_time: int
    status: str
    data: dict[str, str] = field(default_factory=dict)
    artifact_uri: str = ""
