"""Through a store: what tables say of accuracies and models, and what studies settle beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from analysis import analyze_run
from analysis.analyze_run import run_analysis, study_context
from analysis.runs.pull import PulledRuns, pull_records
from analysis.runs.registration import find_registration
from analysis.simulation import log_run
from analysis.simulation.design import Design
from analysis.study_analysis import Analysis
from entrypoints import main
from tests.place import make_store
from xling import tracking
from xling.execution import StudyData, prepare_study
from xling.execution.run_study import StudyOutcome
from xling.importing import log_imported, read_results
from xling.study import Study
from xling.study.analysis_settings import AnalysisSettings
from xling.study.load import load_study

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "statistics"
STUDY = """\
name: published
models: [{id: a, developer: A}, {id: b}]
data: {source: hub, n_options: 4}
languages: {source: [arb_Arab], target: [heb_Hebr, mlt_Latn, fra_Latn], branch: Semitic}
arms: [base, finetuned]
analysis: {bound: 0.03, branch: Afro-Asiatic, split: 0.6}
"""
TABLE = """\
model,arm,language,accuracy,n_items,stderr,n_options,base,developer
a,base,heb_Hebr,0.5,100,,,,
a,base,fra_Latn,0.6,,0.02,,,
a,finetuned,heb_Hebr,0.7,100,0.01,2,,
a,finetuned,fra_Latn,0.7,,,2,,
c,base,heb_Hebr,0.5,,,,a,
c,finetuned,heb_Hebr,0.5,,,,,
d,base,hau_Latn,0.5,,,,x,X
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a store that this process uses."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(make_store(tmp_path / "mlflow.db"))
    yield tmp_path
    mlflow.set_tracking_uri(None)


def imported(table: Path, study: Study, folder: Path) -> PulledRuns:
    """The runs of a study after a table was imported into it."""
    results = read_results(table)
    tracking.open_store()
    families = {code: study.languages.family(code) for code in results.languages}
    log_imported(results, study=study.name, families=families, parameters={}, progress=False)
    pulled = pull_records(tracking, study=study.name, experiment="", folder=folder, progress=False)
    return pulled.with_options(study.data.n_options)


@pytest.mark.slow
def test_a_table_says_units_options_and_errors(store: Path) -> None:
    (store / "t.csv").write_text(TABLE, encoding="utf-8")
    (store / "published.yaml").write_text(STUDY, encoding="utf-8")
    study = load_study("published.yaml")
    pulled = imported(store / "t.csv", study, store / "runs")
    rows = pulled.accuracies.set_index(["model", "arm", "language"])
    first = rows.loc[("a", "base", "heb_Hebr")]
    assert (first["n_items"], first["stderr"], first["n_options"]) == (100, 0.05, 4)
    assert rows.loc[("a", "finetuned", "heb_Hebr"), "stderr"] == 0.01  # given, not computed
    assert rows.loc[("a", "finetuned", "fra_Latn"), "n_options"] == 2
    assert np.isnan(rows.loc[("a", "base", "fra_Latn"), "n_items"])
    registration = find_registration(tracking, study)
    context = study_context(study, pulled, registration, "")
    assert context.bases == {"a": "a", "c": "a", "d": "x"}
    assert context.developers == {"a": "A", "c": "A", "d": "X"}
    assert (context.bound, context.design.split) == (0.03, 0.6)
    assert context.registration.sentence == "given after the results"
    # Of the branch that the analysis names: Hausa is outside Semitic.
    assert context.family["hau_Latn"] == "related" != study.languages.family("hau_Latn")


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
@pytest.mark.parametrize("name", ["quasi_t", "two_options"])
def test_published_cases_go_from_table_to_pull(name: str, store: Path) -> None:
    study = load_study(str(CASES / f"{name}.yaml"))
    pulled = imported(CASES / f"{name}.csv", study, store / "runs")
    rows = pulled.accuracies
    assert len(rows) == 42 and not rows["has_records"].any()
    assert rows["n_options"].isna().all()  # neither the table nor the study says it
    assert (pulled.with_options(2).accuracies["n_options"] == 2).all()
    if name == "two_options":
        assert (rows["n_items"] == 1500).all()
        binomial = np.sqrt(rows["accuracy"] * (1 - rows["accuracy"]) / 1500)
        np.testing.assert_allclose(rows["stderr"], binomial, atol=1e-12)


@pytest.mark.slow
def test_a_simulated_study_is_registered_and_its_analysis_says_so(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = log_run.simulated_study
    design = Design(models=2, related=2, control=2, items=12)

    def planned(*arguments: object) -> Study:
        return Study.model_validate(plain(*arguments).model_dump() | {"analysis": {"bound": 0.2}})

    monkeypatch.setattr(log_run, "simulated_study", planned)
    tracking.open_store()
    log_run.log_simulation(design, 0, name="planned", parameters={})
    (run,) = tracking.find_runs(kind="study", study="planned")
    study = planned(design, 0, "planned")
    assert run.tags["xling.analysis_hash"] == study.analysis_sha256
    # What is said of the bound is settled before anything is computed.
    monkeypatch.setattr(analyze_run, "_log", lambda *arguments: None)
    nothing = Analysis((), pd.DataFrame(), {}, (), (), ())
    monkeypatch.setattr(analyze_run, "analyze_records", lambda pulled, context, folder: nothing)
    said = []
    for bound in (None, 0.3):
        run_analysis(study, bound=bound, parameters={"study": "planned"})
        analyzed, *_ = tracking.find_runs(kind="analyze", study="planned")
        said.append((analyzed.params["cfg.bound"], analyzed.params["cfg.bound_is"]))
    (first, sentence), second = said
    assert first == "0.2" and second == ("0.3", "given after the results")
    assert sentence.startswith("registered on 20") and sentence.endswith(
        ", before the first training"
    )


@pytest.mark.slow
def test_main_registers_the_analysis_before_any_cell_runs(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load_study("demo")
    study = demo.model_copy(update={"analysis": AnalysisSettings(bound=0.02)})
    seen: list[str] = []

    def run_cells(data: StudyData, **how: object) -> StudyOutcome:
        (run,) = tracking.find_runs(kind="study", study="demo", finished=False)
        assert run.status == "RUNNING" and not tracking.find_runs(kind="study", study="demo")
        path = tracking.download_artifact(run.run_id, "study.yaml", store / "got")
        assert load_study(str(path)).analysis == study.analysis
        assert run.tags["xling.analysis_hash"] == study.analysis_sha256
        seen.append(find_registration(tracking, study).sentence)
        return StudyOutcome({}, {})

    monkeypatch.setattr("xling.execution.run_cells", run_cells)
    tracking.open_store()
    main._run(prepare_study(study), {"study": "demo"}, "local", False)
    assert seen and seen[0].startswith("registered on ")
