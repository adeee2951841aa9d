"""The analyze run: pulls a study's evaluate runs, computes, and logs what comes out."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.pull import pull_records
from analysis.study_analysis import MINI_SET_NOTE, Analysis, analyze_records
from xling import tracking
from xling.languages import get_language, shared_branches
from xling.study import Study


def run_analysis(
    study: Study,
    *,
    experiment: str = "",
    bound: float,
    parameters: Mapping[str, object],
    run_ids: Collection[str] = (),
) -> Analysis:
    """Analyses the finished evaluate runs that are tagged with a study's name.

    Args:
        study: its name says which runs, its languages which family each belongs to.
        experiment: name; empty: the selected one.
        bound: equivalence bound of D, in proportion.
        parameters: as the entry point got them, for `xling.command`.
        run_ids: the only runs to analyse; empty: all of the study, the newest of each cell.

    Returns:
        The analysis; its files are artifacts of the analyze run.

    Raises:
        ValueError: there are no such runs, or they break the contract.
    """
    if not tracking.find_runs(kind="evaluate", study=study.name, experiment=experiment):
        raise ValueError(
            f"no finished evaluate run of study {study.name!r} at {tracking.tracking_uri()}; "
            f"run the study first: {tracking.run_command('main', _same_data(parameters))}"
        )
    with (
        tracking.tracked_run(
            "analyze",
            name=f"analyze {study.name}",
            study=study.name,
            params={"bound": bound, "experiment": experiment},
            tags={"command": tracking.run_command("analyze", parameters)},
        ),
        TemporaryDirectory(prefix="xling-") as name,
    ):
        folder = Path(name)
        pulled = pull_records(
            tracking,
            study=study.name,
            experiment=experiment,
            folder=folder / "runs",
            run_ids=run_ids,
        )
        codes = sorted(set(pulled.accuracies["language"]) | set(study.languages.evaluated))
        analysis = analyze_records(
            pulled,
            family={code: study.languages.family(code) for code in codes},
            distance={code: branches_away(study, code) for code in codes},
            bound=bound,
            folder=folder / "analysis",
            study=study.name,
            names={code: get_language(code).name for code in codes},
            note=MINI_SET_NOTE if study.data.source == "mini" else "",
        )
        _log(analysis, folder / "analysis", pulled.run_ids)
    return analysis


def _same_data(parameters: Mapping[str, object]) -> dict[str, object]:
    return {key: parameters[key] for key in ("study", "data", "limit") if key in parameters}


def branches_away(study: Study, code: str) -> int:
    """Branches of the nearest source language that a language does not share.

    From Standard Arabic, Maltese is nearer than Hebrew, and Hebrew nearer than Amharic; outside
    the family it is the whole depth of the source's lineage. Steps through the tree would count
    how finely each side is divided, too.
    """
    return min(
        len(get_language(source).lineage) - shared_branches(source, code)
        for source in study.languages.source
    )


def _log(analysis: Analysis, folder: Path, run_ids: tuple[str, ...]) -> None:
    tracking.log_file(folder)
    tracking.log_text("\n".join(analysis.summary) + "\n", "summary.txt")
    tracking.log_json({"evaluate_runs": list(run_ids)}, "runs.json")
    tracking.log_metrics(analysis.headline)
