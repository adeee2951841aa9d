"""The version of each stage's results, which decides with settings and data what is reused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

REASONS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("counted from here on",),
    "train": ("counted from here on",),
    "score": ("counted from here on",),
    "chain-of-thought": ("counted from here on",),
    "permuted": ("counted from here on",),
    "cloze": ("counted from here on",),
    "routing": ("counted from here on",),
    "server": ("counted from here on",),
    "simulate": ("counted from here on",),
}
"""Why each version of a stage's results began, oldest first; their number is the version.

Add a reason where the same settings and data give other results than before: what that stage made
is then made again. A change that leaves all results as they are needs none.

- ``prepare``: items, splits and arms, for every run of a study; tokens by language.
- ``train``: adapters.
- ``score``: prompts, log-probabilities of labels, records, and the metrics of both, calibration
  among them.
- ``chain-of-thought``, ``permuted``, ``cloze``, ``routing``: what those cells have beyond that.
- ``server``: answers of a server.
- ``simulate``: studies of known truth.
"""


def result_versions(stages: Iterable[str]) -> dict[str, int]:
    """Find the version of each stage's results.

    Args:
        stages: keys of `REASONS`.

    Raises:
        ValueError: there is no such stage; lists those that there are.
    """
    named = list(stages)
    for stage in named:
        if stage not in REASONS:
            raise ValueError(
                f"no stage {stage!r} in xling/files/result_versions.py; valid: "
                f"{', '.join(REASONS)}. Name one of them, or add the stage there"
            )
    return {stage: len(REASONS[stage]) for stage in named}
