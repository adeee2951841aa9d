"""The analyze run: pulls a study's evaluate runs, computes, and logs what comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.figures.language_names import language_names
from analysis.gains.primed import PrimedModel
from analysis.report.findings import RunSource, StudyContext
from analysis.runs.model_origins import model_origins
from analysis.runs.pull import PulledRuns, pull_records
from analysis.runs.registration import Registration, find_registration
from analysis.runs.run_files import DIGEST_TAG
from analysis.study_analysis import MINI_SET_NOTE, Analysis, analyze_records
from xling import tracking
from xling.languages import family_of, get_language, shared_branches
from xling.study import Study


def run_analysis(
    study: Study,
    *,
    experiment: str = "",
    bound: float | None,
    parameters: Mapping[str, object],
    run_ids: Collection[str] = (),
) -> Analysis:
    """Analyse the finished evaluate runs that are tagged with a study's name.

    Args:
        study: its name says which runs, its languages which family each belongs to.
        experiment: name; empty: the selected one.
        bound: equivalence bound of D and I, in proportion; None: the study file's, else
            `xling.study.analysis_settings.DEFAULT_BOUND`.
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
    registration = find_registration(tracking, study, experiment=experiment, bound=bound)
    with (
        tracking.tracked_run(
            "analyze",
            name=f"analyze {study.name}",
            study=study.name,
            params={
                "bound": registration.bound,
                "bound_is": registration.sentence,
                "experiment": experiment,
            },
            tags={"command": tracking.run_command("analyze", parameters)},
        ) as run_id,
        TemporaryDirectory(prefix="xling-") as name,
    ):
        folder = Path(name)
        pulled = pull_records(
            tracking,
            study=study.name,
            experiment=experiment,
            folder=folder / "runs",
            run_ids=run_ids,
            cache=tracking.records_cache(),
        ).with_options(study.data.n_options)
        analysis = analyze_records(
            pulled,
            study_context(study, pulled, registration, tracking.run_command("analyze", parameters)),
            folder / "analysis",
        )
        _log(analysis, folder / "analysis", pulled.run_ids)
    return _with_address(analysis, run_id)


def _with_address(analysis: Analysis, run_id: str) -> Analysis:
    where = f"Report    {tracking.artifact_address(run_id, 'report.html')}"
    return replace(analysis, screen=(*analysis.screen, "", where))


def study_context(
    study: Study, pulled: PulledRuns, registration: Registration, command: str
) -> StudyContext:
    """Gather how a study is to be read from its file and its runs.

    Raises:
        ValueError: As analysis.runs.model_origins.model_origins.
    """
    source, branch = study.languages.source, registration.settings.branch
    bases, developers = model_origins(study, pulled.runs)
    codes = sorted(set(pulled.accuracies["language"]) | set(study.languages.evaluated))
    return StudyContext(
        family={code: family_of(code, source_languages=source, branch=branch) for code in codes},
        bound=registration.bound,
        names=language_names(codes),
        distance={code: branches_away(study, code) for code in codes},
        description=study.description,
        note=MINI_SET_NOTE if study.data.source == "mini" else "",
        command=command,
        sources=[_source(run) for run in pulled.runs],
        trained_on=study.languages.source,
        left_out=study.languages.control_source,
        kin=[code for code in codes if is_kin(code, study.languages.control_source)],
        bases=bases,
        developers=developers,
        primed=primed_models(study),
        registration=registration,
    )


def primed_models(study: Study) -> dict[str, PrimedModel]:
    """Return how a study's primed models were primed, and from which others, by label."""
    found = {}
    for model in study.models:
        if model.primed is not None:
            twin, how = study.unprimed(model), model.primed
            label = "" if twin is None else twin.label  # a run of some models may be without it
            found[model.label] = PrimedModel(label, how.languages, how.steps, how.items, how.labels)
    return found


def _source(run: tracking.LoggedRun) -> RunSource:
    """Return what the report says of a run."""
    digests = [f"{name} {digest[:12]}" for name, digest in sorted(run.data.items())]
    return RunSource(
        run_id=run.run_id,
        name=run.name,
        **{key: run.params[f"cfg.{key}"] for key in ("model", "arm", "reasoning", "scoring")},
        seed=int(run.params["cfg.seed"]),
        data_digest=", ".join(digests) or run.tags.get(DIGEST_TAG, "")[:12],
        command=run.tags.get("xling.command", ""),
        url="",
    )


def _same_data(parameters: Mapping[str, object]) -> dict[str, object]:
    return {key: parameters[key] for key in ("study", "data", "limit") if key in parameters}


def branches_away(study: Study, code: str) -> int:
    """Count the branches of the nearest source language that a language does not share.

    From Standard Arabic, Maltese is nearer than Hebrew, and Hebrew nearer than Amharic; outside
    the family it is the whole depth of the source's lineage. Steps through the tree would count
    how finely each side is divided, too.
    """
    return min(
        len(get_language(source).lineage) - shared_branches(source, code)
        for source in study.languages.source
    )


def is_kin(code: str, sources: Collection[str]) -> bool:
    """Return whether a language shares a branch with a source, or is one in another script.

    A source itself is not kin.
    """
    language = get_language(code).iso639_3
    return code not in sources and any(
        shared_branches(source, code) > 0 or get_language(source).iso639_3 == language
        for source in sources
    )


def _log(analysis: Analysis, folder: Path, run_ids: tuple[str, ...]) -> None:
    tracking.log_file(folder)
    tracking.log_text("\n".join(analysis.summary) + "\n", "summary.txt")
    tracking.log_json({"evaluate_runs": list(run_ids)}, "runs.json")
    tracking.log_metrics(analysis.headline)
