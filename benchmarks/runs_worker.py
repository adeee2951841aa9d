"""Makes a store with many runs in a process of its own, and times how a study's are pulled out."""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring import measured, work_once


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of finding the runs, and of pulling them with and without kept records.

    Args:
        settings: `runs` of the study, `others`, and `times` that each is repeated.
    """
    with TemporaryDirectory(prefix="xling-bench-") as name:
        folder = Path(name)
        path = folder / "store.db"
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{path}",
            "MLFLOW_EXPERIMENT_NAME": "many",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        import mlflow

        from analysis.runs.pull import pull_records
        from benchmarks.made_runs import STUDY, make_store
        from xling import tracking

        mlflow.create_experiment("many", artifact_location=str(folder / "artifacts"))
        ids, made = measured(
            lambda: make_store(
                path, folder / "made", runs=settings["runs"], others=settings["others"]
            )
        )
        with sqlite3.connect(path) as store:
            rows = {
                table: store.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("runs", "params", "latest_metrics", "tags")
            }
        store.close()

        def pull(number: int, cache: Path) -> Any:
            return pull_records(
                tracking,
                study=STUDY,
                experiment="",
                folder=folder / f"downloads-{number}",
                cache=cache,
                progress=False,
            )

        seconds: dict[str, list[dict[str, float]]] = {"found": [], "fetched": [], "kept": []}
        tracking.find_runs(kind="evaluate", study="none", experiment="")
        for number in range(settings["times"]):
            cache = folder / f"cache-{number}"
            found, took = measured(lambda: tracking.find_runs(kind="evaluate", study=STUDY))
            seconds["found"].append(took)
            for how in ("fetched", "kept"):
                pulled, took = measured(partial(pull, number, cache))
                seconds[how].append(took)
            if {run.run_id for run in found} != set(ids) or set(pulled.run_ids) != set(ids):
                raise RuntimeError("not the study's runs were found")
        return {
            "made_s": made["wall_s"],
            "rows": rows,
            "metrics": len(found[0].metrics),
            "params": len(found[0].params),
            "records": len(pulled.records),
            **seconds,
        }


if __name__ == "__main__":
    work_once(measure)
